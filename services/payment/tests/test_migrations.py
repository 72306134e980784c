"""What was paid for before there were invoices has one afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import psycopg

from covey.database.migrations import migrate
from covey.ids import new_id


def test_what_was_captured_and_refunded_before_is_invoiced_and_credited(
    make_database: Callable[[Path | None], str], service_migrations: Path, tmp_path: Path
) -> None:
    shutil.copy(service_migrations / "0001_payments.py", tmp_path)
    url = make_database(tmp_path)
    kept, returned, given_up = (new_id() for _ in range(3))
    with psycopg.connect(url) as connection:
        for order_id, status, captured, refunded in (
            (kept, "captured", 4_900, 0),
            (returned, "refunded", 4_900, 4_900),
            (given_up, "voided", 0, 0),
        ):
            connection.execute(
                "INSERT INTO payment (id, order_id, amount, currency, status, authorized, captured, voided, refunded)"
                " VALUES (%s, %s, 4900, 'EUR', %s, 4900, %s, 0, %s)",
                (new_id(), order_id, status, captured, refunded),
            )

    migrate(url, service_migrations)

    with psycopg.connect(url) as connection:
        invoices = connection.execute("SELECT order_id, amount FROM invoice").fetchall()
        notes = connection.execute(
            "SELECT i.order_id, n.amount, r.status FROM credit_note n"
            " JOIN invoice i ON i.id = n.invoice_id JOIN refund r ON r.id = n.refund_id"
        ).fetchall()
    assert dict(invoices) == {kept: 4_900, returned: 4_900}
    assert notes == [(returned, 4_900, "done")]
