"""The carrier's rules. Only the idempotency key keeps a parcel from being booked twice: a second booking under another
key is a second parcel, which somebody will carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sandbox_carrier.book import Entry
from sandbox_carrier.requests import Operation, Request

ACCEPTED, DECLINED = 201, 403


@dataclass(frozen=True, slots=True)
class Outcome:
    """What comes of a request: the answer, its status, the pieces and the tracking number that it is about."""

    status: int
    pieces: int
    tracking: str
    answer: dict[str, object]


def decide(
    operation: Operation, request: Request, so_far: Sequence[Entry], tracking: str, refuse: str | None
) -> Outcome:
    """Return what comes of a request, in view of all earlier ones with its reference.

    `tracking` is the number that a parcel gets if it is accepted, `refuse` a reason to decline it in any case.
    """
    cancelled = any(entry.operation == Operation.CANCEL for entry in so_far)
    reason = refuse or ("the reference was cancelled" if operation is Operation.BOOK and cancelled else None)
    if reason:
        return Outcome(DECLINED, 0, "", {"detail": reason})
    if operation is Operation.CANCEL:
        pieces = _carried(so_far)
        return Outcome(ACCEPTED, pieces, "", {"pieces": pieces})
    return Outcome(ACCEPTED, request.pieces, tracking, {"tracking": tracking})


def _carried(entries: Sequence[Entry]) -> int:
    """Return the pieces that are booked and not cancelled."""
    return sum(entry.pieces if entry.operation == Operation.BOOK else -entry.pieces for entry in entries)
