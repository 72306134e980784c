"""What a state folder remembers: kept when it can be read, never lost when it cannot."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from dotenv import dotenv_values

from covey.errors import ConfigurationError
from covey.local.environment import environment_file, read_environment, write_environment
from covey.local.state import StateFolder, open_state, supervisor_of


@pytest_asyncio.fixture
async def folder(tmp_path: Path) -> AsyncIterator[StateFolder]:
    opened = await open_state(tmp_path / "state")
    yield opened
    await opened.close()


Ask = Callable[[StateFolder, str], object]


@pytest.mark.parametrize(("file", "ask"), [("ports.json", StateFolder.port), ("secrets.json", StateFolder.secret)])
@pytest.mark.parametrize(
    "text", ["[]", '["nats"]', '"nats"', "5", "null", "{", '{"nats": null}', '{"nats": {}}', '{"nats": ""}', "\xff"]
)
async def test_what_cannot_be_read_is_named_and_kept(folder: StateFolder, file: str, ask: Ask, text: str) -> None:
    path = folder.path / file
    path.write_text(text, encoding="latin-1")

    for name in ("nats", "valkey"):
        with pytest.raises(ConfigurationError, match=rf"{file} cannot be read .*remove it"):
            ask(folder, name)

    assert path.read_text(encoding="latin-1") == text
    path.unlink()
    assert ask(folder, "nats") == ask(folder, "nats")


@pytest.mark.parametrize("port", ["70000", "0", "-1", "true", "1.5", '"5432"'])
async def test_a_port_that_is_none_is_named(folder: StateFolder, port: str) -> None:
    (folder.path / "ports.json").write_text(f'{{"nats": {port}}}')

    with pytest.raises(ConfigurationError, match=r"ports\.json cannot be read \(nats: "):
        folder.port("nats")


async def test_what_was_said_of_a_damaged_file_shows_no_secret(folder: StateFolder) -> None:
    (folder.path / "secrets.json").write_text('{"nats": "hunter2", "order": ["hunter2"]}')

    with pytest.raises(ConfigurationError) as caught:
        folder.secret("nats")

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("file", ["ports.json", "secrets.json"])
async def test_an_empty_file_remembers_nothing(folder: StateFolder, file: str) -> None:
    (folder.path / file).touch()

    assert folder.port("nats") == folder.port("nats")
    assert folder.secret("nats") == folder.secret("nats")


@pytest.mark.parametrize("text", ["[]", "5", "null", "{}", '{"pid": "x"}', '{"pid": 1}'])
def test_a_lock_that_says_nothing_has_no_supervisor(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock").write_text(text)

    assert supervisor_of(tmp_path) is None


def test_what_a_service_is_told_can_be_read_from_its_file_whatever_it_is(tmp_path: Path) -> None:
    told = {
        "PLAIN": "postgresql://a:b%2F@127.0.0.1:5432/a?sslmode=disable",
        "EMPTY": "",
        "COMMENT": "a #b",
        "SPACES": "  a  ",
        "QUOTES": """ 'a' "b" """,
        "BACKSLASH": "C:\\new\\",
        "LINES": "a\nB=c\n",
        "DOLLAR": "$HOME",
    }

    write_environment(tmp_path, "order", told)

    assert read_environment(tmp_path, "order") == told
    assert dotenv_values(environment_file(tmp_path, "order")) == told
    assert environment_file(tmp_path, "order").read_text().splitlines()[0] == f"PLAIN={told['PLAIN']}"


def test_what_reads_like_a_variable_in_what_a_service_is_told_is_none(tmp_path: Path) -> None:
    write_environment(tmp_path, "order", {"TEMPLATE": "${HOME}/it's", "NEXT": "1"})

    assert read_environment(tmp_path, "order") == {"TEMPLATE": "${HOME}/it's", "NEXT": "1"}


async def test_what_customers_have_said_is_for_this_user_only(folder: StateFolder) -> None:
    assert [stat.S_IMODE((folder.path / name).stat().st_mode) for name in ("logs", "data")] == [0o700, 0o700]
