"""The carrier's HTTP interface.

    POST /bookings        reference, order, kind, pieces ─┬ with an Idempotency-Key; 201, or 403 when declined
    POST /cancellations   the same                       ─┘
    GET  /parcels/{tracking}  what became of a parcel, or 404
    GET  /book            every decision; ?order= for those of one order
    PUT  /admin/mode      mode; operation, kind, calls or null
    GET  /health

A key that was used is answered as it was the first time; with another request it is 422; while its first call is
still under way it is 409. A reference that was cancelled is never booked afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from covey.clock import Clock, SystemClock
from sandbox_carrier.behaviour import Behaviour, Mode, Order
from sandbox_carrier.book import Book, Entry
from sandbox_carrier.parcels import decide
from sandbox_carrier.requests import Operation, Request

_SHOWN = ("at", "operation", "kind", "reference", "order", "pieces", "tracking", "status", "key")


@dataclass(frozen=True, kw_only=True)
class Delays:
    """How long misbehaviour takes, in seconds: a slow answer, a late booking, and silence before the line is cut."""

    slow: float = 1.0
    late: float = 6.0
    silence: float = 30.0


def application(path: Path, delays: Delays | None = None, clock: Clock | None = None) -> Starlette:
    """Return the carrier as an ASGI application that keeps its book at `path`."""
    carrier = _Carrier(path, delays or Delays(), clock or SystemClock())
    routes = [
        Route("/bookings", carrier.endpoint(Operation.BOOK), methods=["POST"]),
        Route("/cancellations", carrier.endpoint(Operation.CANCEL), methods=["POST"]),
        Route("/parcels/{tracking}", carrier.track),
        Route("/book", carrier.show_book),
        Route("/admin/mode", carrier.set_mode, methods=["PUT"]),
        Route("/health", _health),
    ]
    return Starlette(routes=routes, lifespan=carrier.lifespan)


class _Carrier:
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
        entries = self._book.entries(http.query_params.get("order"))
        return JSONResponse({"entries": [{name: getattr(entry, name) for name in _SHOWN} for entry in entries]})

    async def track(self, http: HttpRequest) -> Response:
        tracking = http.path_params["tracking"]
        found = self._book.tracked(tracking)
        if found is None:
            return _problem(404, "there is no such parcel")
        mode = self._behaviour.next(Operation.TRACK, found.kind)
        if mode is Mode.DOWN:
            return _problem(503, "the carrier is down", {"Retry-After": "1"})
        if mode in (Mode.SILENT, Mode.LATE):
            await self._hang_on(http)
        await self._clock.sleep(self._delays.slow if mode is Mode.SLOW else 0)
        status = "cancelled" if found.operation == Operation.CANCEL else "accepted"
        return JSONResponse({"tracking": tracking, "status": status, "since": found.at})

    async def set_mode(self, http: HttpRequest) -> Response:
        try:
            self._behaviour.order = Order.model_validate_json(await http.body())
        except ValidationError as error:
            return _problem(422, str(error))
        return Response(status_code=204)

    async def _handle(self, http: HttpRequest, operation: Operation, request: Request, key: str) -> Response:
        mode = self._behaviour.next(operation, request.kind)
        if mode is Mode.DOWN:
            return _problem(503, "the carrier is down", {"Retry-After": "1"})
        if key in self._under_way:
            return _problem(409, "the first request with this key is still under way")
        self._under_way.add(key)
        try:
            entry = await self._carry_out(operation, request, key, mode)
        finally:
            self._under_way.discard(key)
        if entry.fingerprint != request.fingerprint(operation):
            return _problem(422, "this key was used for another request")
        if mode in (Mode.SILENT, Mode.LATE):
            await self._hang_on(http)
        return JSONResponse(entry.answer, entry.status)

    async def _carry_out(self, operation: Operation, request: Request, key: str, mode: Mode) -> Entry:
        """Return the decision under this key, which may be an old one, and about something else."""
        if known := self._book.answered(key):
            return known
        await self._clock.sleep({Mode.SLOW: self._delays.slow, Mode.LATE: self._delays.late}.get(mode, 0))
        refuse = "nothing is carried there" if mode is Mode.DECLINE else None

        def decision(so_far: list[Entry], tracking: str) -> Entry:
            outcome = decide(operation, request, so_far, tracking, refuse)
            return Entry(
                at=self._clock.now().isoformat(),
                operation=operation,
                kind=request.kind,
                reference=request.reference,
                order=request.order,
                pieces=outcome.pieces,
                tracking=outcome.tracking,
                key=key,
                fingerprint=request.fingerprint(operation),
                status=outcome.status,
                answer=outcome.answer,
            )

        return self._book.decide(request, decision)

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
