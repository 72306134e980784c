"""The tour, `covey demo`: what can die in the shop is killed, one thing after another, and every time the books agree.

On a terminal each act waits for a key. Without one, or with EXIT=1, it runs through by itself and its exit status is
0 only if all was as it should be.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from covey.clock import SystemClock
from covey.local.dead import dead_letters_of
from covey.local.up import covey
from shop.seed import known_to_notification, known_to_order, seed
from shop.showing import conclude, exit_is_asked_for, run_until_signal, shown_shop, unfinished_status
from shop.terminal import Terminal
from shop.tour.act import Act, perform
from shop.tour.keys import Keys, Nobody, Quit, keyboard
from shop.tour.poison import tidy
from shop.tour.program import ACTS
from shop.tour.pulse import Gauge
from shop.tour.stage import Stage


async def tour(terminal: Terminal, *, attended: bool, state: Path | None = None, acts: Sequence[Act] = ACTS) -> int:
    """Bring the shop up, play the acts, stay up if there is anybody; return the exit status."""
    terminal.say(terminal.styled("covey: a tour of a shop whose service, database and broker are killed", "bold"))
    with _keys(attended) as keys:
        return await _tour(terminal, keys, state, acts)


async def _tour(terminal: Terminal, keys: Keys, state: Path | None, acts: Sequence[Act]) -> int:
    began = time.perf_counter()
    since = SystemClock().now()
    async with shown_shop(terminal, state) as (system, client):
        gauge = Gauge({name: system.database_url(name) for name in system.system.services}, since)
        try:
            stage = Stage(system, client, gauge, terminal, keys)
            await _open(stage)
            await perform(stage, acts)
            conclude(terminal, stage.failures, time.perf_counter() - began)
            if keys.attended:
                terminal.say("The shop stays up for you.")
                stage.suggest(
                    f"{covey()} status", f"{covey()} logs -f", f"curl {system.url('inventory')}/api/v1/products"
                )
                await stage.turn("stop the shop")
        except Quit:
            pass
        finally:
            gauge.close()
    if keys.attended:
        terminal.say("stopped")
    return 1 if stage.failures else 0


async def _open(stage: Stage) -> None:
    """Fill the shop, and remove what a tour has left that was stopped in the middle."""
    async with dead_letters_of("order", stage.system.state, {}) as letters:
        await tidy(letters)
    stage.products = await seed(stage.client)
    stage.user_id = await stage.client.register()
    stage.terminal.meanwhile("order hears of the products, and notification of the customer, by events")
    await known_to_order(stage.system.database_url("order"), set(stage.products.values()))
    await known_to_notification(stage.system.database_url("notification"), {stage.user_id})
    await stage.invariants()


@contextmanager
def _keys(attended: bool) -> Iterator[Keys]:
    if attended:
        with keyboard() as keys:
            yield keys
    else:
        yield Nobody()


def main() -> int:
    """Run the tour and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="shop.tour", description="Kill a service, the database, the broker and a replica, and see."
    )
    parser.add_argument("--state", type=Path, help="the state folder of the system, by default .covey")
    arguments = parser.parse_args()
    attended = sys.stdin.isatty() and sys.stdout.isatty() and not exit_is_asked_for()
    terminal = Terminal()
    work = tour(terminal, attended=attended, state=arguments.state)
    return run_until_signal(terminal, work, unfinished=unfinished_status(by_itself=not attended))


if __name__ == "__main__":
    sys.exit(main())
