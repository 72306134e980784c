"""The command that notification carries out, and the part of user's events that it reads."""

from __future__ import annotations

from uuid import UUID

from covey.message import Command, Event
from notification_service.domain import Money, OrderId, UserId


class SendConfirmation(Command, type="notification.send-confirmation.v1", key="saga_id"):
    """Tell a user by mail that their order is confirmed. Never refused: it is done also when nobody wants the mail,
    or the mail server will not take it, for neither is a failure of the order.
    """

    saga_id: UUID
    order_id: OrderId
    user_id: UserId
    total: Money


class UserChanged(Event, type="user.changed.v1"):
    """The part of a user that notification keeps a read model of; without an e-mail when the account is closed."""

    user_id: UserId
    version: int
    email: str | None
    locale: str | None
    wants_order_mail: bool
