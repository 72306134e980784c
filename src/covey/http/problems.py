"""Every error as problem details (RFC 9457): `application/problem+json` with a stable type to program against.

One table (`covey.meanings`) says what each error means. What we did not foresee is a 500 that tells
the caller nothing but a correlation id; what it was goes into the log, once.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from json import JSONDecodeError
from math import ceil
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from covey import errors
from covey.http.body import TooSlow
from covey.http.conditional import PreconditionFailed, PreconditionRequired
from covey.http.limits import RateLimited
from covey.http.versioning import NotAcceptable
from covey.meanings import MEANINGS, cause_of
from covey.security.principal import InvalidToken
from covey.telemetry.redaction import redact_text
from covey.telemetry.rendering import json_line

CONTENT_TYPE = "application/problem+json"

_MOST_ERRORS = 25
_MOST_TEXT = 2_000
_RETRY_AFTER_S = 1

# FastAPI parses a body only when it is sent as JSON; else it stays bytes, which fit no model (RFC 9110, 15.5.16).
_NOT_SENT_AS_JSON = HTTPException(
    415, "the body is JSON here: send it with Content-Type: application/json", {"Accept": "application/json"}
)

_PHRASES = {status.value: status.phrase for status in HTTPStatus}

_MEANINGS: dict[type[Exception], tuple[int, str, str]] = {
    **{error: (meaning.status, meaning.slug, meaning.title) for error, meaning in MEANINGS.items()},
    NotAcceptable: (406, "not-acceptable", "It cannot be shown in a form that the caller takes"),
    PreconditionFailed: (412, "precondition-failed", "It has changed since it was read"),
    PreconditionRequired: (428, "precondition-required", "The request must say which state it changes"),
    RateLimited: (429, "too-many-requests", "The caller has asked too often"),
    TooSlow: (408, "too-slow", "The request did not arrive in time"),
}

_BY_STATUS = {status: (slug, title) for status, slug, title in reversed(_MEANINGS.values())}
"""What a status alone means: the first in the table."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What an error means to the caller. `detail` is None when the cause is none of the caller's business."""

    status: int
    slug: str
    title: str
    detail: str | None = None
    errors: list[dict[str, str]] = field(default_factory=list)
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self, instance: str, correlation_id: str) -> bytes:
        """Return the document. `instance` is the path that was asked for; both are given back to who sent them."""
        document: dict[str, Any] = {
            "type": f"/problems/{self.slug}",
            "title": self.title,
            "status": self.status,
            "instance": instance[:_MOST_TEXT],
            "correlation_id": correlation_id,
        }
        if self.detail:
            document["detail"] = self.detail[:_MOST_TEXT]
        if self.errors:
            document["errors"] = self.errors[:_MOST_ERRORS]
        return json_line(document)


INTERNAL = Problem(*_MEANINGS[Exception])
"""What we did not foresee."""


def problem_of(error: Exception) -> Problem:
    """Return what this error, of whatever origin, means to the caller; of a group of one, what that one means."""
    error = cause_of(error)
    if isinstance(error, RequestValidationError):
        return _invalid_request(error)
    if isinstance(error, HTTPException):
        return _raised_status(error)
    status, slug, title = next(_MEANINGS[kind] for kind in type(error).__mro__ if kind in _MEANINGS)
    told = isinstance(error, errors.Rejected)  # all others are about us, and may tell of our inside
    return Problem(
        status,
        slug,
        title,
        detail=redact_text(str(error)) if told else None,
        errors=error.errors if isinstance(error, errors.Invalid) else [],
        headers=_headers(status, error),
    )


def _headers(status: int, error: Exception) -> dict[str, str]:
    if status == 401:
        return {"WWW-Authenticate": 'Bearer error="invalid_token"' if isinstance(error, InvalidToken) else "Bearer"}
    after = getattr(error, "retry_after", None)
    if after is not None or status in (429, 503):
        told: Mapping[str, str] = getattr(error, "headers", None) or {}
        return {"Retry-After": str(ceil(after.total_seconds()) if after else _RETRY_AFTER_S), **told}
    return {}


