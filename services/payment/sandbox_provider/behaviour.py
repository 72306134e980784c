"""How the provider misbehaves, and who tells it to: the token of a payment, or the administrator.

    tok_ok                      all is well
    tok_declined                the authorization is declined
    tok_capture_declined        the capture is declined
    tok_refund_declined         refunds are declined
    tok_slow                    the authorization is answered late, but within what a client waits
    tok_late                    the authorization is booked after the client has given up, and never answered
    tok_timeout_after_charge    the authorization is booked, and no call is ever answered
    tok_timeout_after_capture   the capture is booked, and its first call is not answered
    tok_lies                    the authorization is booked, and its first two calls are told that it failed (500)
    tok_lies_capture            the capture is, and its first two calls
    tok_down                    every call to authorize finds the provider down (503)
    tok_down_3                  the first three calls to authorize do
    tok_down_capture_3          the first three calls to capture do

Any other token stands for no means of payment: its authorization is declined.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from sandbox_provider.requests import Operation


class Mode(StrEnum):
    """What happens to a call."""

    ANSWER = "answer"
    DECLINE = "decline"
    SLOW = "slow"
    LATE = "late"
    SILENT = "silent"
    LIE = "lie"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Script:
    """A mode for the first `calls` calls of an operation (None: for all of them)."""

    operation: Operation
    mode: Mode
    calls: int | None = None


_SCRIPTS = {
    "tok_declined": Script(Operation.AUTHORIZE, Mode.DECLINE),
    "tok_capture_declined": Script(Operation.CAPTURE, Mode.DECLINE),
    "tok_refund_declined": Script(Operation.REFUND, Mode.DECLINE),
    "tok_slow": Script(Operation.AUTHORIZE, Mode.SLOW, 1),
    "tok_late": Script(Operation.AUTHORIZE, Mode.LATE),
    "tok_timeout_after_charge": Script(Operation.AUTHORIZE, Mode.SILENT),
    "tok_timeout_after_capture": Script(Operation.CAPTURE, Mode.SILENT, 1),
    "tok_down": Script(Operation.AUTHORIZE, Mode.DOWN),
    "tok_lies": Script(Operation.AUTHORIZE, Mode.LIE, 2),
    "tok_lies_capture": Script(Operation.CAPTURE, Mode.LIE, 2),
}
_DOWN = re.compile(r"tok_down_(capture_)?([0-9]{1,3})")


def script_of(token: str) -> Script | None:
    """Return what a token asks for; None: nothing special."""
    down = _DOWN.fullmatch(token)
    if down:
        return Script(Operation.CAPTURE if down[1] else Operation.AUTHORIZE, Mode.DOWN, int(down[2]))
    return _SCRIPTS.get(token)


def is_known(token: str) -> bool:
    """Tell whether a token stands for a means of payment."""
    return token == "tok_ok" or script_of(token) is not None


@dataclass(slots=True)
class Order:
    """What the administrator has ordered: a mode for the next `calls` calls (None: until further notice)."""

    mode: Mode
    operation: Operation | None = None
    calls: int | None = None


@dataclass(slots=True)
class Behaviour:
    """Decides how each call goes. Forgets on restart, which the book does not."""

    order: Order | None = None
    calls: dict[tuple[str, Operation], int] = field(default_factory=dict)

    def next(self, operation: Operation, reference: str, token: str) -> Mode:
        """Count a call and return its mode. The administrator's order comes before the token."""
        count = self.calls.get((reference, operation), 0) + 1
        self.calls[(reference, operation)] = count
        if self.order is not None and self.order.operation in (None, operation):
            return self._ordered(self.order)
        script = script_of(token)
        if script is None or script.operation is not operation:
            return Mode.ANSWER
        return script.mode if script.calls is None or count <= script.calls else Mode.ANSWER

    def _ordered(self, order: Order) -> Mode:
        if order.calls is not None:
            order.calls -= 1
            if order.calls <= 0:
                self.order = None
        return order.mode
