"""The provider's HTTP interface.

    POST /authorizations  reference, amount, currency, token ─┐
    POST /captures        reference, amount, currency         ├ with an Idempotency-Key; 201, or 402 when declined
    POST /voids           reference                           │
    POST /refunds         reference, amount, currency        ─┘
    GET  /book            every decision; ?reference= for those of one payment
    PUT  /admin/mode      mode, operation or null, calls or null
    GET  /health

A key that was used is answered as it was the first time; with another request it is 422; while its first call is
still under way it is 409. A provider that lies has booked what it says has failed (500): whoever asks again under the
same key is told the truth in the end, and whoever believes it charges twice, or leaves the money where it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from covey.clock import Clock, SystemClock
from sandbox_provider.behaviour import Behaviour, Mode, Order, is_known
from sandbox_provider.book import Book, Entry
from sandbox_provider.money import decide, sums
from sandbox_provider.requests import Operation, Request


@dataclass(frozen=True, kw_only=True)
class Delays:
    """How long misbehaviour takes, in seconds: a slow answer, a late booking, and silence before the line is cut."""

    slow: float = 1.0
    late: float = 6.0
    silence: float = 30.0


class NewMode(BaseModel):
    """What the administrator asks for."""

    model_config = ConfigDict(extra="forbid")

    mode: Mode
    operation: Operation | None = None
    calls: int | None = Field(default=None, ge=1)


def application(path: Path, delays: Delays | None = None, clock: Clock | None = None) -> Starlette:
    """Return the provider as an ASGI application that keeps its book at `path`."""
    provider = _Provider(path, delays or Delays(), clock or SystemClock())
    paths = {
        "/authorizations": Operation.AUTHORIZE,
        "/captures": Operation.CAPTURE,
        "/voids": Operation.VOID,
        "/refunds": Operation.REFUND,
    }
    routes = [Route(at, provider.endpoint(operation), methods=["POST"]) for at, operation in paths.items()]
    routes += [
        Route("/book", provider.show_book),
        Route("/admin/mode", provider.set_mode, methods=["PUT"]),
        Route("/health", _health),
    ]
    return Starlette(routes=routes, lifespan=provider.lifespan)


class _Provider:
    def __init__(self, path: Path, delays: Delays, clock: Clock) -> None:
        self._path = path
        self._delays = delays
        self._clock = clock
        self._behaviour = Behaviour()
        self._under_way: set[str] = set()
        self._book: Book

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._book = await asyncio.to_thread(Book.open, self._path)
        try:
            yield
        finally:
            self._book.close()

    def endpoint(self, operation: Operation) -> Callable[[HttpRequest], Awaitable[Response]]:
        async def handle(http: HttpRequest) -> Response:
            key = http.headers.get("idempotency-key")
            if not key:
                return _problem(400, "an Idempotency-Key is required")
            try:
                request = Request.model_validate_json(await http.body())
            except ValidationError as error:
                return _problem(422, f"the request is wrong in {error.error_count()} places")
            return await self._handle(http, operation, request, key)

        return handle

    async def show_book(self, http: HttpRequest) -> Response:
        entries = self._book.entries(http.query_params.get("reference"))
        fields = ("at", "operation", "reference", "done", "currency", "status", "key")
        return JSONResponse({"entries": [{name: getattr(entry, name) for name in fields} for entry in entries]})

    async def set_mode(self, http: HttpRequest) -> Response:
        try:
            wanted = NewMode.model_validate_json(await http.body())
        except ValidationError as error:
            return _problem(422, str(error))
        self._behaviour.order = (
            None if wanted.mode is Mode.ANSWER else Order(wanted.mode, wanted.operation, wanted.calls)
        )
        return Response(status_code=204)

    async def _handle(self, http: HttpRequest, operation: Operation, request: Request, key: str) -> Response:
        mode = self._behaviour.next(
            operation, request.reference, request.token or self._book.token_of(request.reference)
        )
        if mode is Mode.DOWN:
            return _problem(503, "the provider is down", {"Retry-After": "1"})
        if key in self._under_way:
            return _problem(409, "the first request with this key is still under way")
        self._under_way.add(key)
        try:
            entry = await self._carry_out(operation, request, key, mode)
        finally:
            self._under_way.discard(key)
        if entry is None:
            return _problem(422, "this key was used for another request")
        if mode in (Mode.SILENT, Mode.LATE):
            await self._hang_on(http)
        if mode is Mode.LIE:
            return _problem(500, "it failed, and nothing was booked")
        return JSONResponse(entry.answer, entry.status)

    async def _carry_out(self, operation: Operation, request: Request, key: str, mode: Mode) -> Entry | None:
        """Return the decision under this key, perhaps an old one; None when it was used for something else."""
        known = self._book.answered(key)
        if known is not None:
            return known if known.fingerprint == request.fingerprint(operation) else None
        await self._clock.sleep({Mode.SLOW: self._delays.slow, Mode.LATE: self._delays.late}.get(mode, 0))
        refuse = "the card was declined" if mode is Mode.DECLINE else None
        if operation is Operation.AUTHORIZE and not is_known(request.token):
            refuse = "there is no such means of payment"
        return self._book.decide(request, lambda so_far, r: self._entry(so_far, operation, r, key, refuse))

    def _entry(
        self, so_far: list[Entry], operation: Operation, request: Request, key: str, refuse: str | None
    ) -> Entry:
        status, done, answer = decide(operation, request, sums(so_far), refuse)
        return Entry(
            at=self._clock.now().isoformat(),
            operation=operation,
            reference=request.reference,
            done=done,
            currency=request.currency,
            token=request.token,
            key=key,
            fingerprint=request.fingerprint(operation),
            status=status,
            answer=answer,
        )

    async def _hang_on(self, http: HttpRequest) -> None:
        """Say nothing until the client gives up, or the silence is over."""
        waiting = asyncio.create_task(_gone(http))
        await asyncio.wait([waiting], timeout=self._delays.silence)
        waiting.cancel()


async def _gone(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _health(_: HttpRequest) -> Response:
    return JSONResponse({"status": "up"})


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    body = {"status": status, "detail": detail}
    return JSONResponse(body, status, headers=headers, media_type="application/problem+json")
