"""What a log line looks like: JSON for machines, or one coloured line for a person at a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

Line = Mapping[str, Any]

_COLOURS = {
    "debug": "\x1b[2m",
    "info": "\x1b[32m",
    "warning": "\x1b[33m",
    "error": "\x1b[31m",
    "critical": "\x1b[31;1m",
}
_FAINT, _BOLD, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"
_HEAD = ("timestamp", "level", "service", "event", "exception")
_FOR_MACHINES = ("trace_id", "span_id")


def json_line(line: Line) -> bytes:
    """Return the line as one JSON object and a newline; what JSON does not know appears as its text."""
    try:
        return orjson.dumps(line, default=str, option=_OPTIONS)
    except TypeError:  # lone surrogates, integers over 64 bits
        return json.dumps(line, default=str).encode() + b"\n"


_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z


def pretty_line(line: Line, colour: bool = True) -> bytes:
    """Return the line for people: time of day, level, service, event, then `key=value`; a stack below it.

    Control characters are escaped, so that no value can forge a line or drive the terminal.
    """
    level = str(line.get("level", "info"))
    pairs = [
        f"{_paint(_FAINT, str(key) + '=', colour)}{_visible(value)}"
        for key, value in line.items()
        if key not in _HEAD and key not in _FOR_MACHINES
    ]
    head = [
        _time_of_day(line.get("timestamp")),
        _paint(_COLOURS.get(level, ""), f"{level:8}", colour),
        f"{_visible(line.get('service', '')):12}",
        _paint(_BOLD, _visible(line.get("event", "")), colour),
    ]
    return ("  ".join([*head, *pairs]) + _stack(line.get("exception"))).encode(errors="replace") + b"\n"


def _paint(code: str, text: str, colour: bool) -> str:
    return f"{code}{text}{_PLAIN}" if colour and code else text


def _visible(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if text.isprintable() else text.encode("unicode_escape", errors="replace").decode()


def _time_of_day(timestamp: Any) -> str:
    if isinstance(timestamp, datetime):
        return timestamp.astimezone(UTC).strftime("%H:%M:%S.%f")[:-3]
    return str(timestamp)[11:23]


def _stack(exception: Any) -> str:
    lines = []
    while isinstance(exception, Mapping):
        frames = [f"\n    {_visible(frame)}" for frame in exception.get("frames", ())]
        lines.append(f"\n  {_visible(exception.get('type'))}: {_visible(exception.get('message'))}{''.join(frames)}")
        exception = exception.get("cause")
    return "".join(lines)
