"""Users over HTTP, with good input and bad, and what is published of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from covey.ids import new_id
from covey.work.unit_of_work import Transactions

ADA = {"name": "Ada", "email": "ada@example.org", "phone": "+4915112345678", "age": 36}
QUIET = {"order_mail": False, "marketing_mail": False, "locale": "de"}


async def call(
    http: aiohttp.ClientSession, method: str, path: str, body: Any = None, version: int | None = None
) -> tuple[int, Any]:
    headers = {} if version is None else {"If-Match": f'"{version}"'}
    async with http.request(method, f"/api/v1{path}", json=body, headers=headers) as response:
        return response.status, await response.json(content_type=None) if response.status != 204 else None


async def made(http: aiohttp.ClientSession, **fields: Any) -> Any:
    status, user = await call(http, "POST", "/users", {**ADA, **fields})
    assert status == 201
    return user


async def published(transactions: Transactions) -> list[dict[str, Any]]:
    async with transactions.begin() as work:
        rows = await work.fetch("SELECT key, type, body FROM covey.outbox ORDER BY position")
    assert {row["type"] for row in rows} <= {"user.changed.v1"}
    events = [json.loads(row["body"]) for row in rows]
    assert [row["key"] for row in rows] == [event["user_id"] for event in events]
    return events


async def test_a_new_user_says_where_they_are_and_is_told_of(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    async with http.post("/api/v1/users", json=ADA) as response:
        location, user = response.headers["Location"], await response.json()
        assert response.status == 201

    async with http.get(location) as response:
        assert (response.status, await response.json()) == (200, user)
    assert user == {**ADA, "id": user["id"], "version": 1}
    assert await published(transactions) == [
        {
            "user_id": user["id"],
            "version": 1,
            "closed": False,
            "email": "ada@example.org",
            "name": "Ada",
            "locale": "en",
            "wants_order_mail": True,
            "wants_marketing_mail": False,
        }
    ]


async def test_a_name_and_an_email_are_enough(http: aiohttp.ClientSession) -> None:
    status, user = await call(http, "POST", "/users", {"name": "Ada", "email": "ada@example.org"})

    assert (status, user["phone"], user["age"]) == (201, None, None)


async def test_preferences_can_come_with_the_account(http: aiohttp.ClientSession) -> None:
    user = await made(http, preferences=QUIET)

    assert await call(http, "GET", f"/users/{user['id']}/preferences") == (200, {**QUIET, "version": 1})


async def test_a_user_that_is_created_again_with_the_same_key_is_one(http: aiohttp.ClientSession) -> None:
    headers = {"Idempotency-Key": str(new_id())}

    answers = []
    for _ in range(2):
        async with http.post("/api/v1/users", json=ADA, headers=headers) as response:
            answers.append((response.status, await response.json()))

    assert answers == [answers[0]] * 2
    assert answers[0][0] == 201


async def test_an_email_belongs_to_one_open_account_whatever_the_case_of_its_letters(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    await made(http)
    other = await made(http, email="other@example.org")

    created, problem = await call(http, "POST", "/users", {**ADA, "email": "ADA@Example.org"})
    changed, _ = await call(http, "PUT", f"/users/{other['id']}", {**ADA, "email": "aDa@example.org"}, 1)

    assert (created, changed) == (409, 409)
    assert problem["detail"] == "another account has this e-mail address"
    assert (await call(http, "GET", f"/users/{other['id']}"))[1] == other
    assert len(await published(transactions)) == 2


async def test_of_two_who_want_one_email_at_the_same_time_one_gets_it(http: aiohttp.ClientSession) -> None:
    for n in range(10):
        answers = await asyncio.gather(
            *(call(http, "POST", "/users", {**ADA, "email": f"{name}{n}@example.org"}) for name in ("ada", "ADA"))
        )

        assert sorted(status for status, _ in answers) == [201, 409]


async def test_of_two_who_change_to_one_email_at_the_same_time_one_gets_it(http: aiohttp.ClientSession) -> None:
    for n in range(10):
        users = [await made(http, email=f"{name}{n}@example.org") for name in ("one", "two")]
        body = {**ADA, "email": f"wanted{n}@example.org"}

        answers = await asyncio.gather(*(call(http, "PUT", f"/users/{user['id']}", body, 1) for user in users))

        assert sorted(status for status, _ in answers) == [200, 409]


async def test_the_email_of_a_closed_account_is_free_again(http: aiohttp.ClientSession) -> None:
    first = await made(http)
    await call(http, "DELETE", f"/users/{first['id']}")

    second = await made(http)

    assert second["id"] != first["id"]


async def test_a_profile_is_replaced_whole_and_told_of(http: aiohttp.ClientSession, transactions: Transactions) -> None:
    user = await made(http)

    status, changed = await call(http, "PUT", f"/users/{user['id']}", {"name": "Ada L.", "email": "ada@example.com"}, 1)

    assert status == 200
    assert changed == {
        "id": user["id"],
        "name": "Ada L.",
        "email": "ada@example.com",
        "phone": None,
        "age": None,
        "version": 2,
    }
    assert (await call(http, "GET", f"/users/{user['id']}"))[1] == changed
    assert [(event["version"], event["email"]) for event in await published(transactions)] == [
        (1, "ada@example.org"),
        (2, "ada@example.com"),
    ]


async def test_who_changes_a_version_that_is_no_longer_the_present_one_is_told(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    path = f"/users/{(await made(http))['id']}"
    await call(http, "PUT", f"{path}/preferences", {**QUIET}, 1)

    profile, _ = await call(http, "PUT", path, {**ADA, "name": "Late"}, 1)
    preferences, _ = await call(http, "PUT", f"{path}/preferences", {**QUIET, "locale": "fr"}, 1)

    assert (profile, preferences) == (412, 412)
    assert (await call(http, "GET", path))[1] == {**ADA, "id": path.removeprefix("/users/"), "version": 2}
    assert len(await published(transactions)) == 2


async def test_of_two_who_change_one_version_at_the_same_time_one_is_told(http: aiohttp.ClientSession) -> None:
    path = f"/users/{(await made(http))['id']}"

    answers = await asyncio.gather(*(call(http, "PUT", path, {**ADA, "name": name}, 1) for name in ("First", "Second")))

    assert sorted(status for status, _ in answers) == [200, 412]
    assert (await call(http, "GET", path))[1]["version"] == 2


async def test_preferences_are_replaced_and_told_of(http: aiohttp.ClientSession, transactions: Transactions) -> None:
    path = f"/users/{(await made(http))['id']}/preferences"

    status, changed = await call(http, "PUT", path, {**QUIET}, 1)

    assert (status, changed) == (200, {**QUIET, "version": 2})
    assert await call(http, "GET", path) == (200, changed)
    newest = (await published(transactions))[-1]
    assert (newest["version"], newest["wants_order_mail"], newest["locale"]) == (2, False, "de")


async def test_a_closed_account_is_erased_and_others_are_told_to_erase_it(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    path = f"/users/{(await made(http))['id']}"

    answers = [(await call(http, "DELETE", path))[0] for _ in range(2)]

    assert answers == [204, 204]
    closing = (await published(transactions))[1:]
    assert [(event["version"], event["closed"], event["email"], event["name"]) for event in closing] == [
        (2, True, None, None)
    ]
    async with transactions.begin() as work:
        row = await work.fetchrow("SELECT * FROM account")
    assert (row["version"], row["closed_at"] is not None) == (2, True)
    assert not set(map(str, row.values())) & set(map(str, ADA.values()))


async def test_an_account_that_has_changed_since_it_was_read_is_not_closed(http: aiohttp.ClientSession) -> None:
    path = f"/users/{(await made(http))['id']}"
    await call(http, "PUT", f"{path}/preferences", QUIET, version=1)

    assert (await call(http, "DELETE", path, version=1))[0] == 412
    assert (await call(http, "DELETE", path, version=2))[0] == 204


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("PUT", "", ADA),
        ("GET", "/preferences", None),
        ("PUT", "/preferences", QUIET),
    ],
)
async def test_of_a_closed_account_nothing_is_left_to_read_or_change(
    http: aiohttp.ClientSession, method: str, path: str, body: Any
) -> None:
    user = await made(http)
    await call(http, "DELETE", f"/users/{user['id']}")

    status, problem = await call(http, method, f"/users/{user['id']}{path}", body, 2)

    assert (status, problem["status"]) == (404, 404)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("DELETE", "", None),
        ("PUT", "", ADA),
        ("GET", "/preferences", None),
        ("PUT", "/preferences", QUIET),
    ],
)
async def test_who_is_not_there_is_a_404(http: aiohttp.ClientSession, method: str, path: str, body: Any) -> None:
    status, problem = await call(http, method, f"/users/{new_id()}{path}", body, 1)

    assert (status, problem["status"]) == (404, 404)


async def test_open_accounts_are_listed_page_by_page(http: aiohttp.ClientSession) -> None:
    users = [await made(http, email=f"{n}@example.org") for n in range(4)]
    await call(http, "DELETE", f"/users/{users[1]['id']}")

    _, first = await call(http, "GET", "/users?limit=2")
    _, second = await call(http, "GET", f"/users?limit=2&cursor={first['next']}")

    left = sorted((user for user in users if user != users[1]), key=lambda user: str(user["id"]))
    assert first["users"] + second["users"] == left
    assert second["next"] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "after=7", "colour=red"])
async def test_a_page_that_makes_no_sense_is_a_422(http: aiohttp.ClientSession, query: str) -> None:
    assert (await call(http, "GET", f"/users?{query}"))[0] == 422


async def test_users_can_be_announced_again_page_by_page_as_they_are_now(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    ids = [(await made(http, email=f"{n}@example.org"))["id"] for n in range(3)]
    await call(http, "PUT", f"/users/{ids[0]}/preferences", {**QUIET}, 1)
    await call(http, "DELETE", f"/users/{ids[1]}")
    before = len(await published(transactions))

    _, first = await call(http, "POST", "/users/announcements", {"limit": 2})
    _, second = await call(http, "POST", "/users/announcements", {"limit": 2, "after": first["next"]})

    told = (await published(transactions))[before:]
    assert (first["announced"], second) == (2, {"announced": 1, "next": None})
    assert [event["user_id"] for event in told] == sorted(ids)
    by_id = {event["user_id"]: (event["version"], event["closed"], event["email"]) for event in told}
    assert by_id == {
        ids[0]: (2, False, "0@example.org"),
        ids[1]: (2, True, None),
        ids[2]: (1, False, "2@example.org"),
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "   "},
        {"name": "\x1e\x85\u2003"},
        {"name": "x" * 101},
        {"name": "a NUL: \0"},
        {"name": None},
        {"email": "ada"},
        {"email": "ada@localhost"},
        {"email": "ada@example.org\r\nBcc: all@example.org"},
        {"email": "Ada <ada@example.org>"},
        {"email": "ädä@example.org"},
        {"email": f"{'a' * 64}@{'b.' * 100}org"},
        {"email": None},
        {"phone": "0151 12345678"},
        {"phone": 4915112345678},
        {"age": -1},
        {"age": 151},
        {"age": 36.5},
        {"age": "36"},
        {"age": True},
        {"colour": "blue"},
        {"preferences": {}},
        {"preferences": {**QUIET, "locale": "german"}},
        {"preferences": {**QUIET, "order_mail": "yes"}},
        {"version": 1},
    ],
    ids=str,
)
async def test_a_user_that_makes_no_sense_is_a_422(http: aiohttp.ClientSession, wrong: dict[str, Any]) -> None:
    status, problem = await call(http, "POST", "/users", {**ADA, **wrong})

    assert (status, problem["status"]) == (422, 422)
    assert (await call(http, "GET", "/users"))[1]["users"] == []


async def test_a_change_says_which_version_it_is_of(http: aiohttp.ClientSession) -> None:
    user = await made(http)
    path = f"/users/{user['id']}"

    blind = [await call(http, "PUT", path, ADA), await call(http, "PUT", f"{path}/preferences", QUIET)]

    assert [status for status, _ in blind] == [428, 428]
    assert (await call(http, "GET", path))[1] == user


async def test_who_has_a_user_is_not_sent_them_again(http: aiohttp.ClientSession) -> None:
    path = f"/api/v1/users/{(await made(http))['id']}"
    async with http.get(path) as response:
        etag = response.headers["ETag"]

    async with http.get(path, headers={"If-None-Match": etag}) as response:
        assert (response.status, await response.read()) == (304, b"")


async def test_users_are_searched_by_what_they_are_called_or_reached_by_and_read_many_at_a_time(
    http: aiohttp.ClientSession,
) -> None:
    ada = await made(http)
    bob = await made(http, name="Bob", email="bob@example.org")

    assert (await call(http, "GET", "/users?email=BOB@example.org"))[1]["users"] == [bob]
    assert (await call(http, "GET", "/users?name=Ada"))[1]["users"] == [ada]
    assert (await call(http, "GET", f"/users?ids={bob['id']}&ids={new_id()}&ids={ada['id']}"))[1] == {
        "users": [bob, ada],
        "next": None,
    }


async def test_the_oldest_and_the_youngest_are_welcome(http: aiohttp.ClientSession) -> None:
    ages = [(await made(http, age=age, email=f"{age}@example.org"))["age"] for age in (0, 150)]

    assert ages == [0, 150]