def _raised_status(error: HTTPException) -> Problem:
    if _is_unreadable_number(error.__cause__):
        return problem_of(errors.Unreadable(f"numbers in JSON may have {sys.get_int_max_str_digits()} digits"))
    phrase = _PHRASES.get(error.status_code, "Error")
    slug, title = _BY_STATUS.get(error.status_code) or (phrase.lower().replace(" ", "-").replace("'", ""), phrase)
    detail = error.detail if isinstance(error.detail, str) and error.detail != phrase else None
    return Problem(
        error.status_code,
        slug,
        title,
        detail=redact_text(detail) if detail else None,
        headers={**_headers(error.status_code, error), **(error.headers or {})},
    )


def _is_unreadable_number(cause: BaseException | None) -> bool:
    """Tell whether FastAPI gave a body up because Python converts no number of so many digits."""
    return isinstance(cause, ValueError) and "integer string conversion" in str(cause)


def _invalid_request(error: RequestValidationError) -> Problem:
    found = _causes(error.errors())
    if isinstance(error.body, bytes) and any(one["loc"][0] == "body" for one in found):
        return _raised_status(_NOT_SENT_AS_JSON)
    if isinstance(error.__cause__, JSONDecodeError):
        where = f"the body is no JSON: {error.__cause__.msg}, at character {error.__cause__.pos}"
        return problem_of(errors.Unreadable(where))
    status, slug, title = _MEANINGS[errors.Invalid]
    count = len(found)
    detail = f"{count} rules are broken; the first {_MOST_ERRORS} are listed" if count > _MOST_ERRORS else None
    return Problem(status, slug, title, detail, errors=[_rule(one) for one in found[:_MOST_ERRORS]])


def _causes(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leave out what only follows from a mistake further in: a list is not too short because its one line is wrong."""
    places = {tuple(one["loc"]) for one in found}
    inside = {place[:depth] for place in places for depth in range(1, len(place))}
    return [one for one in found if tuple(one["loc"]) not in inside]


def _rule(found: Mapping[str, Any]) -> dict[str, str]:
    """Return one broken rule: where (RFC 6901, without the value that was sent), which, and what it asks for."""
    place, *path = found["loc"]
    return {
        "in": str(place),
        "pointer": _pointer(path),
        "what": _in_json(str(found["msg"]).removeprefix("Value error, ")),
        "rule": str(found["type"]),
    }


def _in_json(text: str) -> str:
    """Return what a rule asks for in the words of JSON: who sent the body knows nothing of Python's collections."""
    for python, json in _WORDS.items():
        text = re.sub(python, json, text)
    return text


_WORDS = {
    r"^(Tuple|List|Set|Frozenset) ": "Array ",
    r"^Dictionary ": "Object ",
    r" a valid (tuple|list|set|frozenset)$": " an array",
    r" a valid dictionary( or (object to extract fields from|instance of \w+))?$": " an object",
    r" after validation\b": "",
}


def _pointer(path: Iterable[str | int]) -> str:
    return "#" + "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)[:200]


SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "Problem details (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "instance", "correlation_id"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "description": "Stable; program against it."},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "For people; its wording changes."},
        "instance": {"type": "string", "description": "The path that was asked for."},
        "correlation_id": {"type": "string", "description": "Names this request in logs and traces."},
        "errors": {
            "type": "array",
            "description": "The broken rules, when there are several to tell of.",
            "items": {
                "type": "object",
                "properties": {
                    "in": {"type": "string", "description": "body, query, path, header or cookie"},
                    "pointer": {"type": "string", "description": "JSON Pointer to what was sent (RFC 6901)"},
                    "what": {"type": "string"},
                    "rule": {"type": "string"},
                },
            },
        },
    },
}

RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {
        "description": description,
        "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for status, description in (("4XX", "The request cannot succeed as it stands."), ("5XX", "It did not work here."))
}
