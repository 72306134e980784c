"""What the pages show as code is code: it runs, type-checks, parses, or stands in the file that it is taken from."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import click
import pytest
import typer

from covey.cli import app
from covey.local.system import System
from tests.docs.pages import ROOT, Block, all_blocks, blocks, name_of, own_code, pages

LANGUAGES = {"python", "toml", "json", "sql", "sh", "console", "http", "text"}
_ORDINARY = {"cd", "cp", "curl", "export", "git", "kill", "mkdir", "psql", "uvicorn", "pytest", "jq"}


def test_every_block_names_a_language_that_is_checked() -> None:
    unchecked = [str(block) for page in pages() for block in blocks(page) if block.language not in LANGUAGES]

    assert not unchecked


@pytest.mark.parametrize("block", [b for b in all_blocks(*LANGUAGES) if b.file is not None], ids=str)
def test_an_excerpt_stands_in_its_file(block: Block) -> None:
    assert block.file is not None
    assert block.text in block.file.read_text()


@pytest.mark.parametrize("block", [b for b in all_blocks("python") if "wrong" in b.words], ids=str)
def test_code_that_is_shown_as_wrong_is_at_least_python(block: Block) -> None:
    compile(block.text, str(block), "exec", flags=0x2000)  # ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


WITH_CODE = [page for page in pages() if own_code(page)]


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_the_python_of_a_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType(f"docs_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where pydantic looks for what annotations name

    exec(compile(own_code(page), str(page), "exec"), module.__dict__)


def test_the_python_of_the_pages_type_checks(tmp_path: Path) -> None:
    files = {tmp_path / (re.sub(r"\W", "_", name_of(page)) + ".py"): page for page in WITH_CODE}
    for file, page in files.items():
        file.write_text(own_code(page))

    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), *map(str, files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    output = checked.stdout + checked.stderr
    for file, page in files.items():
        output = output.replace(str(file), name_of(page))
    assert checked.returncode == 0, output


@pytest.mark.parametrize("block", all_blocks("toml"), ids=str)
def test_toml_is_toml_and_a_system_file_describes_a_system(block: Block) -> None:
    found = tomllib.loads(block.text)

    if "system" in found:
        System.model_validate(found)


@pytest.mark.parametrize("block", all_blocks("json"), ids=str)
def test_json_is_json(block: Block) -> None:
    json.loads(block.text)


async def test_sql_runs_in_a_database_of_a_service(make_database: Callable[[Path | None], str]) -> None:
    connection = await asyncpg.connect(make_database(None))
    try:
        for block in all_blocks("sql"):
            try:
                await connection.execute(block.text)
            except asyncpg.PostgresError as error:
                pytest.fail(f"{block}: {error}")
    finally:
        await connection.close()


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the words of every command of a block; in a console only lines that begin with `$` are commands."""
    text = block.text.replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    for line in lines:
        for command in re.split(r"\s(?:\||&&|;)\s", line):
            words = shlex.split(command, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                yield words


@pytest.mark.parametrize("block", all_blocks("sh", "console"), ids=str)
def test_commands_exist(block: Block) -> None:
    folder = ROOT
    for words in commands(block):
        program, arguments = Path(words[0]).name, words[1:]
        match program:
            case "cd":
                folder = (folder / arguments[0]).resolve()
                assert folder.is_dir(), words
            case "make":
                targets = [word for word in arguments if "=" not in word]
                makefile = (ROOT / "Makefile").read_text()
                assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets), words
            case "python" | "python3":
                require_python(arguments, folder)
            case "covey":
                require_covey(arguments)
            case _:
                assert program in _ORDINARY, f"{program} is no command that the pages use"


def require_python(arguments: list[str], folder: Path) -> None:
    """Fail unless the module or file that Python is told to run exists, installed or in that folder."""
    if arguments[0] == "-m":
        found = [folder, ROOT, *ROOT.glob("services/*")]
        name = arguments[1].replace(".", "/")
        assert any((f / name).is_dir() or (f / f"{name}.py").is_file() for f in found) or find_spec(arguments[1])
    else:
        assert (folder / arguments[0]).is_file(), arguments


def require_covey(arguments: list[str]) -> None:
    """Fail unless the command line of covey takes these arguments."""
    command: click.Command = typer.main.get_command(app)  # type: ignore[assignment]  # typer has its own click
    words = list(arguments)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in command.commands, f"there is no `covey {name}`"
        command = command.commands[name]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in words if word.startswith("-") and word.split("=")[0] not in known | {"--help"}]
    assert not unknown, f"covey {command.name} has no {', '.join(unknown)}"
