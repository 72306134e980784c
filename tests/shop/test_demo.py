"""`make demo EXIT=1`, as a whole: real processes, real engines, a real SIGKILL."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from datetime import timedelta
from io import StringIO
from pathlib import Path

import asyncpg
import pytest

from covey.local.engines.embedded import STREAMS
from covey.testing.eventually import eventually
from shop.demo import Demo
from shop.rules import RULES, everybody_agrees_about_money
from shop.scenarios import SCENARIOS
from shop.showing import ROOT, shown_shop
from shop.terminal import Terminal

SAME_SUMS = next(sentence for sentence, rule in RULES.items() if rule is everybody_agrees_about_money)


@pytest.fixture
def on_valkey(tmp_path: Path) -> Path:
    """The folder of the same shop, on a broker that is Valkey."""
    root = tmp_path / "shop"
    root.mkdir()
    (root / "services").symlink_to(ROOT / "services")
    (root / "shop").symlink_to(ROOT / "shop")
    text = (ROOT / "covey.toml").read_text()
    (root / "covey.toml").write_text(text.replace('name = "shop"\n', 'name = "shop"\nbroker = "valkey"\n', 1))
    return root


@pytest.mark.slow
async def test_the_demo_ends_well_and_tells_what_it_did_but_not_on_a_book_that_is_wrong(tmp_path: Path) -> None:
    stream = StringIO()
    began = time.perf_counter()

    async with shown_shop(Terminal(stream), tmp_path / "state") as (system, client):
        demo = Demo(system, client, Terminal(stream))
        await demo.run()
        status = await demo.conclude(began)
        told = stream.getvalue()
        await charge_a_cent_less(system.database_url("payment"))
        status_of_wrong_books = await demo.conclude(began)
        _, _, verdict = stream.getvalue().removeprefix(told).partition("2 things are not as they should be")

    assert status == 0, told
    assert all(f"✓ {scenario.title}" in told for scenario in SCENARIOS)
    assert all(f"{scenario.title}, order " in told for scenario in SCENARIOS)
    assert "SIGKILL to pid" in told
    assert "Everything is as it should be" in told
    assert status_of_wrong_books == 1
    assert f"✗ {SAME_SUMS}" in verdict, stream.getvalue()


async def charge_a_cent_less(database_url: str) -> None:
    """Have payment say of one order that a cent less was taken than was."""
    connection = await asyncpg.connect(database_url)
    try:
        changed = await connection.execute(
            "UPDATE payment SET captured = captured - 1"
            " WHERE id = (SELECT id FROM payment WHERE captured > refunded ORDER BY id LIMIT 1)"
        )
    finally:
        await connection.close()
    assert changed == "UPDATE 1"


@pytest.mark.slow
async def test_orders_of_every_outcome_end_well_on_valkey_which_is_killed_meanwhile(
    on_valkey: Path, tmp_path: Path
) -> None:
    stream = StringIO()

    async with shown_shop(Terminal(stream), tmp_path / "state", on_valkey) as (system, client):
        demo = Demo(system, client, Terminal(stream))
        running = asyncio.create_task(demo.run())
        for title in (SCENARIOS[0].title, SCENARIOS[-4].title):
            await eventually(lambda: running.done() or title in stream.getvalue(), timedelta(minutes=2))  # noqa: B023 - awaited
            os.kill(system.units[STREAMS].pid or 0, signal.SIGKILL)
        await running
        status = await demo.conclude(time.perf_counter())

    told = stream.getvalue()
    assert status == 0, told
    assert "nats" not in system.units
    assert all(f"✓ {scenario.title}" in told for scenario in SCENARIOS)
