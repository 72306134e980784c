"""An account: who somebody is, how to reach them, and what they want to hear of.

    User ──→ Closed

A closed account is a tombstone: its personal data is erased, its id and version stay, so that nobody who knows an
earlier version takes it for the newest. Pure: no I/O and no clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NewType
from uuid import UUID

from covey.errors import Invalid

UserId = NewType("UserId", UUID)

MAX_NAME_LENGTH = 100

NOT_BLANK = r"[^\s\x1c-\x1f\x85]"
"""A character that is a space in none of the dialects of patterns: OpenAPI's, pydantic's, Python's."""

MAX_AGE = 150

MAX_EMAIL_LENGTH = 254
EMAIL = r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})+$"
"""What HTML takes for an e-mail address (WHATWG), with a dot in its domain: ASCII, so that its case can be folded."""

PHONE = r"^\+[1-9][0-9]{6,14}$"
"""A number with its country, as ITU-T E.164 writes it."""

LOCALE = r"^[a-z]{2}(-[A-Z]{2})?$"


@dataclass(frozen=True, slots=True)
class Profile:
    """Who somebody is. All of it is personal data.

    `name` is how they write it. Which part of it is given and which the family's only they can tell; who has not, has
    no parts.
    """

    name: str
    email: str
    phone: str | None = None
    age: int | None = None
    given_name: str | None = None
    family_name: str | None = None

    def __post_init__(self) -> None:
        for name in (self.name, self.given_name, self.family_name):
            if name is not None and (not name.strip() or len(name) > MAX_NAME_LENGTH):
                raise Invalid(f"a name has 1 to {MAX_NAME_LENGTH} characters and is not blank")

    def with_parts_of(self, present: Profile) -> Profile:
        """Return it with the parts of the name that the present profile has, unless the name is another.

        Whoever writes a name as a whole says nothing of its parts: they stay, and of a new name they would be wrong.
        """
        if self.name != present.name:
            return self
        return replace(self, given_name=present.given_name, family_name=present.family_name)


def checked_profile(name: str, email: str, phone: str | None, age: int | None) -> Profile:
    """Return a profile from what somebody has sent. Raises Invalid with every field that breaks a rule."""
    broken = [
        {"in": "message", "pointer": f"#/{field}", "what": what} for field, what in _broken(name, email, phone, age)
    ]
    if broken:
        raise Invalid("; ".join(f"{one['pointer'].removeprefix('#/')}: {one['what']}" for one in broken), broken)
    return Profile(name, email, phone, age)


def _broken(name: str, email: str, phone: str | None, age: int | None) -> Iterator[tuple[str, str]]:
    if not name.strip() or len(name) > MAX_NAME_LENGTH:
        yield "name", f"it has 1 to {MAX_NAME_LENGTH} characters and is not blank"
    if len(email) > MAX_EMAIL_LENGTH or not re.fullmatch(EMAIL, email):
        yield "email", f"it is an e-mail address of at most {MAX_EMAIL_LENGTH} characters"
    if phone is not None and not re.fullmatch(PHONE, phone):
        yield "phone", "it is a number with its country, such as +4915112345678"
    if age is not None and not 0 <= age <= MAX_AGE:
        yield "age", f"it is 0 to {MAX_AGE}"


@dataclass(frozen=True, slots=True)
class Preferences:
    """What somebody wants mail about, and in which language. Advertising is for those who asked for it."""

    order_mail: bool = True
    marketing_mail: bool = False
    locale: str = "en"


@dataclass(frozen=True, slots=True)
class Times:
    """When an account was opened, and when it was last changed, by the clock of the database."""

    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class User:
    """An open account. `version` counts its changes, so that a reader can tell an older state from a newer one.

    `times` are None until it is stored.
    """

    id: UserId
    profile: Profile
    preferences: Preferences = Preferences()
    version: int = 1
    times: Times | None = None

    def with_profile(self, profile: Profile) -> User:
        """Return the next version."""
        return replace(self, profile=profile, version=self.version + 1)

    def with_preferences(self, preferences: Preferences) -> User:
        """Return the next version."""
        return replace(self, preferences=preferences, version=self.version + 1)

    def revised(self, profile: Profile, preferences: Preferences) -> User:
        """Return the next version, which is one for both."""
        return replace(self, profile=profile, preferences=preferences, version=self.version + 1)

    def closed(self) -> Closed:
        """Return what stays of the account."""
        return Closed(self.id, self.version + 1)


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed account."""

    id: UserId
    version: int


Account = User | Closed
