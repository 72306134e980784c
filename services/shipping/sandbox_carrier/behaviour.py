"""How the carrier misbehaves: as the administrator has ordered, for so many calls or until further notice."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from sandbox_carrier.requests import Kind, Operation


class Mode(StrEnum):
    """What happens to a call.

    `slow` is answered late, but within what a client waits; `silent` is booked at once, and `late` after the client
    has given up, and neither is answered; `down` books nothing (503). What is only told of a parcel is never declined.
    """

    ANSWER = "answer"
    DECLINE = "decline"
    SLOW = "slow"
    LATE = "late"
    SILENT = "silent"
    DOWN = "down"


class Order(BaseModel):
    """A mode for the next `calls` calls (null: until further notice) of an operation and a kind (null: of any)."""

    model_config = ConfigDict(extra="forbid")

    mode: Mode
    operation: Operation | None = None
    kind: Kind | None = None
    calls: int | None = Field(default=None, ge=1)


class Behaviour:
    """Decides how each call goes. Forgets on restart, which the book does not."""

    def __init__(self) -> None:
        self.order = Order(mode=Mode.ANSWER)

    def next(self, operation: Operation, kind: str) -> Mode:
        """Return the mode of a call, and count it if it is one of those that were ordered."""
        order = self.order
        if order.operation not in (None, operation) or order.kind not in (None, kind):
            return Mode.ANSWER
        if order.calls is not None:
            order.calls -= 1
            if order.calls <= 0:
                self.order = Order(mode=Mode.ANSWER)
        return order.mode
