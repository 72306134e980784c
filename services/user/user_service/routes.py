"""Users over HTTP: their profile, their preferences, and the end of their account."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from covey.database import pagination
from covey.database.pagination import MOST
from covey.http.access import Caller
from covey.http.conditional import IfMatch, require_match, tag
from covey.http.idempotency import IdempotentRoute
from covey.http.limits import limited
from covey.http.lists import Cursor, Limit
from covey.http.transaction import Transaction
from covey.security.access import public, require_owner, requires
from user_service import storage, use_cases
from user_service.domain import (
    EMAIL,
    LOCALE,
    MAX_AGE,
    MAX_EMAIL_LENGTH,
    MAX_NAME_LENGTH,
    PHONE,
    Preferences,
    Profile,
    User,
    UserId,
)

api = APIRouter(prefix="/api/v1", tags=["users"], route_class=IdempotentRoute)


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ChosenPreferences(_Request):
    """What a user wants mail about, and in which language."""

    order_mail: bool = Field(strict=True)
    marketing_mail: bool = Field(strict=True)
    locale: str = Field(pattern=LOCALE)

    def preferences(self) -> Preferences:
        """Return them as the domain knows them."""
        return Preferences(self.order_mail, self.marketing_mail, self.locale)


class WholeProfile(_Request):
    """Who somebody is, and how to reach them."""

    name: str = Field(min_length=1, max_length=MAX_NAME_LENGTH)
    email: str = Field(max_length=MAX_EMAIL_LENGTH, pattern=EMAIL)
    phone: str | None = Field(default=None, pattern=PHONE)
    age: int | None = Field(default=None, strict=True, ge=0, le=MAX_AGE)

    def profile(self) -> Profile:
        """Return it as the domain knows it."""
        return Profile(self.name, self.email, self.phone, self.age)


class NewUser(WholeProfile):
    """Somebody who opens an account. Without preferences they get mail about their orders, in English."""

    preferences: ChosenPreferences | None = None


class UserView(BaseModel):
    """A user as they are shown."""

    id: UserId
    name: str
    email: str
    phone: str | None
    age: int | None
    version: int


class UserList(BaseModel):
    """A page of users. `next` is the cursor of the page after it; null: there is none."""

    users: list[UserView]
    next: str | None


class PreferencesView(BaseModel):
    """The preferences of a user. `version` is the user's."""

    order_mail: bool
    marketing_mail: bool
    locale: str
    version: int


class Announcement(_Request):
    """Which users to announce: up to `limit` of them, in order of their ids, from the one after `after` on."""

    after: UserId | None = None
    limit: int = Field(default=200, strict=True, ge=1, le=500)


class Announced(BaseModel):
    """How many users were announced. `next` is what to pass as `after`; null when these were the last."""

    announced: int
    next: UserId | None


@api.post("/users", status_code=201)
@public
@limited("30/minute", "300/day", but_not="staff")
async def create_user(body: NewUser, work: Transaction, response: Response) -> UserView:
    """Open an account, and tell others. 409 when an open one has this e-mail, whatever the case of its letters."""
    chosen = body.preferences.preferences() if body.preferences else Preferences()
    user = await use_cases.open_account(work, body.profile(), chosen)
    response.headers["Location"] = f"/api/v1/users/{user.id}"
    tag(response, user.version)
    return _view(user)


@api.get("/users/{user_id}")
async def get_user(user_id: UserId, caller: Caller, work: Transaction, response: Response) -> UserView:
    """Return a user; of a closed account nothing is left to show. Its `ETag` is what a change asks for."""
    _require_self(caller, user_id)
    user = await use_cases.user_of(work, user_id)
    tag(response, user.version)
    return _view(user)


@api.get("/users")
@requires("staff")
async def list_users(
    work: Transaction,
    ids: Annotated[list[UserId] | None, Query(max_length=MOST)] = None,
    email: Annotated[str | None, Query(max_length=MAX_EMAIL_LENGTH)] = None,
    name: Annotated[str | None, Query(max_length=MAX_NAME_LENGTH)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> UserList:
    """Return a page of users, or those with these `ids` in their order: then nothing else is looked at."""
    if ids is not None:
        return UserList(users=[_view(user) for user in await storage.users_by_ids(work, ids)], next=None)
    asked = pagination.Query(filters={"email": email, "name": name}, cursor=cursor, limit=limit)
    users, following = await storage.users_page(work, asked)
    return UserList(users=[_view(user) for user in users], next=following)


@api.put("/users/{user_id}")
async def change_profile(
    user_id: UserId,
    body: WholeProfile,
    caller: Caller,
    work: Transaction,
    response: Response,
    if_match: IfMatch = None,
) -> UserView:
    """Replace the profile, and tell others."""
    _require_self(caller, user_id)
    user = await use_cases.change_profile(work, user_id, partial(require_match, if_match), lambda _: body.profile())
    tag(response, user.version)
    return _view(user)


@api.delete("/users/{user_id}", status_code=204)
async def close_account(user_id: UserId, caller: Caller, work: Transaction) -> None:
    """Close an account: its personal data is erased, and others are told to erase theirs. Again changes nothing."""
    _require_self(caller, user_id)
    await use_cases.close_account(work, user_id)


@api.get("/users/{user_id}/preferences")
async def get_preferences(user_id: UserId, caller: Caller, work: Transaction, response: Response) -> PreferencesView:
    """Return what a user wants mail about, and in which language. The `ETag` is the user's."""
    _require_self(caller, user_id)
    user = await use_cases.user_of(work, user_id)
    tag(response, user.version)
    return _preferences(user)


@api.put("/users/{user_id}/preferences")
async def change_preferences(
    user_id: UserId,
    body: ChosenPreferences,
    caller: Caller,
    work: Transaction,
    response: Response,
    if_match: IfMatch = None,
) -> PreferencesView:
    """Replace the preferences, and tell others."""
    _require_self(caller, user_id)
    expect = partial(require_match, if_match)
    user = await use_cases.change_preferences(work, user_id, expect, body.preferences())
    tag(response, user.version)
    return _preferences(user)


@api.post("/users/announcements", status_code=202)
@requires("staff")
async def announce_users(body: Announcement, work: Transaction) -> Announced:
    """Publish users again as they are now: a snapshot for a reader that came too late for the events.

    Closed accounts too, for a reader may still hold what it was told before. One that knows a user already drops
    what is not newer, so this harms nobody.
    """
    announced, following = await use_cases.announce(work, body.after, body.limit)
    return Announced(announced=announced, next=following)


def _require_self(caller: Caller, user_id: UserId) -> None:
    require_owner(caller, f"user:{user_id}", or_role="staff")


def _view(user: User) -> UserView:
    profile = user.profile
    return UserView(
        id=user.id,
        name=profile.name,
        email=profile.email,
        phone=profile.phone,
        age=profile.age,
        version=user.version,
    )


def _preferences(user: User) -> PreferencesView:
    chosen = user.preferences
    return PreferencesView(
        order_mail=chosen.order_mail,
        marketing_mail=chosen.marketing_mail,
        locale=chosen.locale,
        version=user.version,
    )
