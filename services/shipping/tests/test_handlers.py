"""The effects of shipping: intent, call, answer, against a real database and the sandbox carrier."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from shipping_service import storage
from shipping_service.clients import HttpCarrier
from shipping_service.domain import Line, OrderId, ProductId, Return, Shipment, UserId
from shipping_service.handlers import Cancel, Receive, Ship
from shipping_service.messages import CancelReturn, ReceiveReturn, ReturnReply, ShipmentReply, ShipOrder

from covey.errors import DependencyUnavailable
from covey.ids import new_id
from covey.message import Command, Refused, Reply
from covey.testing.eventually import eventually
from covey.work.unit_of_work import Transactions

MUG, TEAPOT = ProductId(new_id()), ProductId(new_id())
LINES = (Line(MUG, 2), Line(TEAPOT, 1))


class Flow:
    """Runs the three parts of an effect as the chassis does, so that a test can stop between them."""

    def __init__(self, transactions: Transactions, carrier: HttpCarrier, office: aiohttp.ClientSession) -> None:
        self.transactions = transactions
        self.order_id = OrderId(new_id())
        self.ship = Ship(carrier)
        self.receive = Receive(carrier)
        self.cancel = Cancel(carrier)
        self._office = office

    async def intend(self, effect: Any, command: Command) -> Any:
        async with self.transactions.begin() as work:
            return await effect.intend(command, work)

    async def run(self, effect: Any, command: Command, key: str | None = None) -> Reply:
        """All three parts. The key is the command's id; a retry of the same command has the same."""
        intent = await self.intend(effect, command)
        if isinstance(intent, Reply):
            return intent
        result = await effect.call(command, intent, key or str(new_id()))
        async with self.transactions.begin() as work:
            reply: Reply = await effect.settle(command, result, work)
            return reply

    async def shipped(self) -> Shipment:
        await self.run(self.ship, self.to_ship())
        return await self.shipment()

    async def shipment(self) -> Shipment:
        async with self.transactions.begin() as work:
            found = await storage.shipment_of(work, self.order_id)
            assert found is not None
            return found

    async def returns(self) -> list[Return]:
        async with self.transactions.begin() as work:
            return await storage.returns_of(work, self.order_id)

    async def behave(self, **order: Any) -> None:
        async with self._office.put("/admin/mode", json=order) as response:
            assert response.status == 204

    async def book(self) -> list[tuple[str, str, int]]:
        async with self._office.get("/book", params={"order": str(self.order_id)}) as response:
            entries = (await response.json())["entries"]
        return [(entry["operation"], entry["kind"], entry["pieces"]) for entry in entries]

    async def announced(self) -> list[tuple[str, int]]:
        """The events, as status and version."""
        async with self.transactions.begin() as work:
            rows = await work.fetch(
                "SELECT convert_from(body, 'UTF8')::jsonb AS body FROM covey.outbox"
                " WHERE type = 'shipping.shipment-changed.v1' ORDER BY position"
            )
            return [
                tuple(await work.fetchrow("SELECT $1::jsonb ->> 'status', ($1::jsonb ->> 'version')::int", row["body"]))
                for row in rows
            ]

    def to_ship(self) -> ShipOrder:
        return ShipOrder(saga_id=new_id(), order_id=self.order_id, user_id=UserId(new_id()), lines=LINES)

    def to_receive(self, *lines: Line, saga_id: UUID | None = None) -> ReceiveReturn:
        return ReceiveReturn(saga_id=saga_id or new_id(), order_id=self.order_id, lines=lines or LINES)

    def to_cancel(self, saga_id: UUID) -> CancelReturn:
        return CancelReturn(saga_id=saga_id, order_id=self.order_id)


@pytest.fixture
async def flow(transactions: Transactions, sandbox: str, office: aiohttp.ClientSession) -> AsyncIterator[Flow]:
    async with HttpCarrier.open(sandbox, timedelta(seconds=0.3)) as carrier:
        yield Flow(transactions, carrier, office)


async def test_an_order_is_shipped_and_the_reply_says_under_which_number(flow: Flow) -> None:
    reply = await flow.run(flow.ship, flow.to_ship())

    shipment = await flow.shipment()
    assert reply == ShipmentReply(shipment_id=shipment.id, tracking_number=shipment.tracking_number)
    assert (shipment.status, shipment.tracking_number, set(shipment.lines)) == ("booked", "SC000000001", set(LINES))
    assert await flow.book() == [("book", "shipment", 3)]
    assert await flow.announced() == [("booked", 1)]


async def test_the_intent_is_on_record_before_the_carrier_is_asked(flow: Flow) -> None:
    await flow.intend(flow.ship, flow.to_ship())

    assert (await flow.shipment()).status == "booking"
    assert await flow.book() == []


async def test_an_order_that_is_shipped_is_not_shipped_again(flow: Flow) -> None:
    first = await flow.run(flow.ship, flow.to_ship())

    assert await flow.run(flow.ship, flow.to_ship()) == first
    assert await flow.book() == [("book", "shipment", 3)]


async def test_a_crash_after_the_call_asks_again_with_the_same_key_and_books_once(flow: Flow) -> None:
    command = flow.to_ship()
    intent = await flow.intend(flow.ship, command)
    await flow.ship.call(command, intent, "the command's id")

    reply = await flow.run(flow.ship, command, "the command's id")

    assert isinstance(reply, ShipmentReply)
    assert await flow.book() == [("book", "shipment", 3)]


