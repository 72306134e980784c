"""How far a service has read a stream, topic by topic.

While a deployment rolls, versions that read different topics have the role of reading a stream in turn. Each moves the
position past what it has not asked for. So what is not read now keeps a place of its own, and whoever takes the role
reads what lags behind first, alone, until it has come as far as the rest (docs/decisions/0033).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

UNSAID = ""
"""Beside the names of topics: whatever was read by who did not say what. It shows how far the service has come."""


@dataclass(frozen=True, slots=True)
class Position:
    """`topics` were read up to `sequence`, and `others` up to places of their own; what is in neither never was."""

    sequence: int
    topics: frozenset[str]
    others: Mapping[str, int]

    def of(self, topic: str) -> int:
        """Return the sequence up to which a topic was read."""
        return self.sequence if topic in self.topics else self.others.get(topic, 0)

    def taken_up(self, wanted: Collection[str]) -> Position:
        """Return the position of whoever wants these and reads on: for those alone that are furthest behind."""
        start = min(map(self.of, wanted))
        behind = frozenset(topic for topic in wanted if self.of(topic) == start)
        known = {**self.others, **dict.fromkeys(self.topics or {UNSAID}, self.sequence)}
        return Position(start, behind, {topic: upto for topic, upto in known.items() if topic not in behind})

    def until(self, wanted: Collection[str]) -> int | None:
        """Return where the next of those wanted are to be read again, too; None when all of them are."""
        return min((self.of(topic) for topic in wanted if topic not in self.topics), default=None)

    def head(self, wanted: Collection[str]) -> int:
        """Return how far the service has come with those, or with who knows what."""
        return max(map(self.of, (*wanted, UNSAID)))

    def untouched(self) -> bool:
        """Tell whether nothing of the stream was read yet."""
        return self.sequence == 0 and not any(self.others.values())
