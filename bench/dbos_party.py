"""DBOS, the peer for sagas: a workflow of four steps, each of which writes a row, set up as its documentation says.

https://docs.dbos.dev/python/programming-guide: steps are checkpointed in PostgreSQL by DBOS itself, in the process
of the workflow. The pool is larger than its default of 20, which made it faster here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from dbos import DBOS, DBOSConfig

from bench.party import Deed, play
from bench.saga_parties import INSERT


@asynccontextmanager
async def dbos(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Be the application that runs workflows."""
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": settings["database_url"],
        "sys_db_pool_size": 100,
        "log_level": "WARNING",
    }
    DBOS(config=config)
    pool = await asyncpg.create_pool(settings["tables_url"], min_size=2, max_size=10) if settings["writes"] else None

    async def write(what: str, amount: int) -> None:
        if pool is not None:
            await pool.execute(INSERT, what, "", amount)

    @DBOS.step()
    async def reserve(amount: int) -> None:
        await write("reserve", amount)

    @DBOS.step()
    async def authorize(amount: int) -> None:
        await write("authorize", amount)

    @DBOS.step()
    async def capture(amount: int) -> None:
        await write("capture", amount)

    @DBOS.step()
    async def ship(amount: int) -> None:
        await write("ship", amount)

    @DBOS.workflow()
    async def order(amount: int) -> None:
        await reserve(amount)
        await authorize(amount)
        await capture(amount)
        await ship(amount)

    async def run(count: int, in_flight: int) -> dict[str, Any]:
        """Run `count` workflows, `in_flight` at a time; return the seconds for all, and for each its milliseconds."""
        milliseconds: list[float] = []
        amounts = iter(range(count))

        async def one_after_the_other() -> None:
            for amount in amounts:
                begun = time.monotonic()
                await order(amount)
                milliseconds.append((time.monotonic() - begun) * 1e3)

        begun = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(in_flight):
                tasks.create_task(one_after_the_other())
        return {"seconds": time.monotonic() - begun, "milliseconds": milliseconds}

    DBOS.launch()
    yield {"run": run}
    DBOS.destroy()


if __name__ == "__main__":
    play({"dbos": dbos})
