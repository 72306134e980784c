"""One order of each outcome: how those outside behave, what the customer does, and what must come of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What makes an order end in one way. `status`: how it must end, whatever is killed meanwhile.

    `busy`: another replica has the lanes, so that what arrives is stored first and left to the workers. `cancels`:
    the customer cancels while the provider is being asked to authorize. `overdue`: the time of the step is over
    once the provider has booked the authorization (the harness moves the deadlines, and waits for nothing).
    `returns`: one piece is sent back when the goods are on their way, and this is how the return must end.
    `carrier`: how the carrier behaves when it is first asked to carry something; to carry it back, if that is
    asked. `registers`: opening the account belongs to what is watched. `mailbox`: how the mail server treats the
    customer (see there); `mail_down`: it takes no connection at first; `wants_mail`: so does this customer;
    `unsubscribes`: they want none any more when they order; `stranger`: nobody knows the customer, so that the mail
    waits for an address, in vain. `mail`: what must become of the mail about the order, if it is confirmed.
    `differs_in`: the services in which it is not the same as for all others; only there it is struck.
    `differs_late`: it is the same until the piece is sent back, once all else is at rest; it is struck only from
    there on. `gives_up`: the time of the step is over while the provider is asked to authorize, and the call goes on
    when the order has been given up.
    """

    name: str
    token: str = "tok_ok"
    scarce: bool = False
    busy: bool = False
    cancels: bool = False
    overdue: bool = False
    returns: str = ""
    carrier: str = ""
    registers: bool = False
    mailbox: str = "ada"
    mail_down: bool = False
    wants_mail: bool = True
    unsubscribes: bool = False
    stranger: bool = False
    mail: str = "sent"
    differs_in: tuple[str, ...] = ()
    differs_late: bool = False
    gives_up: bool = False
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
    # Once only: where half of the calls of many orders in a row fail, payment's breaker opens, and decides instead.
    Outcome(name="provider down, then back", token="tok_down_1"),
    Outcome(name="cancelled before the pivot", cancels=True, status="cancelled"),
    Outcome(name="carrier silent after booking", carrier="silent"),
    Outcome(name="carrier down, then back", carrier="down"),
    Outcome(name="returned in part", returns="completed"),
    Outcome(
        name="return declined",
        returns="refused",
        carrier="decline",
        differs_in=("order", "shipping"),
        differs_late=True,
    ),
    Outcome(
        name="refund declined",
        returns="refused",
        token="tok_refund_declined",
        differs_in=("order", "shipping", "payment"),
        differs_late=True,
    ),
    Outcome(name="by somebody new", registers=True, differs_in=("user", "notification")),
    Outcome(name="wants no mail any more", unsubscribes=True, mail="skipped", differs_in=("user", "notification")),
    Outcome(name="wants no mail", wants_mail=False, mail="skipped", differs_in=("notification",)),
    Outcome(name="has no account", stranger=True, mail="skipped", differs_in=("notification",)),
    Outcome(name="mail refused for good", mailbox="refuse", mail="refused", differs_in=("notification",)),
    Outcome(name="mail server busy", mailbox="busy-1", differs_in=("notification",)),
    Outcome(name="mail server silent after taking", mailbox="silent-1", differs_in=("notification",)),
    Outcome(name="mail server hangs up after taking", mailbox="drop-1", differs_in=("notification",)),
    Outcome(name="mail server down, then back", mail_down=True, differs_in=("notification",)),
    Outcome(name="provider stays down", token="tok_down", gives_up=True, status="rejected", differs_in=("payment",)),
)

_WITH_EVERY_SEAM = (
    "confirmed",
    "confirmed by workers",
    "declined",
    "silent after authorizing",
    "cancelled before the pivot",
    "carrier down, then back",
    "returned in part",
    "by somebody new",
    "mail server hangs up after taking",
)
OUTCOMES_WITH_EVERY_SEAM = tuple(one for one in OUTCOMES if one.name in _WITH_EVERY_SEAM)
"""All others have no seam that these do not have; the crash test sees to it."""
