"""Restart what runs code that has changed: a service for its own files, all of them for covey's.

Where all run in one process, that process. A change of the system file restarts nothing: it may add and remove what
runs, so it is only said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from watchfiles import Change, PythonFilter, awatch

from covey.errors import ConfigurationError, CoveyError
from covey.local.running import RunningSystem
from covey.local.state import is_state_folder
from covey.local.system import FILE, System, read_system

_COVEY = Path(__file__).resolve().parents[1]
_EDITORS_SAVE_WITHIN_MS = 200


async def reload_on_change(running: RunningSystem, say: Callable[[str], None]) -> None:
    """Watch the code of a system until cancelled; restart what a change concerns, its database migrated first."""
    watched = _watched(running.system)
    try:
        async for changes in awatch(
            *watched, watch_filter=_Code(extra_extensions=(".lua", ".sql")), debounce=_EDITORS_SAVE_WITHIN_MS, step=50
        ):
            paths = [Path(path) for _, path in changes]
            await _reload(running, _concerned(watched, paths), paths, say)
    except (OSError, RuntimeError) as error:
        say(f"changes are not watched: {error}")


class _Code(PythonFilter):
    """Passes code, and nothing that a system here keeps in its state folder, whatever that is called."""

    def __call__(self, change: Change, path: str) -> bool:
        return super().__call__(change, path) and not any(map(is_state_folder, Path(path).parents))


async def _reload(running: RunningSystem, entries: set[str], paths: list[Path], say: Callable[[str], None]) -> None:
    units = list(dict.fromkeys(unit for entry in sorted(entries) for unit in running.replicas(entry)))
    say(f"{', '.join(sorted({path.name for path in paths}))} changed: restarting {', '.join(u.name for u in units)}")
    try:
        if any(path.parent.name in ("migrations", "versions") for path in paths):
            await running.migrate()
        await running.restart(units)
    except CoveyError as error:
        say(f"not reloaded: {error}")


async def watch_system_file(running: RunningSystem, say: Callable[[str], None]) -> None:
    """Watch the system file until cancelled; say when it is no longer what is up, and what to do about it."""
    file = running.system.root / FILE
    known: System | str = running.system
    try:
        # The folder and not the file: editors replace a file by another.
        async for _ in awatch(
            file.parent,
            watch_filter=lambda _, path: Path(path) == file,
            recursive=False,
            debounce=_EDITORS_SAVE_WITHIN_MS,
            step=50,
        ):
            now = _read_or_mistakes(file.parent)
            if now != known:
                say(_changed(now, running.system))
            known = now
    except (OSError, RuntimeError) as error:
        say(f"changes of {FILE} are not watched: {error}")


def _read_or_mistakes(root: Path) -> System | str:
    try:
        return read_system(root)
    except ConfigurationError as error:
        return str(error)


def _changed(now: System | str, up: System) -> str:
    if isinstance(now, str):
        return f"{FILE} has changed, and what is up goes on without it: {now}"
    if now == up:
        return f"{FILE} is again what is up"
    return f"{FILE} has changed; what is up goes on as it was. To have it run as the file says: covey down && covey up"


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
