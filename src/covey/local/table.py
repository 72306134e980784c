"""The table of what runs where."""

from __future__ import annotations

from collections.abc import Sequence

from covey.local.registry import Noted
from covey.local.status import SystemStatus, UnitStatus

_HEADINGS = ("NAME", "STATE", "ADDRESS", "PID", "RESTARTS", "")


def render(units: Sequence[UnitStatus], *, colours: bool = False) -> str:
    """Return the table as text, its columns aligned; with `colours`, what is up is green and the rest red."""
    lines = _aligned([_HEADINGS, *(_row(unit) for unit in units)])
    if colours:
        lines[1:] = [_coloured(line, unit.state) for line, unit in zip(lines[1:], units, strict=True)]
    return "\n".join(lines)


def list_of(systems: Sequence[Noted]) -> str:
    """Return a line for each system, with its supervisor and its state folder."""
    rows = [(one.system, str(one.supervisor), str(one.state)) for one in systems]
    return "\n".join(_aligned([("SYSTEM", "PID", "STATE FOLDER"), *rows]))


def why_not_up(status: SystemStatus) -> str:
    """Return what there is to say of a system without a supervisor."""
    if status.killed is None and not status.left:
        return f"{status.name} is not up; `covey up` starts it"
    cause = f": its supervisor (pid {status.killed}) was killed" if status.killed is not None else ""
    if not status.left:
        return f"{status.name} is not up any more{cause}; nothing is left of it; `covey up` starts it again"
    return f"{status.name} is not up any more{cause}; {', '.join(status.left)} still run: `covey down` ends them"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(unit: UnitStatus) -> tuple[str, ...]:
    return unit.name, unit.state, unit.url, str(unit.pid or "-"), str(unit.restarts), unit.detail


def _coloured(line: str, state: str) -> str:
    return line.replace(f" {state} ", f" \x1b[{32 if state == 'up' else 31}m{state}\x1b[0m ", 1)
