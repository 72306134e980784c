"""`user.v1.UserService` over a real channel on a real database, beside REST, with the same use cases below."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, timedelta
from typing import Any

import aiohttp
import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from user_service.generated.user.v1 import user_pb2 as pb
from user_service.generated.user.v1.user_pb2_grpc import UserServiceStub

from covey.clock import SystemClock
from covey.ids import new_id
from covey.work.unit_of_work import Transactions

ADA: dict[str, Any] = {"name": "Ada", "email": "ada@example.org", "phone": "+4915112345678", "age": 36}


async def made(users: UserServiceStub, **fields: Any) -> pb.User:
    request = pb.CreateUserRequest(**{**ADA, "request_id": str(new_id()), **fields})
    return (await users.CreateUser(request, timeout=10)).user


async def refused(call: Any) -> tuple[str, dict[str, str]]:
    """Return the code of a call that must fail, and what it says of each field."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = rpc_status.from_call(caught.value)
    fields: dict[str, str] = {}
    for packed in status.details if status else ():
        request = error_details_pb2.BadRequest()
        if packed.Unpack(request):
            fields |= {one.field: one.description for one in request.field_violations}
    return caught.value.code().name, fields


async def test_a_user_of_grpc_is_a_user_of_rest_and_back(users: UserServiceStub, http: aiohttp.ClientSession) -> None:
    user = await made(users)

    async with http.get(f"/api/v1/users/{user.id}") as response:
        assert await response.json() == {**ADA, "id": user.id, "version": 1}
    async with http.post("/api/v1/users", json={"name": "Bob", "email": "bob@example.org"}) as response:
        other = await response.json()
    found = (await users.GetUser(pb.GetUserRequest(user_id=other["id"]), timeout=10)).user
    assert (found.id, found.name, found.email, found.etag) == (other["id"], "Bob", "bob@example.org", '"1"')
    assert not found.HasField("phone")
    assert not found.HasField("age")


async def test_a_user_says_since_when_they_are_and_are_like_this(users: UserServiceStub) -> None:
    made_then = await made(users)
    changed = (await users.UpdateUser(_update(made_then, name="Ada L."), timeout=10)).user
    read = (await users.GetUser(pb.GetUserRequest(user_id=made_then.id), timeout=10)).user

    opened, since = made_then.created_at.ToDatetime(UTC), changed.updated_at.ToDatetime(UTC)
    assert timedelta(0) <= SystemClock().now() - opened < timedelta(minutes=5)
    assert made_then.updated_at == made_then.created_at
    assert since > opened
    assert read == changed
    assert changed.created_at == made_then.created_at


async def test_nobody_unknown_is_answered_and_another_service_may_only_read(
    users: UserServiceStub, order_service: UserServiceStub, nobody: UserServiceStub
) -> None:
    user = await made(users)
    read, change = pb.GetUserRequest(user_id=user.id), _update(user, name="Mallory")

    assert (await refused(nobody.GetUser(read, timeout=10)))[0] == "UNAUTHENTICATED"
    assert (await refused(nobody.GetUser(read, timeout=10, metadata=(("authorization", "Bearer x"),))))[0] == (
        "UNAUTHENTICATED"
    )
    assert (await order_service.GetUser(read, timeout=10)).user.name == "Ada"
    assert (await refused(order_service.UpdateUser(change, timeout=10)))[0] == "PERMISSION_DENIED"
    assert (await users.GetUser(read, timeout=10)).user.name == "Ada"


async def test_what_grpc_changes_others_are_told_of(users: UserServiceStub, transactions: Transactions) -> None:
    user = await made(users)
    await users.UpdateUser(_update(user, name="Ada L."), timeout=10)
    await users.DeleteUser(pb.DeleteUserRequest(user_id=user.id), timeout=10)

    async with transactions.begin() as work:
        rows = await work.fetch("SELECT key, type, body FROM covey.outbox ORDER BY position")
    told = [(row["key"], row["type"], json.loads(row["body"])["version"]) for row in rows]
    assert told == [(user.id, "user.changed.v1", version) for version in (1, 2, 3)]


