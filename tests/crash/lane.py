"""One shop in which orders are placed one after the other, each with a kill at one point of it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from covey.testing.eventually import eventually
from tests.crash.foresight import foresee
from tests.crash.logbook import DIRECT, TURN, Sighting, is_typical
from tests.crash.points import Point, points_of
from tests.crash.watcher import Watcher
from tests.harness.customer import Customer
from tests.harness.lanes import Lanes
from tests.harness.ledger import Found, Ledger
from tests.harness.outcomes import Outcome
from tests.harness.shop import Shop
from tests.wire.exchange import Call, Mailing, Statement

SETTLING = timedelta(seconds=30)
SETTLING_SECONDS = SETTLING.total_seconds()
REGISTERING, UNSUBSCRIBING, PLACING = "POST /users", "PATCH /users/…/preferences", "POST /orders"
CANCELLING, RETURNING = "POST /orders/…/cancel", "POST /orders/…/returns"
_APART_SECONDS = 1.3
"""So far apart orders begin of whose calls every other fails: fewer than 20 in 10 s, or a breaker decides."""

_RECORDINGS = 12
_ONLY_WHEN_BUSY = (TURN, DIRECT, "ingest")
"""Where an order differs whose messages are left to workers; all else is struck in the same order without that."""


class Unsettled(Exception):
    """An order did not come to rest in time; the text says what was left."""


@dataclass(slots=True)
class Strike:
    """What came of a kill. Times are seconds: until ready after the kill, until work was done again after that
    (0: before it was ready; None: there was none to do), until the order was at rest after the kill.
    """

    point: Point
    status: int = 0
    unfinished: list[str] = field(default_factory=list)
    ready_seconds: float = 0.0
    resumed_seconds: float | None = None
    settled_seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


class Lane:
    """Runs orders in one shop. One at a time: whatever moves belongs to the order that is under way."""

    def __init__(self, shop: Shop, ledger: Ledger, lanes: Mapping[str, Lanes]) -> None:
        self.shop = shop
        self._ledger = ledger
        self._busy = lanes
        self._down_at = -_APART_SECONDS
        self.watchers: dict[str, Watcher] = {}
        for service in shop.replicas:
            replica = shop.replica(service)
            self.watchers[service] = Watcher(replica.kill, partial(self._foresee, service))
            replica.tap(self.watchers[service])

    async def record(self, outcome: Outcome) -> list[Point]:
        """Run an order of an outcome undisturbed, and return every point of it.

        Runs it again until it was typical: a process that was slow for a moment leaves what arrives to its workers,
        where it otherwise handles it at once. Both are recorded, each in an outcome that always does it so.
        """
        for _ in range(_RECORDINGS):
            points = await self._record(outcome)
            if all(is_typical(watcher.logbook, busy=outcome.busy) for watcher in self.watchers.values()):
                return points
        raise Unsettled(f"{outcome.name}: in {_RECORDINGS} runs it never went its typical way")

    async def _record(self, outcome: Outcome) -> list[Point]:
        customer = await self._begin(outcome, None)
        async with self._lanes(outcome):
            ordering = asyncio.create_task(self._order(customer, outcome))
            await self._settled(customer, ordering)
        problems = await self._problems(customer)
        if problems:
            raise Unsettled(f"{outcome.name}, undisturbed: {'; '.join(problems)}")
        return [
            point
            for service, watcher in self.watchers.items()
            if not outcome.differs_in or service in outcome.differs_in
            for point in points_of(outcome.name, service, self._struck(service, watcher.logbook.entries))
            if not outcome.busy or point.about.startswith(_ONLY_WHEN_BUSY)
        ]

    def _struck(self, service: str, entries: list[Sighting]) -> list[Sighting]:
        """Return what was seen since the outcome differs from others."""
        return [one for one in entries if one.order > self._differs_from.get(service, -1)]

    @asynccontextmanager
    async def _lanes(self, outcome: Outcome) -> AsyncIterator[None]:
        """Have all services' lanes busy whenever something arrives, if the outcome wants that."""
        for service, watcher in self.watchers.items():
            watcher.busy = self._busy[service] if outcome.busy else None
        try:
            yield
        finally:
            for lanes in self._busy.values() if outcome.busy else ():
                await lanes.free_all()

    async def strike(self, point: Point, outcome: Outcome, *, cold: bool = False) -> Strike | None:
        """Run an order of the outcome and kill at the point; None: the point was not reached, and all went well."""
        customer = await self._begin(outcome, point)
        async with self._lanes(outcome):
            return await self._strike(point, outcome, customer, cold)

    async def _strike(self, point: Point, outcome: Outcome, customer: Customer, cold: bool) -> Strike | None:
        watcher, replica = self.watchers[point.service], self.shop.replica(point.service)
        if point.about.startswith(DIRECT):
            await watcher.rested()
        ordering = asyncio.create_task(self._order(customer, outcome))
        settled = asyncio.create_task(self._settled(customer, ordering))
        struck = asyncio.create_task(watcher.struck.wait())
        await asyncio.wait((settled, struck), return_when=asyncio.FIRST_COMPLETED)
        if not watcher.struck.is_set():
            struck.cancel()
            await settled
            return None
        killed_at = time.monotonic()
        strike = Strike(point, status=await replica.died())
        await self._busy[point.service].free_all()  # what it was about to store will not be
        strike.unfinished = await self._ledger.unfinished(customer.user_id)
        if not ordering.done():
            strike.unfinished.append("the customer waits for an answer")
        watcher.born()
        await replica.start(cold=cold)
        strike.ready_seconds = replica.ready_at - killed_at
        with suppress(Unsettled):
            await settled
        strike.settled_seconds = time.monotonic() - killed_at
        if watcher.worked_at is not None:
            strike.resumed_seconds = max(0.0, watcher.worked_at - replica.ready_at)
        strike.problems = await self._problems(customer)
        if strike.status != -signal.SIGKILL:
            strike.problems.append(f"the process ended with {strike.status}, not by SIGKILL")
        return strike

    async def _begin(self, outcome: Outcome, point: Point | None) -> Customer:
        """Have a customer who is about to order, and watch from now on what is done for them."""
        self._differs_from: dict[str, int] = {}
        customer = Customer(self.shop, self._ledger, outcome)
        if not (outcome.registers or outcome.stranger):
            await customer.register()
            await eventually(lambda: self._ledger.is_idle(), SETTLING)
        if outcome.carrier == "down" or outcome.gives_up:
            await asyncio.sleep(self._down_at + _APART_SECONDS - time.monotonic())
            self._down_at = time.monotonic()
        for service, watcher in self.watchers.items():
            watcher.watch(point if point and point.service == service else None)
        payment, shipping = self.watchers["payment"], self.watchers["shipping"]
        payment.booked, shipping.booked = self._booked, self._carried
        notification = self.watchers["notification"]
        notification.booked = self._taken
        notification.retrying = self._ledger.give_up_on_addresses if outcome.stranger else _go_on
        self._asked, self._cancelled = asyncio.Event(), asyncio.Event()
        payment.calling = self._wait_for_cancellation if outcome.cancels else _go_on
        if outcome.gives_up:
            payment.calling = partial(self._wait_until_given_up, customer)
        return customer

    async def _order(self, customer: Customer, outcome: Outcome) -> None:
        """Do all that the customer does, whatever is killed meanwhile."""
        watcher = self.watchers["order"]
        about = "return" if outcome.returns else None
        await self._ledger.tell_carrier(outcome.carrier or "answer", 1, about)
        await self._ledger.tell_mail_server("down" if outcome.mail_down else "accept", 2)
        if outcome.registers:
            self.watchers["user"].logbook.request = REGISTERING
            await customer.register()
            self.watchers["user"].logbook.request = ""
        if outcome.unsubscribes:
            self.watchers["user"].logbook.request = UNSUBSCRIBING
            await customer.unsubscribe()
            self.watchers["user"].logbook.request = ""
        watcher.logbook.request = PLACING
        order_id = await customer.place()
        watcher.logbook.request = ""
        if outcome.cancels:
            await self._asked.wait()
            watcher.logbook.request = CANCELLING
            await customer.cancel(order_id)
            watcher.logbook.request = ""
            self._cancelled.set()
        if outcome.returns:
            await customer.await_goods(order_id)  # how often that asks is chance, and no point
            if outcome.differs_late:
                await eventually(lambda: self._ledger.at_rest(customer.user_id), SETTLING)
                self._differs_from = {service: one.logbook.place() for service, one in self.watchers.items()}
            watcher.logbook.request = RETURNING
            await customer.send_back(order_id)
            watcher.logbook.request = ""
        if outcome.overdue:
            await customer.let_time_pass()

    async def _wait_for_cancellation(self, call: Call) -> None:
        if call.line.startswith("POST /authorizations"):
            self._asked.set()
            await self._cancelled.wait()

    async def _wait_until_given_up(self, customer: Customer, call: Call) -> None:
        if call.line.startswith("POST /authorizations"):
            order = await self._ledger.order_of(customer.user_id)
            assert order is not None
            await self._ledger.let_time_pass(order)
            await eventually(lambda: self._ledger.is_to_be_voided(order), SETTLING)

    async def _booked(self, call: Call | Mailing) -> None:
        assert isinstance(call, Call)
        key = call.headers["idempotency-key"]
        reference = call.body.split(b'"reference"')[1].split(b'"')[1].decode()

        async def is_booked() -> bool:
            return any(entry["key"] == key for entry in await self._ledger.booked(reference))

        await eventually(is_booked)

    async def _carried(self, call: Call | Mailing) -> None:
        assert isinstance(call, Call)
        key = call.headers["idempotency-key"]
        order_id = call.body.split(b'"order"')[1].split(b'"')[1].decode()

        async def is_booked() -> bool:
            return any(entry["key"] == key for entry in await self._ledger.parcels(order_id))

        await eventually(is_booked)

    async def _taken(self, mailing: Call | Mailing) -> None:
        order_id = mailing.request.split(b"X-Order-ID: ")[1].split()[0].decode()
        await eventually(lambda: self._ledger.letters(order_id))

    async def _settled(self, customer: Customer, ordering: asyncio.Task[None]) -> None:
        """Wait until the customer has done everything and nothing moves any more."""
        try:
            async with asyncio.timeout(SETTLING_SECONDS):
                await ordering
                await eventually(lambda: self._ledger.at_rest(customer.user_id), SETTLING)
        except (TimeoutError, AssertionError):
            left = await self._ledger.unfinished(customer.user_id) or ["the customer has no answer"]
            raise Unsettled(f"after {SETTLING_SECONDS:g} s: {', '.join(left)}") from None

    async def _problems(self, customer: Customer) -> list[str]:
        left = await self._ledger.unfinished(customer.user_id)
        order: Found | None = await self._ledger.order_of(customer.user_id)
        if order is None:
            return ["there is no order"]
        problems = [f"unfinished after {SETTLING_SECONDS:g} s: {one}" for one in left]
        if not customer.expects(order):
            problems.append(f"the order is {order.status} ({order.reason})")
        mails = await self._ledger.mails(order)
        if not customer.expects_mail(order, mails):
            problems.append(f"the mail about it is {' and '.join(mails) or 'missing'}")
        return problems + await self._ledger.violations(order)

    async def _foresee(self, service: str, point: Point, statement: Statement) -> bool:
        return await foresee(self._ledger.pools[service], self.watchers[service].logbook, point, statement)


async def _go_on(*_: object) -> None:
    return None
