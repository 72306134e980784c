"""The one pass between server and servicers: everything that every call needs, and nothing twice.

Inwards: correlation id, W3C trace context, deadline, and the message, which is parsed here so that one that cannot be
is answered like any other mistake. Outwards: the correlation id and, for every error, a google.rpc.Status. At the end,
however it ends: metrics, a server span and an access log line, as for HTTP (`covey.http.edge`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import status_pb2
from grpc_status import rpc_status

from covey import context
from covey.clock import Clock, SystemClock
from covey.errors import DeadlineExceeded, Defect, TooLarge, Unreadable
from covey.grpc.exchange import CORRELATION_ID, OUR_FAULT, Exchange, tell
from covey.grpc.options import GrpcOptions
from covey.grpc.status import not_known, status_of
from covey.grpc.transaction import provide
from covey.security.access import Terms, bearer_of
from covey.security.principal import Principal, Verifier
from covey.telemetry.telemetry import Telemetry
from covey.work.unit_of_work import Transactions

Call = grpc.aio.ServicerContext[Any, Any]

_TICK_SECONDS = 0.02
_LONGEST_SECONDS = 86_400.0
"""A caller may say more than a date can hold: "99999999H" are eleven thousand years."""
_UNKNOWN = "other"
"""The name under which calls of methods that nobody has are counted: those names are the callers'."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a servicer: `user.v1.UserService/GetUser`."""

    name: str
    answer: Callable[[Any, Call], Awaitable[Any]]
    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]
    terms: Terms


class Calls:
    """Makes handlers for grpc of methods whose errors are exceptions: those that leave them are answered here."""

    def __init__(
        self,
        telemetry: Telemetry,
        transactions: Transactions | None,
        options: GrpcOptions,
        verifier: Verifier | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._telemetry = telemetry
        self._transactions = transactions
        self._options = options
        self._verifier = verifier
        self._clock = clock or SystemClock()
        self._active = 0
        self._tell = telemetry.logs.channel(partial(tell, telemetry))
        self._requests = telemetry.metrics.counter("grpc_requests_total", "Calls handled", ("method", "code"))
        self._seconds = telemetry.metrics.histogram(
            "grpc_request_duration_seconds", "From the whole request to the answer", ("method",)
        )
        telemetry.metrics.observe("grpc_active_calls", "Calls being handled", lambda: {(): float(self._active)})

    def handler(self, method: Method) -> Any:
        """Return what grpc is to run for a method. No exception of a call leaves it, but a cancellation of ours."""

        async def handle(content: bytes, call: Call) -> bytes:
            return await self._handle(method, content, call)

        return grpc.unary_unary_rpc_method_handler(handle)

    def unknown(self) -> Any:
        """Return what grpc is to run for a method that nobody has."""

        async def refuse(_requests: AsyncIterator[bytes], call: Call) -> None:
            exchange = Exchange(_UNKNOWN, call.invocation_metadata())
            try:
                await self._answer(exchange, call, not_known(exchange.context.correlation_id))
            finally:
                self._account(exchange)

        return grpc.stream_stream_rpc_method_handler(refuse)

    async def _handle(self, method: Method, content: bytes, call: Call) -> bytes:
        exchange = Exchange(method.name, call.invocation_metadata())
        provide(self._transactions)
        self._active += 1
        try:
            call.set_trailing_metadata(((CORRELATION_ID, exchange.context.correlation_id),))
            return await self._in_time(method, content, call, exchange)
        finally:
            self._active -= 1
            self._account(exchange)

    async def _in_time(self, method: Method, content: bytes, call: Call, exchange: Exchange) -> bytes:
        """Have a method answer within the caller's time, or the default. What it raises becomes a status."""
        left = call.time_remaining()
        seconds = self._options.deadline.total_seconds() if left is None else min(left, _LONGEST_SECONDS)
        deadline = self._clock.now() + timedelta(seconds=seconds)
        limit = asyncio.timeout(seconds)
        with context.use(replace(exchange.context, deadline=deadline)):
            try:
                async with limit:
                    principal = await self._admitted(method, call)
                    with context.use(replace(context.current(), principal=principal.subject if principal else None)):
                        answer = await self._answered(method, content, call)
                exchange.code = _code_of(call)
                return answer
            except grpc.aio.AbortError:
                exchange.code = _code_of(call)
                raise
            except asyncio.CancelledError as error:
                if _is_ours():  # the caller has left, its time is over, or the server stops
                    exchange.code = "DEADLINE_EXCEEDED" if _is_over(limit) else "CANCELLED"
                    raise
                return await self._refuse(exchange, call, Defect(f"a cancellation got out: {error}"))
            except TimeoutError as error:
                late = DeadlineExceeded("the caller's time is over") if limit.expired() else error
                return await self._refuse(exchange, call, late)
            except (Exception, SystemExit) as error:  # here it becomes an answer
                return await self._refuse(exchange, call, error)

    async def _admitted(self, method: Method, call: Call) -> Principal | None:
        """Return who calls. Raises Unauthenticated or Forbidden for who may not, before the message is parsed."""
        if self._verifier is None:
            return None
        given = dict(call.invocation_metadata() or ()).get("authorization")
        principal = await bearer_of(given if isinstance(given, str) else None, self._verifier)
        method.terms.admit(principal)
        return principal

    async def _answered(self, method: Method, content: bytes, call: Call) -> bytes:
        try:
            request = method.read(content)
        except DecodeError:
            raise Unreadable("the message cannot be parsed") from None
        answer = method.write(await method.answer(request, call))
        if len(answer) > self._options.max_message_bytes:
            raise TooLarge(f"the answer has more than {self._options.max_message_bytes} bytes: ask for less at a time")
        return answer

    async def _refuse(self, exchange: Exchange, call: Call, error: BaseException) -> bytes:
        problem = error if isinstance(error, Exception) else Defect(f"{type(error).__name__} was raised")
        status = status_of(problem, exchange.context.correlation_id)
        code: str = rpc_status.to_status(status).code.name
        if code in OUR_FAULT:
            exchange.error = type(error).__name__
            self._telemetry.logs.log("error" if code == "INTERNAL" else "warning", "call failed", error=error)
        await self._answer(exchange, call, status)
        return b""

    async def _answer(self, exchange: Exchange, call: Call, status: status_pb2.Status) -> None:
        """End a call with a status. Raises AbortError, by which grpc knows of it; not when nobody is there any more."""
        given = rpc_status.to_status(status)
        exchange.code = given.code.name
        correlated = (CORRELATION_ID, exchange.context.correlation_id)
        try:
            await call.abort(given.code, given.details, (*given.trailing_metadata, correlated))
        except grpc.aio.InternalError:
            return

    def _account(self, exchange: Exchange) -> None:
        seen = exchange.end()
        duration_ns, method, code = seen[6], seen[7], seen[8]
        self._requests.add((method, code))
        self._seconds.observe(duration_ns / 1e9, (method,))
        self._tell(seen)


def _code_of(call: Call) -> str:
    """Return the code that a servicer has set by itself, or OK."""
    code = call.code()
    return code.name if isinstance(code, grpc.StatusCode) else "OK"


def _is_over(limit: asyncio.Timeout) -> bool:
    """Tell whether the time was over when a call was cancelled: grpc's clock may be a little ahead of the loop's."""
    when = limit.when()
    return when is not None and asyncio.get_running_loop().time() >= when - _TICK_SECONDS


def _is_ours() -> bool:
    """Tell whether somebody cancels this call, or a library of the servicer has let a cancellation out."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
