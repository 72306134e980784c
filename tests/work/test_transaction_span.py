"""A transaction as a span: in the trace of what needs it, failed when it failed, and none where there is none."""

from __future__ import annotations

import pytest

from covey.context import Context, new_context, use
from covey.database.pool import Database
from covey.errors import ConstraintViolated
from covey.telemetry.tracing import Tracer
from covey.work.unit_of_work import Transactions

INSERT = "INSERT INTO effect VALUES ($1)"


@pytest.fixture
def tracer() -> Tracer:
    return Tracer()


@pytest.fixture
def traced(small_pool: Database, tracer: Tracer) -> Transactions:
    """Where work begins that is seen by `tracer`."""
    return Transactions(small_pool, "shop", tracer=tracer)


async def insert(transactions: Transactions, n: int, within: Context | None = None) -> None:
    """Insert a number, in this context if one is given."""
    if within is not None:
        with use(within):
            await insert(transactions, n)
        return
    async with transactions.begin() as work:
        await work.execute(INSERT, n)


async def test_a_transaction_is_a_span_of_the_request_that_it_is_in(traced: Transactions, tracer: Tracer) -> None:
    request = new_context()

    await insert(traced, 1, request)

    (span,) = tracer.recent
    assert (span.name, span.kind, span.error) == ("transaction", "client", None)
    assert (span.trace_id, span.parent_id) == (request.trace.trace_id, request.trace.span_id)
    assert 0 < span.end_ns - span.start_ns < 10**10
    assert dict(span.attributes) == {"db.system.name": "postgresql"}


async def test_one_that_is_rolled_back_or_refused_at_its_commit_has_failed(
    traced: Transactions, tracer: Tracer
) -> None:
    with pytest.raises(LookupError), use(new_context()):
        async with traced.begin() as work:
            await work.execute(INSERT, 1)
            raise LookupError
    await insert(traced, 2)
    with pytest.raises(ConstraintViolated), use(new_context()):
        async with traced.begin() as work:
            work.defer(INSERT, 2)

    assert [span.error for span in tracer.recent] == ["LookupError", "ConstraintViolated"]


async def test_what_is_no_transaction_or_in_no_trace_has_no_span(traced: Transactions, tracer: Tracer) -> None:
    with use(new_context()):
        async with traced.begin():
            pass
        async with traced.begin() as work:
            assert await work.fetchval("SELECT count(*) FROM effect") == 0
    await insert(traced, 1)
    unsampled = new_context(traceparent=f"00-{'1' * 32}-{'2' * 16}-00")
    await insert(traced, 2, unsampled)

    assert not tracer.recent
