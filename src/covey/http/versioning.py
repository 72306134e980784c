"""Which version of an API is asked for: by path, by media type or by query, resolved here and nowhere else.

    GET /api/v2/users/7
    GET /api/users/7      Accept: application/vnd.api+json;version=2
    GET /api/users/7?version=2

A service writes its routes with the version in the path; the other two lead to the same routes. Whoever names none is
told which there are (400), for a version that is chosen for a client changes under it. Two that contradict each other
are refused, by media type with 406.

A version that will end says so in each answer: `Deprecation` (RFC 9745), `Sunset` (RFC 8594) and a link to what comes
after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time
from datetime import date as Date
from functools import lru_cache
from urllib.parse import parse_qsl

from starlette.types import Scope

from covey.errors import DefinitionError, NotFound, Rejected, Unreadable
from covey.http.arguments import HEADERS

FORM = "covey.media_type"
"""Where the scope of a request has the media type that was asked for, if it named a version; its answers vary by it."""

PREFIX = "/api/"
PARAMETER = "version"
"""The name of the query's parameter; no route declares it."""

_VERSIONED = re.compile(r"/api/v([0-9]{1,4})(?=/|$)")
# What stands between commas, or semicolons, outside of quotes. Nothing is looked at twice: a header is anybody's.
_RANGES, _PARTS = [re.compile(rf'(?:[^{mark}"]++|"[^"]*+"?)++') for mark in ",;"]
_LONGEST_ACCEPT = 1_000
_VENDOR = ("application", "vnd.api+json")
_JSON = {("*", "*"), ("application", "*"), ("application", "json"), _VENDOR}


class NotAcceptable(Rejected):
    """It cannot be shown in any form that the caller takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deprecated:
    """A version that is answered until `sunset` and not to be taken up since `since`; `link` tells what to do."""

    since: Date
    sunset: Date
    link: str

    def __post_init__(self) -> None:
        if self.sunset <= self.since or not (self.link.isascii() and self.link.isprintable()):
            raise DefinitionError(f"a version cannot end like this: {self}")

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return what is in the head of every answer of this version."""
        since, sunset = (datetime.combine(day, time(), UTC) for day in (self.since, self.sunset))
        return [
            (b"deprecation", f"@{int(since.timestamp())}".encode()),
            (b"sunset", sunset.strftime("%a, %d %b %Y %H:%M:%S GMT").encode()),
            (b"link", f'<{self.link}>; rel="deprecation"'.encode()),
        ]


@dataclass(frozen=True, slots=True)
class Asked:
    """What an `Accept` asks for: a version or none, and whether JSON will do."""

    version: str | None
    takes_json: bool


class Versions:
    """The versions of one application: those in the templates of its routes, and which of them will end."""

    def __init__(self, templates: Iterable[str], deprecated: Mapping[int, Deprecated]) -> None:
        self.known = sorted({int(found[1]) for found in map(_VERSIONED.match, templates) if found})
        if unknown := set(deprecated).difference(self.known):
            raise DefinitionError(f"no route is of version {min(unknown)}, which is said to be deprecated")
        self._headers = {version: deprecated[version].headers() for version in deprecated}

    def path(self, scope: Scope, path: str) -> str:
        """Return the path of the route that a request asks for, the version in it.

        Raises Unreadable, NotFound or NotAcceptable for a version that there is not, or several.
        """
        if not path.startswith(PREFIX) or not self.known:
            return path
        in_path = _VERSIONED.match(path)
        by_accept, by_query = _by_accept(scope), _by_query(scope)
        if in_path is None and by_accept is None and by_query is None:
            raise Unreadable(f"say which version, in the path or as ?{PARAMETER}=: there is {self._listed()}")
        if by_accept is not None and by_accept not in map(str, self.known):
            raise NotAcceptable(f"there is no version {by_accept[:20]!r}, but {self._listed()}")
        if by_query is not None and by_query not in map(str, self.known):
            raise NotFound(f"there is no version {by_query[:20]!r}, but {self._listed()}")
        in_query_or_path = {str(int(in_path[1]))} if in_path else set()
        in_query_or_path |= {by_query} if by_query is not None else set()
        if len(in_query_or_path) > 1:
            raise Unreadable("path and query ask for two versions: say one")
        if by_accept is not None and in_query_or_path - {by_accept}:
            raise NotAcceptable("the address is of another version than the one in Accept")
        if by_accept is not None:
            scope[FORM] = f"{'/'.join(_VENDOR)};version={by_accept}".encode()
        return path if in_path else f"{PREFIX}v{by_accept or by_query}/{path[len(PREFIX) :]}"

    def headers(self, template: str) -> list[tuple[bytes, bytes]] | None:
        """Return what answers of the version in this template have to say of its end."""
        found = _VERSIONED.match(template) if self._headers else None
        return self._headers.get(int(found[1])) if found else None

    def _listed(self) -> str:
        return " and ".join(map(str, self.known))


def require_json(scope: Scope) -> None:
    """Raise NotAcceptable where an answer in JSON is not what the caller takes (RFC 9110, section 12.5.1)."""
    accept = scope[HEADERS].get(b"accept")
    if accept is not None and accept != b"*/*" and not _asked(accept).takes_json:
        raise NotAcceptable("the answer is JSON: accept application/json, or application/vnd.api+json;version=1")


def _by_accept(scope: Scope) -> str | None:
    accept = scope[HEADERS].get(b"accept")
    return None if accept is None or accept == b"*/*" else _asked(accept).version


def _by_query(scope: Scope) -> str | None:
    query: bytes = scope["query_string"]
    if PARAMETER.encode() not in query:
        return None
    given = [value for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True) if name == PARAMETER]
    if len(set(given)) > 1:
        raise Unreadable("the query asks for two versions: say one")
    return given[0] if given else None


def _asked(accept: bytes) -> Asked:
    """Read an `Accept`. What cannot be read, or is too long to, asks for nothing and refuses nothing."""
    return _read(accept) if len(accept) <= _LONGEST_ACCEPT else Asked(None, takes_json=True)


@lru_cache(maxsize=512)
def _read(accept: bytes) -> Asked:
    found = map(_range, _RANGES.findall(accept.decode("latin-1")))
    ranges = [one for one in found if one is not None]
    versions = [one for kind, one, quality in ranges if kind == _VENDOR and one is not None and quality > 0]
    takes_json = not ranges or any(kind in _JSON and quality > 0 for kind, _, quality in ranges)
    return Asked(versions[0] if versions else None, takes_json)


def _range(text: str) -> tuple[tuple[str, str], str | None, float] | None:
    """Return a media range, the version that it names, and how much it is wanted; None for what is no range."""
    whole, *parameters = [part.strip() for part in _PARTS.findall(text)] or [""]
    kind, _, subtype = whole.lower().partition("/")
    if not kind or not subtype:
        return None
    halves = [one.partition("=") for one in parameters]
    named = {name.rstrip().lower(): value.strip().strip('"') for name, _, value in halves}
    try:
        quality = float(named.get("q", "1"))
    except ValueError:
        quality = 1.0
    return (kind, subtype), named.get("version"), quality
