"""Queues on Valkey Streams: what becomes of jobs, those that fail among them, and how queues are declared."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest

from covey.context import current, new_context, use
from covey.database.pool import Database
from covey.errors import ConfigurationError, DefinitionError, TooLarge
from covey.local.engines.embedded import Engines
from covey.messaging.brokers.memory import MemoryBroker
from covey.messaging.queue import Queue, QueueFull
from covey.messaging.queue_options import QueueOptions
from covey.service import Parts, Service
from covey.settings import ServiceSettings
from covey.testing.eventually import eventually
from covey.work.unit_of_work import Work
from tests.messaging.queues import MS, Doings, Job, OpenPlace, Place, are_dead, fail, running, work_of


class TestJobs:
    async def test_are_each_done_and_then_forgotten(self, place: Place) -> None:
        for n in range(50):
            assert await place.add(n)

        async with running(place):
            await eventually(place.is_empty)

        assert sorted(place.doings.done) == list(range(50))

    async def test_that_are_added_while_a_worker_waits_are_done_at_once(self, open_place: OpenPlace) -> None:
        place = await open_place(QueueOptions(poll=timedelta(seconds=20)))
        async with running(place):
            await place.add(1)
            await eventually(lambda: place.doings.done == [1])
            await eventually(place.is_empty)
            await place.add(2)
            await eventually(lambda: place.doings.done == [1, 2])

    async def test_are_shared_by_replicas(self, open_place: OpenPlace) -> None:
        one, other = await open_place(), await open_place()
        for n in range(200):
            await one.add(n)

        async with running(one, other):
            await eventually(one.is_empty)

        assert sorted(one.doings.done + other.doings.done) == list(range(200))
        assert one.doings.done
        assert other.doings.done

    async def test_are_done_at_most_so_many_at_once(self, open_place: OpenPlace) -> None:
        place = await open_place(QueueOptions(at_once=3))
        place.doings.then = lambda _: asyncio.sleep(0.005)
        for n in range(30):
            await place.add(n)

        async with running(place):
            await eventually(place.is_empty)

        assert place.doings.most == 3

    async def test_of_an_id_that_is_there_are_not_added_again_until_it_is_done(self, place: Place) -> None:
        assert await place.add(1, id="a")
        assert not await place.add(2, id="a")
        async with running(place):
            await eventually(place.is_empty)
            assert place.doings.done == [1]

            assert await place.add(3, id="a")
            await eventually(lambda: place.doings.done == [1, 3])

    async def test_over_the_limit_are_refused_and_dead_ones_count(self, open_place: OpenPlace) -> None:
        place = await open_place(QueueOptions(most=3, max_attempts=1, poll=20 * MS))
        place.doings.then = fail
        for n in range(3):
            await place.add(n)
        with pytest.raises(QueueFull):
            await place.add(3)

        async with running(place):
            await eventually(lambda: len(place.doings.attempts) == 3)
        with pytest.raises(QueueFull):
            await place.add(3)

    async def test_that_are_too_large_are_refused(self, place: Place) -> None:
        """They lie in the memory of a server, and pass through a connection that a whole process shares."""
        texts = Queue(place.queue.name, str)

        place.transactions.resources[texts] = place.queue.store(await work_of(place))

        with pytest.raises(TooLarge, match="900,000 are allowed"):
            await place.ask(lambda work: texts.add(work, "x" * 1_000_000))
        assert await place.is_empty()

    async def test_that_are_delayed_are_not_done_before(self, place: Place) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await place.add(1, after=timedelta(milliseconds=300))
        await place.add(2)

        async with running(place):
            await eventually(lambda: place.doings.done == [2])
            await eventually(place.is_empty)

        assert place.doings.done == [2, 1]
        assert loop.time() - begun >= 0.3

    async def test_are_done_in_the_context_in_which_they_were_added(self, place: Place) -> None:
        seen: list[str] = []
        place.doings.then = lambda _: seen.append(current().correlation_id)
        with use(new_context("of-the-request")):
            await place.add(1)

        async with running(place):
            await eventually(place.is_empty)

        assert seen == ["of-the-request"]


class TestFailures:
    async def test_are_tried_again_a_bounded_number_of_times_and_then_dead(self, place: Place) -> None:
        place.doings.then = fail
        await place.add(7, id="seven")

        async with running(place):
            (dead,) = await eventually(lambda: place.ask(place.queue.dead))

        assert place.doings.attempts == [7, 7, 7]
        assert (dead.id, dead.error) == ("seven", "ValueError: no luck")
        assert json.loads(dead.job)["job"] == {"n": 7}

    async def test_wait_longer_each_time(self) -> None:
        options = QueueOptions(backoff=timedelta(seconds=1), backoff_cap=timedelta(seconds=30))

        waits = [options.delay(attempts).total_seconds() for attempts in range(1, 9)]

        assert all(full / 2 <= wait <= full for wait, full in zip(waits, [1, 2, 4, 8, 16, 30, 30, 30], strict=True))

    async def test_do_not_stop_other_jobs(self, place: Place) -> None:
        place.doings.then = lambda job: fail(job) if job.n == 0 else None
        for n in range(20):
            await place.add(n)

        async with running(place):
            await eventually(lambda: len(place.doings.done) == 19)

    async def test_can_be_replayed_and_discarded(self, place: Place) -> None:
        place.doings.then = fail
        await place.add(1, id="one")
        await place.add(2, id="two")
        async with running(place):
            await eventually(lambda: are_dead(place, {"one", "two"}))
            place.doings.then = None

            assert await place.ask(lambda work: place.queue.replay(work, "one"))
            assert not await place.ask(lambda work: place.queue.replay(work, "one"))
            assert await place.ask(lambda work: place.queue.discard(work, "two"))
            assert not await place.ask(lambda work: place.queue.discard(work, "two"))

            await eventually(place.is_empty)
        assert place.doings.done == [1]

    async def test_are_shown_as_many_as_one_asks_for(self, place: Place) -> None:
        store = place.queue.store(await work_of(place))
        for id_ in ("a", "b", "c"):
            await store.add(id_, b"{", timedelta(0))

        async with running(place):
            await eventually(lambda: are_dead(place, {"a", "b", "c"}))

        assert [len(await store.dead(limit)) for limit in (-1, 0, 1, 2, 3, 4)] == [0, 0, 1, 2, 3, 3]

    async def test_take_their_time_from_one_attempt_and_not_from_the_queue(self, open_place: OpenPlace) -> None:
        place = await open_place(QueueOptions(timeout=20 * MS, max_attempts=1, poll=20 * MS))
        place.doings.then = lambda _: asyncio.Event().wait()
        await place.add(1)

        async with running(place):
            (dead,) = await eventually(lambda: place.ask(place.queue.dead))

        assert "TimeoutError" in dead.error

    async def test_of_what_is_no_job_are_dead_at_once(self, place: Place) -> None:
        store = place.queue.store(await work_of(place))
        for id_, text in (("a", b"{"), ("b", b'{"job": {"n": "x"}}'), ("c", b"[]")):
            await store.add(id_, text, timedelta(0))

        async with running(place):
            await eventually(lambda: are_dead(place, {"a", "b", "c"}))

        assert place.doings.attempts == []

    async def test_undo_what_their_handler_did_in_the_database(self, place: Place, database: Database) -> None:
        async with place.transactions.begin() as work:
            await work.execute("CREATE TABLE done (n int)")
        handled: list[int] = []

        async def handle(job: Job, work: Work) -> None:
            await work.execute("INSERT INTO done VALUES ($1)", job.n)
            handled.append(job.n)
            if len(handled) == 1:
                raise ValueError("after the statement")

        place.queue._handler = handle
        await place.add(1)
        async with running(place):
            await eventually(place.is_empty)

        assert handled == [1, 1]
        assert await place.ask(lambda work: work.fetchval("SELECT count(*) FROM done")) == 1


class TestDeclaring:
    @pytest.mark.parametrize("name", ["", "Two", "a b", "a:b", "{a}"])
    def test_a_name_that_cannot_be_is_a_mistake(self, name: str) -> None:
        with pytest.raises(DefinitionError):
            Queue(name, Job)

    def test_a_second_handler_is_a_mistake(self) -> None:
        queue = Queue("things", Job)
        queue.handler(Doings().handle)
        with pytest.raises(DefinitionError):
            queue.handler(Doings().handle)

    async def test_a_queue_is_worked_off_by_the_service_that_declares_it(
        self, database_url: str, covey_engines: Engines, system_name: str
    ) -> None:
        queue, doings = Queue("things", Job), Doings()
        queue.handler(doings.handle)
        settings = ServiceSettings(
            database_url=database_url, nats_url="nats://unused", valkey_url=covey_engines.valkey_url, system=system_name
        )
        async with Service("shop", Parts(queues=[queue])).running(settings, MemoryBroker()) as service:
            async with service.messaging.transactions.begin() as work:
                await queue.add(work, Job(n=1))
            await eventually(lambda: doings.done == [1])

    async def test_without_a_valkey_a_service_with_queues_does_not_start(self, database_url: str) -> None:
        queue = Queue("things", Job)
        queue.handler(Doings().handle)
        settings = ServiceSettings(database_url=database_url, nats_url="nats://unused")
        with pytest.raises(ConfigurationError, match="VALKEY_URL"):
            async with Service("shop", Parts(queues=[queue])).running(settings, MemoryBroker()):
                pytest.fail("it must not run")

    async def test_two_of_one_name_and_one_without_a_handler_are_mistakes(self, database_url: str) -> None:
        settings = ServiceSettings(database_url=database_url, nats_url="nats://unused", valkey_url="valkey://x:1")
        for queues in ([Queue("a", Job)], [Queue("a", Job), Queue("a", Job)]):
            with pytest.raises(DefinitionError):
                async with Service("shop", Parts(queues=queues)).running(settings, MemoryBroker()):
                    pytest.fail("it must not run")

    async def test_adding_where_no_service_has_it_is_a_mistake(self, place: Place) -> None:
        with pytest.raises(DefinitionError, match="no service runs here"):
            await place.ask(lambda work: Queue("others", Job).add(work, Job(n=1)))