class TestCreating:
    async def test_twice_with_one_request_id_makes_one_user(
        self, users: UserServiceStub, transactions: Transactions
    ) -> None:
        request = pb.CreateUserRequest(**ADA, request_id="one")

        first, second = [await users.CreateUser(request, timeout=10) for _ in range(2)]

        assert first == second
        assert await _count(transactions) == 1

    async def test_at_once_with_one_request_id_makes_one_user(
        self, users: UserServiceStub, transactions: Transactions
    ) -> None:
        request = pb.CreateUserRequest(**ADA, request_id="one")

        answers = await asyncio.gather(
            *(users.CreateUser(request, timeout=10) for _ in range(10)), return_exceptions=True
        )

        made = [answer for answer in answers if isinstance(answer, pb.CreateUserResponse)]
        others = [answer.code().name for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert made == [made[0]] * len(made)
        assert set(others) <= {"ABORTED"}
        assert len(made) + len(others) == 10
        assert await _count(transactions) == 1

    async def test_something_else_with_a_request_id_that_was_used_is_refused(self, users: UserServiceStub) -> None:
        await users.CreateUser(pb.CreateUserRequest(**ADA, request_id="one"), timeout=10)

        code, _ = await refused(
            users.CreateUser(pb.CreateUserRequest(**{**ADA, "name": "Bob"}, request_id="one"), timeout=10)
        )

        assert code == "INVALID_ARGUMENT"

    async def test_again_with_one_request_id_after_it_was_refused_is_tried_anew(self, users: UserServiceStub) -> None:
        other = await made(users)
        request = pb.CreateUserRequest(**ADA, request_id="one")
        assert (await refused(users.CreateUser(request, timeout=10)))[0] == "FAILED_PRECONDITION"
        await users.DeleteUser(pb.DeleteUserRequest(user_id=other.id), timeout=10)

        assert (await users.CreateUser(request, timeout=10)).user.name == "Ada"

    @pytest.mark.parametrize("request_id", ["", "a b", "x" * 256])
    async def test_needs_a_request_id(self, users: UserServiceStub, request_id: str) -> None:
        code, fields = await refused(users.CreateUser(pb.CreateUserRequest(**ADA, request_id=request_id), timeout=10))

        assert (code, list(fields)) == ("INVALID_ARGUMENT", ["request_id"])

    async def test_names_every_field_that_breaks_a_rule(self, users: UserServiceStub) -> None:
        code, fields = await refused(
            users.CreateUser(
                pb.CreateUserRequest(name=" ", email="nobody", phone="12", age=151, request_id="one"), timeout=10
            )
        )

        assert (code, set(fields)) == ("INVALID_ARGUMENT", {"name", "email", "phone", "age"})

    @pytest.mark.parametrize(
        "fields",
        [
            {"name": ""},
            {"name": "x" * 101},
            {"email": "a@b"},
            {"email": f"{'x' * 64}@{'y' * 63}.{'z' * 63}.{'a' * 63}.org"},
            {"email": "ada@example.org\n"},
            {"phone": "+0123456"},
            {"phone": "+4915112345678\n"},
            {"age": -1},
        ],
    )
    async def test_has_the_rules_of_rest(
        self, users: UserServiceStub, http: aiohttp.ClientSession, fields: dict[str, Any]
    ) -> None:
        code, told = await refused(
            users.CreateUser(pb.CreateUserRequest(**{**ADA, **fields}, request_id="one"), timeout=10)
        )
        async with http.post("/api/v1/users", json={**ADA, **fields}) as response:
            status = response.status

        assert (code, list(told), status) == ("INVALID_ARGUMENT", list(fields), 422)


class TestChanging:
    async def test_leaves_what_the_mask_does_not_name(self, users: UserServiceStub) -> None:
        user = await made(users)

        changed = (await users.UpdateUser(_update(user, name="Ada L."), timeout=10)).user

        assert (changed.name, changed.email, changed.age, changed.etag) == ("Ada L.", user.email, user.age, '"2"')

    async def test_clears_what_the_mask_names_and_the_user_lacks(self, users: UserServiceStub) -> None:
        user = await made(users)
        request = pb.UpdateUserRequest(
            user=pb.User(id=user.id, etag=user.etag), update_mask=FieldMask(paths=["phone", "age"])
        )

        changed = (await users.UpdateUser(request, timeout=10)).user

        assert (changed.HasField("phone"), changed.HasField("age"), changed.name) == (False, False, "Ada")

    async def test_with_an_etag_that_is_old_changes_nothing(self, users: UserServiceStub) -> None:
        user = await made(users)

        answers = await asyncio.gather(
            *(users.UpdateUser(_update(user, name=name), timeout=10) for name in ("One", "Two")),
            return_exceptions=True,
        )

        (failed,) = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert failed.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert (await _get(users, user.id)).etag == '"2"'

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"etag": ""}, "user.etag"),
            ({"etag": "7"}, "user.etag"),
            ({"id": "one"}, "user.id"),
            ({"paths": []}, "update_mask"),
            ({"paths": ["id"]}, "update_mask"),
            ({"paths": ["*"]}, "update_mask"),
            ({"paths": ["email"], "email": "nobody"}, "email"),
        ],
    )
    async def test_needs_to_know_what_and_of_which_state(
        self, users: UserServiceStub, change: dict[str, Any], field: str
    ) -> None:
        user = await made(users)
        paths = change.pop("paths", ["name"])
        wanted = {"id": user.id, "etag": user.etag, "name": "Ada L.", **change}

        code, fields = await refused(
            users.UpdateUser(
                pb.UpdateUserRequest(user=pb.User(**wanted), update_mask=FieldMask(paths=paths)), timeout=10
            )
        )

        assert (code, list(fields)) == ("INVALID_ARGUMENT", [field])
        assert await _get(users, user.id) == user


