"""The shop in a drill: it keeps its promises, and whoever breaks one is found out."""

from __future__ import annotations

import random
from collections import Counter
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
from covey.testing.drill.result import told
from shop.customers import Promises
from shop.drill import drilled, kept

ROOT = Path(__file__).parents[2]
ONE, OTHER, USER = new_id(), new_id(), new_id()


@pytest.mark.slow
async def test_the_shop_keeps_its_promises_while_everything_is_broken(tmp_path: Path) -> None:
    options = DrillOptions(seed=7, seconds=20, rate=8, state=tmp_path / "state")

    result = await drill(ROOT, options, Progress(stream := StringIO()))

    assert not result.objections(), "\n".join([stream.getvalue(), *told(result)])
    assert result.record.kills >= 5
    assert result.record.completed >= len(result.record.accepts) > 50


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
        for number in range(20):
            await shop.arrive(random.Random(number), notes)
        before = await shop.audit(60)
        connection = await asyncpg.connect(system.database_url("inventory"))
        await connection.execute("UPDATE reservation SET status = 'released' WHERE status = 'sold'")
        await connection.close()
        after = await shop.audit(60)

    assert notes.accepts > 10
    assert before.violations == []
    assert any("its reservation is released" in violation for violation in after.violations)


def promises(**what: Any) -> Promises:
    return Promises(**{"accepted": [ONE], "submitted": Counter([USER]), **what})


def violations(found: dict[str, list[str]]) -> list[str]:
    return [violation for rule in found.values() for violation in rule]


def test_promises_that_were_kept_are_no_violations() -> None:
    found = kept(promises(cancelled={ONE}), {ONE: "cancelled", OTHER: "confirmed"}, {USER: 1})

    assert len(found) == 3
    assert violations(found) == []


@pytest.mark.parametrize(
    ("broken", "status", "orders", "told"),
    [
        pytest.param({"cancelled": {ONE}}, {ONE: "confirmed"}, {}, "and is confirmed", id="a cancellation"),
        pytest.param({"cancelled": {ONE}}, {}, {}, "and is lost", id="a cancellation of what is lost"),
        pytest.param({}, {}, {USER: 2}, "submitted 1 orders and has 2", id="a submission"),
        pytest.param({}, {}, {OTHER: 1}, f"user {OTHER} submitted 0", id="an order of nobody"),
        pytest.param({"broken": ["told 404"]}, {}, {}, "told 404", id="an answer"),
    ],
)
def test_each_promise_that_was_broken_is_found(
    broken: dict[str, Any], status: dict[Any, str], orders: dict[Any, int], told: str
) -> None:
    (violation,) = violations(kept(promises(**broken), status, orders))

    assert told in violation
