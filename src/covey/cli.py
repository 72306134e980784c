"""The command `covey`.

Exit status: 0 it is done; 1 it failed, and standard error says why; 2 it was called wrongly or `covey.toml` is
wrong; 3 (`status`) the system is not up. What a command needs is imported inside it, so that `--help` is quick.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from covey.commands import contracts, dead, running, trials
from covey.commands.terminal import say
from covey.errors import ConfigurationError, CoveyError

app = typer.Typer(
    help="Run a system of microservices on one machine, with the engines that it needs.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # rich takes longer to import than all the rest
    pretty_exceptions_enable=False,
)
for group in (running, trials, contracts):
    app.add_typer(group.commands)
app.add_typer(dead.commands, name="dead")


def main() -> None:
    """Run the command line; a CoveyError becomes one message on standard error."""
    try:
        app()
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - or Python complains when it flushes at exit
        sys.exit(1)
    except CoveyError as error:
        print(f"covey: {error}", file=sys.stderr)  # noqa: T201 - a command line prints
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)


def _say_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"covey {version('covey')}, Python {sys.version.split()[0]}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and end.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """Take what stands before a command."""


if __name__ == "__main__":
    main()
