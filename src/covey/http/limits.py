"""Rate limits of routes, declared where the route is, told in every answer.

    @api.post("/orders")
    @limited("300/minute", "5000/day", but_not="staff")
    async def create_order(...): ...

Each caller has a count for each limit: the principal, or the address of who says nothing of themselves. Counts are
exact over all processes that share a Valkey (`covey.resilience.rate_limit`), and taken in one round trip before the
body is validated. An answer tells the quotas and what is left of them (`RateLimit-Policy` and `RateLimit`, draft 10 of
https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/); a refusal is 429 with `Retry-After`. While
Valkey is away each process counts for itself, unless the route says otherwise.

The address is that of the connection: behind a proxy of yours have the server read the client's from it, or all its
clients share one count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Address, ip_address, ip_network
from math import ceil
from typing import Any, TypeVar, get_args

from starlette.types import Scope

from covey.errors import DefinitionError, Rejected
from covey.resilience.rate_limit import RateLimit, RateLimiter, Verdict, WhenAway
from covey.security.principal import Principal
from covey.valkey.client import Valkey

F = TypeVar("F", bound=Callable[..., Any])
Header = tuple[bytes, bytes]

_QUOTAS = "covey_quotas"
_ANONYMOUS = "address:"


class RateLimited(Rejected):
    """The caller has asked too often. The same request will do after `retry_after`; `told` is how the caller stands."""

    retryable = True

    def __init__(self, message: str, retry_after: timedelta | None = None, told: Sequence[Header] = ()) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.headers = {name.decode(): value.decode() for name, value in told}


@dataclass(frozen=True, slots=True)
class Quotas:
    """The limits of one route by their names, who has none, and what holds while Valkey is away."""

    limits: tuple[tuple[str, RateLimit], ...]
    but_not: str | None
    when_away: WhenAway
    _policy: Header = field(init=False)

    def __post_init__(self) -> None:
        policy = (f'"{name}";q={limit.most};w={int(limit.span.total_seconds())}' for name, limit in self.limits)
        object.__setattr__(self, "_policy", (b"ratelimit-policy", ", ".join(policy).encode()))

    def about(self, subject: Principal | None) -> bool:
        """Tell whether this caller is counted."""
        return subject is None or self.but_not is None or self.but_not not in subject.roles

    def told(self, verdict: Verdict) -> list[Header]:
        """Return the quotas, and what is left of each until when; nothing when nobody counts."""
        uses = verdict.uses
        if not uses:
            return []
        state = [
            f'"{name}";r={use.left};t={-(-use.full_after_us // 1_000_000)}'
            for (name, _), use in zip(self.limits, uses, strict=True)
        ]
        return [self._policy, (b"ratelimit", ", ".join(state).encode())]


def limited(*limits: str, but_not: str | None = None, when_away: WhenAway = "local") -> Callable[[F], F]:
    """Have a route refuse who asks too often: "100/minute", "5/10 seconds".

    Whoever has the role `but_not` is not counted. Raises DefinitionError for what is no limit.
    """
    parsed = tuple((text.replace(" ", ""), RateLimit.parse(text)) for text in limits)
    if not parsed or when_away not in get_args(WhenAway):
        raise DefinitionError(f"a route cannot be limited like this: {limits}, {when_away!r}")

    def declared(endpoint: F) -> F:
        setattr(endpoint, _QUOTAS, Quotas(parsed, but_not, when_away))
        return endpoint

    return declared


def quotas_of(endpoint: Callable[..., Any]) -> Quotas | None:
    """Return what a route's function was declared with."""
    return getattr(endpoint, _QUOTAS, None)


class Limits:
    """Counts the requests of one service, in its system's Valkey or, without one, in this process."""

    def __init__(self, valkey: Valkey | None, system: str, service: str) -> None:
        prefix = f"covey:{system}:{service}:limit"
        modes: tuple[WhenAway, ...] = get_args(WhenAway)
        self._limiters = {mode: RateLimiter(valkey, prefix, mode) for mode in modes}

    async def take(self, scope: Scope, route: str, quotas: Quotas, principal: Principal | None) -> list[Header]:
        """Count a request of the route of this template, and return what its answer has to tell.

        Raises RateLimited, its quotas noted, and ValkeyUnavailable where the route is closed without Valkey.
        """
        subject = principal.subject if principal else _ANONYMOUS + _address(scope)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]  # the same work, and the same count
        limits = [(f"{method} {route}:{name}", limit) for name, limit in quotas.limits]
        verdict = await self._limiters[quotas.when_away].take(subject, limits)
        told = quotas.told(verdict)
        if not verdict.admitted:
            seconds = ceil(verdict.retry_after.total_seconds())
            raise RateLimited(f"too many requests: try again in {seconds} s", verdict.retry_after, told)
        return told


def _address(scope: Scope) -> str:
    """Return what a caller cannot choose of their address: of IPv6 the network, which each has all to himself."""
    client = scope.get("client")
    if not client:
        return "unknown"
    try:
        address = ip_address(client[0])
    except ValueError:
        return "unknown"
    if isinstance(address, IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ip_network((int(address), 128)).supernet(new_prefix=64))
