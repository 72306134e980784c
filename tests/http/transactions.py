"""Transactions without a database, which tell what happens to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp

from covey.testing.asgi import scope_of


class FakeTransactions:
    """Notes what happens, in order; its commit fails if told to."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.happened: list[str] = []

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[FakeTransactions]:
        self.happened.append("begin")
        try:
            yield self
        except BaseException:
            self.happened.append("rollback")
            raise
        if self.failure is not None:
            raise self.failure
        self.happened.append("commit")

    async def answered(self, app: ASGIApp, path: str) -> int:
        """Ask, with every message of the answer noted between the statements; return the status."""
        status = 0

        async def receive() -> Any:
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            self.happened.append(message["type"])

        await app(scope_of("POST", path, {}), receive, send)
        return status
