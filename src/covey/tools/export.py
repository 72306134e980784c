"""`covey export`: write the contracts of services from their code, or tell where the files differ from it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from covey.errors import CoveyError, DefinitionError
from covey.local.backing import Addresses
from covey.local.launcher import write_atomically
from covey.local.plan import Plan, members_of
from covey.local.processes import Launch
from covey.local.system import System

FOLDER = "contracts"
RELEASED = f"{FOLDER}/released"
"""What was published by the last release, laid out as `contracts` is; what is in `proto` there is here without it."""

_NOBODY = 9
"""The port of the discard service, on which nobody listens: composing a service must connect to nothing."""

_NO_KEY = "0" * 32
"""Verifies no token: a service that is composed answers nobody."""

_SECONDS = 30
_ABSENT = object()


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A contract and its file. `difference` says where the file was another; None: nowhere."""

    service: str
    file: Path
    document: dict[str, Any]
    difference: str | None


async def export(
    system: System, services: Iterable[str], environment: Mapping[str, str], *, seconds: float = _SECONDS
) -> list[Exported]:
    """Return the contracts of these services as the code has them, compared with their files; write nothing.

    Raises DefinitionError for a service that cannot be imported or composed, or not within so many seconds.
    """
    at_once = asyncio.Semaphore(os.cpu_count() or 1)
    launches = _launches(system, environment)

    async def one(service: str) -> list[Exported]:
        async with at_once:
            documents = await _described(system.module(service), launches[service], seconds)
        folder = system.folder(service) / FOLDER
        return [_compared(service, folder / name, document) for name, document in sorted(documents.items())]

    return [found for part in await asyncio.gather(*map(one, services)) for found in part]


def write(exported: Iterable[Exported]) -> None:
    """Write those whose file is another. One that is cut short by a crash is left as it was."""
    for one in exported:
        if one.difference is not None:
            one.file.parent.mkdir(exist_ok=True)
            write_atomically(one.file, as_text(one.document), mode=0o666)  # as any file: umask decides


def release(system: System, services: Iterable[str]) -> list[Path]:
    """Have what these services publish now be their last release, and return the files that were others before.

    Contracts that were published and are no more leave the release, too.
    """
    changed = []
    for service in services:
        own, released = system.folder(service) / FOLDER, system.folder(service) / RELEASED
        documents = {name: own / name for name in ("asyncapi.json", "openapi.json")}
        protos = {str(file.relative_to(own / "proto")): file for file in (own / "proto").rglob("*.proto")}
        for name, file in {**documents, **protos}.items():
            was = released / name
            if not was.is_file() or was.read_bytes() != file.read_bytes():
                was.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(was, file.read_text(), mode=0o666)
                changed.append(was)
        for gone in [file for file in released.rglob("*.proto") if str(file.relative_to(released)) not in protos]:
            gone.unlink()
            changed.append(gone)
    return changed


def table(exported: Sequence[Exported], *, written: bool) -> str:
    """Return a line for each file that was another, and what to do about it."""
    drifted = [one for one in exported if one.difference is not None]
    if not drifted:
        return f"{len(exported)} contracts are what the code says"
    if written:
        return "\n".join(f"wrote {_from_here(one)}" for one in drifted)
    lines = [f"{_from_here(one)} is not what the code says: {one.difference}" for one in drifted]
    services = dict.fromkeys(one.service for one in drifted)
    return "\n".join([*lines, f"`covey export {' '.join(services)}` writes them anew; check them in"])


def as_json(exported: Iterable[Exported]) -> str:
    """Return the same for a script: service, file and the first difference of each, null where there was none."""
    return json.dumps(
        [{"service": one.service, "file": _from_here(one), "difference": one.difference} for one in exported]
    )


def as_text(document: dict[str, Any]) -> str:
    """Return a document as it stands in its file: the same for the same code."""
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def difference_from(file: Path, document: dict[str, Any]) -> str | None:
    """Return the first place where a file is not what the document is, with both; None: nowhere."""
    try:
        text = file.read_text()
        if text == as_text(document):
            return None
        return next(_differences(json.loads(text), document, ""), "it is laid out differently")
    except FileNotFoundError:
        return "there is no such file"
    except ValueError:
        return "it is not JSON"


def _from_here(one: Exported) -> str:
    return os.path.relpath(one.file)


def _compared(service: str, file: Path, document: dict[str, Any]) -> Exported:
    return Exported(service=service, file=file, document=document, difference=difference_from(file, document))


def _differences(was: Any, now: Any, path: str) -> Iterator[str]:
    """Yield each place where two values differ, as a JSON Pointer (RFC 6901), with both."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name in sorted(was.keys() | now.keys()):
            step = name.replace("~", "~0").replace("/", "~1")
            yield from _differences(was.get(name, _ABSENT), now.get(name, _ABSENT), f"{path}/{step}")
    elif isinstance(was, list) and isinstance(now, list):
        for place, (old, new) in enumerate(zip_longest(was, now, fillvalue=_ABSENT)):
            yield from _differences(old, new, f"{path}/{place}")
    elif was is _ABSENT or now is _ABSENT or was != now:
        yield f"{path}: the file has {_shown(was)}, the code {_shown(now)}"


def _shown(value: Any) -> str:
    text = "nothing" if value is _ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _launches(system: System, environment: Mapping[str, str]) -> dict[str, Launch]:
    """Return how `covey up` would start each service, with addresses where nobody listens."""
    members = members_of(system, {}, lambda name: _NOBODY)
    nowhere = f"127.0.0.1:{_NOBODY}"
    plan = Plan(
        system=system,
        members=members,
        addresses=Addresses(
            postgres_admin_url=f"postgresql://{nowhere}/postgres",
            nats_url=f"nats://{nowhere}",
            valkey_url=f"valkey://{nowhere}",
        ),
        database_urls={name: f"postgresql://{nowhere}/{name}" for name in system.services},
        outer_environment=environment,
        state=system.root,
        development_key=_NO_KEY,
    )
    services = [member for member in members if member.name in system.services]
    return {member.name: plan.program(member, plan.told(member)).prepare() for member in services}


async def _described(package: str, launch: Launch, seconds: float) -> dict[str, dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "covey.tools.describe", package),
        cwd=launch.folder,
        env=launch.environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(seconds):
            told, complaint = await process.communicate()
    except TimeoutError:
        raise DefinitionError(
            f"{launch.name}: it was not composed within {seconds:g} s; importing and composing it must wait for nothing"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise DefinitionError(f"{launch.name} has no contracts yet: {complaint.decode(errors='replace').strip()}")
    try:
        return dict(json.loads(told))
    except ValueError:
        raise CoveyError(f"{launch.name}: what describes it said no JSON: {told[:200]!r}") from None
