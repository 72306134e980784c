"""A service on ports of its own, for tests that talk to it as its clients do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import uvicorn

if TYPE_CHECKING:
    from covey.grpc.server import GrpcServer


@asynccontextmanager
async def serving(app: Any, *, lifespan: bool = False) -> AsyncIterator[str]:
    """Serve `app` on a free port of 127.0.0.1 inside the block; yields its URL.

    With `lifespan` the application is told of its start and end, as Starlette and FastAPI apps of their own expect;
    that of a covey service needs no telling. Requests under way at the end of the block have a second to finish.
    """
    # asyncio turns Nagle's algorithm off only where the protocol is said; with it an answer in two parts takes 40 ms.
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, lifespan="on" if lifespan else "off", log_config=None, access_log=False, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve([listening]))
            while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody when it has started
                await asyncio.sleep(0.005)
            try:
                yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            finally:
                server.should_exit = True


@asynccontextmanager
async def serving_grpc(server: GrpcServer | None) -> AsyncIterator[str]:
    """Have the gRPC server of a service (`running.grpc`) listen on a free port inside the block; yields its address.

    Calls under way at the end of the block have a second to finish.
    """
    assert server is not None, "the service has no servicers"
    port = await server.start("127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(timedelta(seconds=1))
