"""The shop's auditor: waits until nothing moves, then compares orders, stock, money, parcels and mail, also with the
books of the payment provider, of the carrier and of the mail server.

    python -m shop.auditor                # of the system that `covey up` has started here

It trusts no service: it reads the databases and the books of those outside. Status 0: nothing is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from covey.clock import Clock, SystemClock
from covey.errors import ConfigurationError, CoveyError
from covey.local.status import read_status
from covey.settings import state_in
from shop.books import SERVICES, Books, Sources
from shop.reading import is_quiet, read
from shop.rules import findings

SETTLING_SECONDS = 30.0
_POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What was found: the violations of each rule, as sentences. None at all: everything is as it should be."""

    books: Books
    findings: dict[str, list[str]]

    @property
    def violations(self) -> list[str]:
        """Return the violations of all rules."""
        return [violation for found in self.findings.values() for violation in found]

    def summary(self) -> list[str]:
        """Return what there is, in a few lines."""
        books = self.books
        status = Counter(order.status for order in books.orders.values())
        counts = ", ".join(f"{count} {name}" for name, count in sorted(status.items()))
        money = {
            name: sum(getattr(one, name) for one in books.provider.values())
            for name in ("authorized", "captured", "voided", "refunded")
        }
        pieces = {
            name: sum(getattr(one, name) for one in books.stocks.values())
            for name in ("received", "free", "reserved", "sold")
        }
        mails = Counter(mail.status for about in books.confirmations.values() for mail in about)
        came_back = Counter(one.status for one in books.returns.values())
        back = ", ".join(f"{count} {name}" for name, count in sorted(came_back.items()))
        told = "".join(f"{count} {name}, " for name, count in sorted(mails.items()))
        return [
            f"orders  {len(books.orders)}: {counts or 'none'}",
            "money   " + ", ".join(f"{amount / 100:.2f} {name}" for name, amount in money.items()),
            "stock   " + ", ".join(f"{amount} {name}" for name, amount in pieces.items()),
            f"returns {len(books.returns)}: {back or 'none'}",
            f"parcels {sum(one.shipments for one in books.carrier.values())} shipments,"
            f" {sum(one.shipped for one in books.carrier.values())} pieces shipped,"
            f" {sum(one.returned for one in books.carrier.values())} returned",
            f"mail    {told}{sum(map(len, books.letters.values()))} arrived",
        ]


async def audit(
    sources: Sources,
    accepted: Collection[UUID] = (),
    *,
    within_seconds: float = SETTLING_SECONDS,
    clock: Clock | None = None,
) -> Audit:
    """Wait until nothing moves, at most so long, and audit what there is then.

    `accepted` are the orders that were answered with 201. What still moves at the end of the time is a violation.
    """
    clock = clock or SystemClock()
    until = clock.monotonic() + within_seconds
    while True:
        late = clock.monotonic() >= until
        if late or await is_quiet(sources):
            books = await read(sources, accepted)
            if late or not books.undelivered:
                return Audit(books=books, findings=findings(books))
        await clock.sleep(_POLL_SECONDS)


def sources_of(state: Path) -> Sources:
    """Return the books of the system that is up from this state folder. Raises ConfigurationError when none is."""
    status = read_status(state)
    urls = {unit.name: unit.url for unit in status.units} if status else {}
    outside = [urls.get(name) for name in ("sandbox-provider", "sandbox-carrier", "mail-sink")]
    match outside:
        case [str(provider), str(carrier), str(mail)]:
            databases = {service: _database_url(state, service) for service in SERVICES}
            return Sources(databases=databases, provider=provider, carrier=carrier, mail=mail)
    raise ConfigurationError(f"no shop is up in {state}: start one with `covey up`")


def _database_url(state: Path, service: str) -> str:
    told = dict(line.split("=", 1) for line in (state / "env" / f"{service}.env").read_text().splitlines())
    return told["DATABASE_URL"]


def main() -> int:
    """Audit the system of this folder, write what is found, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="shop.auditor", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--state", type=Path, help="the state folder of the system, by default .covey")
    parser.add_argument("--within", type=float, default=SETTLING_SECONDS, metavar="SECONDS", help="time to settle")
    arguments = parser.parse_args()
    try:
        found = asyncio.run(
            audit(sources_of(arguments.state or state_in(Path.cwd(), os.environ)), within_seconds=arguments.within)
        )
    except (CoveyError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    lines = [*found.summary(), *(f"WRONG   {violation}" for violation in found.violations)]
    sys.stdout.write("\n".join([*lines, "" if found.violations else "all is as it should be\n"]))
    return 1 if found.violations else 0


if __name__ == "__main__":
    sys.exit(main())
