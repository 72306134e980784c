"""Safe retries of POST and PATCH: one effect and one answer for each `Idempotency-Key`, with nothing to write.

    api = APIRouter(prefix="/api/v1", route_class=IdempotentRoute)

    @api.post("/orders", status_code=201)
    async def place(order: NewOrder, work: Transaction) -> OrderView: ...

A request that carries the header is claimed in the route's own transaction, when it has been authenticated and
validated and before the route runs; its answer is stored there too. Whoever sends it again gets that answer, byte for
byte. While the first is under way the second gets 409 (`InProgress`); the same key for another request gets 422
(`KeyReused`), a malformed one 400, and so does none where the route is a `KeyRequiredRoute`. What raises is rolled back
with its claim, and may be tried again with the same key.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from functools import wraps
from hashlib import sha256
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, StreamingResponse

from covey import context
from covey.errors import DefinitionError, Unreadable
from covey.http.routes import template_of
from covey.http.sendable import require_response
from covey.http.transaction import begin, work_of
from covey.work.idempotency import Answer, Claim, KeyReused, claim

METHODS = frozenset({"POST", "PATCH"})
"""The methods that are not idempotent by themselves (RFC 9110, section 9.2.2)."""

# The draft's quoted string, or the bare word that most clients send.
_WORD = "[A-Za-z0-9._~:/+=-]{1,255}"
_KEY = re.compile(f'"(?P<quoted>{_WORD})"|(?P<bare>{_WORD})')

_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Names this request, so that sending it again has no second effect and gets the same answer.",
    "schema": {"type": "string", "pattern": f'^("{_WORD}"|{_WORD})$'},
}
# Cookies are secrets, and the others are the server's to say.
_NOT_KEPT = frozenset({"content-length", "set-cookie", "date", "connection"})

_STREAMED = "an idempotent route cannot stream its answer: return a model or a Response"

_attempt: ContextVar[_Attempt | None] = ContextVar("covey_idempotent_attempt", default=None)


class IdempotentRoute(APIRoute):
    """A FastAPI route whose POST and PATCH honour `Idempotency-Key`, if it uses a `Transaction`.

    Raises DefinitionError, when it is called, for an answer that is streamed: it could not be given again.
    """

    direct_unless = b"idempotency-key"  # without it the handler is APIRoute's; see direct.py
    requires_key = False

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, _claiming(endpoint), **options)
        if self.requires_key and METHODS.intersection(self.methods or ()) and not self.is_idempotent:
            raise DefinitionError(f"{path} requires a key that it cannot keep: it needs a `Transaction`")
        if self.is_idempotent:
            extra = dict(self.openapi_extra or {})
            parameter = {**_PARAMETER, "required": self.requires_key}
            self.openapi_extra = {**extra, "parameters": [*extra.get("parameters", ()), parameter]}

    @property
    def is_idempotent(self) -> bool:
        """Tell whether this route honours the header."""
        return bool(METHODS.intersection(self.methods or ())) and _uses_transaction(self.dependant)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler with the attempt around it."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            key = _key(request) if request.method in METHODS else None
            if key is not None:
                return await _Attempt(request, key).run(handle)
            if self.requires_key and request.method in METHODS:
                raise Unreadable("send an Idempotency-Key of your own, a UUID say: without one this is not done")
            return await handle(request)

        return handled if self.is_idempotent else handle


class KeyRequiredRoute(IdempotentRoute):
    """One whose POST and PATCH are refused without an `Idempotency-Key`: for what must not be done twice unawares.

    Raises DefinitionError for one of those without a `Transaction`, which could keep no key.
    """

    requires_key = True  # and no short way, which would pass by the check


class _Known(Exception):
    """The request was answered before."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer


class _Attempt:
    """One request with a key, from its head to its answer."""

    def __init__(self, request: Request, key: str) -> None:
        self._request = request
        self._key = key
        self._claim: Claim | None = None
        self.begun = False

    async def run(self, handle: Callable[[Request], Awaitable[Response]]) -> Response:
        """Have FastAPI handle the request, and keep its answer before FastAPI ends the transaction."""
        token = _attempt.set(self)
        try:
            response = await handle(self._request)
        except _Known as known:
            return _response(known.answer)
        finally:
            _attempt.reset(token)
        if self._claim is None:
            raise DefinitionError(_STREAMED)
        kept = _answer(response)
        require_response(response, self._request.method)  # the database would blame the caller for what it cannot keep
        self._claim.keep(kept)
        return response

    async def begin(self) -> None:
        """Claim the key, in the transaction that the route is about to use; once, however far this is inherited."""
        self.begun = True
        request, principal = self._request, context.current().principal or ""
        scope = f"{principal}\x1f{request.method} {template_of(request.scope)}"
        try:
            claimed = await claim(work_of(request), scope, self._key, await _fingerprint(request))
        except KeyReused:
            raise KeyReused("the key belongs to a request of another address or body: make a new one") from None
        if isinstance(claimed, Answer):
            raise _Known(claimed)
        self._claim = claimed


def _claiming(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Return the endpoint with the claim before it: behind every dependency, so that nobody unknown gets an answer."""

    if isasyncgenfunction(endpoint) or isgeneratorfunction(endpoint):
        return endpoint  # its answer is streamed, and cannot be given again
    is_coroutine = iscoroutinefunction(endpoint)

    @wraps(endpoint)
    async def claimed(*args: Any, **values: Any) -> Any:
        attempt = _attempt.get()
        if attempt is not None and not attempt.begun:
            await attempt.begin()
        if is_coroutine:
            return await endpoint(*args, **values)
        return await run_in_threadpool(endpoint, *args, **values)

    return claimed


def _key(request: Request) -> str | None:
    values = request.headers.getlist("idempotency-key")
    if not values:
        return None
    found = _KEY.fullmatch(values[0].strip(" \t"))
    if found is None or len(values) > 1:
        raise Unreadable("Idempotency-Key: send one, of 1 to 255 letters, digits and . _ ~ : / + = -")
    return found["quoted"] or found["bare"]


async def _fingerprint(request: Request) -> bytes:
    """Return what two requests share that ask for the same: method, address, kind and content of the body."""
    content_type = request.headers.get("content-type", "")
    head = (request.method, request.scope["path"], request.scope["query_string"].decode("latin-1"), content_type)
    digest = sha256("\0".join(head).encode("utf-8", "surrogatepass"))
    digest.update(b"\0" + await request.body())
    return digest.digest()


def _answer(response: Response) -> Answer:
    if isinstance(response, (StreamingResponse, FileResponse)):
        raise DefinitionError(_STREAMED)
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.raw_headers]
    return Answer(
        response.status_code,
        [(name, value) for name, value in headers if name.lower() not in _NOT_KEPT],
        bytes(response.body),
    )


def _response(answer: Answer) -> Response:
    response = Response(answer.body, answer.status)
    kept = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    response.raw_headers = [*kept, *(pair for pair in response.raw_headers if pair[0] == b"content-length")]
    return response


def _uses_transaction(dependant: Dependant) -> bool:
    return dependant.call is begin or any(map(_uses_transaction, dependant.dependencies))
