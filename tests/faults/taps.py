"""What a network may do to messages, as taps on the wires of a process. Each is seeded, so a run can be repeated."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterable

from tests.wire.exchange import Arrival, Exchange, Publication, Stage, Statement, Tap
from tests.wire.nats import Frames, with_headers, with_payload


class Delaying:
    """Keeps everything back for a while, up to `most_seconds`: between connections, and so between keys, order is lost.

    Within a connection it is kept, as TCP does. `delayed` counts what was kept back for half of that or longer.
    """

    def __init__(self, seed: int, most_seconds: float) -> None:
        self._random = random.Random(seed)
        self._most = most_seconds
        self.delayed: Counter[type[Exchange]] = Counter()

    async def passes(self, stage: Stage, exchange: Exchange) -> bool:
        """See Tap."""
        if stage is not Stage.DELIVERED:
            seconds = self._most * self._random.random() ** 4
            await asyncio.sleep(seconds)
            self.delayed[type(exchange)] += seconds >= self._most / 2
        return True


class Losing:
    """Breaks a connection now and then: before a request has arrived, or after it was carried out and not answered."""

    def __init__(self, seed: int, share: float) -> None:
        self._random = random.Random(seed)
        self._share = share
        self.lost = 0

    async def passes(self, stage: Stage, exchange: Exchange) -> bool:
        """See Tap."""
        if stage is Stage.DELIVERED or _is_idle(exchange) or self._random.random() >= self._share:
            return True
        self.lost += 1
        return False


class Doubling:
    """Has the broker store every message twice, and deliver some twice in a row.

    The second copy has no id by which the broker could tell: only the consumer's inbox can.
    """

    def __init__(self, seed: int, share_of_deliveries: float) -> None:
        self._random = random.Random(seed)
        self._share = share_of_deliveries
        self.doubled = 0

    async def passes(self, stage: Stage, exchange: Exchange) -> bool:
        """See Tap."""
        if isinstance(exchange, Publication) and stage is Stage.REQUEST and "Nats-Batch-Id" not in exchange.headers:
            exchange.request += _copy(exchange)
            self.doubled += 1
        if isinstance(exchange, Arrival) and stage is Stage.ANSWER and self._random.random() < self._share:
            exchange.answer *= 2
            self.doubled += 1
        return True


class Swapping:
    """Has a stream store neighbours in the other order, where they are of different keys: no order is promised there.

    Neighbours are messages that leave in one write, each by itself or all in one bundle. What is stored all or nothing
    is numbered by who stores it, and stays as it is.
    """

    def __init__(self) -> None:
        self.swapped = 0
        self.swapped_in_bundles = 0

    async def passes(self, stage: Stage, exchange: Exchange) -> bool:
        """See Tap."""
        if not isinstance(exchange, Publication) or stage is not Stage.REQUEST:
            return True
        if _is_bundle(exchange):
            exchange.request = self._bundle(exchange.request)
        memory = exchange.session.memory
        if held := memory.pop("held back", b""):
            exchange.request += held
            self.swapped += 1
        elif exchange.next is not None and _may_be_swapped(exchange, exchange.next):
            memory["held back"], exchange.request = exchange.request, b""
        return True

    def _bundle(self, request: bytes) -> bytes:
        (frame,) = Frames().feed(request)
        parts = json.loads(frame.payload)
        for n in range(0, len(parts) - 1, 2):
            if parts[n][0]["ce-subject"] != parts[n + 1][0]["ce-subject"]:
                parts[n : n + 2] = parts[n + 1], parts[n]
                self.swapped_in_bundles += 1
        return with_payload(frame, json.dumps(parts).encode())


class Together:
    """Several taps, one behind the other."""

    def __init__(self, taps: Iterable[Tap]) -> None:
        self._taps = list(taps)

    async def passes(self, stage: Stage, exchange: Exchange) -> bool:
        """See Tap."""
        for tap in self._taps:
            if not await tap.passes(stage, exchange):
                return False
        return True


def _may_be_swapped(one: Publication, other: Publication) -> bool:
    """Tell whether two messages are of one stream and of different keys, each by itself; not in a bundle or a batch."""
    alone = not any(_is_bundle(each) or "Nats-Batch-Id" in each.headers for each in (one, other))
    same_stream = one.subject.split(".")[:2] == other.subject.split(".")[:2]
    return alone and same_stream and one.headers["ce-subject"] != other.headers["ce-subject"]


def _is_bundle(publication: Publication) -> bool:
    return publication.subject.endswith(".$bundle")


def _copy(publication: Publication) -> bytes:
    """Return a publication once more, without its id for the broker and with nobody to confirm it to."""
    (frame,) = Frames().feed(publication.request)
    headers = {name: value for name, value in frame.headers.items() if name != "Nats-Msg-Id"}
    return with_headers(frame, headers)


def _is_idle(exchange: Exchange) -> bool:
    """Tell whether this is mere polling, of which there is so much that all losses would fall on it."""
    return isinstance(exchange, Statement) and exchange.session.role.startswith("covey worker")
