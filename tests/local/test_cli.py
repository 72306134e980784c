"""The command line, run as a user runs it: in a terminal of its own, killed, called from a second terminal."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest

from covey.ids import new_id
from covey.local.launcher import birth
from covey.local.origin import identity_of
from covey.local.processes import Record, read_records
from covey.local.state import StateFolder, log_of, open_state, records_of, supervisor_of
from covey.local.status import read_status

_COVEY = [sys.executable, "-m", "covey.cli"]


def eventually(condition: Callable[[], object], seconds: float = 15) -> None:
    """Wait until something is so; fail when it is not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def _with_ctrl_c() -> None:
    """Be interruptible, as what runs on a terminal is: a shell starts its background jobs deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A `covey` command in a folder, its output in a file."""

    def __init__(self, root: Path, environment: Mapping[str, str], *arguments: str) -> None:
        self._output = (root / f"terminal-{time.monotonic_ns()}").open("w+")
        self.process = subprocess.Popen(
            [*_COVEY, *arguments],
            cwd=root,
            env={**environment, "COLUMNS": "80"},
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_with_ctrl_c,
        )

    @property
    def shown(self) -> str:
        """What it has printed so far."""
        return Path(self._output.name).read_text()

    def shows(self, text: str, seconds: float = 20) -> None:
        """Wait until it has printed that."""
        eventually(lambda: text in self.shown or self.process.poll() is not None, seconds)
        assert text in self.shown, self.shown

    def press_ctrl_c(self) -> None:
        """Interrupt it as a terminal does: every process of its foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def ends(self, seconds: float = 20) -> int:
        """Wait until it has ended; return its exit status."""
        return self.process.wait(seconds)

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        self._output.close()


Covey = Callable[..., Terminal]


@pytest.fixture
def covey(system_root: Path, given: Mapping[str, str]) -> Iterator[Covey]:
    """A function that runs a `covey` command in the folder of a small system, with engines that are there."""
    terminals: list[Terminal] = []

    def run(*arguments: str, environment: Mapping[str, str] = given) -> Terminal:
        terminals.append(Terminal(system_root, environment, *arguments))
        return terminals[-1]

    yield run
    for terminal in terminals:
        terminal.close()
    eventually(lambda: not any(record.running() for record in read_records(records_of(system_root / ".covey"))))


def records(root: Path) -> list[Record]:
    return read_records(records_of(root / ".covey"))


def test_up_shows_what_runs_where_and_ctrl_c_stops_it_in_order(covey: Covey, system_root: Path) -> None:
    up = covey("up")
    up.shows("covey down")
    running = records(system_root)
    with log_of(system_root / ".covey", "beta").open("a") as log:
        log.write('{"event":"dead_letter","message_type":"thing.made.v1","error":"Unreadable: no JSON"}\n')
    up.shows("beta has given up thing.made.v1: Unreadable: no JSON\n")

    up.press_ctrl_c()

    assert up.ends() == 0
    assert "alpha   up     http://127.0.0.1:" in up.shown
    assert "\x1b" not in up.shown
    assert len(running) == 3
    assert not any(record.running() for record in running)
    assert log_of(system_root / ".covey", "beta").read_text().endswith("drained\n")


def test_status_and_logs_from_another_terminal_and_down(covey: Covey) -> None:
    up = covey("up")
    up.shows("covey down")

    status = covey("status", "--json")
    assert status.ends() == 0
    assert {unit["name"]: unit["state"] for unit in json.loads(status.shown)["units"]} == {
        "alpha": "up",
        "beta": "up",
        "helper": "up",
    }
    logs = covey("logs", "alpha", "beta")
    assert logs.ends() == 0
    assert logs.shown == "alpha | serving\nbeta  | serving\n"
    following = covey("logs", "alpha", "-f")
    following.shows("serving")
    down = covey("down")
    assert down.ends() == 0
    assert up.ends() == 0
    following.shows("drained")
    following.press_ctrl_c()
    assert following.ends() == 0
    assert covey("status").ends() == 3
    assert covey("down").ends() == 0


DEMO = "import os, sys\nprint(os.getcwd(), sys.argv[1:], os.environ.get('EXIT'))\nsys.exit(7)\n"


def test_demo_runs_the_module_that_the_system_names_in_the_systems_folder(covey: Covey, system_root: Path) -> None:
    file = system_root / "covey.toml"
    file.write_text(f'{file.read_text()}[demo]\nmodule = "show.all"\n')
    (system_root / "show").mkdir()
    (system_root / "show" / "all.py").write_text(DEMO)

    with_keys, by_itself = covey("demo"), covey("demo", "--exit")

    assert (with_keys.ends(), by_itself.ends()) == (7, 7)
    assert with_keys.shown == f"{system_root} [] None\n"
    assert by_itself.shown == f"{system_root} [] 1\n"


def test_a_system_without_a_demo_says_so_and_how_to_give_it_one(covey: Covey) -> None:
    demo = covey("demo")

    assert demo.ends() == 1
    assert re.match(r"covey: test-\w+ has no demo\. To give it one, .*covey\.toml", demo.shown)
    assert '[demo]\n  module = "demo"' in demo.shown


def test_a_second_up_says_at_once_that_it_is_up_already_and_where(covey: Covey, system_root: Path) -> None:
    covey("up").shows("covey down")

    second = covey("up")

    assert second.ends() == 1
    assert second.shown.startswith("covey: this system is already up (pid ")
    assert f"{system_root}/.covey" in second.shown


def test_after_a_kill_of_the_supervisor_nothing_runs_on_and_it_starts_again(covey: Covey, system_root: Path) -> None:
    embedded = dict(os.environ)
    up = covey("up", environment=embedded)
    up.shows("covey down")
    running = records(system_root)

    up.process.kill()

    eventually(lambda: not any(record.running() for record in running))
    assert {record.name for record in running} == {"postgres", "nats", "valkey", "alpha", "beta", "helper"}
    again = covey("up", environment=embedded)
    again.shows("covey down")


@pytest.mark.slow
def test_after_a_kill_of_the_supervisor_and_its_guardian_the_next_start_ends_the_orphans(
    covey: Covey, system_root: Path
) -> None:
    up = covey("up", environment=os.environ)
    up.shows("covey down")
    orphans = records(system_root)
    _guardian_of(up).kill()
    up.process.kill()
    up.process.wait()
    assert all(record.running() for record in orphans)
    assert supervisor_of(system_root / ".covey") is None

    again = covey("up", environment=os.environ)
    again.shows("covey down")

    assert not any(record.running() for record in orphans)


@pytest.mark.slow
def test_a_new_start_waits_until_the_guardian_of_the_last_one_is_done(covey: Covey, system_root: Path) -> None:
    async def begin(seconds: float) -> StateFolder:
        return await asyncio.wait_for(open_state(system_root / ".covey"), seconds)

    up = covey("up")
    up.shows("covey down")
    guardian = _guardian_of(up)
    guardian.suspend()
    up.process.kill()
    up.process.wait()

    with pytest.raises(TimeoutError):
        asyncio.run(begin(0.5))
    guardian.resume()
    asyncio.run(asyncio.wait_for(_opened_and_closed(begin), 15))

    assert records(system_root) == []


async def _opened_and_closed(begin: Callable[[float], Awaitable[StateFolder]]) -> None:
    await (await begin(10)).close()


@pytest.mark.slow
def test_down_cleans_up_behind_a_supervisor_that_was_killed(covey: Covey, system_root: Path) -> None:
    up = covey("up")
    up.shows("covey down")
    orphans = records(system_root)
    up.process.kill()
    up.process.wait()

    down = covey("down")

    assert down.ends() == 0
    assert f"the system was not up any more, its supervisor (pid {up.process.pid}) was killed" in down.shown
    assert not any(record.running() for record in orphans)


@pytest.mark.slow
def test_status_and_down_say_what_a_supervisor_and_a_guardian_that_were_killed_have_left(
    covey: Covey, system_root: Path
) -> None:
    up = covey("up")
    up.shows("covey down")
    orphans = records(system_root)
    _guardian_of(up).kill()
    up.process.kill()
    up.process.wait()
    told = f"its supervisor (pid {up.process.pid}) was killed"

    status = covey("status")
    assert status.ends() == 3
    assert f"is not up any more: {told}; alpha, beta, helper still run" in status.shown
    as_json = covey("status", "--json")
    assert as_json.ends() == 3
    found = json.loads(as_json.shown)
    assert (found["supervisor"], found["killed"], found["left"]) == (None, up.process.pid, ["alpha", "beta", "helper"])
    down = covey("down")
    assert down.ends() == 0
    assert f"{told}; ended what was left of it: alpha, beta, helper" in down.shown
    assert not any(record.running() for record in orphans)
    assert "is not up; `covey up` starts it" in _after(covey("status"))
    assert _after(covey("down")) == "the system was not up\n"


@pytest.mark.slow
def test_a_start_after_a_killed_supervisor_says_that_it_cleans_up(covey: Covey) -> None:
    first = covey("up")
    first.shows("covey down")
    first.process.kill()
    first.process.wait()

    second = covey("up")

    second.shows(f"the last supervisor (pid {first.process.pid}) was killed")
    second.shows("covey down")


def test_a_system_whose_state_folder_is_gone_stops_in_order_and_says_why(covey: Covey, system_root: Path) -> None:
    up = covey("up")
    up.shows("covey down")
    running = records(system_root)

    (system_root / ".covey").rename(system_root / "away")

    assert up.ends() == 1
    assert f"{system_root}/.covey is no longer there, or no longer ours: stopping" in up.shown
    assert f"covey: {system_root}/.covey was removed or replaced while the system was up" in up.shown
    assert len(running) == 3
    assert not any(record.running() for record in running)
    assert log_of(system_root / "away", "alpha").read_text() == "serving\ndrained\n"
    assert not (system_root / ".covey").exists()


@pytest.mark.slow
def test_engines_whose_data_is_gone_are_stopped_too(covey: Covey, system_root: Path) -> None:
    up = covey("up", environment=os.environ)
    up.shows("covey down")
    running = records(system_root)

    shutil.rmtree(system_root / ".covey", ignore_errors=True)

    assert up.ends(30) == 1
    assert {"postgres", "nats", "valkey"} < {record.name for record in running}
    assert not any(record.running() for record in running)


@pytest.mark.slow
def test_a_system_that_stops_because_another_took_its_folder_leaves_the_other_alone(
    covey: Covey, system_root: Path
) -> None:
    service = system_root / "services/alpha/alpha_service/__main__.py"
    waits = 'while not os.path.exists("leave"): await asyncio.sleep(0.02)\n    print("drained"'
    service.write_text(service.read_text().replace('print("drained"', waits))
    first = covey("up")
    first.shows("covey down")

    (system_root / ".covey").rename(system_root / "away")
    second = covey("up")
    second.shows("covey down")
    assert first.process.poll() is None
    (system_root / "leave").touch()

    assert first.ends() == 1
    assert log_of(system_root / "away", "alpha").read_text().endswith("drained\n")
    assert [record.name for record in records(system_root) if record.running()] == ["alpha", "beta", "helper"]
    assert supervisor_of(system_root / ".covey") == second.process.pid
    assert (system_root / ".covey/env/alpha.env").is_file()
    status = covey("status", "--json")
    assert status.ends() == 0
    assert [unit["restarts"] for unit in json.loads(status.shown)["units"]] == [0, 0, 0]


@pytest.mark.slow
def test_a_port_that_another_program_holds_is_said_to_have_moved(covey: Covey, system_root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        held = other.getsockname()[1]
        (system_root / ".covey").mkdir()
        (system_root / ".covey/ports.json").write_text(json.dumps({"alpha": held}))

        up = covey("up")
        up.shows("covey down")

    now = json.loads((system_root / ".covey/ports.json").read_text())["alpha"]
    assert f"moved, because another program holds the usual port: alpha from {held} to {now}\n" in up.shown
    up.press_ctrl_c()
    assert up.ends() == 0
    again = covey("up")
    again.shows("covey down")
    assert "moved" not in again.shown


@pytest.mark.parametrize("torn", ["", "[]", '{"name": "alpha"}'])
def test_a_record_that_cannot_be_read_is_no_obstacle(covey: Covey, system_root: Path, torn: str) -> None:
    records_of(system_root / ".covey").mkdir(parents=True)
    (records_of(system_root / ".covey") / "alpha.json").write_text(torn)

    assert covey("down").ends() == 0
    assert list(records_of(system_root / ".covey").iterdir()) == []


def test_a_process_that_only_has_the_pid_of_ours_is_left_alone(
    covey: Covey, system_root: Path, stranger: subprocess.Popen[bytes]
) -> None:
    records_of(system_root / ".covey").mkdir(parents=True)
    born, home = birth(stranger.pid), identity_of(records_of(system_root / ".covey"))
    for name, noted_birth, command in (("other-birth", "x", "sleep"), ("other-command", born, "postgres")):
        noted = {"birth": noted_birth, "command": [command]}
        record = {"name": name, "pid": stranger.pid, "rank": 1, "stop": 15, "home": home, **noted}
        (records_of(system_root / ".covey") / f"{name}.json").write_text(json.dumps(record))

    assert covey("down").ends() == 0

    assert stranger.poll() is None
    assert records(system_root) == []


def test_a_second_ctrl_c_does_not_wait_for_a_service_that_does_not_drain(covey: Covey, system_root: Path) -> None:
    service = system_root / "services/alpha/alpha_service/__main__.py"
    service.write_text(service.read_text().replace("stop.set)", "lambda: print('I stay', flush=True))"))
    up = covey("up")
    up.shows("covey down")

    up.press_ctrl_c()
    eventually(lambda: "I stay" in log_of(system_root / ".covey", "alpha").read_text())
    up.press_ctrl_c()

    assert up.ends(seconds=5) == 0
    assert "hurrying" in up.shown


def test_ctrl_c_while_it_starts_leaves_nothing(covey: Covey, system_root: Path) -> None:
    (system_root / "services/alpha/alpha_service/__main__.py").write_text("import time; time.sleep(60)")
    up = covey("up", environment=os.environ)
    eventually(lambda: "alpha" in {record.name for record in records(system_root)}, seconds=20)
    running = records(system_root)

    up.press_ctrl_c()

    assert up.ends() == 0
    assert not any(record.running() for record in running)


def test_a_service_whose_code_changes_is_reloaded_and_the_others_are_not(covey: Covey, system_root: Path) -> None:
    up = covey("up")
    up.shows("covey down")
    before = {record.name: record.pid for record in records(system_root)}
    service = system_root / "services/alpha/alpha_service/__main__.py"

    service.write_text(service.read_text().replace('VERSION = "1"', 'VERSION = "2"'))

    up.shows("__main__.py changed: restarting alpha")
    eventually(lambda: _pid(system_root, "alpha") not in (before["alpha"], None))
    assert _pid(system_root, "beta") == before["beta"]


def test_a_change_that_does_not_start_is_reported_and_the_next_one_mends_it(covey: Covey, system_root: Path) -> None:
    up = covey("up")
    up.shows("covey down")
    service = system_root / "services/alpha/alpha_service/__main__.py"
    good = service.read_text()

    service.write_text("this is no Python")
    up.shows("not reloaded: alpha does not start: ended with status 1")
    service.write_text(good + "\n")

    eventually(lambda: _state_of(system_root, "alpha") == "up")
    assert up.process.poll() is None


def test_a_change_of_the_system_file_is_said_and_restarts_nothing(covey: Covey, system_root: Path) -> None:
    file = system_root / "covey.toml"
    text = file.read_text()
    up = covey("up")
    up.shows("covey down")
    running = {record.name: record.pid for record in records(system_root)}

    file.write_text(text + "[services.gamma]\n")
    up.shows("covey.toml has changed, and what is up goes on without it: ")
    up.shows("services.gamma: there is no package gamma_service")
    replacement = system_root / "edited"
    replacement.write_text(text.replace("[services.beta]", "[services.beta]\nreplicas = 2"))
    replacement.rename(file)
    up.shows("To have it run as the file says: covey down && covey up")
    file.write_text(text)
    up.shows("covey.toml is again what is up")

    assert {record.name: record.pid for record in records(system_root)} == running
    assert up.shown.count("covey.toml") == 4
    assert "restarting" not in up.shown


def test_a_new_revision_is_applied_before_the_service_is_reloaded(covey: Covey, system_root: Path) -> None:
    up = covey("up")
    up.shows("covey down")
    folder = system_root / "services/alpha/migrations"
    revision = (folder / "0001_thing.py").read_text()

    (folder / "0002_more.py").write_text(revision.replace('"0001", None', '"0002", "0001"').replace("thing", "more"))

    up.shows("0002_more.py changed: restarting alpha")
    eventually(lambda: _state_of(system_root, "alpha") == "up")
    migrated = covey("migrate", "--json")
    assert migrated.ends() == 0
    assert json.loads(migrated.shown) == {"alpha": [], "beta": []}


def test_migrate_works_on_a_system_that_is_not_up(covey: Covey) -> None:
    first = covey("migrate", environment=os.environ)
    assert first.ends() == 0
    second = covey("migrate", environment=os.environ)
    assert second.ends() == 0

    assert "alpha: covey:0001, covey:0002, covey:0003, covey:0004, service:0001" in first.shown
    assert second.shown == "alpha: nothing to do\nbeta: nothing to do\n"


def test_a_service_that_is_up_but_not_ready_is_shown_with_its_reason(covey: Covey, system_root: Path) -> None:
    service = system_root / "services/alpha/alpha_service/__main__.py"
    busy = 'b"HTTP/1.1 503 Busy\\r\\n\\r\\nno broker" if os.path.exists("busy") else b"HTTP/1.1 200 OK'
    service.write_text(service.read_text().replace('b"HTTP/1.1 200 OK', busy).replace("% len(body) + body", ""))
    covey("up").shows("covey down")
    (system_root / "busy").touch()

    status = covey("status")

    assert status.ends() == 1
    assert "not ready" in status.shown
    assert "no broker" in status.shown


@pytest.mark.slow
def test_a_system_whose_terminal_is_gone_is_still_stopped_in_order(system_root: Path, given: Mapping[str, str]) -> None:
    up = subprocess.Popen([*_COVEY, "up"], cwd=system_root, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert up.stdout is not None
    for line in up.stdout:
        if b"covey down" in line:
            break
    up.stdout.close()

    up.send_signal(signal.SIGHUP)

    assert up.wait(20) == 0
    assert log_of(system_root / ".covey", "alpha").read_text().endswith("drained\n")


@pytest.mark.parametrize("embedded", [True, False])
def test_a_system_without_any_service_is_up_when_all_else_is(
    covey: Covey, system_root: Path, given: Mapping[str, str], embedded: bool
) -> None:
    (system_root / "covey.toml").write_text(f"[system]\nname = 'test-{new_id().hex[-12:]}'\n[services.beta]\n")

    up = covey("up", "--without", "beta", environment=os.environ if embedded else given)
    up.shows("export DATABASE_URL=")

    assert "is up without beta after" in up.shown
    assert "starting " not in up.shown.partition("NAME")[2]
    assert len(re.findall(r"^\w+ +up ", up.shown, re.MULTILINE)) == (3 if embedded else 0)
    status = covey("status")
    assert status.ends() == 0
    assert "left out, to be started by hand: beta" in status.shown


def test_a_service_that_cannot_be_run_is_named_with_what_to_write(covey: Covey, system_root: Path) -> None:
    (system_root / "services/beta/beta_service/__main__.py").unlink()

    command = covey("up")

    assert command.ends() == 2
    assert f"services.beta: there is no __main__.py in {system_root}/services/beta/beta_service" in command.shown
    assert "`from beta_service.main import service` and `service.run()`" in command.shown


def test_logs_are_for_people_on_a_terminal_and_as_they_are_in_a_pipe(covey: Covey, system_root: Path) -> None:
    line = '{"timestamp":"2026-01-02T03:04:05.678901Z","level":"info","event":"placed","service":"alpha","n":1}'
    failed = '{"level":"error","event":"failed","exception":{"type":"ValueError","message":"no","frames":["a in b"]}}'
    others = ["serving", "[1]", "{}", '{"half": ']
    for name in ("alpha", "beta"):
        log_of(system_root / ".covey", name).parent.mkdir(parents=True, exist_ok=True)
        log_of(system_root / ".covey", name).write_text("\n".join([line, failed, *others]) + "\n")

    pretty = _on_a_terminal(system_root, "logs", "alpha", NO_COLOR="1")
    coloured = _on_a_terminal(system_root, "logs", "alpha")
    both = _on_a_terminal(system_root, "logs", NO_COLOR="1")
    piped = covey("logs", "alpha")
    assert piped.ends() == 0

    assert pretty[0] == "03:04:05.678  info      alpha         placed  n=1"
    assert [text.strip() for text in pretty[2:4]] == ["ValueError: no", "a in b"]
    assert pretty[4:] == others
    assert "\x1b[32m" in coloured[0]
    assert all(text.startswith("alpha | ") for text in both[:8])
    assert piped.shown.splitlines() == [line, failed, *others]


def test_dead_letters_outside_a_project_are_found_with_an_address(tmp_path: Path) -> None:
    outside = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}

    told = subprocess.run(
        [*_COVEY, "dead", "list", "order"], cwd=tmp_path, env=outside, capture_output=True, text=True, check=False
    )

    assert told.returncode == 2
    assert "there is no covey.toml" in told.stderr
    assert "set DATABASE_URL" in told.stderr


@pytest.mark.parametrize("command", ["list", "show", "edit", "replay", "discard"])
def test_what_must_be_given_is_a_plain_word_in_the_usage(command: str) -> None:
    shown = subprocess.run([*_COVEY, "dead", command, "--help"], capture_output=True, text=True, check=True).stdout

    assert ("[OPTIONS] [SERVICE]" if command == "list" else "[OPTIONS] SERVICE") in shown
    assert "{" not in shown


def test_a_service_left_out_is_shown_with_what_it_needs(covey: Covey, system_root: Path) -> None:
    up = covey("up", "--without", "alpha")
    up.shows("covey down")

    up.shows("export DATABASE_URL=")
    assert "`python -m alpha_service`" in up.shown
    assert "alpha" not in {record.name for record in records(system_root)}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("up", "--without", "gamma"), "'gamma' is no service of test-"),
        (("up", "--replicas", "alpha"), "'alpha' must read like payment=2"),
        (
            ("up", "--one-process", "--replicas", "alpha=2"),
            "alpha has 2 replicas, and in one process",
        ),
        (("logs", "gamma"), "gamma has written nothing; there are:"),
        (("drill",), "says nothing of drills: name the module"),
        (("drill", "--minutes", "0"), "Invalid value for '--minutes': Input should be greater than or equal to 0.1"),
    ],
)
def test_a_wrong_argument_is_named_with_the_right_ones(covey: Covey, arguments: tuple[str, ...], told: str) -> None:
    command = covey(*arguments)

    assert command.ends() in (1, 2)
    assert told in " ".join(command.shown.split())


def test_a_wrong_system_file_has_a_status_of_its_own(covey: Covey, system_root: Path) -> None:
    (system_root / "covey.toml").write_text("[system]\n")

    command = covey("up")

    assert command.ends() == 2
    assert "line 1: system.name: it is missing" in command.shown


def test_status_says_what_is_wrong_with_the_system_file_whether_the_system_is_up_or_not(
    covey: Covey, system_root: Path
) -> None:
    good = (system_root / "covey.toml").read_text()
    up = covey("up")
    up.shows("covey down")
    (system_root / "covey.toml").write_text(f"{good}[services.alhpa]\n")

    while_up = covey("status")
    assert while_up.ends() == 0
    assert re.search(r"services\.alhpa: there is no package .*\n.*was started before", while_up.shown)
    assert "alpha   up " in while_up.shown
    up.press_ctrl_c()
    assert up.ends() == 0
    after = covey("status")
    assert after.ends() == 2
    assert "services.alhpa: there is no package" in after.shown
    assert "is not up" not in after.shown


@pytest.mark.parametrize("command", ["", "up", "down", "dead", "dead list", "demo"])
def test_help_is_asked_for_by_either_option(command: str) -> None:
    shown = [
        subprocess.run([*_COVEY, *command.split(), option], capture_output=True, text=True, check=True).stdout
        for option in ("-h", "--help")
    ]

    assert shown[0] == shown[1]
    assert "Usage: " in shown[0]


def test_the_version_is_that_of_the_package() -> None:
    shown = subprocess.run([*_COVEY, "--version"], capture_output=True, text=True, check=True).stdout

    assert shown.startswith(f"covey {version('covey')}, Python 3.")


@pytest.mark.parametrize("command", ["", "up", "down", "status", "logs", "migrate", "export", "contracts", "drill"])
def test_help_imports_nothing_of_what_the_command_needs_and_gives_an_example(command: str, tmp_path: Path) -> None:
    """What a command needs is imported when it runs: help costs what typer costs, and nothing of ours."""
    bare = (
        "import typer\napp = typer.Typer(rich_markup_mode=None)\n"
        "@app.command()\ndef go(name: str = '', count: int = 0) -> None: ...\n"
        "@app.command()\ndef stay(name: str = '', count: int = 0) -> None: ...\napp()"
    )

    ours, shown = _imported([*_COVEY[1:], *command.split(), "--help"], tmp_path)
    typers, _ = _imported(["-c", bare, "go", "--help"], tmp_path)

    added = {module for module in ours - typers if module.partition(".")[0] not in sys.stdlib_module_names}
    assert {module for module in added if not module.startswith("covey.commands")} <= {
        "covey",
        "covey.cli",
        "covey.errors",
    }
    assert "asyncio" not in ours
    assert "Example: covey" in shown or not command


def _after(command: Terminal) -> str:
    """Wait until a command has ended; return what it has printed."""
    command.ends()
    return command.shown


def _on_a_terminal(root: Path, *arguments: str, **environment: str) -> list[str]:
    """Run a command whose output is a terminal; return its lines."""
    ours, theirs = os.openpty()
    plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen([*_COVEY, *arguments], cwd=root, env=plain | environment, stdout=theirs)
    os.close(theirs)
    written = b""
    with suppress(OSError):  # so a terminal ends on Linux
        while part := os.read(ours, 65_536):
            written += part
    os.close(ours)
    assert process.wait(20) == 0
    return written.decode().splitlines()


def _guardian_of(up: Terminal) -> psutil.Process:
    children = psutil.Process(up.process.pid).children()
    return next(child for child in children if "covey.local.guardian" in child.cmdline())


def _imported(arguments: list[str], folder: Path) -> tuple[set[str], str]:
    """Run Python with these arguments; return the modules that it has imported, and what it has printed."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}, done.stdout


def _pid(root: Path, name: str) -> int | None:
    return next((record.pid for record in records(root) if record.name == name), None)


def _state_of(root: Path, name: str) -> str:
    status = read_status(root / ".covey")
    assert status is not None
    return next(unit.state for unit in status.units if unit.name == name)
