"""Restart what runs code that has changed: a service for its own files, all of them for covey's.

Where all run in one process, that process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from watchfiles import PythonFilter, awatch

from covey.errors import CoveyError
from covey.local.running import RunningSystem
from covey.local.system import System

_COVEY = Path(__file__).resolve().parents[1]
_EDITORS_SAVE_WITHIN_MS = 200


async def reload_on_change(running: RunningSystem, say: Callable[[str], None]) -> None:
    """Watch the code of a system until cancelled; restart what a change concerns, its database migrated first."""
    watched = _watched(running.system)
    wanted = PythonFilter(extra_extensions=(".lua", ".sql"))
    try:
        async for changes in awatch(*watched, watch_filter=wanted, debounce=_EDITORS_SAVE_WITHIN_MS, step=50):
            paths = [Path(path) for _, path in changes]
            await _reload(running, _concerned(watched, paths), paths, say)
    except (OSError, RuntimeError) as error:
        say(f"changes are not watched: {error}")


async def _reload(running: RunningSystem, entries: set[str], paths: list[Path], say: Callable[[str], None]) -> None:
    units = list(dict.fromkeys(unit for entry in sorted(entries) for unit in running.replicas(entry)))
    say(f"{', '.join(sorted({path.name for path in paths}))} changed: restarting {', '.join(u.name for u in units)}")
    try:
        if any(path.parent.name in ("migrations", "versions") for path in paths):
            await running.migrate()
        await running.restart(units)
    except CoveyError as error:
        say(f"not reloaded: {error}")


def _watched(system: System) -> dict[Path, set[str]]:
    """Return the folders to watch and the services and processes that each concerns."""
    watched: dict[Path, set[str]] = {}
    for name in (*system.services, *system.processes):
        for folder in system.code(name):
            watched.setdefault(folder, set()).add(name)
    if "site-packages" not in _COVEY.parts:  # installed, it does not change under our feet
        watched[_COVEY] = set(system.services)
    return watched


def _concerned(watched: dict[Path, set[str]], paths: Iterable[Path]) -> set[str]:
    return {
        name for path in paths for folder, names in watched.items() if path.is_relative_to(folder) for name in names
    }
