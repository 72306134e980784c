"""The demo: the shop is brought up, orders of every outcome go through it, payment is killed, and the books agree.

python -m shop.demo            # stays up until Ctrl-C
python -m shop.demo --exit     # ends after the audit; status 0 only if everything was as it should be
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from covey.errors import CoveyError
from covey.local.running import RunningSystem
from covey.local.up import covey
from shop.auditor import audit
from shop.client import ShopClient, order_of
from shop.killing import Killing
from shop.scenarios import SCENARIOS, Scenario
from shop.seed import PIECES, known_to_notification, known_to_order, seed
from shop.showing import conclude, exit_is_asked_for, run_until_signal, shown_shop, sources_of, unfinished_status
from shop.terminal import Terminal
from shop.timeline import Moment, timeline

T = TypeVar("T")

_TITLE = "covey: a shop of six services; a payment provider, a carrier and a mail server that misbehave"

_SERVICE_STYLES = {
    "order": "cyan",
    "inventory": "magenta",
    "payment": "blue",
    "shipping": "yellow",
    "notification": "green",
    "provider": "bold",
    "carrier": "bold",
    "mail-sink": "bold",
}

_SAID = ("inbox", "outbox", "saga")


class Demo:
    """One run. What is not as it should be is kept in `failures`."""

    def __init__(self, system: RunningSystem, client: ShopClient, terminal: Terminal) -> None:
        self.failures: list[str] = []
        self._system = system
        self._client = client
        self._terminal = terminal
        self._accepted: list[UUID] = []
        self._sources = sources_of(system)

    async def run(self) -> None:
        """Go through all parts but the last, which is `conclude`."""
        products = await self._seed()
        orders = await self._outcomes(products)
        await self._timelines(orders)
        await self._kill(products)

    async def conclude(self, began: float) -> int:
        """Audit the books, say how it has ended, and return the exit status: 0 only if all was as it should be.

        `began` is when everything did, by `time.perf_counter`.
        """
        await self._audit()
        conclude(self._terminal, self.failures, time.perf_counter() - began)
        return 1 if self.failures else 0

    async def _seed(self) -> dict[str, UUID]:
        self._terminal.heading("Products")
        products = await seed(self._client)
        self._terminal.meanwhile("order hears of them from inventory's events")
        await known_to_order(self._sources.databases["order"], set(products.values()))
        self._check(f"{len(products)} products, {PIECES} pieces of each; order knows their prices by event")
        return products

    async def _outcomes(self, products: dict[str, UUID]) -> list[tuple[Scenario, UUID]]:
        self._terminal.heading("Orders of every outcome")
        outcomes = await self._watched(
            "settling", {scenario.title: self._one(scenario, products) for scenario in SCENARIOS}
        )
        placed = zip(SCENARIOS, outcomes, strict=True)
        return [(scenario, order_id) for scenario, order_id in placed if order_id is not None]

    async def _one(self, scenario: Scenario, products: dict[str, UUID]) -> UUID | None:
        began = time.perf_counter()
        try:
            user_id = await self._register(scenario.mailbox, wants_mail=scenario.wants_mail)
            order_id = await scenario.act(self._client, scenario.order(products, user_id))
            self._accepted.append(order_id)
            order = await self._client.settled(order_id)
            seconds = time.perf_counter() - began
            mail = await self._mail(order)
        except CoveyError as error:
            self._check(f"{scenario.title:<42} {error}", good=False)
            return None
        outcome = f"{order['status']:<10} {seconds:5.1f} s  {order['reason'] or _told(mail)}"
        good = scenario.fulfilled_by(order) and scenario.told_by(mail)
        self._check(f"{scenario.title:<42} {outcome}", good=good, indent=63)
        return order_id

    async def _register(self, mailbox: str = "ada", *, wants_mail: bool = True) -> UUID:
        """Open an account, and wait until notification has heard of it."""
        user_id = await self._client.register(mailbox, wants_mail=wants_mail)
        await known_to_notification(self._sources.databases["notification"], {user_id})
        return user_id

    async def _mail(self, order: dict[str, Any]) -> dict[str, Any] | None:
        """Return what has become of the mail about an order, when all has been done for it."""
        if order["status"] == "confirmed":
            await self._client.happened(order["id"], "place-order completed")
        return await self._client.mail(order["id"])

    async def _watched(self, doing: str, work: Mapping[str, Coroutine[Any, Any, T]]) -> list[T]:
        """Do all of this at the same time, and show what is still under way; return the results in their order."""
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one, name=name) for name, one in work.items()]
            while pending := [task for task in tasks if not task.done()]:
                names = ", ".join(task.get_name() for task in pending)
                self._terminal.meanwhile(f"{doing}, {time.perf_counter() - began:.0f} s: {names}")
                await asyncio.wait(pending, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
        return [task.result() for task in tasks]

    async def _timelines(self, orders: Sequence[tuple[Scenario, UUID]]) -> None:
        self._terminal.heading("What was done for each, in the books of every service; for some message by message")
        logs = self._system.state / "logs"
        timelines = await self._watched(
            "reading", {scenario.title: timeline(self._sources, order_id, logs) for scenario, order_id in orders}
        )
        for (scenario, order_id), moments in zip(orders, timelines, strict=True):
            self._terminal.say(f"\n  {self._terminal.styled(scenario.title, 'bold')}, order {order_id}")
            if scenario.followed:
                self._tell_all(moments)
            else:
                self._tell_deeds(moments)

    def _tell_all(self, moments: Sequence[Moment]) -> None:
        for moment in moments:
            kind = self._terminal.styled(f"{moment.kind:<8}", "dim")
            self._terminal.beside(f"{self._when_and_who(moment, moments[0])}{kind}  ", moment.text, at=39)

    def _tell_deeds(self, moments: Sequence[Moment]) -> None:
        """Tell what was done, without messages and sagas: in a line what a service did until another did something.

        What went wrong with it stands in lines of its own.
        """
        deeds = [moment for moment in moments if moment.kind not in _SAID]
        for _, group in groupby(deeds, lambda moment: (moment.service, moment.kind == "log")):
            together = list(group)
            text = "; ".join(_counted(moment.text for moment in together))
            self._terminal.beside(self._when_and_who(together[0], moments[0]), text, at=29)

    def _when_and_who(self, moment: Moment, first: Moment) -> str:
        milliseconds = (moment.at - first.at).total_seconds() * 1000
        service = self._terminal.styled(f"{moment.service:<12}", _SERVICE_STYLES.get(moment.service, "dim"))
        return f"  {milliseconds:8,.0f} ms  {service}  "

    async def _kill(self, products: dict[str, UUID]) -> None:
        self._terminal.heading("kill -9 of payment, with orders under way")
        payment = self._system.units["payment"]
        killing = Killing(self._client, payment, self._sources.databases["payment"])
        user_id = await self._register()
        wanted = [order_of({product_id: 1}, "tok_slow", user_id) for product_id in products.values()]
        orders = await killing.place(wanted * 2)
        self._accepted += orders
        self._check(
            f"{len(orders)} orders are placed, and payment has asked the provider about {await killing.asked()}"
        )
        pid = payment.pid
        waiting = await killing.kill()
        self._check(f"payment is killed: SIGKILL to pid {pid}; {waiting} orders wait", good=waiting > 0)
        self._terminal.meanwhile("the supervisor starts payment again")
        await payment.up()
        self._check(f"payment is back after {killing.since_kill():.1f} s as pid {payment.pid}")
        settled = await self._watched("finishing", {str(id): self._client.settled(id) for id in orders})
        confirmed = sum(order["status"] == "confirmed" for order in settled)
        text = f"{confirmed} of {len(orders)} orders are confirmed, {killing.since_kill():.1f} s after the kill"
        self._check(text, good=confirmed == len(orders))

    async def _audit(self) -> None:
        self._terminal.heading("The books")
        self._terminal.meanwhile("waiting until nothing moves")
        found = await audit(self._sources, self._accepted)
        for line in found.summary():
            self._terminal.say(f"  {line}")
        for rule, violations in found.findings.items():
            self._check(rule, good=not violations)
            for violation in violations:
                self._terminal.beside("      ", violation, at=6)

    def _check(self, text: str, *, good: bool = True, indent: int = 0) -> None:
        self._terminal.result(text, good=good, indent=indent)
        if not good:
            self.failures.append(text)


def _counted(texts: Iterable[str]) -> Iterator[str]:
    """Yield each text, once where it stands several times in a row, and how often that is."""
    for text, several in groupby(texts):
        number = sum(1 for _ in several)
        yield f"{number} × {text}" if number > 1 else text


def _told(mail: dict[str, Any] | None) -> str:
    """Return what has become of a mail, in words."""
    if mail is None:
        return "no mail"
    return f"mail {mail['status']}" + (f": {mail['reason']}" if mail["reason"] else _times(mail["attempts"]))


def _times(attempts: int) -> str:
    return f", handed over {attempts} times" if attempts > 1 else ""


async def run(terminal: Terminal, *, stay: bool, state: Path | None = None) -> int:
    """Bring the shop up, run the demo, and stay up if asked to; return the exit status."""
    began = time.perf_counter()
    terminal.say(terminal.styled(_TITLE, "bold"))
    terminal.heading("System")
    async with shown_shop(terminal, state) as (system, client):
        demo = Demo(system, client, terminal)
        await demo.run()
        status = await demo.conclude(began)
        if stay:
            _invite(terminal, system)
            await asyncio.Event().wait()
    return status


def _invite(terminal: Terminal, system: RunningSystem) -> None:
    terminal.say(f"The shop stays up; Ctrl-C stops it. In another terminal: {covey()} status, {covey()} logs -f, and")
    terminal.say(f"  curl {system.url('inventory')}/api/v1/products")


def main() -> int:
    """Run the demo and return its exit status."""
    parser = argparse.ArgumentParser(prog="shop.demo", description="Bring the shop up and show what it does.")
    parser.add_argument(
        "--exit",
        action="store_true",
        default=exit_is_asked_for(),
        help="end after the audit, with status 0 only if all was well; the same as EXIT=1",
    )
    parser.add_argument("--state", type=Path, help="the state folder of the system, by default .covey")
    arguments = parser.parse_args()
    terminal = Terminal()
    work = run(terminal, stay=not arguments.exit, state=arguments.state)
    return run_until_signal(terminal, work, unfinished=unfinished_status(by_itself=arguments.exit))


if __name__ == "__main__":
    sys.exit(main())
