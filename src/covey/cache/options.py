"""How one read is cached."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from covey.errors import DefinitionError
from covey.resilience.bulkhead import BulkheadOptions


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """Spans are counted by the clock of Valkey.

    A value is kept for `ttl`, or up to a tenth less, so that what was loaded together does not expire together;
    that there is none, for `negative_ttl`. From `changing` on nothing is kept for `hold`: take it longer than the rest
    of a transaction. Who loads has `lease` before another process may; `loads` bounds how many load at a time in one
    process. Raise `version` when what is read has changed in its meaning and not in its type.
    """

    ttl: timedelta = timedelta(minutes=5)
    negative_ttl: timedelta = timedelta(seconds=10)
    hold: timedelta = timedelta(seconds=5)
    lease: timedelta = timedelta(seconds=2)
    loads: BulkheadOptions = field(default_factory=lambda: BulkheadOptions(most=8, waiting=1_000))
    version: int = 1

    def __post_init__(self) -> None:
        if min(self.ttl, self.negative_ttl, self.hold, self.lease) < timedelta(milliseconds=2):
            raise DefinitionError(f"a read cannot be cached like this, a span is too short: {self}")
