"""A thousand poisoned messages in a hundred thousand: each stops its own key, and no good one is lost or doubled."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from covey.database.pool import Database
from covey.local.engines.embedded import Engines
from covey.messaging.brokers.nats import NatsBroker
from covey.messaging.dead_letters import DeadLetters
from covey.testing.eventually import eventually
from covey.work.unit_of_work import Transactions
from tests.messaging.feed import Feed, with_effects

KEYS, EACH, POISONED = 20_000, 5, 1_000
AT = 2
"""Where in its key the poison is: two before it, two behind it."""
KILLS = 3
PATIENCE = timedelta(minutes=5)

PROGRAM = """
import asyncio, sys
from datetime import timedelta
from covey.messaging.brokers.nats import NatsBroker
from covey.messaging.options import MessagingOptions
from covey.messaging.router import Router
from covey.testing.replica import ReplicaOptions, replica
from tests.messaging.feed import Added, keep

database_url, nats_url, system = sys.argv[1:]
router = Router()

@router.on(Added)
async def handle(message, work):
    await keep(message, work)
    if message.n < 0:
        raise ValueError("poison")

async def main():
    broker = await NatsBroker.open(nats_url, system)
    options = MessagingOptions(max_attempts=2, backoff=timedelta(milliseconds=20), poll=timedelta(milliseconds=20))
    async with replica("shop", database_url, broker, [router], options=ReplicaOptions(messaging=options)):
        await asyncio.Event().wait()

asyncio.run(main())
"""

ROOT = Path(__file__).parents[2]


class Shop:
    """A shop in a process of its own, and its books."""

    def __init__(self, program: list[str], database: Database) -> None:
        self._program = program
        self._database = database
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        self._process = await asyncio.create_subprocess_exec(*self._program, env={**os.environ, "PYTHONPATH": path})

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            assert await self._process.wait() == -9, "it had ended by itself"
            self._process = None

    async def ask(self, sql: str, *args: Any) -> list[Any]:
        async with self._database.acquire() as connection:
            return list(await connection.fetch(sql, *args))

    def has(self, effects: int, dead: int) -> Callable[[], Coroutine[Any, Any, bool]]:
        """Return what asks whether there are so many effects, or more, and so many dead letters."""

        async def has() -> bool:
            ((found, letters),) = await self.ask(
                "SELECT (SELECT count(*) FROM effect), (SELECT count(*) FROM covey.hold WHERE state = 'dead')"
            )
            assert (found >= effects, letters >= dead) == (True, True), f"{found} effects, {letters} dead letters"
            return True

        return has

    async def order(self) -> dict[str, list[int]]:
        """Return for each key the numbers that had their effect, in that order."""
        rows = await self.ask("SELECT key, array_agg(n ORDER BY at) AS numbers FROM effect GROUP BY key")
        return {row["key"]: row["numbers"] for row in rows}


@pytest.mark.slow
async def test_of_a_hundred_thousand_messages_a_thousand_poisoned_ones_are_dead_and_no_good_one_is_lost(
    make_database: Callable[[Path | None], str],
    covey_engines: Engines,
    nats_broker: NatsBroker,
    system_name: str,
    tmp_path: Path,
) -> None:
    url, feed, dice = with_effects(make_database(None)), Feed(nats_broker), random.Random(7)
    poisoned = {f"key {n}" for n in dice.sample(range(KEYS), POISONED)}
    keys = [f"key {n}" for n in range(KEYS)]
    good = {key: [n for n in range(EACH) if n != AT or key not in poisoned] for key in keys}
    early = {key: good[key][:AT] if key in poisoned else good[key] for key in keys}
    (tmp_path / "shop.py").write_text(PROGRAM)
    for n in range(EACH):
        dice.shuffle(keys)
        messages = [feed.envelope(key, -1 if n == AT and key in poisoned else n) for key in keys]
        for begin in range(0, KEYS, 1_000):
            await feed.publish(messages[begin : begin + 1_000])

    async with Database.open(url) as database:
        shop = Shop([sys.executable, str(tmp_path / "shop.py"), url, covey_engines.nats_url, system_name], database)
        try:
            for kill in range(KILLS):
                await shop.start()
                await eventually(shop.has(KEYS * EACH * (kill + 1) // (KILLS + 2), 0), PATIENCE)
                await shop.kill()
            await shop.start()
            await eventually(shop.has(sum(map(len, early.values())), POISONED), PATIENCE)
            assert await shop.order() == early
            reasons = await shop.ask("SELECT key, error FROM covey.hold WHERE state = 'dead'")
            assert Counter(row["error"] for row in reasons) == {"ValueError: poison": POISONED}
            assert {row["key"] for row in reasons} == poisoned

            letters = DeadLetters(Transactions(database, "shop"))
            for key in poisoned:
                await letters.discard(key, "poison")
            await eventually(shop.has(sum(map(len, good.values())), 0), PATIENCE)
            assert await shop.order() == good
        finally:
            await shop.kill()
