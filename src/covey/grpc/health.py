"""grpc.health.v1 as the service's readiness says it: https://github.com/grpc/grpc/blob/master/doc/health-checking.md.

A service that is not ready, or drains, is NOT_SERVING from that moment on, as a whole: all that it serves depends on
the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from covey.telemetry.health import Readiness

_LOOK_SECONDS = 0.5

Status = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it is not typed
    """Answers for these services, and for the server as a whole, which has no name."""

    def __init__(self, readiness: Readiness, services: Collection[str]) -> None:
        self._readiness = readiness
        self._services = frozenset({"", *services})
        self._closed = asyncio.Event()

    def close(self) -> None:
        """End what watches, so that a server that stops need not wait for those who only look on."""
        self._closed.set()

    async def Check(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """Return how it is now; NOT_FOUND for a service that is not here."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return Status(status=await self._status())

    async def Watch(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        """Yield how it is, and again whenever that changes, which is noticed within half a second."""
        known = None
        while not self._closed.is_set():
            status = await self._status() if request.service in self._services else Status.SERVICE_UNKNOWN
            if status != known:
                known = status
                yield Status(status=status)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), _LOOK_SECONDS)

    async def _status(self) -> Any:
        return Status.SERVING if (await self._readiness.report()).ready else Status.NOT_SERVING
