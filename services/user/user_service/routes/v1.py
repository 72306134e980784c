"""Version 1: a user is flat, has one name, and preferences at an address of their own. It will end: see `main.py`.

What version 2 knows besides stays as it is when somebody changes a user here.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Self

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from covey.database import pagination
from covey.database.pagination import MOST
from covey.http.access import Caller
from covey.http.conditional import IfMatch, require_match, tag
from covey.http.idempotency import IdempotentRoute
from covey.http.limits import limited
from covey.http.lists import Cursor, Limit
from covey.http.merge_patch import MergePatch
from covey.http.transaction import Transaction
from covey.security.access import public, requires
from user_service import storage, use_cases
from user_service.domain import MAX_EMAIL_LENGTH, MAX_NAME_LENGTH, Preferences, Profile, User, UserId
from user_service.routes.announcing import announce_users
from user_service.routes.shapes import Age, ChosenPreferences, Email, Name, Phone, Request, require_self

api = APIRouter(prefix="/api/v1", tags=["users"], route_class=IdempotentRoute)


class WholeProfile(Request):
    """Who somebody is, and how to reach them."""

    name: Name
    email: Email
    phone: Phone | None = None
    age: Age | None = None

    @classmethod
    def of(cls, profile: Profile) -> WholeProfile:
        """Return the shape of a profile."""
        return cls(name=profile.name, email=profile.email, phone=profile.phone, age=profile.age)

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

    @classmethod
    def of(cls, user: User) -> Self:
        """Return what is shown of a user."""
        profile = user.profile
        return cls(
            id=user.id,
            name=profile.name,
            email=profile.email,
            phone=profile.phone,
            age=profile.age,
            version=user.version,
        )


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


@api.post("/users", status_code=201)
@public
@limited("30/minute", "300/day", but_not="staff")
async def create_user(body: NewUser, work: Transaction, response: Response) -> UserView:
    """Open an account, and tell others. 409 when an open one has this e-mail, whatever the case of its letters."""
    chosen = body.preferences.preferences() if body.preferences else Preferences()
    user = await use_cases.open_account(work, body.profile(), chosen)
    response.headers["Location"] = f"/api/v1/users/{user.id}"
    tag(response, user.version)
    return UserView.of(user)


@api.get("/users/{user_id}")
async def get_user(user_id: UserId, caller: Caller, work: Transaction, response: Response) -> UserView:
    """Return a user; of a closed account nothing is left to show. Its `ETag` is what a change asks for."""
    require_self(caller, user_id)
    user = await use_cases.user_of(work, user_id)
    tag(response, user.version)
    return UserView.of(user)


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
        return UserList(users=[UserView.of(user) for user in await storage.users_by_ids(work, ids)], next=None)
    asked = pagination.Query(filters={"email": email, "name": name}, cursor=cursor, limit=limit)
    users, following = await storage.users_page(work, asked)
    return UserList(users=[UserView.of(user) for user in users], next=following)


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
    require_self(caller, user_id)
    user = await use_cases.change_profile(work, user_id, partial(require_match, if_match), lambda _: body.profile())
    tag(response, user.version)
    return UserView.of(user)


@api.patch("/users/{user_id}")
async def patch_profile(
    user_id: UserId,
    patch: MergePatch[WholeProfile],
    caller: Caller,
    work: Transaction,
    response: Response,
    if_match: IfMatch = None,
) -> UserView:
    """Change a part of the profile, and tell others."""
    require_self(caller, user_id)

    def change(present: Profile) -> Profile:
        return patch.applied_to(WholeProfile.of(present)).profile()

    user = await use_cases.change_profile(work, user_id, partial(require_match, if_match), change)
    tag(response, user.version)
    return UserView.of(user)


@api.delete("/users/{user_id}", status_code=204)
async def close_account(user_id: UserId, caller: Caller, work: Transaction, if_match: IfMatch = None) -> None:
    """Close an account: its personal data is erased, and others are told to erase theirs. Again changes nothing.

    With `If-Match` only as it was read: 412 when it has changed since.
    """
    require_self(caller, user_id)
    expect = partial(require_match, if_match) if if_match is not None else None
    await use_cases.close_account(work, user_id, expect)


@api.get("/users/{user_id}/preferences")
async def get_preferences(user_id: UserId, caller: Caller, work: Transaction, response: Response) -> PreferencesView:
    """Return what a user wants mail about, and in which language. The `ETag` is the user's."""
    require_self(caller, user_id)
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
    require_self(caller, user_id)
    expect = partial(require_match, if_match)
    user = await use_cases.change_preferences(work, user_id, expect, lambda _: body.preferences())
    tag(response, user.version)
    return _preferences(user)


@api.patch("/users/{user_id}/preferences")
async def patch_preferences(
    user_id: UserId,
    patch: MergePatch[ChosenPreferences],
    caller: Caller,
    work: Transaction,
    response: Response,
    if_match: IfMatch = None,
) -> PreferencesView:
    """Change some of the preferences, and tell others."""
    require_self(caller, user_id)

    def change(present: Preferences) -> Preferences:
        return patch.applied_to(ChosenPreferences.of(present)).preferences()

    user = await use_cases.change_preferences(work, user_id, partial(require_match, if_match), change)
    tag(response, user.version)
    return _preferences(user)


api.post("/users/announcements", status_code=202)(announce_users)


def _preferences(user: User) -> PreferencesView:
    chosen = user.preferences
    return PreferencesView(
        order_mail=chosen.order_mail,
        marketing_mail=chosen.marketing_mail,
        locale=chosen.locale,
        version=user.version,
    )
