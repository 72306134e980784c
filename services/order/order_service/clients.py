"""The user service over gRPC. It is asked only to show something, so it is given little time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from covey.errors import NotFound
from covey.grpc.client import GrpcClient, GrpcClientOptions
from covey.resilience.policy import PolicyOptions
from covey.security.tls import LOCAL, Encryption
from order_service.domain import UserId
from order_service.generated.user.v1.user_pb2 import GetUserRequest
from order_service.generated.user.v1.user_pb2_grpc import UserServiceStub

OPTIONS = GrpcClientOptions(
    policy=PolicyOptions(deadline=timedelta(milliseconds=500), timeout=timedelta(milliseconds=300))
)


class GrpcCustomers:
    """`Customers` over gRPC. Open it with `async with GrpcCustomers.open(address) as customers`."""

    def __init__(self, client: GrpcClient) -> None:
        self.client = client
        self._users = UserServiceStub(client.channel)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, address: str, token: str | None, encryption: Encryption = LOCAL
    ) -> AsyncIterator[GrpcCustomers]:
        """Connect when first used; close the connection at the end. `token` is that of the order service."""
        async with GrpcClient.open("user", address, OPTIONS, token, encryption=encryption) as client:
            yield cls(client)

    async def name_of(self, user_id: UserId) -> str | None:
        """See `Customers`."""
        try:
            answer = await self.client.call(self._users.GetUser, GetUserRequest(user_id=str(user_id)), repeatable=True)
        except NotFound:
            return None
        return answer.user.name
