"""The effects that payment has at its provider. None is inside a transaction, because a charge cannot be rolled back.

Each is an intent (committed before the provider is asked), a call with an idempotency key, and the answer
(committed with the reply). A crash between them asks again with the same key.
"""

from __future__ import annotations

from collections.abc import Callable

from covey.errors import NotFound
from covey.ids import new_id
from covey.message import Refused
from covey.messaging.router import Router
from covey.work.unit_of_work import Work
from payment_service import domain, storage
from payment_service.domain import (
    Ask,
    AskRefund,
    CreditNoteId,
    Decision,
    InvoiceId,
    Known,
    No,
    Operation,
    OrderId,
    Payment,
    PaymentId,
    RefundId,
)
from payment_service.messages import AuthorizePayment, CapturePayment, PaymentReply, RefundPayment, VoidAuthorization
from payment_service.ports import Approved, Declined, Provider, Voided

Answer = PaymentReply | Refused
Intent = Payment | Answer


def effects(provider: Provider) -> Router:
    """Return the router whose commands are carried out by `provider`."""
    router = Router()
    router.external(AuthorizePayment, Authorize(provider))
    router.external(CapturePayment, Capture(provider))
    router.external(VoidAuthorization, Void(provider))
    router.external(RefundPayment, GiveBack(provider))
    return router


class Authorize:
    """Put the amount aside."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def intend(self, command: AuthorizePayment, work: Work) -> Intent:
        """Open the payment, unless it was given up before."""
        found = await storage.payment_to_change(work, command.order_id)
        payment_id = PaymentId(new_id())
        decision = domain.to_authorize(found, payment_id, command.order_id, command.amount, command.user_id)
        return await _intent(work, Operation.AUTHORIZE, decision)

    async def call(self, command: AuthorizePayment, intent: Payment, key: str) -> Approved | Declined:
        """Ask the provider."""
        return await self._provider.authorize(intent.reference, intent.amount, command.token, key)

    async def settle(self, command: AuthorizePayment, result: Approved | Declined, work: Work) -> Answer:
        """Record what is put aside, or why nothing is."""
        return await _settled(work, command.order_id, Operation.AUTHORIZE, result, domain.authorized)


class Capture:
    """Take what was put aside. The saga cannot go back from here, so the chassis asks until the answer is definite."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def intend(self, command: CapturePayment, work: Work) -> Intent:
        """Note that the money is being taken."""
        found = await storage.payment_to_change(work, command.order_id)
        return await _intent(work, Operation.CAPTURE, domain.to_capture(found, command.user_id))

    async def call(self, command: CapturePayment, intent: Payment, key: str) -> Approved | Declined:
        """Ask the provider."""
        return await self._provider.capture(intent.reference, intent.amount, key)

    async def settle(self, command: CapturePayment, result: Approved | Declined, work: Work) -> Answer:
        """Record what was taken, and issue an invoice; or record why nothing was."""
        invoice_id = InvoiceId(new_id())
        return await _settled(work, command.order_id, Operation.CAPTURE, result, domain.captured, invoice_id)


class Void:
    """Give up what is put aside, or may be: the provider knows, also when its answer to us was lost."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def intend(self, command: VoidAuthorization, work: Work) -> Intent:
        """Note that the payment is being given up; where there is none, leave a tombstone and ask nobody."""
        found = await storage.payment_to_change(work, command.order_id)
        decision = domain.to_void(found, PaymentId(new_id()), command.order_id)
        return await _intent(work, Operation.VOID, decision)

    async def call(self, command: VoidAuthorization, intent: Payment, key: str) -> Voided:
        """Ask the provider."""
        return await self._provider.void(intent.reference, key)

    async def settle(self, command: VoidAuthorization, result: Voided, work: Work) -> PaymentReply:
        """Record what had been put aside and what was given up."""
        payment = domain.voided(await _payment(work, command.order_id), result.authorized, result.amount)
        storage.answered(work, payment, Operation.VOID, "approved")
        return PaymentReply(payment_id=payment.id)


class GiveBack:
    """Return what was taken, or a part of it."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def intend(self, command: RefundPayment, work: Work) -> Intent:
        """Note that so much is being returned, which nobody else can return from now on."""
        found = await storage.payment_to_change(work, command.order_id)
        refund_id = RefundId(command.saga_id)
        refund = await storage.refund_by_id(work, refund_id)
        match domain.to_refund(found, refund, refund_id, command.amount):
            case AskRefund(payment=payment, refund=refund):
                await storage.keep_refund(work, payment, refund)
                return payment
            case Known(payment=payment):
                return PaymentReply(payment_id=payment.id)
            case No(reason=reason):
                return Refused(reason=reason)

    async def call(self, command: RefundPayment, intent: Payment, key: str) -> Approved | Declined:
        """Ask the provider."""
        return await self._provider.refund(intent.reference, command.amount, key)

    async def settle(self, command: RefundPayment, result: Approved | Declined, work: Work) -> Answer:
        """Record what was returned, and issue a credit note; or record why nothing was."""
        payment = await _payment(work, command.order_id)
        refund = await storage.refund_by_id(work, RefundId(command.saga_id))
        if refund is None:
            raise NotFound(f"refund {command.saga_id} of order {command.order_id} is gone")
        match result:
            case Approved(amount=amount):
                await storage.keep_refund(work, *domain.refunded(payment, refund, amount))
                await storage.issue_credit_note(work, CreditNoteId(new_id()), refund.id)
                return PaymentReply(payment_id=payment.id)
            case Declined(reason=reason):
                await storage.keep_refund(work, *domain.refund_declined(payment, refund, reason))
                return Refused(reason=reason)


async def _intent(work: Work, operation: Operation, decision: Decision) -> Intent:
    """Write the decision down. The payment that is returned is what the provider is asked about."""
    match decision:
        case Ask(payment=payment):
            storage.ask(work, payment, operation)
            return payment
        case Known(payment=payment):
            await storage.keep(work, payment)
            return PaymentReply(payment_id=payment.id)
        case No(reason=reason):
            return Refused(reason=reason)


async def _settled(
    work: Work,
    order_id: OrderId,
    operation: Operation,
    result: Approved | Declined,
    approve: Callable[[Payment, int], Payment],
    invoice_id: InvoiceId | None = None,
) -> Answer:
    """Write the provider's answer down, with an invoice if it has an id, and say it to who asked."""
    payment = await _payment(work, order_id)
    match result:
        case Approved(amount=amount):
            payment = approve(payment, amount)
            storage.answered(work, payment, operation, "approved", invoice_id)
            return PaymentReply(payment_id=payment.id)
        case Declined(reason=reason):
            storage.answered(work, domain.declined(payment, operation, reason), operation, f"declined: {reason}")
            return Refused(reason=reason)


async def _payment(work: Work, order_id: OrderId) -> Payment:
    payment = await storage.payment_to_change(work, order_id)
    if payment is None:
        raise NotFound(f"the payment of order {order_id} is gone")
    return payment
