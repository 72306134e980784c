"""Who acts, and how one is known: a `Verifier` makes a `Principal` of the token that a request brings.

Tokens of an identity provider come behind the same Protocol. Until then there are development tokens: signed by a key
that one system has, without an end, so that everything that depends on who asks is real from the first day.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64decode, urlsafe_b64encode
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import orjson

from covey.errors import DefinitionError, Unauthenticated

_SUBJECT = re.compile(r"[a-z]{1,20}:[A-Za-z0-9._-]{1,100}")
_ROLE = re.compile(r"[a-z][a-z0-9:._-]{0,49}")
_PREFIX = "covey-dev."
_LONGEST = 1_000
_LEAST_KEY = 16
_MAC_BYTES = 16


@dataclass(frozen=True, slots=True)
class Principal:
    """Who acts. `subject` is a kind and an id, such as `user:0199…` or `service:order`; `roles` is what they may be."""

    subject: str
    roles: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not _SUBJECT.fullmatch(self.subject) or not all(map(_ROLE.fullmatch, self.roles)):
            raise DefinitionError(
                f"{self.subject[:120]!r} with the roles {sorted(self.roles)} cannot be:"
                " a subject is `kind:id`, such as user:0199f2c0, and a role a word in small letters"
            )


class InvalidToken(Unauthenticated):
    """A token that says nothing of who brings it."""


class Verifier(Protocol):
    """Knows whom a token belongs to."""

    async def verify(self, token: str) -> Principal:
        """Return whose token this is. Raises InvalidToken, and Unavailable where that cannot be found out now."""
        ...


class Nobody:
    """Knows nobody: what a service has that was given no way to verify a token."""

    async def verify(self, token: str) -> Principal:
        """Raise InvalidToken."""
        raise InvalidToken("no token is valid here: this service was given no key to verify one with")


class DevelopmentTokens:
    """Makes and verifies the tokens of one system on a developer's machine.

    They do not expire and cannot be revoked but with their key, so they are for development and tests: where no key is
    set, none is valid.
    """

    def __init__(self, key: str) -> None:
        if len(key) < _LEAST_KEY:
            raise DefinitionError(f"the key of development tokens needs {_LEAST_KEY} characters or more")
        self._key = key.encode()
        self._known = lru_cache(maxsize=4096)(self._read)  # a signature is checked once for each token

    def mint(self, subject: str, *roles: str) -> str:
        """Return a token for a subject with these roles. Raises DefinitionError for what can be none."""
        principal = Principal(subject, frozenset(roles))
        content = orjson.dumps([principal.subject, sorted(principal.roles)])
        return _PREFIX + urlsafe_b64encode(self._mac(content) + content).rstrip(b"=").decode()

    async def verify(self, token: str) -> Principal:
        """Return whose token this is. Raises InvalidToken."""
        return self._known(token)

    def _read(self, token: str) -> Principal:
        raw = _bytes(token.removeprefix(_PREFIX)) if token.startswith(_PREFIX) and len(token) < _LONGEST else b""
        mac, content = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not content or not hmac.compare_digest(mac, self._mac(content)):
            raise InvalidToken("the token is none of this system's")
        subject, roles = orjson.loads(content)
        return Principal(subject, frozenset(roles))

    def _mac(self, content: bytes) -> bytes:
        return hmac.digest(self._key, _PREFIX.encode() + content, "sha256")[:_MAC_BYTES]


def service_token(key: str | None, service: str) -> str | None:
    """Return the token of a service of this system, which has the role `service`; None where there is no key."""
    return DevelopmentTokens(key).mint(f"service:{service}", "service") if key else None


def _bytes(text: str) -> bytes:
    try:
        return b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", validate=True)
    except ValueError:
        return b""
