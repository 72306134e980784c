"""What both versions have in common: who may see a user, and the shapes that have not changed."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from covey.http.whole import WHOLE
from covey.security.access import require_owner
from covey.security.principal import Principal
from user_service.domain import (
    EMAIL,
    LOCALE,
    MAX_AGE,
    MAX_EMAIL_LENGTH,
    MAX_NAME_LENGTH,
    NOT_BLANK,
    PHONE,
    Preferences,
    UserId,
)

Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH, pattern=NOT_BLANK)]
Email = Annotated[str, Field(max_length=MAX_EMAIL_LENGTH, pattern=EMAIL)]
Phone = Annotated[str, Field(pattern=PHONE)]
Age = Annotated[int, Field(strict=True, ge=0, le=MAX_AGE), WHOLE]


class Request(BaseModel):
    """What somebody sends: a member that it does not have is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ChosenPreferences(Request):
    """What a user wants mail about, and in which language."""

    order_mail: bool = Field(strict=True)
    marketing_mail: bool = Field(strict=True)
    locale: str = Field(pattern=LOCALE)

    @classmethod
    def of(cls, preferences: Preferences) -> ChosenPreferences:
        """Return the shape of preferences."""
        return cls(
            order_mail=preferences.order_mail, marketing_mail=preferences.marketing_mail, locale=preferences.locale
        )

    def preferences(self) -> Preferences:
        """Return them as the domain knows them."""
        return Preferences(self.order_mail, self.marketing_mail, self.locale)


class Announcement(Request):
    """Which users to announce: up to `limit` of them, in order of their ids, from the one after `after` on."""

    after: UserId | None = None
    limit: Annotated[int, Field(strict=True, ge=1, le=500), WHOLE] = 200


class Announced(BaseModel):
    """How many users were announced. `next` is what to pass as `after`; null when these were the last."""

    announced: int
    next: UserId | None


def require_self(caller: Principal, user_id: UserId) -> None:
    """Raise Forbidden unless the caller is this user, or of the staff."""
    require_owner(caller, f"user:{user_id}", or_role="staff")