async def test_a_booking_that_is_not_answered_is_settled_by_asking_again(flow: Flow) -> None:
    command = flow.to_ship()
    await flow.behave(mode="silent", calls=1)
    with pytest.raises(DependencyUnavailable):
        await flow.run(flow.ship, command, "the command's id")
    assert (await flow.shipment()).status == "booking"

    await flow.run(flow.ship, command, "the command's id")

    assert (await flow.shipment()).status == "booked"
    assert await flow.book() == [("book", "shipment", 3)]


async def test_a_carrier_that_declines_is_asked_again_under_another_key(flow: Flow) -> None:
    await flow.behave(mode="decline", calls=1)

    assert await flow.run(flow.ship, flow.to_ship()) == Refused(reason="nothing is carried there")
    assert isinstance(await flow.run(flow.ship, flow.to_ship()), ShipmentReply)
    assert await flow.book() == [("book", "shipment", 0), ("book", "shipment", 3)]


async def test_what_was_shipped_is_received_in_parts_until_all_is_back(flow: Flow) -> None:
    await flow.shipped()

    replies = [await flow.run(flow.receive, flow.to_receive(*lines)) for lines in ((LINES[0],), (LINES[1],))]

    assert replies == [ReturnReply(return_id=one.id) for one in await flow.returns()]
    assert (await flow.shipment()).status == "returned"
    assert await flow.book() == [("book", "shipment", 3), ("book", "return", 2), ("book", "return", 1)]
    assert await flow.announced() == [("booked", 1), ("returned", 2)]


async def test_a_return_of_what_was_not_shipped_is_refused_and_asks_nobody(flow: Flow) -> None:
    assert isinstance(await flow.run(flow.receive, flow.to_receive()), Refused)
    await flow.intend(flow.ship, flow.to_ship())
    assert isinstance(await flow.run(flow.receive, flow.to_receive()), Refused)

    assert (await flow.book(), await flow.returns()) == ([], [])


async def test_a_return_of_more_than_is_still_there_is_refused(flow: Flow) -> None:
    await flow.shipped()
    await flow.run(flow.receive, flow.to_receive(Line(MUG, 1)))

    reply = await flow.run(flow.receive, flow.to_receive(Line(MUG, 2)))

    assert reply == Refused(reason=f"more than was shipped and can come back: 2 × {MUG}, 1 are")


async def test_of_two_returns_of_the_same_pieces_at_once_one_is_received(flow: Flow) -> None:
    await flow.shipped()

    replies = await asyncio.gather(*(flow.run(flow.receive, flow.to_receive()) for _ in range(4)))

    assert sum(isinstance(reply, Refused) for reply in replies) == 3
    assert await flow.book() == [("book", "shipment", 3), ("book", "return", 3)]


async def test_a_return_that_is_asked_for_twice_is_received_once(flow: Flow) -> None:
    await flow.shipped()
    command = flow.to_receive()

    assert await flow.run(flow.receive, command) == await flow.run(flow.receive, command)
    assert await flow.book() == [("book", "shipment", 3), ("book", "return", 3)]


async def test_a_return_that_the_carrier_declines_is_refused_and_claims_nothing(flow: Flow) -> None:
    await flow.shipped()
    await flow.behave(mode="decline", kind="return", calls=1)

    assert await flow.run(flow.receive, flow.to_receive()) == Refused(reason="nothing is carried there")
    assert isinstance(await flow.run(flow.receive, flow.to_receive()), ReturnReply)


async def test_a_return_that_is_given_up_is_undone_at_the_carrier_and_can_be_had_again(flow: Flow) -> None:
    await flow.shipped()
    saga_id = new_id()
    await flow.run(flow.receive, flow.to_receive(saga_id=saga_id))

    for _ in range(2):
        assert isinstance(await flow.run(flow.cancel, flow.to_cancel(saga_id)), ReturnReply)

    assert (await flow.shipment()).status == "booked"
    assert await flow.book() == [("book", "shipment", 3), ("book", "return", 3), ("cancel", "return", 3)]
    assert await flow.announced() == [("booked", 1), ("returned", 2), ("booked", 3)]
    assert isinstance(await flow.run(flow.receive, flow.to_receive()), ReturnReply)


async def test_a_return_whose_outcome_is_unknown_is_given_up_also_at_a_carrier_that_books_it_late(flow: Flow) -> None:
    await flow.shipped()
    saga_id = new_id()
    await flow.behave(mode="late", kind="return", operation="book")
    with pytest.raises(DependencyUnavailable):
        await flow.run(flow.receive, flow.to_receive(saga_id=saga_id))

    await flow.run(flow.cancel, flow.to_cancel(saga_id))

    async def decided() -> bool:
        return len(await flow.book()) == 3

    await eventually(decided)
    assert await flow.book() == [("book", "shipment", 3), ("cancel", "return", 0), ("book", "return", 0)]
    assert not (await flow.returns())[0].claims


async def test_a_cancellation_that_comes_first_asks_nobody_and_refuses_the_return(flow: Flow) -> None:
    await flow.shipped()
    saga_id = new_id()
    assert isinstance(await flow.run(flow.cancel, flow.to_cancel(saga_id)), ReturnReply)

    assert isinstance(await flow.run(flow.receive, flow.to_receive(saga_id=saga_id)), Refused)
    assert await flow.book() == [("book", "shipment", 3)]


async def test_a_return_for_an_order_that_does_not_exist_can_be_given_up(flow: Flow) -> None:
    assert isinstance(await flow.run(flow.cancel, flow.to_cancel(new_id())), ReturnReply)
