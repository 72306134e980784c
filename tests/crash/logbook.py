"""Which calls one service has made for its work, in order, each with a name and a number that a second run repeats."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count

from tests.crash.seams import (
    ACCEPT,
    AND_COMMIT,
    BEGIN,
    COMMIT,
    MARK,
    PUBLISH,
    READ,
    RECEIVE,
    RECOVER,
    RESUME,
    ROLLBACK,
    STORE,
    SUSPECT,
    TAKE,
    TIMER,
    call_of,
    ends,
    mail_call_of,
    marks,
    read,
    recovered,
    stored,
    taken,
)
from tests.wire.exchange import Arrival, Call, Exchange, Mailing, Publication, Session, Statement

WORKER, INGEST = "covey worker", "covey ingest"
DIRECT, TURN, RETRY = "direct turn", "turn", "retry"
PROVIDER, MAIL_SERVER = "provider", "mail server"
OUTSIDE = (PROVIDER, MAIL_SERVER)


@dataclass(slots=True, eq=False)
class Transaction:
    """What is done on a connection between begin and commit. `about` is empty until it is known."""

    about: str = ""
    unnamed: list[Sighting] = field(default_factory=list)
    began_at: float = field(default_factory=time.monotonic)


@dataclass(slots=True, eq=False)
class Sighting:
    """A call that was seen. It has a `number`, from 1 among those of its name, once it is known to be work.

    `order` is its place among all, by the time of its request. `foreseen`: what it was expected to be about.
    """

    call: str
    transaction: Transaction
    order: int
    number: int = 0
    answered: bool = False
    foreseen: str = ""

    @property
    def about(self) -> str:
        """Return what it is about; empty while that is not known, or when it is no work."""
        return self.transaction.about


class Logbook:
    """Names what passes. `request` is what a client is asking of the service just now, such as `POST /orders`.
    `accepted` are the types of messages whose turns are run at once, as far as that was seen.
    """

    def __init__(self, accepted: set[str] | None = None) -> None:
        self.request = ""
        self.accepted = set() if accepted is None else accepted
        self.entries: list[Sighting] = []
        self._asked_outside = ""
        self._numbers: Counter[tuple[str, str]] = Counter()
        self._orders = count()
        self._open: dict[Exchange, list[Sighting]] = {}

    def next_number(self, about: str, call: str) -> int:
        """Return the number that the next such call will have."""
        return self._numbers[about, call] + 1

    def place(self) -> int:
        """Return a place after all that was seen, and before all that will be."""
        return next(self._orders)

    def asked(self, exchange: Exchange) -> list[Sighting]:
        """Enter a request; return what it is, which for some is not known yet."""
        match exchange:
            case Statement():
                sightings = self._statement(exchange)
            case Publication():
                sightings = [self._known("relay", f"{PUBLISH} {exchange.headers['ce-type']}")]
            case Arrival():
                sightings = [self._known("ingest", f"{RECEIVE} {exchange.headers['ce-type']}")]
            case Call():
                self._asked_outside = exchange.line.rpartition(" ")[0]
                sightings = [self._known(PROVIDER, self._asked_outside)]
            case Mailing():
                sightings = self._mailing(exchange)
        self._open[exchange] = sightings
        return sightings

    def answered(self, exchange: Exchange) -> list[Sighting]:
        """Enter an answer; return what it was for, named if it was work; nothing if asked before this book began."""
        sightings = self.asked(exchange) if isinstance(exchange, Arrival) else self._open.get(exchange, [])
        for sighting in sightings:
            sighting.answered = True
        if isinstance(exchange, Statement):
            for sighting in sightings:
                self._learn(exchange, sighting)
        return sightings

    def delivered(self, exchange: Exchange) -> list[Sighting]:
        """Enter that the process has the answer; return what it was for."""
        return self._open.pop(exchange, [])

    def transaction(self, session: Session) -> Transaction | None:
        """Return the transaction that is open on a connection."""
        found: Transaction | None = session.memory.get("transaction")
        return found

    def _statement(self, statement: Statement) -> list[Sighting]:
        call, memory = call_of(statement.sql), statement.session.memory
        if call is None:
            return []
        if call == READ:
            marking = [self._known("relay", f"{MARK} {memory.get('read', '')}")] if marks(statement) else []
            return [*marking, self._entered(READ, Transaction())]
        if statement.begins:
            memory["transaction"] = Transaction()
        transaction = memory.get("transaction") or Transaction()
        if call == ACCEPT:
            types = stored(statement)
            self.accepted.add(types)
            self._named(transaction, f"{DIRECT} {types}")
            call = f"{ACCEPT} {types}"
        elif call == STORE and (types := stored(statement)):
            self._named(transaction, f"{DIRECT} {types}" if "transaction" in memory else "ingest")
            call = f"{STORE} {types}"
        elif not transaction.about and not statement.session.role.startswith((WORKER, INGEST)):
            self._named(transaction, self._about(call))
        carries = statement.commits and call != COMMIT
        return [self._entered(call + AND_COMMIT if carries else call, transaction)]

    def _mailing(self, mailing: Mailing) -> list[Sighting]:
        call = mail_call_of(mailing)
        if call is None:
            return []
        self._asked_outside = "the mail"
        return [self._known(MAIL_SERVER, call)]

    def _about(self, call: str) -> str:
        """Return what a transaction outside the workers is about, as this statement of it shows."""
        if call == RESUME:
            return f"answer to {self._asked_outside or 'a call that was not made'}"
        return "" if call in (BEGIN, COMMIT, ROLLBACK, TIMER, RECOVER, SUSPECT, STORE) else self.request

    def _learn(self, statement: Statement, sighting: Sighting) -> None:
        """Name what only the answer shows."""
        memory = statement.session.memory
        match sighting.call:
            case "take" | "take due" if types := taken(statement):
                self._named(sighting.transaction, f"{TURN if sighting.call == TAKE else RETRY} {types}")
            case "saga timer" if statement.rows:
                self._named(sighting.transaction, TIMER)
            case "recover" if recovered(statement):
                self._named(sighting.transaction, RECOVER)
            case "relay reads" if types := read(statement):
                memory["read"] = types
                sighting.call = f"{READ} {types}"
                self._named(sighting.transaction, "relay")
            case call if ends(call) and not statement.error:
                memory.pop("transaction", None)

    def _known(self, about: str, call: str) -> Sighting:
        return self._entered(call, Transaction(about))

    def _entered(self, call: str, transaction: Transaction) -> Sighting:
        sighting = Sighting(call, transaction, next(self._orders))
        if transaction.about:
            self._number(sighting)
        else:
            transaction.unnamed.append(sighting)
        return sighting

    def _named(self, transaction: Transaction, about: str) -> None:
        if about:
            transaction.about = about
            for sighting in transaction.unnamed:
                self._number(sighting)
            transaction.unnamed.clear()

    def _number(self, sighting: Sighting) -> None:
        key = sighting.about, sighting.call
        self._numbers[key] += 1
        sighting.number = self._numbers[key]
        self.entries.append(sighting)


def is_typical(book: Logbook, *, busy: bool) -> bool:
    """Tell whether what arrived was handled as it typically is: at once or, when the lanes are busy, by workers."""
    if busy:
        calls = {one.call.partition(" ")[0] for one in book.entries if one.about.startswith(DIRECT)}
        return calls <= {BEGIN, STORE, COMMIT}
    with_care = {f"{STORE} {types}" for types in book.accepted}
    return not any(
        one.call.startswith(STORE) and (one.about == "ingest" or one.call in with_care) for one in book.entries
    )
