from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from covey.messaging.brokers.nats_publisher import (
    ATOMIC_MAX,
    CHUNK_BYTES,
    WINDOW,
    Outgoing,
    chunks,
    windows,
)


def outgoing(number: int, key: str = "k", size_bytes: int = 100) -> Outgoing:
    return Outgoing("a.b", key, {"n": str(number)}, b"", size_bytes)


keyed = st.lists(st.sampled_from("abcdefg"), max_size=60).map(
    lambda keys: [outgoing(n, key) for n, key in enumerate(keys)]
)


@given(keyed)
def test_a_window_holds_one_message_of_each_key_and_windows_keep_the_order_of_a_key(messages: list[Outgoing]) -> None:
    cut = list(windows(messages))

    assert all(len({message.key for message in window}) == len(window) for window in cut)
    for key in "abcdefg":
        in_order = [message for message in messages if message.key == key]
        assert [message for window in cut for message in window if message.key == key] == in_order


def test_a_window_is_bounded() -> None:
    messages = [outgoing(n, str(n)) for n in range(1_000)]

    cut = list(windows(messages))

    assert [message for window in cut for message in window] == messages
    assert max(map(len, cut)) == WINDOW


@given(st.lists(st.integers(0, 2 * CHUNK_BYTES), max_size=30))
@example([0, CHUNK_BYTES + 1])
def test_a_chunk_is_bounded_in_bytes_but_for_a_single_message(sizes: list[int]) -> None:
    messages = [outgoing(n, size_bytes=size) for n, size in enumerate(sizes)]

    cut = list(chunks(messages))

    assert [message for chunk in cut for message in chunk] == messages
    assert all(len(chunk) == 1 or sum(one.size_bytes for one in chunk) <= CHUNK_BYTES for chunk in cut)


def test_a_chunk_is_no_larger_than_a_batch_may_be() -> None:
    messages = [outgoing(n) for n in range(2 * ATOMIC_MAX + 1)]

    assert list(map(len, chunks(messages))) == [ATOMIC_MAX, ATOMIC_MAX, 1]
