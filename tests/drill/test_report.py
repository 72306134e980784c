"""The report of a drill: one page that needs nothing else, and shows what was broken and what came of it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from covey.testing.clock import FakeClock
from covey.testing.drill.charts import Bins, accepted_per_second, completed_per_second, lanes
from covey.testing.drill.drilled import Verdict
from covey.testing.drill.faults import Duplicate, Fault, Kill, KillRelay, Own, Pause, kind
from covey.testing.drill.record import Record, Sample, Strike, percentile
from covey.testing.drill.report import page
from covey.testing.drill.result import Result, told
from covey.testing.drill.schedule import Schedule
from covey.testing.drill.svg import round_up

SVG = "{http://www.w3.org/2000/svg}"
FAULTS: tuple[Fault, ...] = (
    Kill(at=3, unit="order-2"),
    Pause(at=5, unit="nats", seconds=7),
    Own(at=6, name="the bank is <slow>", seconds=4),
    Duplicate(at=8, service="order", reach_seconds=30),
    KillRelay(at=8.5, service="order"),
    Kill(at=9, unit="postgres"),
)
KINDS = ("kills", "pauses", "the bank is <slow>", "duplicates", "kills of relays")


def result(
    *, violations: tuple[str, ...] = (), last_hit: bool = True, accepts: int = 40, missed: str = "", forgotten: str = ""
) -> Result:
    """A drill of 20 seconds with six faults; those of the kind `missed` hit nobody, `forgotten` ones never begin."""
    record = Record(FakeClock(), arrived=50, load_ended=20)
    record.accepts = [(number / 2, 0.02 * (number + 1)) for number in range(accepts)]
    record.failures = [(4.5, "503"), (4.6, "refused"), (9.2, "503")]
    record.samples = [Sample(float(at), 1, 2 * at) for at in range(1, 24)]
    record.strikes = [
        Strike(
            fault=fault,
            at=fault.at,
            until=fault.at + getattr(fault, "seconds", 0),
            hit=(last_hit or fault.at < 9) and kind(fault) != missed,
        )
        for fault in FAULTS
        if kind(fault) != forgotten
    ]
    return Result(
        system="shop",
        rate=2.5,
        schedule=Schedule(seed=7, seconds=20, calm_from=15, faults=FAULTS),
        record=record,
        verdict=Verdict(rules={"money & goods agree": violations, "nothing waits": ()}, summary=["orders 40"]),
    )


def parsed(one: Result) -> ElementTree.Element:
    return ElementTree.fromstring(page(one).removeprefix("<!DOCTYPE html>"))


def texts(root: ElementTree.Element) -> str:
    return " ".join(" ".join(root.itertext()).split())


def classes(root: ElementTree.Element, tag: str) -> list[str]:
    return [element.get("class", "") for element in root.iter(f"{SVG}{tag}")]


def test_the_page_is_well_formed_and_needs_nothing_else() -> None:
    root = parsed(result())

    assert root.tag == "html"
    assert len(list(root.iter(f"{SVG}svg"))) == 4
    assert not {element.tag.rpartition("}")[2] for element in root.iter()} & {"script", "img", "link", "iframe"}
    assert not re.findall(r"url\(|@import|(?:href|src)=", page(result()))


def test_every_fault_has_its_mark_in_its_lane() -> None:
    root = parsed(result(last_hit=False))

    marks, bars = classes(root, "path"), classes(root, "rect")
    assert marks.count("mark kill") == 3  # both hits and the legend
    assert marks.count("mark duplicate") == 2
    assert classes(root, "circle") == ["mark missed"] * 2
    assert (bars.count("bar pause"), bars.count("bar own")) == (2, 2)
    assert "nats stands still for 7.0 s" in texts(root)
    assert "the bank is <slow>" in texts(root)
    assert lanes(result().record.strikes) == [
        "nats", "order-2", "postgres", "relay of order", "the bank is <slow>", "messages of order",
    ]  # fmt: skip


def test_a_drill_in_which_nothing_happened_has_a_page_too() -> None:
    nothing = replace(result(), record=Record(FakeClock()), interrupted=True)

    assert "it was interrupted; only 0 of 3 kills hit a running process; nothing was accepted" in texts(parsed(nothing))


def test_the_page_says_how_it_went_and_how_to_have_it_again() -> None:
    passed = texts(parsed(result()))

    assert "Passed: no violation" in passed
    assert "covey drill --seed 7 --minutes 0.333333 --rate 2.5" in passed
    assert "3 of 3" in passed


@pytest.mark.parametrize(
    ("one", "why"),
    [
        pytest.param(result(violations=("order 1 < 2 is lost",)), "1 violation", id="a violation"),
        pytest.param(result(last_hit=False), "only 2 of 3 kills hit a running process", id="a kill of nobody"),
        pytest.param(result(accepts=0), "nothing was accepted", id="no load"),
    ],
)
def test_a_drill_is_not_passed_and_says_why(one: Result, why: str) -> None:
    told_by_page, told_by_command, told_to_script = texts(parsed(one)), "\n".join(told(one)), json.loads(one.as_json())

    assert one.objections() == [why]
    assert f"Not passed: {why}" in told_by_page
    assert f"NOT PASSED: {why}" in told_by_command
    assert (told_to_script["passed"], told_to_script["objections"]) == (False, [why])


@pytest.mark.parametrize("missed", ["pauses", "the bank is <slow>", "duplicates"])
def test_a_kind_of_fault_that_never_hit_fails_the_drill(missed: str) -> None:
    one = result(missed=missed)

    assert one.objections() == [f"nobody was hit by any of: {missed}"]
    assert one.struck() == {name: 0 if name == missed else 2 if name == "kills" else 1 for name in KINDS}


def test_a_fault_that_was_not_begun_fails_the_drill() -> None:
    assert "1 of 6 faults were not begun" in result(forgotten="duplicates").objections()


def test_what_was_to_come_after_somebody_had_interrupted_is_not_missed() -> None:
    one = replace(result(forgotten="duplicates"), interrupted=True)
    one.record.load_ended = 7

    assert one.objections() == ["it was interrupted"]


def test_each_violation_is_shown_with_its_rule() -> None:
    one = result(violations=("order 1 < 2 is lost",))

    assert "✗ money & goods agree order 1 < 2 is lost" in texts(parsed(one))
    assert "✓ nothing waits" in texts(parsed(one))
    assert json.loads(one.as_json())["rules"]["money & goods agree"] == ["order 1 < 2 is lost"]


def test_rates_are_per_second_and_nothing_is_counted_twice() -> None:
    record, bins = result().record, Bins(width=2, seconds=23)

    assert sum(accepted_per_second(record, bins)) * bins.width == len(record.accepts)
    assert sum(completed_per_second(record, bins)) * bins.width == record.completed
    assert accepted_per_second(record, bins)[:2] == [2.0, 2.0]


@pytest.mark.parametrize(("share", "value"), [(0.5, 2), (0.99, 4), (0.25, 1), (1, 4)])
def test_a_percentile_is_a_value_that_was_measured(share: float, value: float) -> None:
    assert percentile([4, 1, 3, 2], share) == value


@pytest.mark.parametrize(("value", "top"), [(0, 1), (1, 1), (1.2, 2), (7, 10), (10, 10), (21, 50), (99, 100)])
def test_an_axis_ends_at_a_round_number(value: float, top: float) -> None:
    assert round_up(value) == top
