"""What of an answer a server can send: the rest must be found while its transaction can still be rolled back.

A server finds a line break in a header (RFC 9110, section 5.5) only when it writes the head, and that a file is missing
only when it sends it. By then the work is committed, and all that is left is to cut the connection, or to say 500 of
what was done: the client learns neither that it was done nor what is wrong.
"""

from __future__ import annotations

import os
import re
import stat
import string
from collections.abc import Iterable
from pathlib import Path

from fastapi._body_limit import wrap_app_with_body_limit
from fastapi.routing import RouteContext, _effective_route_context_var, request_response
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import ASGIApp

from covey.errors import Defect

_TOKEN = b"!#$%&'*+.^_`|~-0123456789" + string.ascii_letters.encode()
_NO_TOKEN = re.compile(b"[^" + re.escape(_TOKEN) + b"]")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_NO_CONTROL = _CONTROL.sub(b"", bytes(range(256)))
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_MOST_DIGITS = 18
_WITHOUT_BODY = frozenset({204, 304})

SEEN = "covey.seen_headers"
"""Where the scope of a request has the headers of its answer, once they have been looked through."""

RawHeaders = Iterable[tuple[bytes, bytes]]


class Unsendable(Defect):
    """An answer that no server would send. The message says what is wrong with it, without the value of a header."""


def require_head(status: int, headers: RawHeaders) -> None:
    """Raise Unsendable for what can be no head of an answer."""
    if not 200 <= status <= 599:
        raise Unsendable(f"the answer's status is {status}: a final one is between 200 and 599")
    if _is_clean(headers := list(headers)):
        return
    for name, value in headers:
        if not name or _NO_TOKEN.search(name):
            raise Unsendable(f"the answer has a header of the name {name!r}: letters, digits and - are allowed")
        if found := _CONTROL.search(value):
            raise Unsendable(f"the answer's header {name!r} holds {found[0]!r}, at byte {found.start()}")


def require_response(response: Response, method: str) -> None:
    """Raise Unsendable for a response that would break off; how long a streamed one becomes nobody knows yet."""
    require_head(response.status_code, response.raw_headers)
    length = _length_of(response.raw_headers)
    if isinstance(response, FileResponse):
        _require_file(response, length)
    if type(response).__call__ is not Response.__call__ or method == "HEAD":
        return
    size = len(response.body)
    if size and response.status_code in _WITHOUT_BODY:
        raise Unsendable(f"the answer has a body of {size} bytes, and the status {response.status_code} allows none")
    if length is not None and length != size:
        raise Unsendable(f"the answer has a Content-Length of {length} and a body of {size} bytes")


def _require_file(response: FileResponse, length: int | None) -> None:
    """Raise Unsendable where there is no file to send. That it means 404 is for the route to say, beforehand."""
    try:
        found = Path(response.path).stat()  # starlette, which would ask in a thread, now need not
    except OSError as error:
        raise Unsendable(f"the answer is the file {str(response.path)!r}: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode) or not os.access(response.path, os.R_OK):
        raise Unsendable(f"the answer is {str(response.path)!r}, which is no file that can be read")
    if length is not None and length != found.st_size:
        raise Unsendable(f"the answer has a Content-Length of {length} and a file of {found.st_size} bytes")
    response.stat_result = found
    response.set_stat_headers(found)


def sendable(found: RouteContext) -> ASGIApp:
    """Return FastAPI's application for a route, with each response seen before FastAPI ends the transaction."""
    route = found.original_route
    token = _effective_route_context_var.set(found._route_context)  # as FastAPI does where it makes `found.app`
    try:
        handle = route.get_route_handler()  # type: ignore[attr-defined]  # an APIRoute
    finally:
        _effective_route_context_var.reset(token)

    async def handled(request: Request) -> Response:
        response: Response = await handle(request)
        require_response(response, request.method)
        return response

    return wrap_app_with_body_limit(request_response(handled), found.max_body_size)


def _length_of(headers: RawHeaders) -> int | None:
    """Return what the headers say of the body's length. Raises Unsendable where no client could rely on it."""
    framing = [(lower, value) for name, value in headers if (lower := name.lower()) in _FRAMING]
    if len(framing) > 1:  # as when the headers of another server are passed on; many clients refuse that
        raise Unsendable("the answer says more than once, by Content-Length or Transfer-Encoding, where it ends")
    for name, value in framing:
        if name == b"content-length":
            if not value.isdigit() or len(value) > _MOST_DIGITS:
                raise Unsendable(f"the answer has a Content-Length of {value[:40]!r}, which is no number of bytes")
            return int(value)
    return None


def _is_clean(headers: list[tuple[bytes, bytes]]) -> bool:
    """Tell in two passes, whatever the number of headers, that there is nothing to look for."""
    if not headers:
        return True
    names, values = zip(*headers, strict=True)
    return (
        all(names) and not b"".join(names).translate(None, _TOKEN) and not b"".join(values).translate(None, _NO_CONTROL)
    )
