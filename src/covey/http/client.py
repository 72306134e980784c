"""Another service or a provider over HTTP: every call under its policy, with a deadline, and errors of covey.

    async with HttpClient.open("carrier", settings.carrier_url, caller="shipping") as carrier:
        booking = await carrier.ask("POST", "/bookings", Booking, body=parcel, key=str(shipment_id))

What goes along: `X-Correlation-Id`, `traceparent`, `Covey-Timeout-Ms` (how many milliseconds the caller waits, which
the edge of a covey service makes the deadline of its work), who calls, and a bearer token if there is one. Redirects
are not followed, and no path leads to another host.

What is raised are errors of covey: what the target answered (`covey.http.refusals`), or what the policy did. They blame
the request that was made of the target, which need not be the one that is being handled here: whoever calls decides
what a NotFound of another service means to its own caller.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator, Mapping, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache, partial
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import orjson
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from covey import context
from covey.clock import Clock, SystemClock
from covey.errors import DefinitionError, DependencyUnavailable, Invalid
from covey.http.connection import Answer
from covey.http.connections import Connections, Origin
from covey.http.refusals import error_of
from covey.resilience.policy import NeverHeard, Policy, PolicyOptions

T = TypeVar("T")

Query = Mapping[str, object]
"""Values are sent as text, those of a list one by one; None is not sent."""

Headers = Mapping[str, str | None]
"""None is not sent."""

_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""What is idempotent by itself (RFC 9110, section 9.2.2); POST and PATCH are with an Idempotency-Key."""

_METHODS = _REPEATABLE | {"POST", "PATCH"}
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")
_DOTS = re.compile(r"/\.{1,2}(?:/|$)")
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")
ITS_OWN = frozenset(
    {
        "host", "content-length", "transfer-encoding", "connection", "accept-encoding",
        "covey-timeout-ms", "idempotency-key", "x-correlation-id", "traceparent",
    }
)  # fmt: skip
"""Headers that are the client's alone, in small letters."""


@dataclass(frozen=True, kw_only=True)
class HttpClientOptions:
    """How one target is called. `max_idle` connections are kept, each for `idle` after its last answer.

    `tls` is for https; by default what the system trusts, TLS 1.2 or newer.
    """

    policy: PolicyOptions = field(default_factory=PolicyOptions)
    max_body_bytes: int = 1024 * 1024
    max_idle: int = 20
    idle: timedelta = timedelta(seconds=4)
    tls: ssl.SSLContext | None = None


