"""`work: Transaction` gives a route one transaction: committed before its answer is sent, rolled back when it raises.

FastAPI ends dependencies of scope `function` after the answer has been made and before its first byte is
sent (https://fastapi.tiangolo.com/tutorial/dependencies/dependencies-with-yield/#dependency-scope). A commit
that fails is therefore a 5xx; nobody is ever told 201 about something that is not durable.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request

from covey.errors import DefinitionError
from covey.work.unit_of_work import Transactions, Work

_WORK = "covey.work"


async def begin(request: Request) -> AsyncIterator[Work]:
    """Begin the transaction of this request, from the `transactions` in the application's state."""
    transactions: Transactions | None = request.app.state.transactions
    if transactions is None:
        raise DefinitionError("a route uses a Transaction, but its application was made without `transactions`")
    async with transactions.begin() as work:
        request.scope[_WORK] = work
        yield work


def work_of(request: Request) -> Work:
    """Return the transaction that `begin` has begun for this request."""
    work: Work = request.scope[_WORK]
    return work


Transaction = Annotated[Work, Depends(begin, scope="function")]
"""A route's parameter of this type is the one `Work` of its request. What raises rolls back; what returns commits."""
