"""One order of each outcome: how the provider behaves, what the customer does, and what must come of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What makes an order end in one way. `status`: how it must end, whatever is killed meanwhile.

    `busy`: another replica has the lanes, so that what arrives is stored first and left to the workers. `cancels`:
    the customer cancels while the provider is being asked to authorize. `overdue`: the time of the step is over once
    the provider has booked the authorization (the harness moves the deadlines, and waits for nothing). `returns`: one
    piece is sent back when the goods are on their way. `carrier`: how the carrier behaves in its first calls.
    """

    name: str
    token: str = "tok_ok"
    scarce: bool = False
    busy: bool = False
    cancels: bool = False
    overdue: bool = False
    returns: bool = False
    carrier: str = ""
    status: str = "confirmed"


OUTCOMES = (
    Outcome(name="confirmed"),
    Outcome(name="confirmed by workers", busy=True),
    Outcome(name="out of stock", scarce=True, status="rejected"),
    Outcome(name="declined", token="tok_declined", status="rejected"),
    Outcome(name="capture declined", token="tok_capture_declined", status="rejected"),
    Outcome(name="capture declined, by workers", token="tok_capture_declined", busy=True, status="rejected"),
    Outcome(name="silent after authorizing", token="tok_timeout_after_charge", overdue=True, status="rejected"),
    Outcome(name="silent after capturing", token="tok_timeout_after_capture"),
    Outcome(name="provider down, then back", token="tok_down_2"),
    Outcome(name="cancelled before the pivot", cancels=True, status="cancelled"),
    Outcome(name="carrier silent after booking", carrier="silent"),
    Outcome(name="carrier down, then back", carrier="down"),
    Outcome(name="returned in part", returns=True),
)
