"""A service for the tests that need a process of its own: `python served.py PORT`, told by the environment."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import structlog
import uvicorn
from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from covey.http.application import Application, application
from covey.telemetry.health import Readiness
from covey.telemetry.telemetry import Telemetry, TelemetryOptions

api = APIRouter(prefix="/api/v1")


@api.get("/users/{user_id}")
async def get_user(user_id: int) -> int:
    structlog.get_logger().info("user read", user_id=user_id)
    return user_id


@api.post("/users")
async def post_user(user: dict[str, int]) -> int:
    return len(user)


@api.get("/torn")
async def torn() -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        yield b"half an ans"
        raise RuntimeError("torn")

    return StreamingResponse(parts())


class Server(uvicorn.Server):
    """Leaves signals alone: uvicorn would raise them again when it has stopped, before the last lines are written."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(app: Application, port: int) -> None:
    server = Server(uvicorn.Config(app, port=port, log_config=None, access_log=False))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, setattr, server, "should_exit", True)
    await server.serve()


def main() -> None:
    options = TelemetryOptions(
        service="served", version="1.0", instance="one", otlp_endpoint=os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    )
    with Telemetry.open(options) as telemetry:
        readiness = Readiness()
        readiness.started()
        asyncio.run(serve(application("served", [api], telemetry, readiness), int(sys.argv[1])))


if __name__ == "__main__":
    main()
