"""`covey export`: what it writes, what it finds, and what it says of a service that has no contracts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from covey.errors import DefinitionError
from covey.local.system import System, read_system
from covey.tools.export import Exported, as_text, difference_from, export, release, write
from tests.tools.conftest import MAIN, MESSAGES
from tests.tools.schemas import asyncapi_mistakes, openapi_mistakes

WriteSystem = Callable[..., System]
FIRST_SERVICE = Path(__file__).parents[2] / "examples/first-service"


async def exported(system: System) -> dict[str, Exported]:
    return {one.file.name: one for one in await export(system, system.services, os.environ)}


def covey(system: System, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "covey.cli", *arguments]
    return subprocess.run(command, cwd=system.root, capture_output=True, text=True, check=False)


async def test_a_service_that_is_composed_from_settings_is_described(write_system: WriteSystem) -> None:
    found = await exported(write_system())

    assert list(found["openapi.json"].document["paths"]) == ["/members/{name}"]
    assert list(found["asyncapi.json"].document["operations"]) == ["send.club.joined.v1"]
    assert openapi_mistakes(found["openapi.json"].document) == []
    assert asyncapi_mistakes(found["asyncapi.json"].document) == []


async def test_messages_that_stand_elsewhere_than_in_messages_are_found_too() -> None:
    found = await exported(read_system(FIRST_SERVICE))

    assert list(found["asyncapi.json"].document["operations"]) == ["send.ballot.vote-cast.v1"]


async def test_what_was_written_is_what_the_code_says_and_is_not_written_again(write_system: WriteSystem) -> None:
    system = write_system()
    first = await exported(system)
    assert {one.difference for one in first.values()} == {"there is no such file"}
    write(first.values())
    files = sorted((system.folder("club") / "contracts").iterdir())
    before = [(file.name, file.stat().st_mtime_ns) for file in files]

    again = await exported(system)
    write(again.values())

    assert {one.difference for one in again.values()} == {None}
    assert [(file.name, file.stat().st_mtime_ns) for file in files] == before
    assert [name for name, _ in before] == ["asyncapi.json", "openapi.json"]


DOCUMENT = {"b": {"key": "name"}, "a": ["name"]}


def test_a_document_is_sorted_and_ends_with_its_line() -> None:
    assert as_text(DOCUMENT).startswith('{\n  "a": [\n')
    assert as_text(DOCUMENT).endswith("}\n")


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ('"key": "name"', '"key": "id"', '/b/key: the file has "id", the code "name"'),
        ('"key"', '"k/y"', '/b/k~1y: the file has "name", the code nothing'),
        ('"name"\n  ]', '"name",\n"age"\n  ]', '/a/1: the file has "age", the code nothing'),
        (
            '{\n    "key": "name"\n  }',
            '"' + "x" * 80 + '"',
            f'/b: the file has "{"x" * 56}…, the code {{"key": "name"}}',
        ),
        ("{\n", "{\n\n", "it is laid out differently"),
        ("{\n", "<<<<<<< HEAD\n", "it is not JSON"),
    ],
)
def test_the_first_difference_is_told(tmp_path: Path, old: str, new: str, difference: str) -> None:
    file = tmp_path / "asyncapi.json"
    assert old in as_text(DOCUMENT)
    file.write_text(as_text(DOCUMENT).replace(old, new, 1))

    assert difference_from(file, DOCUMENT) == difference


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"main.py": "import nowhere"}, "club has no contracts yet:.*No module named 'nowhere'"),
        ({"main.py": "app = 1"}, r"there is no `service = Service\(…\)` in club_service.main"),
        ({"main.py": None}, r"there is no `service = Service\(…\)` in club_service.main"),
        ({"main.py": MAIN.replace("bar_url: str", "bar: int")}, "BAR: Field required"),
        ({"main.py": MAIN.replace("api = APIRouter()", "open_connection()")}, "open_connection"),
        ({"messages.py": MESSAGES.replace('"name"', '"nam"')}, "'nam' is not one of its fields"),
        (
            {"main.py": MAIN.replace('Service("club"', 'Service("clubs"')},
            r"covey\.toml has \[services\.club\], and the code there is Service\('clubs'\)",
        ),
    ],
)
async def test_a_service_that_cannot_be_described_is_named_with_the_reason(
    write_system: WriteSystem, files: dict[str, str | None], complaint: str
) -> None:
    system = write_system(**{f"club_service/{name}": text for name, text in files.items()})

    with pytest.raises(DefinitionError, match=f"(?s){complaint}"):
        await exported(system)


async def test_a_service_that_waits_for_something_is_given_up(write_system: WriteSystem) -> None:
    waiting = MAIN.replace("api = APIRouter()", "import time; time.sleep(60)")
    system = write_system(**{"club_service/main.py": waiting})

    with pytest.raises(DefinitionError, match="club: it was not composed within 1 s"):
        await export(system, ["club"], os.environ, seconds=1)


READER = """
from covey.message import Event
from covey.messaging.router import Router
from covey.service import Parts, Service

router = Router()


class Left(Event, type="gym.left.v1"):
    name: str


@router.on(Left)
async def forget(event, work): ...


service = Service("club", Parts(messages=[router]))
"""


def test_the_commands_tell_what_is_wrong_and_end_with_1(write_system: WriteSystem) -> None:
    system = write_system(**{"club_service/main.py": READER})

    missing = covey(system, "export", "--check")
    written = covey(system, "export", "club", "--json")
    held, as_json = covey(system, "contracts"), covey(system, "contracts", "--json")

    assert (missing.returncode, missing.stdout.count("there is no such file")) == (1, 2)
    assert missing.stdout.endswith("`covey export club` writes them anew; check them in\n")
    assert written.returncode == 0
    assert json.loads(written.stdout)[0]["file"] == "services/club/contracts/asyncapi.json"
    assert held.returncode == as_json.returncode == 1
    assert held.stdout == "club breaks on gym.left.v1 of gym: no service publishes it\n"
    assert json.loads(as_json.stdout)[0]["consumer"] == "club"


def test_a_service_that_is_none_is_named(write_system: WriteSystem) -> None:
    told = covey(write_system(), "export", "gym")

    assert told.returncode == 2
    assert "'gym' is no service of town: club" in " ".join(told.stderr.split())


def test_a_release_is_what_is_published_and_nothing_that_is_no_more(write_system: WriteSystem) -> None:
    published = {"contracts/asyncapi.json": "{}", "contracts/openapi.json": '{"paths": {}}'}
    system = write_system(**published, **{"contracts/proto/club/v1/club.proto": "new"})
    released = system.folder("club") / "contracts/released"
    (released / "club/v0").mkdir(parents=True)
    (released / "club/v0/club.proto").write_text("gone")

    first, again = release(system, ["club"]), release(system, ["club"])

    assert {str(file.relative_to(released)): file.read_text() for file in released.rglob("*") if file.is_file()} == {
        "asyncapi.json": "{}",
        "openapi.json": '{"paths": {}}',
        "club/v1/club.proto": "new",
    }
    assert [len(first), len(again)] == [4, 0]


def test_what_is_published_is_the_last_release_once_that_is_said(write_system: WriteSystem) -> None:
    system = write_system()

    assert covey(system, "export", "--release", "--check").returncode == 2
    assert covey(system, "export", "--release").returncode == 0
    assert covey(system, "contracts").stdout == "all 1 expectations are met\n"
