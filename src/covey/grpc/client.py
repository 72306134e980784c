"""Another service over gRPC: one channel to a target, every call under its policy and with a deadline.

    async with GrpcClient.open("user", settings.user_grpc) as user:
        users = UserServiceStub(user.channel)
        answer = await user.call(users.GetUser, GetUserRequest(user_id=str(user_id)), repeatable=True)

What is raised are errors of covey: what the target said (`covey.grpc.status`), or what the policy did. They blame the
request that was made of the target, which need not be the one that is being handled here: whoever calls decides what a
NotFound of another service means to its own caller.

The connection is made with the first call; `encryption`, of the service's settings, says how.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import grpc

from covey import context
from covey.clock import Clock, SystemClock
from covey.errors import Defect
from covey.grpc.exchange import CORRELATION_ID, TRACEPARENT
from covey.grpc.options import DEFAULT, KeepAlive, limits
from covey.grpc.status import error_of
from covey.resilience.policy import Policy, PolicyOptions
from covey.security.tls import LOCAL, Encryption, Identity

Q = TypeVar("Q", contravariant=True)
A = TypeVar("A", covariant=True)

# The policy gives a call up when its time is over. gRPC would do it at the same instant and in other words, so it gets
# a little more; the target learns of the end by the cancellation, or a moment later by its own clock.
_LATER_SECONDS = 0.05

_SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
"""All addresses of a name take turns, and nothing is retried: that is the policy's business alone."""


@dataclass(frozen=True, kw_only=True)
class GrpcClientOptions:
    """How one target is called."""

    policy: PolicyOptions = field(default_factory=PolicyOptions)
    max_message_bytes: int = 1024 * 1024
    keep_alive: KeepAlive = DEFAULT


class Unary(Protocol[Q, A]):
    """A method of a stub."""

    def __call__(self, request: Q, /, *, timeout: float | None = ..., metadata: Any = ...) -> Awaitable[A]: ...


class GrpcClient:
    """Calls one target. `channel` is what stubs are made on; a call that does not go through `call` has no policy."""

    def __init__(self, target: str, channel: grpc.aio.Channel, policy: Policy, token: str | None = None) -> None:
        self._identity = (("authorization", f"Bearer {token}"),) if token else ()
        self.target = target
        self.channel = channel
        self.policy = policy

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        target: str,
        address: str,
        options: GrpcClientOptions | None = None,
        token: str | None = None,
        clock: Clock | None = None,
        encryption: Encryption = LOCAL,
    ) -> AsyncIterator[GrpcClient]:
        """Connect when first used; cut off what is under way at the end.

        `address` is `host:port`, or a gRPC URI; `token` says who calls. Raises ConfigurationError where the token and
        the rest would go over a network in plaintext.
        """
        options = options or GrpcClientOptions()
        channel = _channel(address, options, _identity(target, address, encryption))
        try:
            yield cls(target, channel, Policy(target, options.policy, clock or SystemClock()), token)
        finally:
            await channel.close()

    async def call(self, method: Unary[Q, A], request: Q, *, repeatable: bool) -> A:
        """Call a method of a stub and return its answer.

        `repeatable` says that it may be made again when nobody knows whether it had its effect: a read, or a request
        with a `request_id`. Raises what the target said, DependencyUnavailable, DeadlineExceeded, CircuitOpen,
        BulkheadFull.
        """
        about = context.current()
        trace = ((CORRELATION_ID, about.correlation_id), (TRACEPARENT, about.trace.traceparent()))
        metadata = (*trace, *self._identity)

        async def attempt(seconds: float) -> A:
            try:
                return await method(request, timeout=seconds + _LATER_SECONDS, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                raise error_of(error, self.target) from None
            except (grpc.aio.UsageError, grpc.aio.InternalError) as error:
                raise Defect(f"{self.target}: {error}") from None

        return await self.policy.call(attempt, repeatable=repeatable)


def _channel(address: str, options: GrpcClientOptions, identity: Identity | None) -> grpc.aio.Channel:
    arguments = [
        *limits(options.max_message_bytes),
        *options.keep_alive.of_client(),
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.primary_user_agent", "covey"),
    ]
    if identity is None:
        return grpc.aio.insecure_channel(address, options=arguments)
    credentials = grpc.ssl_channel_credentials(identity.authorities, identity.key, identity.certificate)
    return grpc.aio.secure_channel(address, credentials, options=arguments)


def _identity(target: str, address: str, encryption: Encryption) -> Identity | None:
    """Return who to be at an address, every host of it."""
    return {encryption.towards(host, f"{target} over gRPC at {address}") for host in _hosts(address)}.pop()


def _hosts(address: str) -> list[str]:
    """Return the hosts in what gRPC calls a target: `host:port`, `dns:///host:port`, `ipv4:…,…`, `unix:path`."""
    scheme, _, rest = address.partition(":")
    if scheme in ("unix", "unix-abstract"):
        return ["localhost"]
    authorities = (rest if scheme in ("dns", "ipv4", "ipv6") else address).rpartition("/")[2].split(",")
    return [urlsplit(f"//{one}").hostname or one for one in authorities]
