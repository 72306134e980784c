"""The shop in a drill: it keeps its promises, and whoever breaks one is found out."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from covey.ids import new_id
from covey.local.running import UpOptions, running_system
from covey.testing.drill.drill import DrillOptions, drill
from covey.testing.drill.progress import Progress
from covey.testing.drill.result import told as lines_of
from shop.customers import Promises
from shop.drill import Told, drilled, kept

ROOT = Path(__file__).parents[2]
ONE, OTHER, BACK, USER = new_id(), new_id(), new_id(), new_id()


@pytest.mark.slow
async def test_the_shop_keeps_its_promises_while_everything_is_broken(tmp_path: Path) -> None:
    options = DrillOptions(seed=7, seconds=20, rate=8, state=tmp_path / "state")

    result = await drill(ROOT, options, Progress(stream := StringIO()))

    assert not result.objections(), "\n".join([stream.getvalue(), *lines_of(result)])
    assert result.record.kills >= 5
    assert all(result.struck().values())
    assert result.struck().keys() >= {"kills", "kills of relays", "pauses", "duplicates"}
    assert ended_returns(result.verdict.summary) > 0
    assert result.record.completed >= len(result.record.accepts) > 50


def ended_returns(summary: Sequence[str]) -> int:
    """How many returns have brought goods and money back: else the auditor would have had none to look at."""
    (line,) = (line for line in summary if line.startswith("returns "))
    found = re.search(r"(\d+) completed", line)
    return int(found[1]) if found else 0


@dataclass
class Quiet:
    """Notes that nobody reads."""

    accepts: int = 0

    def accepted(self, seconds: float) -> None:
        self.accepts += 1

    def failed(self, kind: str) -> None: ...

    def given_up(self) -> None: ...


@pytest.mark.slow
async def test_the_audit_of_a_drill_finds_books_that_were_tampered_with(tmp_path: Path) -> None:
    notes = Quiet()
    async with (
        running_system(ROOT, UpOptions(state=tmp_path / "state")) as system,
        drilled(system) as shop,
    ):
        await shop.prepare()
        for number in range(60):
            await shop.arrive(random.Random(number), notes)
        before = await shop.audit(60)
        connection = await asyncpg.connect(system.database_url("inventory"))
        await connection.execute("UPDATE reservation SET status = 'released' WHERE status = 'sold'")
        await connection.execute("DELETE FROM restock_line")
        await connection.close()
        after = await shop.audit(60)

    assert notes.accepts == 60  # whatever else they do, each places an order
    assert before.violations == []
    assert shop.customers.promises.versions
    assert len(shop.customers.promises.returned) == ended_returns(before.summary) > 1
    assert any("its reservation is released" in violation for violation in after.violations)
    assert any("0 pieces were restocked for it" in violation for violation in after.violations)


def promises(**what: Any) -> Promises:
    return Promises(**{"accepted": [ONE], "submitted": Counter([USER]), **what})


def told(**what: Any) -> Told:
    return Told(**{"status": {}, "orders_of": {}, "returns": set(), "versions": {}, **what})


def violations(found: dict[str, list[str]]) -> list[str]:
    return [violation for rule in found.values() for violation in rule]


def test_promises_that_were_kept_are_no_violations() -> None:
    were = promises(cancelled={ONE}, returned={BACK}, versions={USER: 2})

    found = kept(
        were,
        told(
            status={ONE: "cancelled", OTHER: "confirmed"},
            orders_of={USER: 1},
            returns={BACK, OTHER},
            versions={USER: 3},
        ),
    )

    assert len(found) == 5
    assert violations(found) == []


@pytest.mark.parametrize(
    ("broken", "books", "said"),
    [
        pytest.param({"cancelled": {ONE}}, {"status": {ONE: "confirmed"}}, "and is confirmed", id="a cancellation"),
        pytest.param({"cancelled": {ONE}}, {}, "and is lost", id="a cancellation of what is lost"),
        pytest.param({"returned": {BACK}}, {"returns": {OTHER}}, f"return {BACK} was accepted", id="a return"),
        pytest.param({"versions": {USER: 3}}, {"versions": {USER: 2}}, "of version 3, and is at 2", id="a change"),
        pytest.param({}, {"orders_of": {USER: 2}}, "submitted 1 orders and has 2", id="a submission"),
        pytest.param({}, {"orders_of": {OTHER: 1}}, f"user {OTHER} submitted 0", id="an order of nobody"),
        pytest.param({"broken": ["told 404"]}, {}, "told 404", id="an answer"),
    ],
)
def test_each_promise_that_was_broken_is_found(broken: dict[str, Any], books: dict[str, Any], said: str) -> None:
    (violation,) = violations(kept(promises(**broken), told(**books)))

    assert said in violation
