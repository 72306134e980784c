"""What came of a drill: whether it was passed, and if not, why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from covey.testing.drill.drilled import Verdict
from covey.testing.drill.faults import Fault, Own, kind, text
from covey.testing.drill.record import Record
from covey.testing.drill.schedule import Schedule

COMES_BACK = "everything that was broken is up again"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One drill from its seed to the verdict. `state` is where logs and data are, None when nothing was kept."""

    system: str
    rate: float
    schedule: Schedule
    record: Record
    verdict: Verdict
    interrupted: bool = False
    state: Path | None = None

    @property
    def minutes(self) -> float:
        """Return how long the load was to last."""
        return self.schedule.seconds / 60

    @property
    def command(self) -> str:
        """Return what to type to have the same drill again."""
        return f"covey drill --seed {self.schedule.seed} --minutes {self.minutes:g} --rate {self.rate:g}"

    def objections(self) -> list[str]:
        """Return why the drill is not passed: nothing means that it is."""
        return list(self._objections())

    def _objections(self) -> Iterator[str]:
        if violations := self.verdict.violations:
            yield f"{len(violations)} violation{'' if len(violations) == 1 else 's'}"
        if self.interrupted:
            yield "it was interrupted"
        if self.record.kills < self.schedule.kills:
            yield f"only {self.record.kills} of {self.schedule.kills} kills hit a running process"
        begun = {strike.fault for strike in self.record.strikes}
        if not_begun := [fault for fault in self._due if fault not in begun]:
            yield f"{len(not_begun)} of {len(self._due)} faults were not begun"
        if none := [name for name, number in self.struck().items() if not number and name in map(kind, self._due)]:
            yield f"nobody was hit by any of: {', '.join(none)}"
        if not self.record.accepts:
            yield "nothing was accepted"

    @property
    def _due(self) -> list[Fault]:
        """Return the faults whose time had come before the end: of a drill that was interrupted these are not all."""
        return [fault for fault in self.schedule.faults if fault.at < self.record.load_ended]

    def struck(self) -> dict[str, int]:
        """Return how many faults have hit, by kind; of each kind that was scheduled, also when none has."""
        hits = Counter(kind(strike.fault) for strike in self.record.strikes if strike.hit)
        own_last = sorted(self.schedule.faults, key=lambda fault: (isinstance(fault, Own), kind(fault)))
        return {name: hits[name] for name in dict.fromkeys(map(kind, own_last))}

    def as_json(self) -> str:
        """Return all of it, for a script."""
        record = self.record
        return json.dumps(
            {
                "system": self.system,
                "passed": not self.objections(),
                "objections": self.objections(),
                "command": self.command,
                "seed": self.schedule.seed,
                "minutes": self.minutes,
                "rate": self.rate,
                "arrived": record.arrived,
                "not_begun": record.not_begun,
                "given_up": record.abandoned,
                "accepted": len(record.accepts),
                "completed": record.completed,
                "accept_seconds": {name: _number(value) for name, value in record.latencies().items()},
                "failed_attempts": record.kinds,
                "kills": {"scheduled": self.schedule.kills, "hit": record.kills},
                "struck": self.struck(),
                "rules": {rule: list(found) for rule, found in self.verdict.rules.items()},
                "summary": list(self.verdict.summary),
                "strikes": [_strike(strike.fault, asdict(strike)) for strike in record.strikes],
                "state": str(self.state) if self.state else None,
            },
            indent=2,
        )


def told(result: Result) -> Sequence[str]:
    """Return the result in a few lines, for a terminal."""
    record, latency = result.record, result.record.latencies()
    struck = ", ".join(f"{number} {name}" for name, number in result.struck().items() if number)
    lines = [
        f"{record.arrived} arrived, {len(record.accepts)} accepted (p50 {readable(latency['p50'])}, p99"
        f" {readable(latency['p99'])}), {record.completed} completed;"
        f" {record.not_begun} not begun, {record.abandoned} gave up; {len(record.failures)} attempts failed",
        f"faults that hit: {struck or 'none'}; {record.kills} of {result.schedule.kills} kills",
        *result.verdict.summary,
        "",
    ]
    for rule, violations in result.verdict.rules.items():
        lines.append(f"  {'✗' if violations else '✓'} {rule}")
        lines += [f"      {violation}" for violation in violations[:SHOWN]]
        if len(violations) > SHOWN:
            lines.append(f"      … and {len(violations) - SHOWN} more")
    objections = result.objections()
    lines += ["", f"NOT PASSED: {'; '.join(objections)}" if objections else "passed", f"again: {result.command}"]
    return lines


SHOWN = 20


def readable(seconds: float) -> str:
    """Return a span for people; a dash when there is none."""
    if seconds != seconds:
        return "–"
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds * 1000:,.0f} ms"


def _number(value: float) -> float | None:
    return None if value != value else round(value, 4)


def _strike(fault: Fault, fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "fault": text(fault), "at": round(fields["at"], 2), "until": round(fields["until"], 2)}
