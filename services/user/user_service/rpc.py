"""Users over gRPC, as `contracts/proto/user/v1/user.proto` has them: a translation, the use cases are those of REST."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from covey.database.pagination import MOST, Query
from covey.errors import Conflict, Invalid, Unreadable
from covey.grpc.idempotency import once
from covey.grpc.transaction import transaction
from covey.security.access import requires
from covey.work.unit_of_work import Work
from user_service import storage, use_cases
from user_service.domain import Preferences, Profile, User, UserId, checked_profile
from user_service.generated.user.v1 import user_pb2 as pb
from user_service.generated.user.v1.user_pb2_grpc import UserServiceServicer

DEFAULT = 50

_CHANGEABLE = ("name", "email", "phone", "age")
_ETAG = re.compile(r'"([1-9][0-9]{0,17})"')


class Users(UserServiceServicer):
    """The methods of `user.v1.UserService`. What they raise becomes a status of the same meaning as over HTTP.

    It is for the staff and, to read, for other services; a customer speaks REST.
    """

    @requires("staff", "service")
    async def GetUser(self, request: pb.GetUserRequest, context: Any) -> pb.GetUserResponse:
        """Return a user."""
        async with transaction() as work:
            user = await use_cases.user_of(work, _user_id(request.user_id, "user_id"))
        return pb.GetUserResponse(user=_shown(user))

    @requires("staff")
    async def CreateUser(self, request: pb.CreateUserRequest, context: Any) -> pb.CreateUserResponse:
        """Open an account, once for each `request_id`."""
        async with transaction() as work:
            return await once(work, request, pb.CreateUserResponse, lambda: _create(work, request))

    @requires("staff")
    async def UpdateUser(self, request: pb.UpdateUserRequest, context: Any) -> pb.UpdateUserResponse:
        """Change what the mask names, if the etag is the present one."""
        user_id = _user_id(request.user.id, "user.id")
        expect, change = _expecting(request.user.etag, "user.etag"), _change(request)
        async with transaction() as work:
            user = await use_cases.change_profile(work, user_id, expect, change)
        return pb.UpdateUserResponse(user=_shown(user))

    @requires("staff")
    async def DeleteUser(self, request: pb.DeleteUserRequest, context: Any) -> pb.DeleteUserResponse:
        """Close an account."""
        expect = _expecting(request.etag, "etag") if request.etag else None
        async with transaction() as work:
            await use_cases.close_account(work, _user_id(request.user_id, "user_id"), expect)
        return pb.DeleteUserResponse()

    @requires("staff")
    async def ListUsers(self, request: pb.ListUsersRequest, context: Any) -> pb.ListUsersResponse:
        """Return a page of users."""
        if request.page_size < 0:
            _refuse("page_size", "it is 0 or more")
        limit = min(request.page_size or DEFAULT, MOST)
        query = Query(condition=request.filter, cursor=request.page_token or None, limit=limit)
        try:
            async with transaction() as work:
                users, following = await storage.users_page(work, query)
        except Unreadable:
            _refuse("page_token", "it is what the page before said, with the same filter")
        return pb.ListUsersResponse(users=map(_shown, users), next_page_token=following or "")


async def _create(work: Work, request: pb.CreateUserRequest) -> pb.CreateUserResponse:
    profile = checked_profile(request.name, request.email, _given(request, "phone"), _given(request, "age"))
    return pb.CreateUserResponse(user=_shown(await use_cases.open_account(work, profile, Preferences())))


def _change(request: pb.UpdateUserRequest) -> Callable[[Profile], Profile]:
    """Return what the request does to a profile. Raises Invalid for a mask of nothing, or of what cannot change."""
    paths = list(request.update_mask.paths)
    if not paths or any(path not in _CHANGEABLE for path in paths):
        _refuse("update_mask", f"it names what shall change, of {', '.join(_CHANGEABLE)}")
    wanted = {path: _given(request.user, path) for path in paths}

    def change(profile: Profile) -> Profile:
        present = {"name": profile.name, "email": profile.email, "phone": profile.phone, "age": profile.age}
        return checked_profile(**{**present, **wanted})

    return change


def _given(message: Any, field: str) -> Any:
    """Return a field of a message; of an optional one that is absent None."""
    has_presence = message.DESCRIPTOR.fields_by_name[field].has_presence
    return getattr(message, field) if not has_presence or message.HasField(field) else None


def _shown(user: User) -> pb.User:
    profile, times = user.profile, user.times
    assert times is not None, "it comes from the database"
    return pb.User(
        id=str(user.id),
        name=profile.name,
        email=profile.email,
        phone=profile.phone,
        age=profile.age,
        etag=entity_tag(user.version),
        created_at=_instant(times.created_at),
        updated_at=_instant(times.updated_at),
    )


def _instant(at: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def _user_id(value: str, field: str) -> UserId:
    try:
        return UserId(UUID(value))
    except ValueError:
        _refuse(field, "it is a UUID")


def _expecting(etag: str, field: str) -> use_cases.Expect:
    """Return what raises Conflict where another version is present than the one that an etag stands for."""
    if not _ETAG.fullmatch(etag):
        _refuse(field, "it is the etag of the user that was read")

    def expect(version: int) -> None:
        if etag != entity_tag(version):
            raise Conflict(f"the user has changed: {etag} was read, and it is at {entity_tag(version)}")

    return expect


def entity_tag(version: int) -> str:
    """Return the etag of a version, the same as REST has."""
    return f'"{version}"'


def _refuse(field: str, what: str) -> NoReturn:
    raise Invalid(f"{field}: {what}", [{"in": "message", "pointer": "#/" + field.replace(".", "/"), "what": what}])
