"""Accounts in PostgreSQL. That no two open ones share an e-mail is the business of a unique index, also in a race."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from covey.database.filters import Integer, Text
from covey.database.pagination import Column, Listing, Query
from covey.errors import Conflict, ConstraintViolated
from covey.work.unit_of_work import Work
from user_service.domain import Account, Closed, Preferences, Profile, Times, User, UserId

_BEFORE_ALL = UUID(int=0)

_EMAIL = 'lower(email COLLATE "C")'  # the expression of the unique index

_SEARCH = 'lower(name COLLATE "pg_c_utf8")'  # likewise
_FOLDED = 'lower({}::text COLLATE "pg_c_utf8")'

USERS = Listing(
    "users",
    "SELECT * FROM account WHERE closed_at IS NULL",
    key=Column("id", UUID),
    sorts={"id": ()},
    filters={"email": f"{_EMAIL} = lower({{}})", "name": "name = {}", "search": f"{_SEARCH} ^@ {_FOLDED}"},
    fields={"email": Text(_EMAIL, str.lower), "name": Text("name"), "age": Integer("age")},
)
"""Open accounts."""


async def add(work: Work, user: User) -> User:
    """Insert a new account; return it with its times. Raises Conflict when another open one has its e-mail."""
    times = await work.fetchrow(
        """
        INSERT INTO account (id, version, name, email, phone, age, order_mail, marketing_mail, locale, given_name,
            family_name, parts_of)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
        ON CONFLICT (lower(email COLLATE "C")) DO NOTHING RETURNING created_at, updated_at
        """,
        *_values(user),
    )
    if times is None:
        raise _taken()
    return replace(user, times=Times(*times))


async def change(work: Work, user: User) -> User:
    """Write the new state of an open account; return it with its times. Raises Conflict as `add` does."""
    try:
        times = await work.fetchrow(
            """
            UPDATE account SET version = $2, name = $3, email = $4, phone = $5, age = $6, order_mail = $7,
                marketing_mail = $8, locale = $9, given_name = $10, family_name = $11, parts_of = $12
            WHERE id = $1 RETURNING created_at, updated_at
            """,
            *_values(user),
        )
    except ConstraintViolated as error:
        if error.constraint != "account_email":
            raise
        raise _taken() from None  # its text quotes the e-mail
    return replace(user, times=Times(*times))


async def close(work: Work, closed: Closed) -> None:
    """Erase the personal data of an account, and keep that there was one."""
    await work.execute(
        """
        UPDATE account SET version = $2, name = NULL, email = NULL, phone = NULL, age = NULL, order_mail = false,
            marketing_mail = false, locale = NULL, given_name = NULL, family_name = NULL, parts_of = NULL,
            closed_at = clock_timestamp()
        WHERE id = $1
        """,
        closed.id,
        closed.version,
    )


async def by_id(work: Work, user_id: UserId) -> Account | None:
    """Return an account, or None when there never was one."""
    row = await work.fetchrow("SELECT * FROM account WHERE id = $1", user_id)
    return _account(row) if row else None


async def to_change(work: Work, user_id: UserId) -> Account | None:
    """Return an account and keep others from changing it until the transaction ends."""
    row = await work.fetchrow("SELECT * FROM account WHERE id = $1 FOR UPDATE", user_id)
    return _account(row) if row else None


async def users_page(work: Work, query: Query) -> tuple[list[User], str | None]:
    """Return a page of open accounts, and the cursor of the page after it. Raises as `Listing.page` does."""
    page = await USERS.page(work, query)
    return [_user(row) for row in page.rows], page.next


async def users_by_ids(work: Work, ids: Sequence[UserId]) -> list[User]:
    """Return those of these users who have an open account, in this order."""
    return [_user(row) for row in await USERS.batch(work, ids)]


async def accounts_after(work: Work, after: UserId | None, limit: int) -> list[Account]:
    """Return up to `limit` accounts, closed ones too, in order of their ids, from the one after `after` on."""
    rows = await work.fetch("SELECT * FROM account WHERE id > $1 ORDER BY id LIMIT $2", after or _BEFORE_ALL, limit)
    return [_account(row) for row in rows]


def _taken() -> Conflict:
    return Conflict("another account has this e-mail address")


def _values(user: User) -> tuple[Any, ...]:
    profile, preferences = user.profile, user.preferences
    has_parts = profile.given_name is not None or profile.family_name is not None
    return (
        user.id,
        user.version,
        profile.name,
        profile.email,
        profile.phone,
        profile.age,
        preferences.order_mail,
        preferences.marketing_mail,
        preferences.locale,
        profile.given_name,
        profile.family_name,
        profile.name if has_parts else None,
    )


def _account(row: Any) -> Account:
    return _user(row) if row["closed_at"] is None else Closed(UserId(row["id"]), row["version"])


def _user(row: Any) -> User:
    return User(
        UserId(row["id"]),
        Profile(row["name"], row["email"], row["phone"], row["age"], row["given_name"], row["family_name"]),
        Preferences(row["order_mail"], row["marketing_mail"], row["locale"]),
        row["version"],
        Times(row["created_at"], row["updated_at"]),
    )
