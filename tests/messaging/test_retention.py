"""What is forgotten, when, and that nothing is forgotten which anybody could still ask for (H4)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import nats
import pytest

from covey.database.pool import Database
from covey.local.engines.embedded import Engines
from covey.messaging.broker import STREAM_MAX_AGE
from covey.messaging.brokers.memory import MemoryBroker
from covey.messaging.brokers.nats import NatsBroker
from covey.messaging.options import MessagingOptions
from covey.messaging.retention import BATCH, INBOX_AGE, OUTBOX_AGE, RULES, Retention
from covey.messaging.router import Router
from covey.saga.journal import SAGAS
from covey.testing.eventually import eventually
from covey.testing.replica import Replica, ReplicaOptions, replica
from covey.work.unit_of_work import Work
from tests.messaging.feed import PATIENCE, Added, Feed, dead, effects, handled, keep, settled

AGE = "interval '100 days'"


@pytest.fixture
async def shop(memory_broker: MemoryBroker, shop_url: str) -> AsyncIterator[Replica]:
    """A shop that cannot handle 0."""
    router = Router()

    @router.on(Added)
    async def handle(message: Added, work: Work) -> None:
        if message.n == 0:
            raise ValueError("poison")
        await keep(message, work)

    options = ReplicaOptions(messaging=MessagingOptions(max_attempts=1, poll=timedelta(milliseconds=20)))
    async with replica("shop", shop_url, memory_broker, [router], options=options) as running:
        yield running


async def clean(database: Database) -> None:
    await Retention(database).clean()


async def count(shop: Replica, table: str) -> int:
    return int(await shop.fetchval(f"SELECT count(*) FROM covey.{table}"))


async def make_old(shop: Replica) -> None:
    """Make everything that is there look old."""
    async with shop.transactions.begin() as work:
        await work.execute(f"UPDATE covey.inbox SET received_at = now() - {AGE}")
        await work.execute(f"UPDATE covey.outbox SET created_at = now() - {AGE}")
        await work.execute(f"UPDATE covey.reply SET at = now() - {AGE}")
        await work.execute(f"UPDATE covey.idempotency SET created_at = now() - {AGE}")


def test_an_inbox_remembers_for_longer_than_anything_can_come_again() -> None:
    """On its last day in the outbox a message is published again, and lies in the stream for as long as any other."""
    assert INBOX_AGE > OUTBOX_AGE + STREAM_MAX_AGE


async def test_a_duplicate_as_old_as_any_can_be_has_no_second_effect_after_retention(shop: Replica, feed: Feed) -> None:
    """It was published again on its last day in the outbox, and is read on its last day in the stream."""
    first = await feed.add("a", [1])
    await handled(shop, 1)
    await settled(shop)
    await shop.fetch(
        "UPDATE covey.inbox SET received_at = now() - $1::interval RETURNING 1", OUTBOX_AGE + STREAM_MAX_AGE
    )
    await clean(shop.database)

    await feed.publish(first)
    await feed.add("a", [2])  # of the same key: handled after it

    async def is_handled() -> bool:
        return 2 in await effects(shop)

    await eventually(is_handled, PATIENCE)
    assert await effects(shop) == [1, 2]


async def test_a_stream_holds_messages_for_no_longer_than_retention_believes(
    covey_engines: Engines, nats_broker: NatsBroker, system_name: str
) -> None:
    await nats_broker.ensure_stream("feed")

    client = await nats.connect(covey_engines.nats_url)
    try:
        stream = await client.jetstream().stream_info(f"{system_name}-feed")
    finally:
        await client.close()

    assert stream.config.max_age == STREAM_MAX_AGE.total_seconds()


async def test_what_is_dead_held_or_pending_is_never_removed(shop: Replica, feed: Feed) -> None:
    await feed.add("a", [0, 1, 2])
    await dead(shop)
    await feed.add("b", [3])
    await handled(shop, 1)
    await make_old(shop)
    await shop.fetch(
        "WITH m AS (INSERT INTO covey.inbox (id, stream, kind, type, key, source, time, headers, body, received_at)"
        f" VALUES (gen_random_uuid(), 'feed', 'event', 'feed.added.v1', 'c', 'feed', now(), '{{}}', $1, now() - {AGE})"
        " RETURNING position, key)"
        " INSERT INTO covey.inbox_pending SELECT covey.lane(key), position, key FROM m RETURNING 1",
        b'{"name": "c", "n": 4}',
    )
    await clean(shop.database)

    await handled(shop, 2)
    assert sorted(await effects(shop)) == [3, 4]
    assert (await dead(shop)).keys() == {"a"}
    rows = await shop.fetch("SELECT key FROM covey.inbox WHERE key = 'a'")
    assert len(rows) == 3


async def test_what_is_not_published_is_never_removed(database: Database) -> None:
    async with database.acquire() as connection:
        for position in range(2):
            await connection.execute(
                "INSERT INTO covey.outbox (id, stream, kind, type, key, time, headers, body, created_at)"
                f" VALUES (gen_random_uuid(), 'feed', 'event', 't', $1, now(), '{{}}', '', now() - {AGE})",
                str(position),
            )
        await connection.execute("INSERT INTO covey.outbox_pending SELECT min(position), 'feed' FROM covey.outbox")

    await clean(database)

    async with database.acquire() as connection:
        assert await connection.fetchval("SELECT key FROM covey.outbox") == "0"


async def test_what_is_old_and_done_goes_and_what_is_young_stays(shop: Replica, feed: Feed) -> None:
    await feed.add("a", [1, 2])
    await handled(shop, 2)
    await settled(shop)
    async with shop.transactions.begin() as work:
        await work.execute("INSERT INTO covey.idempotency (scope, key, fingerprint) VALUES ('old', 'k', '')")
        await work.execute(
            "INSERT INTO covey.reply (command_id, stream, key, body) VALUES (gen_random_uuid(), 'feed', 'k', '')"
        )
    await make_old(shop)
    young = await feed.add("a", [3])
    await handled(shop, 3)

    await clean(shop.database)

    assert [row["id"] for row in await shop.fetch("SELECT id FROM covey.inbox")] == [young[0].id]
    assert (await count(shop, "reply"), await count(shop, "idempotency")) == (0, 0)


@pytest.mark.parametrize(("hours", "left"), [(23, 1), (25, 0)])
async def test_an_idempotency_key_and_its_answer_are_kept_for_a_day(shop: Replica, hours: int, left: int) -> None:
    async with shop.transactions.begin() as work:
        await work.execute(
            "INSERT INTO covey.idempotency (scope, key, fingerprint, status, created_at)"
            " VALUES ('orders', 'k', '', 201, now() - make_interval(hours => $1))",
            hours,
        )

    await clean(shop.database)

    assert await count(shop, "idempotency") == left


@pytest.mark.parametrize(("age", "left"), [(INBOX_AGE - timedelta(hours=1), 1), (INBOX_AGE + timedelta(hours=1), 0)])
async def test_the_age_counts_from_the_arrival(shop: Replica, feed: Feed, age: timedelta, left: int) -> None:
    await feed.add("a", [1])
    await handled(shop, 1)
    await settled(shop)
    async with shop.transactions.begin() as work:
        await work.execute("UPDATE covey.inbox SET received_at = now() - $1::interval", age)

    await clean(shop.database)

    assert await count(shop, "inbox") == left


async def test_it_goes_in_small_steps(database: Database) -> None:
    async with database.acquire() as connection:
        await connection.execute(
            "INSERT INTO covey.inbox (id, stream, kind, type, key, source, time, headers, body, received_at)"
            " SELECT gen_random_uuid(), 'feed', 'event', 't', n::text, 'feed', now(), '{}', '',"
            f" now() - {AGE} FROM generate_series(1, {BATCH + 5}) n"
        )

    inbox, retention = RULES[0], Retention(database)
    assert await retention.step(inbox) == BATCH
    assert await _left(database) == 5
    assert await retention.step(inbox, BATCH) == BATCH + 5
    assert await retention.step(inbox, BATCH + 5) is None
    assert await _left(database) == 0


async def test_it_gets_past_what_must_be_kept(database: Database) -> None:
    """More dead letters than a step looks at: what is behind them goes all the same."""
    async with database.acquire() as connection:
        await connection.execute(
            "WITH m AS (INSERT INTO covey.inbox (id, stream, kind, type, key, source, time, headers, body, received_at)"
            " SELECT gen_random_uuid(), 'feed', 'event', 't', CASE WHEN n > $1 THEN 'free' ELSE 'dead' END, 'feed',"
            f" now(), '{{}}', '', now() - {AGE} FROM generate_series(1, $1 + 5) n RETURNING position, key)"
            " INSERT INTO covey.inbox_held SELECT key, position FROM m WHERE key = 'dead'",
            2 * BATCH,
        )

    await clean(database)

    async with database.acquire() as connection:
        assert await connection.fetch("SELECT DISTINCT key FROM covey.inbox") == [("dead",)]


async def test_sagas_that_have_ended_long_ago_go_with_their_history_and_no_others(database: Database) -> None:
    async with database.acquire() as connection:
        await connection.execute(
            "WITH s AS (INSERT INTO covey.saga (id, name, version, status, step, data, started_at, ended_at)"
            " SELECT gen_random_uuid(), what, 1, 'completed', 0, '{}', now() - interval '1 year', ended FROM"
            " (VALUES ('old', now() - interval '91 days'), ('young', now() - interval '89 days'), ('open', NULL))"
            " AS v (what, ended) RETURNING id, name)"
            " INSERT INTO covey.saga_log (saga_id, n, step, what, at) SELECT id, 1, name, 'started', now() FROM s"
        )

    await Retention(database, SAGAS).clean()

    async with database.acquire() as connection:
        assert {row[0] for row in await connection.fetch("SELECT name FROM covey.saga")} == {"young", "open"}
        assert {row[0] for row in await connection.fetch("SELECT step FROM covey.saga_log")} == {"young", "open"}


async def _left(database: Database) -> int:
    async with database.acquire() as connection:
        return int(await connection.fetchval("SELECT count(*) FROM covey.inbox"))
