"""Exceptions as data, so that a stack can be searched and holds no secret: messages redacted, no local variables."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from covey.telemetry.redaction import redact_text, text_of

_MOST_FRAMES = 30
_MOST_LINKS = 6


def describe(error: BaseException, links: int = _MOST_LINKS) -> dict[str, Any]:
    """Return type, redacted message and frames (innermost last, at most 30), then its cause or its group, alike."""
    fields: dict[str, Any] = {
        "type": type(error).__name__,
        "message": redact_text(_message(error)),
        "frames": _frames(error.__traceback__),
    }
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if links and cause is not None:
        fields["cause"] = describe(cause, links - 1)
    if links and isinstance(error, BaseExceptionGroup):
        fields["group"] = [describe(member, 0) for member in error.exceptions[:_MOST_LINKS]]
    return fields


def _message(error: BaseException) -> str:
    """Return what the exception says, without the rows and inputs that some quote."""
    rules = getattr(error, "errors", None)
    if callable(rules):  # of pydantic or FastAPI: its text holds what was validated
        return _rules(rules)
    return text_of(error).partition("\nDETAIL:")[0]  # of PostgreSQL: the values of the row that was refused


def _rules(rules: Callable[[], Any]) -> str:
    try:
        return "; ".join(f"{'.'.join(map(str, broken['loc']))}: {broken['msg']}" for broken in rules())
    except Exception as error:  # an `errors` of another kind
        return f"[without text: {type(error).__name__}]"


def _frames(traceback: TracebackType | None) -> list[str]:
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_filename}:{traceback.tb_lineno} in {code.co_qualname}")
        traceback = traceback.tb_next
    return frames[-_MOST_FRAMES:]
