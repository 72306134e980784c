"""How goods come back: they are received, the money is returned, the pieces are free again, and the order notes it.

The goods come first and can be given back; the refund decides, and is never undone. When shipping does not take the
goods, or payment definitely does not return the money, nothing has come back, and the pieces can be returned again.
"""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel

from covey.errors import NotFound
from covey.saga.definition import pivot, retriable, step
from covey.saga.saga import Saga
from covey.work.unit_of_work import Work
from order_service import domain, storage
from order_service.domain import Money, OrderId, Return, ReturnId, Wanted
from order_service.messages import CancelReturn, ReceiveReturn, RefundPayment, Restock


class ReturnOrder(BaseModel):
    """What the steps need. The return and its saga have the same id."""

    order_id: OrderId
    return_id: ReturnId
    lines: tuple[Wanted, ...]
    amount: Money


async def note_return(data: ReturnOrder, work: Work) -> None:
    """Note that goods and money are back."""
    found = await _to_change(data, work)
    one = domain.complete_return(found)
    if one != found:
        await storage.keep_return_state(work, one)


async def turn_return_down(data: ReturnOrder, reason: str, work: Work) -> None:
    """Note that the return has come to nothing, and let go of the pieces that it had claimed."""
    found = await _to_change(data, work)
    one = domain.refuse_return(found, reason)
    if one != found:
        await storage.keep_return_state(work, one)


return_order = Saga(
    "return-order",
    ReturnOrder,
    step(ReceiveReturn, undo=CancelReturn, timeout=timedelta(seconds=10), label="receiving the goods"),
    pivot(RefundPayment),
    retriable(Restock),
    retriable(note_return),
    compensated=turn_return_down,
)


async def _to_change(data: ReturnOrder, work: Work) -> Return:
    found = await storage.return_to_change(work, data.return_id)
    if found is None:
        raise NotFound(f"return {data.return_id} is gone")
    return found
