"""Versions of a service read a stream in turn, each for other topics: for each topic it is read once and in order."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from covey.messaging.position import Position

TOPICS = ["a", "b", "c", "d"]

wanted = st.sets(st.sampled_from(TOPICS), min_size=1)


@dataclass
class Service:
    """What versions of it have read, of a stream that holds such topics."""

    stream: list[str]
    position: Position = field(default_factory=lambda: Position(0, frozenset(), {}))
    read: list[int] = field(default_factory=list)

    def have_the_role(self, topics: set[str], looks: int, batch: int) -> None:
        """Read on, for at most so many looks."""
        self.position = self.position.taken_up(topics)
        for _ in range(looks):
            level = self.position.until(topics)
            end = len(self.stream) if level is None else level
            upto = min(self.position.sequence + batch, end)
            self.read += [
                n for n in range(self.position.sequence + 1, upto + 1) if self.stream[n - 1] in self.position.topics
            ]
            self.position = Position(upto, self.position.topics, self.position.others)
            if level is not None and upto >= level:
                self.position = self.position.taken_up(topics)


@given(
    st.lists(st.sampled_from(TOPICS), max_size=40),
    st.lists(st.tuples(wanted, st.integers(0, 4), st.integers(1, 12), st.integers(0, 5)), max_size=12),
)
def test_all_of_every_topic_is_read_once_and_in_order_whoever_reads_when(
    stream: list[str], turns: list[tuple[set[str], int, int, int]]
) -> None:
    service = Service([])
    for topics, looks, batch, published in turns:
        service.have_the_role(topics, looks, batch)
        service.stream += stream[len(service.stream) :][:published]
    service.stream = stream

    service.have_the_role(set(TOPICS), looks=100, batch=7)

    for topic in TOPICS:
        read = [n for n in service.read if stream[n - 1] == topic]
        assert read == [n for n, of_it in enumerate(stream, 1) if of_it == topic]


@given(st.lists(st.sampled_from(TOPICS), max_size=20), st.lists(st.tuples(wanted, st.integers(0, 3)), max_size=8))
def test_what_is_new_waits_until_what_lags_behind_was_read(
    stream: list[str], turns: list[tuple[set[str], int]]
) -> None:
    service = Service(stream)
    for topics, looks in turns:
        service.have_the_role(topics, looks, batch=5)
    before = {topic: service.position.of(topic) for topic in TOPICS}
    service.read.clear()

    service.have_the_role(set(TOPICS), looks=100, batch=7)

    behind = [n for n in service.read if n <= max(before.values())]
    assert service.read[: len(behind)] == sorted(behind)
    assert all(n > before[stream[n - 1]] for n in service.read)
    assert bisect_right(service.read, max(before.values())) == len(behind)


def test_what_was_never_read_is_at_the_beginning() -> None:
    position = Position(7, frozenset("a"), {"b": 3})

    assert [position.of(topic) for topic in "abc"] == [7, 3, 0]
    assert position.taken_up({"a", "b", "c"}) == Position(0, frozenset("c"), {"a": 7, "b": 3})
    assert position.taken_up({"a"}) == position
    assert not position.taken_up({"c"}).untouched()


def test_where_nobody_has_said_what_was_read_all_is_read_again_and_how_far_that_was_is_kept() -> None:
    position = Position(7, frozenset(), {}).taken_up({"a", "b"})

    assert position == Position(0, frozenset("ab"), {"": 7})
    assert not position.untouched()
    assert position.head({"a", "b"}) == 7
    assert position.until({"a", "b"}) is None