class HttpClient:
    """Calls one target, under one policy for all who share it."""

    def __init__(
        self,
        target: str,
        origin: Origin,
        connections: Connections,
        policy: Policy,
        headers: Mapping[str, str],
        clock: Clock,
    ) -> None:
        self.target = target
        self.policy = policy
        self._base = origin.base
        self._always = {"Host": origin.authority, **headers}
        self._always_names = frozenset(map(str.lower, self._always))
        self._fixed = _lines(self._always)
        self._connections = connections
        self._clock = clock

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        target: str,
        url: str,
        options: HttpClientOptions | None = None,
        *,
        caller: str,
        token: str | None = None,
        clock: Clock | None = None,
    ) -> AsyncIterator[HttpClient]:
        """Connect when first used; cut off what is under way at the end.

        `caller` is the service that calls, `token` proves it. Raises ConfigurationError for an address that is none.
        """
        options, clock, origin = options or HttpClientOptions(), clock or SystemClock(), Origin.parse(url)
        identity = {"Authorization": f"Bearer {token}"} if token else {}
        headers = {"User-Agent": f"covey-{caller}", "Accept-Encoding": "identity", **identity}
        idle = options.idle.total_seconds()
        connections = Connections(target, origin, options.tls, options.max_body_bytes, options.max_idle, idle)
        try:
            yield cls(target, origin, connections, Policy(target, options.policy, clock), headers, clock)
        finally:
            await connections.close()

    async def ask(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        query: Query | None = None,
        body: object = None,
        headers: Headers | None = None,
        key: str | None = None,
    ) -> T:
        """Make a request as `send` does, and return its answer, read as `answer`, a model or what pydantic knows.

        Raises DependencyUnavailable for an answer that is no such thing.
        """
        accept: Headers = {"Accept": "application/json"}
        if headers:
            accept = headers if "accept" in _names(headers) else {**headers, **accept}
        came = await self.send(method, path, query=query, body=body, headers=accept, key=key)
        return self.read(came, answer)

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        headers: Headers | None = None,
        key: str | None = None,
        also: Set[int] = frozenset(),
    ) -> Answer:
        """Make a request and return its answer: of status 2xx, or one of `also`.

        `body` is sent as it is when it is bytes, else as JSON. `headers` with a value stand in place of ours of the
        same name: Authorization, User-Agent, Accept, Content-Type. `key` names the request, so that it can be repeated:
        it is the Idempotency-Key. Raises what the target answered, DependencyUnavailable, DeadlineExceeded,
        CircuitOpen, BulkheadFull, TooLarge; DefinitionError for what is no request.
        """
        head, content = self._head_of(method, path, query, headers, key), b""
        if body is not None:
            content = body if isinstance(body, bytes) else self._json(body)
            head += f"Content-Length: {len(content)}\r\n"
            if headers is None or "content-type" not in _names(headers):
                kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
                head += f"Content-Type: {kind}\r\n"
        elif method in _WITH_BODY:
            head += "Content-Length: 0\r\n"
        repeatable = method in _REPEATABLE or key is not None
        attempt = partial(self._attempt, method, head, content, also, repeatable)
        return await self.policy.call(attempt, repeatable=repeatable)

    def read(self, came: Answer, answer: type[T]) -> T:
        """Return an answer read as `answer`. Raises DependencyUnavailable, which tells where it does not fit."""
        model: Any = answer  # mypy takes no class for hashable
        try:
            result: T = _adapter(model).validate_json(came.body)
            return result
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"])) or "body"
            what = f"{self.target} answered {came.status} with what cannot be read: {where}: {first['type']}"
        raise DependencyUnavailable(what)

    async def _attempt(
        self, method: str, head: str, content: bytes, also: Set[int], repeatable: bool, seconds: float
    ) -> Answer:
        """Make a request once, and tell the target how long somebody waits.

        A connection that had rested, and turns out to be closed before a byte of the answer came, says nothing of the
        target: the request is sent once more on a new one, if it can be repeated and the budget has a retry. Of one
        that cannot be, nobody knows: most likely the server had closed the connection already, but one that dies over a
        request looks the same (RFC 9112, section 9.3.1). So it is not sent twice, and does not count against the
        target either.
        """
        connections, is_head = self._connections, method == "HEAD"
        request = f"{head}Covey-Timeout-Ms: {int(seconds * 1000) or 1}\r\n\r\n".encode("ascii") + content
        connection = connections.take() or await connections.connect()
        while True:
            try:
                answer = await connection.exchange(request, is_head=is_head)
                break
            except BaseException as error:
                connection.abort()
                if not isinstance(error, DependencyUnavailable) or not connection.is_stale:
                    raise
                if not (repeatable and self.policy.take_retry()):
                    raise NeverHeard(str(error)) from None
            connection = await connections.connect()  # where the next loss is no stale connection's
        connections.give_back(connection)
        if 200 <= answer.status < 300 or answer.status in also:
            return answer
        raise error_of(answer, self.target, self._clock.now())

    def _head_of(self, method: str, path: str, query: Query | None, headers: Headers | None, key: str | None) -> str:
        known = method in _METHODS and _PATH.fullmatch(path) and "//" not in path
        if not known or ("/." in path and _DOTS.search(path)):
            raise DefinitionError(f"{self.target} cannot be asked for this: {method[:10]} {path[:100]!r}")
        about = context.current()
        head = (
            f"{method} {self._base}{path}{_query(query) if query else ''} HTTP/1.1\r\n"
            f"X-Correlation-Id: {about.correlation_id}\r\ntraceparent: {about.trace.traceparent()}\r\n"
            f"{self._with(headers) if headers else self._fixed}"
        )
        return head if key is None else head + _lines({"Idempotency-Key": key})

    def _with(self, headers: Headers) -> str:
        """Return our lines and those of who calls, none of which comes twice."""
        names = _names(headers)
        if not ITS_OWN.isdisjoint(names):
            raise DefinitionError(f"{self.target}: {', '.join(sorted(ITS_OWN))} are not for who calls to set")
        if len(set(names)) < len(names):
            raise DefinitionError(f"{self.target}: a header is given twice, in capitals and small letters")
        if self._always_names.isdisjoint(names):
            return self._fixed + _lines(headers)
        ours = {name: value for name, value in self._always.items() if name.lower() not in names}
        return _lines({**ours, **headers})

    def _json(self, body: object) -> bytes:
        """Return a body as JSON, which knows no NaN and no infinity (RFC 8259, section 6); a model's own are null."""
        try:
            content = to_json(body)
            if b"NaN" in content or b"Infinity" in content:
                orjson.loads(content)  # where they stand in a text, all is well
        except (PydanticSerializationError, orjson.JSONDecodeError) as error:
            raise DefinitionError(f"the body of a request to {self.target} cannot be JSON: {error}") from None
        return content


def segment(value: object) -> str:
    """Return a value as one segment of a path. Raises Invalid for one that would lead elsewhere: empty, `.`, `..`."""
    text = str(value)
    if text in ("", ".", ".."):
        raise Invalid(f"{text!r} names nothing")
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise Invalid("what is not Unicode names nothing") from None


def _query(query: Query) -> str:
    lists = {name: value if isinstance(value, list | tuple) else [value] for name, value in query.items()}
    pairs = [(name, _text(value)) for name, values in lists.items() for value in values if value is not None]
    try:
        return f"?{urlencode(pairs)}" if pairs else ""
    except UnicodeEncodeError:
        raise DefinitionError("a query cannot be sent that is not Unicode") from None


def _names(headers: Headers) -> list[str]:
    """Return the names of those that are sent, in small letters."""
    return [name.lower() for name, value in headers.items() if value is not None]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _lines(headers: Headers) -> str:
    said = {name: _text(value) for name, value in headers.items() if value is not None}
    for name, value in said.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise DefinitionError(f"the header {name[:50]!r} cannot be sent: its name or value would end the line")
    return "".join(f"{name}: {value}\r\n" for name, value in said.items())


@lru_cache(maxsize=1024)
def _adapter(answer: Any) -> TypeAdapter[Any]:
    return TypeAdapter(answer)