class TestClosing:
    async def test_leaves_nothing_to_show_and_may_come_twice(self, users: UserServiceStub) -> None:
        user = await made(users)

        for _ in range(2):
            await users.DeleteUser(pb.DeleteUserRequest(user_id=user.id), timeout=10)

        code, _ = await refused(users.GetUser(pb.GetUserRequest(user_id=user.id), timeout=10))
        assert code == "NOT_FOUND"

    async def test_with_an_etag_that_is_old_closes_nothing(self, users: UserServiceStub) -> None:
        user = await made(users)
        await users.UpdateUser(_update(user, name="Ada L."), timeout=10)

        code, _ = await refused(users.DeleteUser(pb.DeleteUserRequest(user_id=user.id, etag=user.etag), timeout=10))

        assert code == "FAILED_PRECONDITION"
        assert (await _get(users, user.id)).name == "Ada L."

    async def test_of_nobody_is_not_found(self, users: UserServiceStub) -> None:
        assert (await refused(users.DeleteUser(pb.DeleteUserRequest(user_id=str(new_id())), timeout=10)))[0] == (
            "NOT_FOUND"
        )


class TestListing:
    async def test_by_pages_shows_each_once(self, users: UserServiceStub) -> None:
        ids = [(await made(users, email=f"user{n}@example.org")).id for n in range(5)]

        seen, token = [], ""
        while True:
            page = await users.ListUsers(pb.ListUsersRequest(page_size=2, page_token=token), timeout=10)
            seen += [user.id for user in page.users]
            token = page.next_page_token
            if not token:
                break

        assert seen == sorted(ids)

    @pytest.mark.parametrize(
        ("filter", "names"),
        [
            ("", ["Ada", "Bob", "Eve"]),
            ('email = "BOB@example.org"', ["Bob"]),
            ("age >= 30", ["Ada", "Bob"]),
            ('age >= 30 AND name != "Ada"', ["Bob"]),
            ("age != 36", ["Bob", "Eve"]),
            ("age < 0", []),
            ('name = "\' OR 1 = 1 --"', []),
        ],
    )
    async def test_by_a_filter_shows_whom_it_is_true_of(
        self, users: UserServiceStub, filter: str, names: list[str]
    ) -> None:
        await made(users, name="Ada")
        await made(users, name="Bob", email="bob@example.org", age=40)
        await made(users, name="Eve", email="eve@example.org", age=None)

        page = await users.ListUsers(pb.ListUsersRequest(filter=filter), timeout=10)

        assert sorted(user.name for user in page.users) == names

    @pytest.mark.parametrize(
        ("request_", "field"),
        [
            ({"filter": "password = 1"}, "filter"),
            ({"filter": "1 = 1"}, "filter"),
            ({"page_size": -1}, "page_size"),
            ({"page_token": "nonsense"}, "page_token"),
            ({"page_token": "ü"}, "page_token"),
        ],
    )
    async def test_of_what_is_not_understood_is_refused(
        self, users: UserServiceStub, request_: dict[str, Any], field: str
    ) -> None:
        code, fields = await refused(users.ListUsers(pb.ListUsersRequest(**request_), timeout=10))

        assert (code, list(fields)) == ("INVALID_ARGUMENT", [field])

    async def test_goes_on_with_the_same_filter_only(self, users: UserServiceStub) -> None:
        for n in range(3):
            await made(users, email=f"user{n}@example.org")
        page = await users.ListUsers(pb.ListUsersRequest(page_size=1, filter="age = 36"), timeout=10)

        code, fields = await refused(
            users.ListUsers(pb.ListUsersRequest(page_token=page.next_page_token, filter="age = 37"), timeout=10)
        )

        assert (code, list(fields)) == ("INVALID_ARGUMENT", ["page_token"])

    async def test_never_gives_more_than_it_may(self, users: UserServiceStub, transactions: Transactions) -> None:
        async with transactions.begin() as work:
            await work.execute(
                """
                INSERT INTO account (id, version, name, email, order_mail, marketing_mail, locale)
                SELECT gen_random_uuid(), 1, 'Ada', 'ada' || n || '@example.org', true, false, 'en'
                FROM generate_series(1, 250) n
                """
            )

        sizes = [len((await users.ListUsers(pb.ListUsersRequest(page_size=n), timeout=10)).users) for n in (0, 10_000)]

        assert sizes == [50, 200]


