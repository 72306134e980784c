"""Identifiers: UUID version 7 (RFC 9562, section 5.7), so that new rows land together in an index.

An id is made when the thing is made and never again: a message keeps its id through every retry,
which is what makes duplicates recognizable.
"""

from __future__ import annotations

import os
import time
from uuid import NAMESPACE_OID, UUID, uuid5

_MS_SHIFT = 80
_VERSION_AND_VARIANT = (0x7 << 76) | (0x2 << 62)
_RANDOM_MASK = ((1 << 12) - 1) << 64 | ((1 << 62) - 1)


def new_id() -> UUID:
    """Return a new UUIDv7: 48 bits of milliseconds, then 74 random bits.

    Unique over processes and machines; ordered by time to the millisecond and not within it.
    """
    random = int.from_bytes(os.urandom(10), "big") & _RANDOM_MASK
    milliseconds = time.time_ns() // 1_000_000
    return UUID(int=(milliseconds << _MS_SHIFT) | _VERSION_AND_VARIANT | random)


def derived_id(*parts: object) -> UUID:
    """Return the id that these parts always give (UUIDv5), for messages that must be the same when made twice."""
    return uuid5(NAMESPACE_OID, "\x1f".join(str(part) for part in parts))
