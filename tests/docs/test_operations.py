"""The page for operators knows every metric and every log line of the code, and no others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from covey.messaging.broker import STREAM_MAX_AGE
from covey.messaging.retention import IDEMPOTENCY_AGE, INBOX_AGE, OUTBOX_AGE
from tests.docs.pages import ROOT

_METRIC = re.compile(r"[a-z]+(_[a-z]+)+")
_DECLARE = {"counter", "gauge", "histogram", "observe"}
_LOG = {"info", "warning", "error", "critical", "exception", "log", "write", "line"}


def literals(node: ast.expr) -> Iterator[str]:
    """Yield the texts that an expression may be."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp(body=body, orelse=orelse):
            yield from literals(body)
            yield from literals(orelse)


def said(names: set[str]) -> set[str]:
    """Return what the code gives to calls of these names as its first arguments, if it is one text of several words."""
    found: set[str] = set()
    for file in ROOT.glob("src/covey/**/*.py"):
        if "testing" in file.parts or "local" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
                if called in names:
                    found.update(text for argument in node.args[:3] for text in literals(argument))
    return found


def documented(section: str) -> set[str]:
    """Return the first column of a section's table."""
    text = (ROOT / "docs/operations.md").read_text()
    body = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([^`]+)`", body, re.MULTILINE))


def test_every_metric_is_on_the_page() -> None:
    declared = {name for name in said(_DECLARE) if _METRIC.fullmatch(name)}

    assert documented("Metrics") == declared


def test_every_log_line_is_on_the_page() -> None:
    events = {text for text in said(_LOG) if _METRIC.fullmatch(text)}
    prose = {line for line in documented("Log lines") if not _METRIC.fullmatch(line)}

    assert documented("Log lines") - prose == events
    assert prose == {
        "draining",
        "request",
        "request failed",
        "call",
        "call failed",
        "connected to NATS at …",
        "NATS: …",
    }


def test_retention_is_as_the_page_says() -> None:
    text = (ROOT / "docs/operations.md").read_text().split("\n## Retention\n")[1]
    told = dict(re.findall(r"^\| (`?[a-z][^|]*?) \| (\d+ (?:days|hours))", text, re.MULTILINE))
    kept = {"`covey.outbox`": OUTBOX_AGE, "`covey.inbox`, `covey.reply`": INBOX_AGE, "streams": STREAM_MAX_AGE}

    assert {name: told[name] for name in kept} == {name: f"{age.days} days" for name, age in kept.items()}
    assert told["`covey.idempotency`"] == f"{IDEMPOTENCY_AGE.total_seconds() / 3600:g} hours"