async def test_a_call_that_is_cut_short_leaves_no_transaction_and_no_effect(
    users: UserServiceStub, transactions: Transactions
) -> None:
    """The row is locked by somebody else for longer than the caller waits."""
    user = await made(users)
    async with transactions.begin() as work:
        await work.execute("SELECT 1 FROM account FOR UPDATE")
        code, _ = await refused(users.UpdateUser(_update(user, name="Late"), timeout=0.3))

    assert code == "DEADLINE_EXCEEDED"
    changed = (await users.UpdateUser(_update(user, name="In time"), timeout=10)).user
    assert (changed.name, changed.etag) == ("In time", '"2"')


@pytest.mark.parametrize("user_id", ["", "1", "ü", "x" * 1000])
async def test_an_id_that_is_none_is_refused(users: UserServiceStub, user_id: str) -> None:
    code, fields = await refused(users.GetUser(pb.GetUserRequest(user_id=user_id), timeout=10))

    assert (code, list(fields)) == ("INVALID_ARGUMENT", ["user_id"])


def _update(user: pb.User, **fields: Any) -> pb.UpdateUserRequest:
    return pb.UpdateUserRequest(
        user=pb.User(id=user.id, etag=user.etag, **fields), update_mask=FieldMask(paths=list(fields))
    )


async def _get(users: UserServiceStub, user_id: str) -> pb.User:
    return (await users.GetUser(pb.GetUserRequest(user_id=user_id), timeout=10)).user


async def _count(transactions: Transactions) -> int:
    async with transactions.begin() as work:
        return int(await work.fetchval("SELECT count(*) FROM account"))
