"""`async with transaction() as work` gives a call one transaction: committed before its answer is sent.

    async def GetUser(self, request: GetUserRequest, context: object) -> GetUserResponse:
        async with transaction() as work:
            user = await storage.by_id(work, request.user_id)
        return shown(user)

What raises inside the block is rolled back, and becomes a status. Nobody is told OK about something that is not
durable, for the answer is sent after the block has ended.
"""

from __future__ import annotations

from contextvars import ContextVar

from covey.errors import DefinitionError
from covey.work.unit_of_work import Begun, Transactions

_current: ContextVar[Transactions | None] = ContextVar("covey_grpc_transactions", default=None)


def transaction() -> Begun:
    """Begin the transaction of this call. Raises DefinitionError outside of any."""
    transactions = _current.get()
    if transactions is None:
        raise DefinitionError("transaction() is of a call: it is used in a method of a servicer that covey serves")
    return transactions.begin()


def provide(transactions: Transactions | None) -> None:
    """Say where the transactions of this task, and of those that it starts, begin."""
    _current.set(transactions)
