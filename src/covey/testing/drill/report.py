"""The report of a drill: one page that needs nothing else, no library, no script and no network. It is also XML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from covey.testing.drill.charts import charts
from covey.testing.drill.faults import text
from covey.testing.drill.record import Strike
from covey.testing.drill.result import Result, readable
from covey.testing.drill.svg import clock, element

_SHOWN = 200


def page(result: Result) -> str:
    """Return the whole page."""
    title = f"Drill of {result.system}, seed {result.schedule.seed}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width"),
        element("title", escape(title)),
        element("style", escape(Path(__file__).with_name("report.css").read_text())),
    )
    body = element(
        "body",
        element("h1", escape(title)),
        *_introduction(result),
        *charts(result),
        *_how_to_read(),
        *_rules(result),
        *_faults(result),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _introduction(result: Result) -> Iterator[str]:
    objections = result.objections()
    verdict = (
        f"Not passed: {'; '.join(objections)}"
        if objections
        else "Passed: no violation; every kill, and every kind of fault, has hit"
    )
    yield element("p", escape(verdict), class_=f"verdict {'failed' if objections else 'passed'}")
    yield element("p", "Again: ", element("code", escape(result.command)))
    yield element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in _facts(result)))


def _facts(result: Result) -> Iterator[tuple[str, str]]:
    record, latency, struck = result.record, result.record.latencies(), result.struck()
    yield "arrived", f"{record.arrived:,}"
    yield "accepted", f"{len(record.accepts):,}"
    yield "completed", f"{record.completed:,}"
    yield "until accepted, p50", readable(latency["p50"])
    yield "until accepted, p99", readable(latency["p99"])
    yield "kills that hit", f"{record.kills} of {result.schedule.kills}"
    yield "other faults that hit", f"{sum(struck.values()) - record.kills}"
    yield "attempts that failed", f"{len(record.failures):,}"
    yield "gave up", f"{record.abandoned:,}"
    yield "not begun, too many at once", f"{record.not_begun:,}"


def _how_to_read() -> Iterator[str]:
    yield element(
        "p",
        "The dotted line is the end of the load; on the shaded ground there were no more faults, and everything could"
        " settle. An attempt may fail while something is broken: it promises nothing, and is made again. What was"
        " accepted is a promise, and the rules below hold the system to it.",
    )


def _rules(result: Result) -> Iterator[str]:
    yield element("h2", "The books")
    yield from (element("p", escape(line)) for line in result.verdict.summary)
    yield element("table", *_rows(result))


def _rows(result: Result) -> Iterator[str]:
    for rule, violations in result.verdict.rules.items():
        sign = element("td", "✗" if violations else "✓", class_="sign wrong" if violations else "sign")
        found = [element("div", escape(one), class_="wrong") for one in violations[:_SHOWN]]
        if len(violations) > _SHOWN:
            found.append(element("div", f"and {len(violations) - _SHOWN} more", class_="wrong"))
        yield element("tr", sign, element("td", escape(rule), *found))


def _faults(result: Result) -> Iterator[str]:
    strikes = sorted(result.record.strikes, key=lambda strike: strike.at)
    yield element("h2", "The faults")
    yield element(
        "details",
        element("summary", f"All {len(strikes)}, in their order"),
        element("table", _row("th", ("at, min:s", "what", "whom it hit")), *map(_fault, strikes)),
    )


def _fault(strike: Strike) -> str:
    note = strike.note if strike.hit else f"nobody: {strike.note}"
    return _row("td", (clock(strike.at), text(strike.fault), note or "hit"))


def _row(tag: str, cells: Iterable[str]) -> str:
    first, *others = cells
    return element("tr", element(tag, escape(first), class_="number"), *(element(tag, escape(one)) for one in others))
