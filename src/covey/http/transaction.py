"""`work: Transaction` gives a route one transaction: committed before its answer is sent, rolled back when it raises.

FastAPI ends dependencies of scope `function` after the answer has been made and before its first byte is
sent (https://fastapi.tiangolo.com/tutorial/dependencies/dependencies-with-yield/#dependency-scope). A commit
that fails is therefore a 5xx; nobody is ever told 201 about something that is not durable.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request
from starlette.types import Scope

from covey.errors import DefinitionError
from covey.work.unit_of_work import Transactions, Work

WORK = "covey.work"
"""Where the scope of a request has its transaction."""


async def begin(request: Request) -> AsyncIterator[Work]:
    """Begin the transaction of this request, from the `transactions` in the application's state."""
    async with transactions_of(request.scope).begin() as work:
        request.scope[WORK] = work
        yield work


def transactions_of(scope: Scope) -> Transactions:
    """Return where the transaction of a request begins. Raises DefinitionError when its application has none."""
    transactions: Transactions | None = scope["app"].state.transactions
    if transactions is None:
        raise DefinitionError("a route uses a Transaction, but its application was made without `transactions`")
    return transactions


def work_of(request: Request) -> Work:
    """Return the transaction that has begun for this request."""
    work: Work = request.scope[WORK]
    return work


Transaction = Annotated[Work, Depends(begin, scope="function")]
"""A route's parameter of this type is the one `Work` of its request. What raises rolls back; what returns commits."""
