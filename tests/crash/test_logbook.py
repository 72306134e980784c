"""Tests of the logbook: what a request does is told from what a process does by itself meanwhile."""

from __future__ import annotations

from tests.crash.logbook import Logbook
from tests.wire.exchange import Session, Statement


def test_a_statement_of_a_request_is_entered() -> None:
    book = Logbook()
    book.request = "POST /orders"

    book.asked(Statement(Session(1, "order 1"), "UPDATE orders SET status = $2", []))

    assert [(one.about, one.call, one.number) for one in book.entries] == [("POST /orders", "update orders", 1)]


def test_looking_for_suspects_belongs_to_no_request() -> None:
    book = Logbook()
    book.request = "POST /orders"

    book.asked(Statement(Session(1, "order 1"), "SELECT * FROM covey.begin_suspect($1, $2, $3, $4)", []))

    assert book.entries == []
