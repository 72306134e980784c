"""Queues on Valkey Streams: who has a job, for how long, and what becomes of it when its worker stops or stumbles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from covey.errors import ValkeyUnavailable
from covey.local.engines.embedded import Engines
from covey.messaging.queue_options import QueueOptions
from covey.messaging.queue_store import Look, QueueStore, Taken
from covey.messaging.queue_worker import QueueWorker
from covey.telemetry.metrics import Counter, Metrics
from covey.testing.eventually import eventually
from covey.valkey.client import Valkey
from tests.messaging.queues import MS, QUICK, OpenPlace, Place, fail, running, taken_of, work_of

Log = list[MutableMapping[str, Any]]


class TestLeases:
    async def test_what_a_worker_says_of_a_job_that_another_has_is_not_heard(self, open_place: OpenPlace) -> None:
        place = await open_place(QueueOptions(lease=timedelta(milliseconds=1)))
        store = place.queue.store(await work_of(place))
        await place.add(1)
        (first,) = (await store.take("first", 1)).taken
        (second,) = await eventually(lambda: taken_of(store, "second"))

        await store.keep("first", [first.entry])
        await store.later("first", first, timedelta(0), "too late")
        await store.bury("first", first, "too late")

        lengths = await store.lengths()
        assert (lengths.ready, lengths.later, lengths.dead) == (1, 0, 0)
        assert (first.entry, first.attempt, second.attempt) == (second.entry, 1, 2)

    async def test_a_worker_that_is_late_to_be_done_takes_no_new_job_of_that_id_with_it(
        self, open_place: OpenPlace
    ) -> None:
        place = await open_place(QueueOptions(lease=timedelta(milliseconds=1)))
        store = place.queue.store(await work_of(place))
        await store.add("x", b"1", timedelta(0))
        (first,) = (await store.take("first", 1)).taken
        (second,) = await eventually(lambda: taken_of(store, "second"))
        await store.done(second)
        assert await store.add("x", b"1", timedelta(0)) == 1

        await store.done(first)

        lengths = await store.lengths()
        assert (lengths.ready, lengths.later, lengths.dead) == (1, 0, 0)
        assert len(await taken_of(store, "third")) == 1

    @pytest.mark.parametrize(("then", "left"), [(b"another", 1), (b"1", 0)])
    async def test_a_worker_that_is_late_to_be_done_takes_with_it_what_it_did_and_no_other_that_is_dead(
        self, open_place: OpenPlace, then: bytes, left: int
    ) -> None:
        place = await open_place(QueueOptions(lease=timedelta(milliseconds=1)))
        store = place.queue.store(await work_of(place))
        await store.add("x", b"1", timedelta(0))
        (first,) = (await store.take("first", 1)).taken
        (second,) = await eventually(lambda: taken_of(store, "second"))
        await store.done(second)
        await store.add("x", then, timedelta(0))
        (third,) = await taken_of(store, "third")
        await store.bury("third", third, "of no use")

        await store.done(first)

        assert (await store.lengths()).dead == left

    async def test_a_job_that_a_worker_was_given_and_never_heard_of_is_taken_again_by_the_same(
        self, open_place: OpenPlace
    ) -> None:
        place = await open_place(QueueOptions(lease=timedelta(milliseconds=1)))
        store = place.queue.store(await work_of(place))
        await place.add(1)
        (unheard,) = (await store.take("only", 1)).taken

        (again,) = await eventually(lambda: taken_of(store, "only"))

        assert (again.entry, again.attempt) == (unheard.entry, 2)

    async def test_a_job_that_takes_longer_is_not_taken_by_others(self, open_place: OpenPlace) -> None:
        options = QueueOptions(lease=timedelta(milliseconds=300), poll=10 * MS)
        one, other = await open_place(options), await open_place(options)
        free = asyncio.Event()
        one.doings.then = other.doings.then = lambda _: free.wait()
        await one.add(1)

        async with running(one, other):
            await eventually(lambda: one.doings.attempts or other.doings.attempts)
            asyncio.get_running_loop().call_later(1.0, free.set)
            await eventually(one.is_empty)

        assert one.doings.attempts + other.doings.attempts == [1]


class TestStopping:
    async def test_finishes_what_was_begun_and_begins_nothing(self, open_place: OpenPlace) -> None:
        place = await open_place(QueueOptions(at_once=2))
        free = asyncio.Event()
        place.doings.then = lambda _: free.wait()
        for n in range(5):
            await place.add(n)

        async with running(place):
            await eventually(lambda: len(place.doings.attempts) == 2)
            asyncio.get_running_loop().call_later(0.1, free.set)

        assert len(place.doings.done) == len(place.doings.attempts) == 2
        assert (await place.ask(place.queue.lengths)).ready == 3

    async def test_hands_back_what_takes_too_long_and_counts_no_attempt(self, open_place: OpenPlace) -> None:
        place, other = await open_place(QueueOptions(max_attempts=1)), await open_place(QueueOptions(max_attempts=1))
        place.doings.then = lambda _: asyncio.Event().wait()
        await place.add(1)
        async with running(place, drain=timedelta(0)):
            await eventually(lambda: place.doings.attempts == [1])

        async with running(other):
            await eventually(lambda: other.doings.done == [1])


class Stumbling(QueueStore):
    """Makes mistakes that nobody foresaw, so many of them."""

    mistakes = 2
    kept = 0

    async def take(self, worker: str, room: int, doing: Any = ()) -> Look:
        self._stumble()
        return await super().take(worker, room, doing)

    async def keep(self, worker: str, entries: list[str]) -> None:
        self.kept += 1
        self._stumble()
        await super().keep(worker, entries)

    def _stumble(self) -> None:
        if self.mistakes > 0:
            self.mistakes -= 1
            raise RuntimeError("nobody foresaw this")


class AwayAtTimes(QueueStore):
    """Cannot be asked, every second time."""

    asked = 0

    async def take(self, worker: str, room: int, doing: Any = ()) -> Look:
        self.asked += 1
        if self.asked % 2:
            raise ValkeyUnavailable("it did not answer")
        return await super().take(worker, room, doing)


class Deaf(QueueStore):
    """Hears of no death."""

    async def bury(self, worker: str, taken: Taken, why: str) -> bool:
        raise ValkeyUnavailable("it did not answer")


class TestAWorker:
    @pytest.fixture
    async def valkey(self, covey_engines: Engines) -> AsyncIterator[Valkey]:
        async with Valkey.open(covey_engines.valkey_url) as opened:
            yield opened

    @pytest.fixture
    def log(self) -> Iterator[Log]:
        """The log lines so far."""
        with capture_logs() as lines:
            yield lines

    async def test_that_stumbles_says_so_and_goes_on(
        self, place: Place, valkey: Valkey, system_name: str, log: Log
    ) -> None:
        store = Stumbling(valkey, system_name, "shop", "things", QUICK)
        await place.add(1)

        async with _working(place, store, valkey):
            await eventually(lambda: place.doings.done == [1])

        assert [line["event"] for line in log if line["log_level"] == "error"] == ["queue_failed"] * 2

    async def test_that_loses_valkey_says_so_each_time(
        self, open_place: OpenPlace, valkey: Valkey, system_name: str, log: Log
    ) -> None:
        options = QueueOptions(poll=1 * MS)

        async with _working(
            await open_place(options), AwayAtTimes(valkey, system_name, "shop", "things", options), valkey
        ):
            await eventually(lambda: len(log) >= 3)

        assert {(line["event"], line["log_level"]) for line in log} == {("queue_waits", "warning")}

    async def test_that_stumbles_over_its_leases_goes_on_saying_that_it_is_there(
        self, open_place: OpenPlace, valkey: Valkey, system_name: str
    ) -> None:
        options = QueueOptions(lease=timedelta(milliseconds=30), poll=10 * MS)
        place = await open_place(options)
        store = Stumbling(valkey, system_name, "shop", "things", options)

        async with _working(place, store, valkey):
            await eventually(lambda: store.mistakes == 0 and store.kept > 3)

    async def test_counts_no_job_as_dead_that_another_has_done_meanwhile(
        self, open_place: OpenPlace, valkey: Valkey, system_name: str, log: Log
    ) -> None:
        options = QueueOptions(lease=timedelta(milliseconds=1), max_attempts=1, poll=10 * MS)
        place = await open_place(options)
        store = QueueStore(valkey, system_name, "shop", "things", options)
        patient = QueueStore(valkey, system_name, "shop", "things", replace(options, max_attempts=9))

        async def lose(job: Any) -> None:
            (taken,) = await eventually(lambda: taken_of(patient, "another"))
            await patient.done(taken)
            fail(job)

        place.doings.then = lose
        await place.add(1)
        async with _working(place, store, valkey) as dead:
            await eventually(lambda: [line for line in log if line["event"] == "job_failed"])

        assert dead.value(("things",)) == 0
        assert (await store.lengths()).dead == 0
        assert "job_dead" not in [line["event"] for line in log]

    async def test_counts_no_job_as_dead_of_whose_death_nobody_heard(
        self, open_place: OpenPlace, valkey: Valkey, system_name: str, log: Log
    ) -> None:
        options = QueueOptions(lease=timedelta(milliseconds=10), max_attempts=1, poll=timedelta(seconds=20))
        place = await open_place(options)
        place.doings.then = fail
        await place.add(1)

        async with _working(place, Deaf(valkey, system_name, "shop", "things", options), valkey) as dead:
            await eventually(lambda: [line for line in log if line["event"] == "job_outcome_unsaid"])
            await eventually(lambda: [line for line in log if line["event"] == "job_failed"])

        assert dead.value(("things",)) == 0


@asynccontextmanager
async def _working(place: Place, store: QueueStore, valkey: Valkey) -> AsyncIterator[Counter]:
    """Have a worker do jobs on a store of the test; yield what counts the dead ones."""
    metrics = Metrics()
    jobs = metrics.histogram("jobs_seconds", "", ("queue", "outcome"))
    dead = metrics.counter("dead_total", "", ("queue",))
    worker = QueueWorker(place.queue, store, valkey, place.transactions, jobs, dead)
    running = asyncio.create_task(worker.run(timedelta(seconds=1)))
    try:
        yield dead
    finally:
        worker.stop()
        await running
