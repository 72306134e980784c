"""Two versions of one user, side by side: each sees what the other changes, and loses nothing that it cannot see."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from user_service.generated.user.v1 import user_pb2 as pb
from user_service.generated.user.v1.user_pb2_grpc import UserServiceStub

from covey.database.migrations import migrate
from covey.ids import new_id
from covey.work.unit_of_work import Transactions

NAME = {"full": "Ada Lovelace", "given": "Ada", "family": "Lovelace"}
CONTACT = {"email": "ada@example.org", "phone": "+4915112345678"}
PREFERENCES = {"order_mail": True, "marketing_mail": False, "locale": "en"}
ADA = {"name": NAME, "contact": CONTACT, "age": 36}
FLAT = {"name": "Ada Lovelace", "email": "ada@example.org", "phone": "+4915112345678", "age": 36}
PATCH = "application/merge-patch+json"


class Client:
    """Speaks one version."""

    def __init__(self, http: aiohttp.ClientSession, version: int) -> None:
        self._http = http
        self._version = version

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        kind = {"Content-Type": PATCH if method == "PATCH" else "application/json"} if body is not None else {}
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"/api/v{self._version}/users{path}"
        async with self._http.request(method, url, json=body, headers={**kind, **sent}) as response:
            return response.status, await response.json(content_type=None) if response.status != 204 else None

    async def change(self, method: str, path: str, body: Any) -> Any:
        """Read the state, and change it."""
        async with self._http.get(f"/api/v{self._version}/users{path}") as response:
            etag = response.headers["ETag"]
        status, changed = await self.ask(method, path, body, If_Match=etag)
        assert status == 200, changed
        return changed

    async def made(self, body: Any) -> str:
        """Open an account; return its path."""
        status, user = await self.ask("POST", "", body)
        assert status == 201
        return f"/{user['id']}"

    async def read(self, path: str) -> Any:
        status, user = await self.ask("GET", path)
        assert status == 200
        return user


@pytest.fixture
def v1(http: aiohttp.ClientSession) -> Client:
    return Client(http, 1)


@pytest.fixture
def v2(http: aiohttp.ClientSession) -> Client:
    return Client(http, 2)


async def test_one_user_is_shown_in_two_shapes(v1: Client, v2: Client) -> None:
    path = await v2.made(ADA)

    flat, parted = await v1.read(path), await v2.read(path)

    assert flat == {**FLAT, "id": path[1:], "version": 1}
    assert parted == {**ADA, "preferences": PREFERENCES, "id": path[1:], "version": 1}


async def test_what_an_old_client_has_made_has_a_name_without_parts(v1: Client, v2: Client) -> None:
    path = await v1.made(FLAT)

    assert (await v2.read(path))["name"] == {"full": "Ada Lovelace", "given": None, "family": None}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "", {**FLAT, "age": 37}),
        ("PATCH", "", {"age": 37}),
        ("PUT", "/preferences", {**PREFERENCES, "locale": "de"}),
        ("PATCH", "/preferences", {"locale": "de"}),
    ],
)
async def test_an_old_client_that_changes_something_else_leaves_the_parts_of_the_name(
    v1: Client, v2: Client, method: str, path: str, body: Any
) -> None:
    user = await v2.made(ADA)

    await v1.change(method, f"{user}{path}", body)

    seen = await v2.read(user)
    assert (seen["name"], seen["version"]) == (NAME, 2)
    assert (seen["age"], seen["preferences"]["locale"]) in [(37, "en"), (36, "de")]


async def test_an_old_client_that_renames_somebody_leaves_no_parts_of_another_name(v1: Client, v2: Client) -> None:
    path = await v2.made(ADA)

    await v1.change("PUT", path, {**FLAT, "name": "Ada Byron"})

    assert (await v2.read(path))["name"] == {"full": "Ada Byron", "given": None, "family": None}


async def test_a_call_over_grpc_leaves_the_parts_of_the_name(v2: Client, users: UserServiceStub) -> None:
    path = await v2.made(ADA)
    request = pb.UpdateUserRequest(user=pb.User(id=path[1:], etag='"1"', age=37), update_mask=FieldMask(paths=["age"]))

    await users.UpdateUser(request, timeout=10)

    seen = await v2.read(path)
    assert (seen["name"], seen["age"]) == (NAME, 37)


async def test_a_new_client_replaces_all_at_once(v1: Client, v2: Client) -> None:
    path = await v2.made(ADA)
    whole = {"name": {"full": "Grace"}, "contact": {"email": "g@example.org"}, "preferences": PREFERENCES}

    changed = await v2.change("PUT", path, whole)

    assert (changed["version"], changed["age"], changed["contact"]["phone"]) == (2, None, None)
    assert (await v1.read(path))["name"] == "Grace"


async def test_a_new_client_changes_a_part_and_the_rest_stays(v1: Client, v2: Client) -> None:
    path = await v2.made(ADA)

    changed = await v2.change("PATCH", path, {"name": {"given": None}, "preferences": {"locale": "de"}})

    assert changed == {
        **ADA,
        "name": {**NAME, "given": None},
        "preferences": {**PREFERENCES, "locale": "de"},
        "id": path[1:],
        "version": 2,
    }


async def test_of_every_change_others_are_told_whichever_way_it_is_made(
    v1: Client, v2: Client, transactions: Transactions
) -> None:
    path = await v2.made(ADA)
    await v1.change("PUT", path, FLAT)
    await v1.change("PATCH", path, {"age": 37})
    await v1.change("PUT", f"{path}/preferences", PREFERENCES)
    await v1.change("PATCH", f"{path}/preferences", {"locale": "de"})
    await v2.change("PUT", path, {**ADA, "preferences": PREFERENCES})
    await v2.change("PATCH", path, {"preferences": {"order_mail": False}})
    await v2.ask("DELETE", path)

    async with transactions.begin() as work:
        rows = await work.fetch("SELECT body FROM covey.outbox WHERE key = $1 ORDER BY position", path[1:])
    told = [json.loads(row["body"]) for row in rows]
    assert [event["version"] for event in told] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [event["locale"] for event in told] == ["en", "en", "en", "en", "de", "en", "en", None]
    assert [event["wants_order_mail"] for event in told] == [True] * 6 + [False] * 2


@pytest.mark.parametrize("version", [1, 2])
async def test_a_patch_is_of_a_state_that_was_seen(http: aiohttp.ClientSession, version: int) -> None:
    client = Client(http, version)
    path = await client.made(ADA if version == 2 else FLAT)
    before = await client.read(path)

    blind, _ = await client.ask("PATCH", path, {"age": 37})
    late, _ = await client.ask("PATCH", path, {"age": 37}, If_Match='"7"')

    assert (blind, late) == (428, 412)
    assert await client.read(path) == before


@pytest.mark.parametrize("path", ["/api/v1/users/{0}", "/api/v1/users/{0}/preferences", "/api/v2/users/{0}"])
async def test_a_patch_of_another_kind_is_told_the_right_one(http: aiohttp.ClientSession, path: str) -> None:
    async with http.patch(path.format(new_id()), json={"age": 37}, headers={"If-Match": "*"}) as response:
        assert (response.status, response.headers["Accept-Patch"]) == (415, PATCH)


async def test_a_tag_of_one_version_is_none_of_the_other(v1: Client, v2: Client) -> None:
    path = await v2.made(ADA)

    assert (await v2.ask("PATCH", path, {"age": 37}, If_Match='"1"'))[0] == 412
    assert (await v1.ask("PATCH", path, {"age": 37}, If_Match='"1.v2"'))[0] == 412
    assert (await v2.ask("PATCH", path, {"age": 37}, If_Match='"1.v2"'))[0] == 200


@pytest.mark.parametrize(
    ("address", "accept"),
    [
        ("/api/users{path}", "application/vnd.api+json;version={version}"),
        ("/api/users{path}?version={version}", "*/*"),
        ("/api/v{version}/users{path}", "*/*"),
    ],
)
async def test_each_gets_the_version_that_they_name_in_whichever_way(
    http: aiohttp.ClientSession, v2: Client, address: str, accept: str
) -> None:
    path = await v2.made(ADA)

    seen = []
    for version in (1, 2):
        headers = {"Accept": accept.format(version=version)}
        async with http.get(address.format(path=path, version=version), headers=headers) as response:
            seen.append((response.headers["ETag"], (await response.json())["name"]))

    assert seen == [('"1"', "Ada Lovelace"), ('"1.v2"', NAME)]


async def test_the_old_version_says_in_each_answer_that_it_will_end(http: aiohttp.ClientSession) -> None:
    told = []
    for path in ("/api/v1/users", f"/api/v1/users/{new_id()}", "/api/v2/users"):
        async with http.get(path) as response:
            told.append((response.status, response.headers.get("Deprecation"), response.headers.get("Sunset")))

    ends = ("@1796083200", "Wed, 01 Dec 2027 00:00:00 GMT")
    assert told == [(200, *ends), (404, *ends), (200, None, None)]


async def test_an_account_is_closed_as_it_was_read(v2: Client) -> None:
    path = await v2.made(ADA)
    await v2.change("PATCH", path, {"age": 37})

    late, _ = await v2.ask("DELETE", path, If_Match='"1.v2"')
    again = [(await v2.ask("DELETE", path, **headers))[0] for headers in ({"If_Match": '"2.v2"'}, {})]

    assert (late, again) == (412, [204, 204])
    assert (await v2.ask("GET", path))[0] == 404


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("search=ada", ["Ada Lovelace", "ADA_B%"]),
        ("search=ada_", ["ADA_B%"]),
        ("search=Ä", ["ärger"]),
        ("search=lovelace", []),
        ("email=ADA@example.org", ["Ada Lovelace"]),
        ("filter=age >= 36", ["Ada Lovelace"]),
        ('filter=name != "Ada Lovelace"&search=ad', ["ADA_B%"]),
    ],
)
async def test_users_are_searched(v2: Client, query: str, found: list[str]) -> None:
    await v2.made(ADA)
    for n, name in enumerate(("ADA_B%", "ärger", "Eve")):
        await v2.made({"name": {"full": name}, "contact": {"email": f"{n}@example.org"}, "age": n})

    status, page = await v2.ask("GET", f"?{query}")

    assert status == 200
    assert sorted(user["name"]["full"] for user in page["users"]) == sorted(found)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Ada"},
        {"name": {"given": "Ada"}},
        {"name": {**NAME, "family": "   "}},
        {"name": {**NAME, "middle": "X"}},
        {"contact": {"phone": "+4915112345678"}},
        {"email": "ada@example.org"},
        {"preferences": {"locale": "en"}},
    ],
    ids=str,
)
async def test_a_user_that_makes_no_sense_is_a_422(v2: Client, wrong: dict[str, Any]) -> None:
    assert (await v2.ask("POST", "", {**ADA, **wrong}))[0] == 422


class TestBesideTheVersionBefore:
    """Replicas of it are at work when the columns are there, and know none of them."""

    def test_a_name_that_it_changes_has_no_parts_of_another(self, database_url: str) -> None:
        with psycopg.connect(database_url) as connection:
            user_id = _stored(connection)
            connection.execute("UPDATE account SET version = 2, name = 'Ada Byron' WHERE id = %s", (user_id,))

            assert _parts(connection) == (None, None)

    def test_a_change_of_something_else_leaves_them(self, database_url: str) -> None:
        with psycopg.connect(database_url) as connection:
            user_id = _stored(connection)
            connection.execute(
                "UPDATE account SET version = 2, name = 'Ada Lovelace', age = 37 WHERE id = %s", (user_id,)
            )

            assert _parts(connection) == ("Ada", "Lovelace")

    def test_an_account_that_it_closes_is_erased_whole(self, database_url: str) -> None:
        with psycopg.connect(database_url) as connection:
            user_id = _stored(connection)
            connection.execute(
                "UPDATE account SET version = 2, name = NULL, email = NULL, phone = NULL, age = NULL, locale = NULL,"
                " order_mail = false, marketing_mail = false, closed_at = clock_timestamp() WHERE id = %s",
                (user_id,),
            )

            assert _parts(connection) == (None, None)

    def test_what_it_changes_has_changed_now(self, database_url: str) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            user_id = _stored(connection)
            connection.execute("UPDATE account SET version = 2, age = 37 WHERE id = %s", (user_id,))

            assert connection.execute("SELECT updated_at > created_at FROM account").fetchone() == (True,)

    def test_what_it_has_written_before_is_there_afterwards(
        self, make_database: Callable[[Path | None], str], service_migrations: Path, tmp_path: Path
    ) -> None:
        shutil.copy(service_migrations / "0001_accounts.py", tmp_path)
        url = make_database(tmp_path)
        with psycopg.connect(url) as connection:
            connection.execute(
                "INSERT INTO account (id, version, name, email, order_mail, marketing_mail, locale)"
                " VALUES (%s, 1, 'Ada Lovelace', 'ada@example.org', true, false, 'en')",
                (new_id(),),
            )

        migrate(url, service_migrations)

        with psycopg.connect(url) as connection:
            assert _parts(connection) == (None, None)


def _stored(connection: psycopg.Connection[Any]) -> Any:
    user_id = new_id()
    connection.execute(
        "INSERT INTO account (id, version, name, email, order_mail, marketing_mail, locale, given_name, family_name,"
        " parts_of) VALUES (%s, 1, 'Ada Lovelace', 'a@b.org', true, false, 'en', 'Ada', 'Lovelace', 'Ada Lovelace')",
        (user_id,),
    )
    return user_id


def _parts(connection: psycopg.Connection[Any]) -> Any:
    return connection.execute("SELECT given_name, family_name FROM account").fetchone()
