"""The one pass between server and application, pure ASGI: everything that every request needs, and nothing twice.

Inwards: correlation id, W3C trace context, deadline, limits on the body. Outwards: the correlation id and, for
every error, problem details. At the end, however it ends: metrics, a server span and an access log line. The
request pays for one dictionary of its headers and a handful of additions; a thread makes log line and span.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from covey import context
from covey.clock import Clock, SystemClock
from covey.errors import DeadlineExceeded, Forbidden, Unauthenticated
from covey.http import body, problems
from covey.http.arguments import BODY, HEADERS
from covey.http.exchange import Exchange, tell
from covey.resilience.load_shedding import SheddingOptions
from covey.telemetry.telemetry import Telemetry

DEFAULT_SHEDDING = SheddingOptions()


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpOptions:
    """Limits on what a request may be. A body is held in memory while its request is handled.

    `shedding` says how much may be under way; None: as much as comes.
    `quiet` names the routes that are counted but, unless they fail, neither logged nor traced. `direct` lets plain
    routes go the short way (`direct.py`); without it FastAPI handles every request.
    """

    max_body_bytes: int = 1024 * 1024
    max_json_depth: int = 32
    max_json_values: int = 20_000
    body_timeout: timedelta = timedelta(seconds=20)
    shedding: SheddingOptions | None = DEFAULT_SHEDDING
    quiet: frozenset[str] = frozenset({"/health", "/ready", "/metrics"})
    direct: bool = True


class Edge:
    """Wraps an ASGI application whose errors are exceptions: those that leave it are answered here."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry, options: HttpOptions, clock: Clock | None = None) -> None:
        self._app = app
        self._telemetry = telemetry
        self._options = options
        self._clock = clock or SystemClock()
        self._active = 0
        self._tell = telemetry.logs.channel(partial(tell, telemetry))
        self._requests = telemetry.metrics.counter(
            "http_requests_total", "Requests handled", ("method", "endpoint", "status")
        )
        self._seconds = telemetry.metrics.histogram(
            "http_request_duration_seconds",
            "From the head of the request to the last byte of the answer",
            ("method", "endpoint"),
        )
        telemetry.metrics.observe("active_connections", "Requests being handled", lambda: {(): float(self._active)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as ASGI 3 defines it. No exception of a request leaves, but a cancellation of ours.

        An error after the answer has begun leaves the answer incomplete, upon which a server cuts the connection.
        """
        if scope["type"] != "http":
            await self._pass(scope, receive, send)
            return
        headers = dict(reversed(scope["headers"]))  # of several with one name the first, as for FastAPI
        scope[HEADERS] = headers
        exchange = Exchange(scope, send, headers)
        self._active += 1
        try:
            with context.use(exchange.context):
                try:
                    if b"content-length" in headers or b"transfer-encoding" in headers or scope["http_version"] == "2":
                        receive = await self._with_body(scope, headers, receive)
                    if b"covey-timeout-ms" in headers:
                        await self._in_time(headers[b"covey-timeout-ms"], exchange, receive)
                    else:
                        await self._app(scope, receive, exchange.send)
                except (Exception, SystemExit) as error:  # here it becomes an answer
                    await self._answer(exchange, error)
                except asyncio.CancelledError as error:
                    if _is_ours():
                        raise
                    await self._answer(exchange, error)
        finally:
            self._active -= 1
            self._account(exchange)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a WebSocket through with its context, and the server's lifespan as it is.

        One that is refused before it is accepted is closed: a policy is violated (RFC 6455, section 7.4.1).
        """
        if scope["type"] == "websocket":
            scope[HEADERS] = headers = dict(reversed(scope["headers"]))
            with context.use(Exchange(scope, send, headers).context):
                try:
                    await self._app(scope, receive, send)
                except (Unauthenticated, Forbidden, HTTPException):  # an address that there is not, too
                    await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    async def _with_body(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        options = self._options
        body.check_length(headers.get(b"content-length"), options.max_body_bytes)
        content = await body.read(receive, options.max_body_bytes, options.body_timeout.total_seconds())
        if b"json" in (headers.get(b"content-type") or b"json").lower():
            body.check_encoding(content)
            body.check_nesting(content, options.max_json_depth)
            body.check_values(content, options.max_json_values)
            body.check_surrogates(content)
        scope[BODY] = content
        return body.replay(content, receive)

    async def _in_time(self, value: bytes, exchange: Exchange, receive: Receive) -> None:
        """Run the application until the caller's time is over. What is no number of milliseconds limits nothing."""
        if not value.isdigit() or len(value) > 9:
            await self._app(exchange.scope, receive, exchange.send)
            return
        given = timedelta(milliseconds=int(value))
        with context.use(replace(exchange.context, deadline=self._clock.now() + given)):
            try:
                async with asyncio.timeout(given.total_seconds()) as timeout:
                    exchange.timeout = timeout
                    await self._app(exchange.scope, receive, exchange.send)
            except TimeoutError:
                if not timeout.expired():
                    raise
                raise DeadlineExceeded("the caller's time is over") from None
            finally:
                exchange.timeout = None

    async def _answer(self, exchange: Exchange, error: BaseException) -> None:
        """Answer with what an error means; with the plain 500 where that cannot be told or sent."""
        if isinstance(error, (body.Disconnected, ClientDisconnect)):
            return
        try:
            await self._refuse(exchange, error)
        except Exception as another:  # an HTTPException may have a header that no server would send
            exchange.error = type(another).__name__
            self._telemetry.logs.log("error", "request failed", error=another)
            if not exchange.status:
                with suppress(Exception):  # it is the server's own: nothing can be sent at all
                    await exchange.refuse(problems.INTERNAL)

    async def _refuse(self, exchange: Exchange, error: BaseException) -> None:
        problem = problems.problem_of(error) if isinstance(error, Exception) else problems.INTERNAL
        if problem.status >= 500:
            exchange.error = type(error).__name__
            level = "error" if problem.status == 500 else "warning"
            self._telemetry.logs.log(level, "request failed", error=error)
        if not exchange.status:
            await exchange.refuse(problem)

    def _account(self, exchange: Exchange) -> None:
        seen = exchange.end()
        duration_ns, method, route, status = seen[6], seen[7], seen[8], seen[11]
        self._requests.add((method, route, str(status)))
        self._seconds.observe(duration_ns / 1e9, (method, route))
        if status >= 500 or route not in self._options.quiet:
            self._tell(seen)


def _is_ours() -> bool:
    """Tell whether somebody cancels this request, or a library of the application has let a cancellation out."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
