"""What every command needs: its place, which is the folder that it was called in, and its terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

T = TypeVar("T")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a script.")]


def root() -> Path:
    """Return the folder of the system. Raises ConfigurationError where there is none."""
    from covey.local.system import find_root

    return find_root(Path.cwd())


def state() -> Path:
    """Return its state folder. Raises ConfigurationError where there can be none."""
    from covey.local.chosen import state_folder

    return state_folder(root(), os.environ)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work to its end."""
    import asyncio

    return asyncio.run(work)


def colours() -> bool:
    """Tell whether whoever reads the output sees colours, and wants to."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def say(text: str) -> None:
    """Print, so that it is read at once."""
    typer.echo(text)
    sys.stdout.flush()


def say_if_heard(text: str) -> None:
    """Print, unless the terminal is gone: a system that nobody watches is still to be kept up and stopped in order."""
    with suppress(OSError):
        say(text)
