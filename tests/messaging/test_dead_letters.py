"""Dead letters: seen, mended, tried again or given up, and never overtaken by what waits behind them (H13)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from covey.errors import Conflict, Invalid, NotFound, TooLarge
from covey.messaging.brokers.memory import MemoryBroker
from covey.messaging.dead_letters import DeadLetters, Filter
from covey.messaging.options import LANES, MessagingOptions
from covey.messaging.router import Router
from covey.testing.eventually import eventually
from covey.testing.replica import Replica, ReplicaOptions, replica
from covey.work.unit_of_work import Work
from tests.messaging.feed import Added, Feed, dead, effects, handled, holds, keep, settled, unhandled


@dataclass
class Desk:
    """A shop that cannot handle what has a negative number, until it is mended, and who deals with that."""

    shop: Replica
    letters: DeadLetters
    broken: set[int] = field(default_factory=set)


@pytest.fixture
async def desk(memory_broker: MemoryBroker, shop_url: str) -> AsyncIterator[Desk]:
    """Run the shop; two attempts are enough."""
    router, broken = Router(), {-1, -2, -3}

    @router.on(Added)
    async def handle(message: Added, work: Work) -> None:
        if message.n in broken:
            raise ValueError(f"cannot do {message.n}")
        await keep(message, work)

    options = ReplicaOptions(
        messaging=MessagingOptions(
            max_attempts=2, backoff=timedelta(milliseconds=2), poll=timedelta(milliseconds=10), batch=50
        )
    )
    async with replica("shop", shop_url, memory_broker, [router], options=options) as shop:
        yield Desk(shop, DeadLetters(shop.transactions), broken)


class TestSeeing:
    async def test_a_page_tells_what_is_dead_why_and_how_much_waits_behind_it(self, desk: Desk, feed: Feed) -> None:
        (message, *_) = await feed.add("a", [-1, 1, 2, 3])
        await dead(desk.shop)
        await eventually(lambda: _held(desk.shop, 4))

        (letter,) = await desk.letters.page()

        assert (letter.key, letter.id, letter.type, letter.source) == ("a", message.id, "feed.added.v1", "feed")
        assert (letter.reason, letter.attempts, letter.behind) == ("ValueError: cannot do -1", 2, 3)
        assert letter.expires is None

    async def test_pages_go_from_the_newest_to_the_oldest_and_hold_each_once(self, desk: Desk, feed: Feed) -> None:
        for n in range(7):
            await feed.add(f"key {n}", [-1])
            await dead(desk.shop, n + 1)

        found, last = [], None
        while page := await desk.letters.page(limit=3, after=last):
            found += [letter.key for letter in page]
            last = page[-1]

        assert found == [f"key {n}" for n in reversed(range(7))]

    async def test_a_filter_finds_by_type_and_by_reason(self, desk: Desk, feed: Feed) -> None:
        await feed.add("a", [-1])
        await feed.add("b", [-2])
        await feed.publish([feed.envelope("c", 1, type="feed.added.v2")])
        await dead(desk.shop, 3)

        async def keys(only: Filter) -> set[str]:
            return {letter.key for letter in await desk.letters.page(only=only)}

        assert await keys(Filter(type="feed.added.v2")) == {"c"}
        assert await keys(Filter(reason="cannot do -2")) == {"b"}
        assert await keys(Filter(type="feed.added.v1", reason="ValueError")) == {"a", "b"}
        assert await keys(Filter(reason="100%")) == set()

    async def test_a_letter_is_shown_whole_by_its_key_or_by_the_id_of_its_message(self, desk: Desk, feed: Feed) -> None:
        (message,) = await feed.publish([feed.envelope("a", -1, headers={"correlation-id": "c-1"})])
        await dead(desk.shop)

        whole = await desk.letters.show("a")

        assert whole == await desk.letters.show(str(message.id))
        assert whole.body == message.body
        assert whole.headers == {"correlation-id": "c-1"}
        assert [entry.what for entry in whole.history] == ["parked"]

    async def test_what_is_no_dead_letter_is_not_found(self, desk: Desk, feed: Feed) -> None:
        (message,) = await feed.add("fine", [1])
        await handled(desk.shop, 1)

        for name in ("fine", str(message.id), "nothing"):
            with pytest.raises(NotFound, match="no dead letter"):
                await desk.letters.show(name)


class TestReplaying:
    async def test_handles_the_letter_and_what_waits_behind_it_in_order(self, desk: Desk, feed: Feed) -> None:
        await feed.add("a", [1, -1, 2, 3])
        await dead(desk.shop)
        desk.broken.clear()

        await desk.letters.replay("a")
        await handled(desk.shop, 4)

        assert await effects(desk.shop) == [1, -1, 2, 3]
        await settled(desk.shop)
        assert await holds(desk.shop) == {}

    async def test_is_not_overtaken_by_what_arrives_meanwhile(self, desk: Desk, feed: Feed) -> None:
        """H13: the key stays held until the letter is done, however much of the key comes in."""
        for attempt in range(5):
            first = attempt * 100
            desk.broken.add(first)
            await feed.add("a", [first, first + 1])
            await dead(desk.shop)
            arriving = asyncio.gather(*(feed.add("a", [n]) for n in range(first + 2, first + 20)))
            desk.broken.discard(first)
            await desk.letters.replay("a")
            await arriving
            await handled(desk.shop, (attempt + 1) * 20)

        assert await effects(desk.shop) == [attempt * 100 + n for attempt in range(5) for n in range(20)]

    async def test_starts_counting_attempts_anew_and_tells_of_each_time(self, desk: Desk, feed: Feed) -> None:
        await feed.add("a", [-1])
        await dead(desk.shop)
        await desk.letters.replay("a")

        async def parked_again() -> list[str]:
            whole = await desk.letters.show("a")
            assert [entry.what for entry in whole.history] == ["parked", "replayed", "parked"]
            assert whole.letter.attempts == 2
            return [entry.what for entry in whole.history]

        await eventually(_tolerant(parked_again))

    async def test_many_is_bound_in_rate_and_goes_by_the_filter(self, desk: Desk, feed: Feed) -> None:
        for n in range(12):
            await feed.add(f"key {n:02}", [-1 if n % 2 else -2])
        await dead(desk.shop, 12)
        desk.broken.clear()
        loop = asyncio.get_running_loop()

        begun, replayed = loop.time(), []
        async for key in desk.letters.replay_all(Filter(reason="cannot do -2"), per_second=50):
            replayed.append(key)

        assert sorted(replayed) == [f"key {n:02}" for n in range(0, 12, 2)]
        assert loop.time() - begun >= 5 / 50
        await handled(desk.shop, 6)
        assert len(await dead(desk.shop, 6)) == 6

    async def test_many_leaves_alone_what_dies_again(self, desk: Desk, feed: Feed) -> None:
        for n in range(5):
            await feed.add(f"key {n}", [-1])
        await dead(desk.shop, 5)

        replayed = [key async for key in desk.letters.replay_all(Filter(), per_second=1_000)]

        assert sorted(replayed) == [f"key {n}" for n in range(5)]
        await dead(desk.shop, 5)


class TestEditing:
    async def test_gives_it_another_body_and_keeps_the_old_one(self, desk: Desk, feed: Feed) -> None:
        (message,) = await feed.add("a", [-1])
        await dead(desk.shop)

        await desk.letters.edit("a", b'{"name": "a", "n": 7}')
        whole = await desk.letters.show("a")
        await desk.letters.replay("a")
        await handled(desk.shop, 1)

        assert await effects(desk.shop) == [7]
        assert json.loads(whole.body)["n"] == 7
        assert [(entry.what, entry.old_body) for entry in whole.history] == [("parked", None), ("edited", message.body)]

    @pytest.mark.parametrize("body", [b"", b"{", b"{'a': 1}", b'{"a": NaN}', b"\xff"])
    async def test_refuses_what_is_no_json(self, desk: Desk, feed: Feed, body: bytes) -> None:
        await feed.add("a", [-1])
        await dead(desk.shop)

        with pytest.raises(Invalid, match="no JSON"):
            await desk.letters.edit("a", body)

        assert len((await desk.letters.show("a")).history) == 1

    async def test_refuses_what_is_too_large(self, desk: Desk) -> None:
        with pytest.raises(TooLarge):
            await desk.letters.edit("a", b'"' + b"x" * 1_000_000 + b'"')


class TestDiscarding:
    async def test_lets_what_waits_behind_it_go_on_and_keeps_the_reason(self, desk: Desk, feed: Feed) -> None:
        await feed.add("a", [1, -1, 2, -2, 3])
        await dead(desk.shop)

        await desk.letters.discard("a", "sent by mistake")
        await handled(desk.shop, 2)
        assert (await dead(desk.shop))["a"] == "ValueError: cannot do -2"
        await desk.letters.discard("a", "this one too")
        await handled(desk.shop, 3)

        assert await effects(desk.shop) == [1, 2, 3]
        await settled(desk.shop)
        rows = await desk.shop.fetch(
            "SELECT what, reason FROM covey.dead_letter_log WHERE what = 'discarded' ORDER BY n"
        )
        assert [tuple(row) for row in rows] == [("discarded", "sent by mistake"), ("discarded", "this one too")]

    async def test_the_only_one_leaves_its_key_free(self, desk: Desk, feed: Feed) -> None:
        await feed.add("a", [-1])
        await dead(desk.shop)

        await desk.letters.discard("a", "never mind")
        await feed.add("a", [1])
        await handled(desk.shop, 1)

        assert await holds(desk.shop) == {}
        assert await unhandled(desk.shop) == 0

    async def test_needs_a_reason(self, desk: Desk, feed: Feed) -> None:
        await feed.add("a", [-1])
        await dead(desk.shop)

        with pytest.raises(Invalid, match="reason"):
            await desk.letters.discard("a", "  ")


class TestTogether:
    async def test_of_two_who_deal_with_a_letter_one_is_told_that_he_is_too_late(self, desk: Desk, feed: Feed) -> None:
        for n in range(5):
            await feed.add(f"key {n}", [-1, 1])
        await dead(desk.shop, 5)

        for n in range(5):
            outcomes = await asyncio.gather(
                desk.letters.discard(f"key {n}", "no"), desk.letters.discard(f"key {n}", "no"), return_exceptions=True
            )
            assert [type(one) for one in outcomes if one is not None] in ([Conflict], [NotFound])

        await handled(desk.shop, 5)
        assert await effects(desk.shop) == [1] * 5

    async def test_nothing_is_done_while_a_worker_has_the_lane(self, desk: Desk, feed: Feed) -> None:
        await feed.add("a", [-1])
        await dead(desk.shop)

        async with desk.shop.transactions.begin() as worker:
            await worker.fetchval("SELECT pg_advisory_xact_lock($1, covey.lane('a'))", LANES)
            discarding = asyncio.create_task(desk.letters.discard("a", "no"))
            await eventually(lambda: _waits_for_a_lock(desk.shop))
            assert await worker.fetchval("SELECT count(*) FROM covey.hold") == 1

        await discarding
        assert await holds(desk.shop) == {}


async def _held(shop: Replica, count: int) -> bool:
    return bool(await shop.fetchval("SELECT count(*) = $1 FROM covey.inbox_held", count))


async def _waits_for_a_lock(shop: Replica) -> bool:
    return bool(await shop.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"))


def _tolerant(condition):  # type: ignore[no-untyped-def]  # any condition
    """A letter that is being handled is not found for a moment."""

    async def ask() -> object:
        try:
            return await condition()
        except (NotFound, Conflict) as error:
            raise AssertionError(str(error)) from None

    return ask
