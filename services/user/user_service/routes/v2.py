"""Version 2: a name has parts, contact and preferences are of the user, and one PUT or PATCH changes it all.

Its entity tags are its own: at an address where the version is negotiated, one state is shown in two shapes.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

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

api = APIRouter(prefix="/api/v2", tags=["users"], route_class=IdempotentRoute)

FORM = "v2"

_SEARCHED = "What the name begins with, whatever the case of its letters."
_FILTERED = 'Comparisons of `name`, `email` and `age`, joined by AND: `age >= 18 AND email != "ada@example.org"`.'


class PartedName(Request):
    """What somebody is called: as they write it and, if they tell, which part is given and which the family's."""

    full: Name
    given: Name | None = None
    family: Name | None = None


class Contact(Request):
    """How to reach somebody."""

    email: Email
    phone: Phone | None = None


class WholeUser(Request):
    """All of a user that can change."""

    name: PartedName
    contact: Contact
    age: Age | None = None
    preferences: ChosenPreferences

    @classmethod
    def of(cls, user: User) -> WholeUser:
        """Return the shape of a user."""
        profile = user.profile
        return cls(
            name=PartedName(full=profile.name, given=profile.given_name, family=profile.family_name),
            contact=Contact(email=profile.email, phone=profile.phone),
            age=profile.age,
            preferences=ChosenPreferences.of(user.preferences),
        )

    def revised(self, user: User) -> User:
        """Return the next version of a user, who is then like this."""
        profile = _profile(self.name, self.contact, self.age)
        return user.revised(profile, self.preferences.preferences())


class NewUserV2(Request):
    """Somebody who opens an account. Without preferences they get mail about their orders, in English."""

    name: PartedName
    contact: Contact
    age: Age | None = None
    preferences: ChosenPreferences | None = None


class UserViewV2(WholeUser):
    """A user as they are shown."""

    id: UserId
    version: int


class UserListV2(BaseModel):
    """A page of users. `next` is the cursor of the page after it; null: there is none."""

    users: list[UserViewV2]
    next: str | None


@api.post("/users", status_code=201)
@public
@limited("30/minute", "300/day", but_not="staff")
async def open_account(body: NewUserV2, work: Transaction, response: Response) -> UserViewV2:
    """Open an account, and tell others. 409 when an open one has this e-mail, whatever the case of its letters."""
    preferences = body.preferences.preferences() if body.preferences else Preferences()
    user = await use_cases.open_account(work, _profile(body.name, body.contact, body.age), preferences)
    response.headers["Location"] = f"/api/v2/users/{user.id}"
    return _shown(user, response)


@api.get("/users/{user_id}")
async def read_user(user_id: UserId, caller: Caller, work: Transaction, response: Response) -> UserViewV2:
    """Return a user; of a closed account nothing is left to show. Its `ETag` is what a change asks for."""
    require_self(caller, user_id)
    return _shown(await use_cases.user_of(work, user_id), response)


@api.get("/users")
@requires("staff")
async def search_users(
    work: Transaction,
    ids: Annotated[list[UserId] | None, Query(max_length=MOST)] = None,
    email: Annotated[str | None, Query(max_length=MAX_EMAIL_LENGTH)] = None,
    search: Annotated[str | None, Query(min_length=1, max_length=MAX_NAME_LENGTH, description=_SEARCHED)] = None,
    filter: Annotated[str | None, Query(max_length=1_000, description=_FILTERED)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> UserListV2:
    """Return a page of users, or those with these `ids` in their order: then nothing else is looked at."""
    if ids is not None:
        return UserListV2(users=[_view(user) for user in await storage.users_by_ids(work, ids)], next=None)
    filters = {"email": email, "search": search}
    asked = pagination.Query(filters=filters, condition=filter or "", cursor=cursor, limit=limit)
    users, following = await storage.users_page(work, asked)
    return UserListV2(users=[_view(user) for user in users], next=following)


@api.put("/users/{user_id}")
async def replace_user(
    user_id: UserId,
    body: WholeUser,
    caller: Caller,
    work: Transaction,
    response: Response,
    if_match: IfMatch = None,
) -> UserViewV2:
    """Replace all of a user that can change, and tell others."""
    require_self(caller, user_id)
    return _shown(await use_cases.revise(work, user_id, _expecting(if_match), body.revised), response)


@api.patch("/users/{user_id}")
async def patch_user(
    user_id: UserId,
    patch: MergePatch[WholeUser],
    caller: Caller,
    work: Transaction,
    response: Response,
    if_match: IfMatch = None,
) -> UserViewV2:
    """Change a part of a user, and tell others."""
    require_self(caller, user_id)

    def change(user: User) -> User:
        return patch.applied_to(WholeUser.of(user)).revised(user)

    return _shown(await use_cases.revise(work, user_id, _expecting(if_match), change), response)


@api.delete("/users/{user_id}", status_code=204)
async def close_user(user_id: UserId, caller: Caller, work: Transaction, if_match: IfMatch = None) -> None:
    """Close an account: its personal data is erased, and others are told to erase theirs. Again changes nothing.

    With `If-Match` only as it was read: 412 when it has changed since.
    """
    require_self(caller, user_id)
    await use_cases.close_account(work, user_id, _expecting(if_match) if if_match is not None else None)


api.post("/users/announcements", status_code=202)(announce_users)


def _expecting(if_match: str | None) -> use_cases.Expect:
    return partial(require_match, if_match, form=FORM)


def _profile(name: PartedName, contact: Contact, age: int | None) -> Profile:
    return Profile(name.full, contact.email, contact.phone, age, name.given, name.family)


def _shown(user: User, response: Response) -> UserViewV2:
    tag(response, user.version, FORM)
    return _view(user)


def _view(user: User) -> UserViewV2:
    return UserViewV2(id=user.id, version=user.version, **dict(WholeUser.of(user)))
