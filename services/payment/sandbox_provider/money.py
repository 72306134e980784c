"""The provider's rules. It is as forgiving as the worst of them: only the idempotency key keeps a request from
being carried out twice. A second authorization or capture under another key is a second one.
"""

from __future__ import annotations

from dataclasses import dataclass

from sandbox_provider.book import Entry
from sandbox_provider.requests import Operation, Request

APPROVED, DECLINED = 201, 402


@dataclass(frozen=True, slots=True)
class Sums:
    """What has moved under one reference, in minor units. `voided_once`: nothing may be authorized any more."""

    authorized: int
    captured: int
    voided: int
    refunded: int
    voided_once: bool


def sums(entries: list[Entry]) -> Sums:
    """Add up the decisions about a reference."""

    def total(operation: Operation) -> int:
        return sum(entry.done for entry in entries if entry.operation == operation)

    return Sums(
        total(Operation.AUTHORIZE),
        total(Operation.CAPTURE),
        total(Operation.VOID),
        total(Operation.REFUND),
        any(entry.operation == Operation.VOID for entry in entries),
    )


def decide(
    operation: Operation, request: Request, so_far: Sums, refuse: str | None
) -> tuple[int, int, dict[str, object]]:
    """Return the status, the amount that moves and the answer. `refuse` is a reason to decline in any case."""
    reason = refuse or _objection(operation, request, so_far)
    if reason:
        return DECLINED, 0, {"code": "declined", "detail": reason}
    if operation is Operation.VOID:
        open_amount = max(0, so_far.authorized - so_far.captured - so_far.voided)
        return APPROVED, open_amount, {"amount": open_amount, "authorized": so_far.authorized}
    return APPROVED, request.amount, {"amount": request.amount}


def _objection(operation: Operation, request: Request, so_far: Sums) -> str | None:
    match operation:
        case Operation.AUTHORIZE:
            return "the reference was voided" if so_far.voided_once else None
        case Operation.CAPTURE:
            nothing = so_far.voided_once or not so_far.authorized
            return "there is no open authorization" if nothing else None
        case Operation.REFUND:
            return "more than was captured" if so_far.refunded + request.amount > so_far.captured else None
        case Operation.VOID:
            return None
