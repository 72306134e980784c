"""Conditional requests (RFC 9110, section 13): nobody overwrites what they have not seen, or is sent what they have.

    @api.get("/users/{user_id}")
    async def get_user(user_id: UserId, work: Transaction, response: Response) -> UserView:
        user = await storage.by_id(work, user_id)
        tag(response, user.version)
        return view(user)

    @api.put("/users/{user_id}")
    async def replace_user(user_id: UserId, body: NewProfile, if_match: IfMatch, work: Transaction) -> UserView:
        user = await storage.to_change(work, user_id)  # locked: of two writers the second reads what the first wrote
        require_match(if_match, user.version)

An answer with an entity tag is conditional without more: who sends it back in `If-None-Match` gets 304 and no body.
A change that asks for a tag is refused without one (428, RFC 6585) and with an old one (412). The tag is strong: it is
another for every version, and for every form in which the same thing is shown at one address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from fastapi import Header, Response

from covey.errors import Rejected

IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        max_length=1_000,
        description="The ETag that was read, 412 when another is current; or `*`, whatever it is.",
        examples=["*"],
    ),
]
"""The parameter of a route that changes something; for `require_match`."""

_TAGGED = frozenset({b"etag", b"cache-control"})
_TAGS = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')


class PreconditionFailed(Rejected):
    """It has changed since the caller has read it."""


class PreconditionRequired(Rejected):
    """The caller has not said which state it means to change."""


def entity_tag(version: int, form: str = "") -> str:
    """Return the tag of a version of something, and of the form in which it is shown where there are several."""
    return f'"{version}.{form}"' if form else f'"{version}"'


def tag(response: Response, version: int, form: str = "") -> None:
    """Give an answer its entity tag. A cache may keep it, the caller's own, and asks before each use."""
    head = response.raw_headers
    if head:
        head[:] = [(name, value) for name, value in head if name.lower() not in _TAGGED]
    head += [(b"etag", entity_tag(version, form).encode("latin-1")), (b"cache-control", b"private, no-cache")]


def require_match(given: str | None, version: int, form: str = "") -> None:
    """Raise PreconditionRequired without an `If-Match`, PreconditionFailed where it does not name this version.

    `*` matches whatever there is. A weak tag matches nothing here: it does not say that nothing has changed.
    """
    if given is None:
        raise PreconditionRequired("say which state you have read: send its ETag in If-Match, or * for whichever")
    if given.strip() != "*" and entity_tag(version, form) not in _strong(given):
        raise PreconditionFailed("it has changed since: read it again, and send its present ETag in If-Match")


def is_known(if_none_match: bytes, etag: bytes) -> bool:
    """Tell whether a caller has what this tag names. Compared weakly, as for a read (section 13.1.2)."""
    given = if_none_match.decode("latin-1")
    opaque = etag.decode("latin-1").removeprefix("W/")
    return given.strip() == "*" or any(f'"{found[2]}"' == opaque for found in _TAGS.finditer(given))


def _strong(given: str) -> Iterator[str]:
    return (f'"{found[2]}"' for found in _TAGS.finditer(given) if not found[1])
