"""An act of the tour: what is said before and after, and what is done in between."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from covey.errors import CoveyError
from shop.tour.keys import Skipped
from shop.tour.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Act:
    """Two lines before: what is done, what to watch for. Two after: what has happened. `page` explains it.

    `needs` names engines that must be ours to kill.
    """

    title: str
    before: tuple[str, str]
    after: tuple[str, str]
    page: str
    play: Callable[[Stage], Awaitable[None]]
    needs: tuple[str, ...] = ()


async def perform(stage: Stage, acts: Sequence[Act]) -> None:
    """Play one act after another, the invariants after each; what fails in one does not keep the next from its turn."""
    for number, act in enumerate(acts, 1):
        stage.terminal.heading(f"{number}/{len(acts)}  {act.title}")
        stage.terminal.beside("  ", " ".join(act.before), 2)
        foreign = [name for name in act.needs if name not in stage.system.units]
        if foreign:
            stage.terminal.say(f"  left out: {', '.join(foreign)} is one of yours, by an address in the environment")
            continue
        try:
            await _perform(stage, act)
        except Skipped:
            stage.terminal.say("  left out")


async def _perform(stage: Stage, act: Act) -> None:
    try:
        await act.play(stage)
        await stage.invariants()
    except CoveyError as error:
        stage.check(str(error), good=False)
    stage.terminal.beside("  ", " ".join(act.after), 2)
    stage.terminal.say(f"  {stage.terminal.styled(f'read {act.page}', 'bold')}")
