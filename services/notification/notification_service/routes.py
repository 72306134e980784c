"""Notifications over HTTP: what was sent, to whom, when, and what was not and why."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from covey.database import pagination
from covey.errors import Invalid, NotFound
from covey.http.access import Caller
from covey.http.idempotency import IdempotentRoute
from covey.http.lists import Cursor, Limit
from covey.http.transaction import Transaction
from covey.security.access import require_owner
from notification_service import storage
from notification_service.domain import MailId, OrderId, Status, UserId
from notification_service.storage import Stored

api = APIRouter(prefix="/api/v1", tags=["notifications"], route_class=IdempotentRoute)


class NotificationView(BaseModel):
    """A notification as it is shown. `attempts` is how often it was, or may have been, handed to the mail server."""

    id: MailId
    order_id: OrderId
    user_id: UserId
    status: Status
    reason: str | None
    attempts: int
    asked_at: datetime
    settled_at: datetime | None


class NotificationList(BaseModel):
    """A page of notifications. `next` is the cursor of the page after it; null: there is none."""

    notifications: list[NotificationView]
    next: str | None


@api.get("/notifications/{notification_id}")
async def get_notification(notification_id: MailId, caller: Caller, work: Transaction) -> NotificationView:
    """Return a notification."""
    stored = await storage.by_id(work, notification_id)
    if stored is None:
        raise NotFound(f"there is no notification {notification_id}")
    require_owner(caller, f"user:{stored.mail.user_id}", or_role="staff")
    return _view(stored)


@api.get("/notifications")
async def list_notifications(
    caller: Caller,
    work: Transaction,
    order_id: OrderId | None = None,
    user_id: UserId | None = None,
    sort: Literal["asked", "-asked"] = "-asked",
    cursor: Cursor = None,
    limit: Limit = 50,
) -> NotificationList:
    """Return the notifications about an order, or to a user, by default the newest first."""
    if (order_id is None) == (user_id is None):
        raise Invalid("say which: order_id or user_id, one of them")
    filters = {"order_id": order_id, "user_id": user_id}
    asked = pagination.Query(sort=sort, filters=filters, cursor=cursor, limit=limit)
    found, following = await storage.mails_page(work, asked)
    for stored in found:
        require_owner(caller, f"user:{stored.mail.user_id}", or_role="staff")
    return NotificationList(notifications=[_view(stored) for stored in found], next=following)


def _view(stored: Stored) -> NotificationView:
    mail = stored.mail
    return NotificationView(
        id=mail.id,
        order_id=mail.order_id,
        user_id=mail.user_id,
        status=mail.status,
        reason=mail.reason,
        attempts=mail.attempts,
        asked_at=stored.asked_at,
        settled_at=stored.settled_at,
    )
