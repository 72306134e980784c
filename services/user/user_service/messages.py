"""What user publishes. It asks nothing of others and reads nothing of theirs."""

from __future__ import annotations

from typing import assert_never

from covey.message import Event
from user_service.domain import Account, Closed, User, UserId


class UserChanged(Event, type="user.changed.v1", key="user_id"):
    """A user as they are now, whole: a reader needs no earlier event, and drops what is not newer than what it has.

    When the account is `closed` the personal fields are null and nothing is wanted; a reader erases what it holds.
    Phone and age are not in it: no service needs them.
    """

    user_id: UserId
    version: int
    closed: bool
    email: str | None
    name: str | None
    locale: str | None
    wants_order_mail: bool
    wants_marketing_mail: bool


def user_changed(account: Account) -> UserChanged:
    """Return the event that tells of an account as it is."""
    match account:
        case User(id=user_id, version=version, profile=profile, preferences=preferences):
            return UserChanged(
                user_id=user_id,
                version=version,
                closed=False,
                email=profile.email,
                name=profile.name,
                locale=preferences.locale,
                wants_order_mail=preferences.order_mail,
                wants_marketing_mail=preferences.marketing_mail,
            )
        case Closed(id=user_id, version=version):
            return UserChanged(
                user_id=user_id,
                version=version,
                closed=True,
                email=None,
                name=None,
                locale=None,
                wants_order_mail=False,
                wants_marketing_mail=False,
            )
        case _:
            assert_never(account)
