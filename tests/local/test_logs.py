"""The lines of services that share a process are told apart by the service that each names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from covey.errors import NotFound
from covey.local.logs import as_it_is, show_logs
from covey.local.state import log_of


def line(service: str, event: str) -> str:
    return json.dumps({"timestamp": "2026-01-02T03:04:05Z", "level": "info", "event": event, "service": service})


def shown(state: Path, *names: str, lines: int = 50) -> list[str]:
    said: list[str] = []
    show_logs(state, names, lines, False, said.append, as_it_is)
    return said


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A system that ran its services in processes of their own, and then in one."""
    said = {
        "alpha": [line("alpha", "alone")],
        "helper": ["plain"],
        "services": [
            "Traceback",
            line("alpha", "one"),
            line("beta", "two"),
            '["service"]',
            '{"service": 1}',
            line("alpha", "three"),
            "alpha: half",
        ],
    }
    for name, lines in said.items():
        log_of(tmp_path, name).parent.mkdir(exist_ok=True)
        log_of(tmp_path, name).write_text("\n".join(lines))
    return tmp_path


def test_of_one_service_are_those_that_name_it_after_those_of_a_process_of_its_own(state: Path) -> None:
    assert [json.loads(one)["event"] for one in shown(state, "alpha")] == ["alone", "one", "three"]
    assert [json.loads(one)["event"] for one in shown(state, "beta")] == ["two"]


def test_that_name_no_service_are_those_of_the_process(state: Path) -> None:
    assert shown(state, "services") == ["Traceback", '["service"]', '{"service": 1}', "alpha: half"]


def test_of_all_carry_the_name_of_who_wrote_them(state: Path) -> None:
    said = [one.split(" | ")[0] for one in shown(state)]

    assert sorted(said) == ["alpha   "] * 3 + ["beta    "] + ["helper  "] + ["services"] * 4


def test_are_so_many_of_each_whoever_wrote_the_last_ones(state: Path) -> None:
    said = [one.split(" | ")[1] for one in shown(state, "alpha", "beta", lines=1)]

    assert [json.loads(one)["event"] for one in said] == ["three", "two"]


def test_of_several_come_in_the_order_of_their_times_each_with_what_follows_it(tmp_path: Path) -> None:
    at = "2026-01-02T03:04:0{}Z".format
    said = {
        "alpha": ["before any time", f'{{"timestamp": "{at(1)}"}}', "Traceback", f'{{"timestamp": "{at(4)}"}}'],
        "beta": [f'{{"timestamp": "{at(2)}"}}', f'{{"timestamp": "{at(2)}"}}'],
        "postgres": ["2026-01-02 03:04:03.123 UTC [1] LOG:  ready"],
    }
    for name, lines in said.items():
        log_of(tmp_path, name).parent.mkdir(exist_ok=True)
        log_of(tmp_path, name).write_text("\n".join(lines))

    order = [one.split(" | ")[0].strip() for one in shown(tmp_path)]

    assert order == ["alpha", "alpha", "alpha", "beta", "beta", "postgres", "alpha"]


def test_of_whom_there_are_none_is_said_with_those_of_whom_there_are(state: Path) -> None:
    with pytest.raises(NotFound, match="gamma has written nothing; there are: alpha, beta, helper, services"):
        shown(state, "gamma")
