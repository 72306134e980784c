"""The mail sink's HTTP interface, which is for tests and people; mail comes over SMTP.

GET  /mails        every mail; ?order= for those about one order, ?to= for those to one mailbox
PUT  /admin/mode   mode, calls or null
GET  /health       with the port of SMTP
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from covey.clock import Clock, SystemClock
from mail_sink.behaviour import Behaviour, Mode, Order
from mail_sink.book import Book
from mail_sink.smtp import connection


class NewMode(BaseModel):
    """What the administrator asks for."""

    model_config = ConfigDict(extra="forbid")

    mode: Mode
    calls: int | None = Field(default=None, ge=1)


def application(
    path: Path, smtp_port: int = 0, *, host: str = "127.0.0.1", slow_seconds: float = 1.0, clock: Clock | None = None
) -> Starlette:
    """Return the sink as an ASGI application that keeps its book at `path`. It takes mail while it is running.

    With a `smtp_port` of 0 it takes a free one, and says which at `/health`.
    """
    sink = _Sink(path, host, smtp_port, slow_seconds, clock or SystemClock())
    routes = [
        Route("/mails", sink.show_mails),
        Route("/admin/mode", sink.set_mode, methods=["PUT"]),
        Route("/health", sink.health),
    ]
    return Starlette(routes=routes, lifespan=sink.lifespan)


class _Sink:
    def __init__(self, path: Path, host: str, port: int, slow_seconds: float, clock: Clock) -> None:
        self._path = path
        self._host = host
        self._port = port
        self._slow_seconds = slow_seconds
        self._clock = clock
        self._behaviour = Behaviour()

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._book = await asyncio.to_thread(Book.open, self._path)
        try:
            server = await asyncio.get_running_loop().create_server(self._connection, self._host, self._port)
            self._port = server.sockets[0].getsockname()[1]
            try:
                yield
            finally:
                server.close()
        finally:
            self._book.close()

    async def show_mails(self, http: Request) -> Response:
        mails = self._book.mails(http.query_params.get("order"), http.query_params.get("to"))
        return JSONResponse({"mails": [asdict(mail) for mail in mails]})

    async def set_mode(self, http: Request) -> Response:
        try:
            wanted = NewMode.model_validate_json(await http.body())
        except ValidationError as error:
            problem = {"status": 422, "detail": str(error)}
            return JSONResponse(problem, 422, media_type="application/problem+json")
        self._behaviour.order = None if wanted.mode is Mode.ACCEPT else Order(wanted.mode, wanted.calls)
        return Response(status_code=204)

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "up", "smtp_port": self._port})

    def _connection(self) -> asyncio.BaseProtocol:
        return connection(self._book, self._behaviour, self._clock, self._slow_seconds)
