"""What an operation asks of its callers, declared at its function: a route of HTTP and a method of gRPC alike.

    @requires("staff")
    async def create_product(...): ...

What says nothing is closed to who is unknown, and open to everybody who is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from covey.errors import DefinitionError, Forbidden, Unauthenticated
from covey.security.principal import InvalidToken, Principal, Verifier

F = TypeVar("F", bound=Callable[..., Any])

NO_TOKEN = "say who you are: send a bearer token in the header Authorization"

_TERMS = "covey_terms"


@dataclass(frozen=True, slots=True)
class Terms:
    """What an operation asks of its callers: to be known, unless it is public, and to have one of these roles."""

    public: bool = False
    roles: frozenset[str] = frozenset()

    def admit(self, principal: Principal | None) -> None:
        """Raise Unauthenticated or Forbidden for who may not use it."""
        if principal is None:
            if not self.public:
                raise Unauthenticated(NO_TOKEN)
        elif self.roles and not self.roles & principal.roles:
            raise Forbidden(f"this needs the role {' or '.join(sorted(self.roles))}")


def public(operation: F) -> F:
    """Have it take requests without a token."""
    return _with_terms(operation, public=True)


def requires(*roles: str) -> Callable[[F], F]:
    """Have it take requests only of those who have one of these roles."""
    return lambda operation: _with_terms(operation, roles=frozenset(roles))


def terms_of(operation: Callable[..., Any]) -> Terms:
    """Return what a function was declared with."""
    terms: Terms = getattr(operation, _TERMS, Terms())
    return terms


def require_owner(caller: Principal, subject: str, or_role: str | None = None) -> None:
    """Raise Forbidden unless the caller is this subject, or has the role."""
    if caller.subject != subject and (or_role is None or or_role not in caller.roles):
        raise Forbidden("it belongs to somebody else")


async def bearer_of(authorization: str | None, verifier: Verifier) -> Principal | None:
    """Return who brings this value of `Authorization`; None: nobody says. Raises InvalidToken, Unavailable."""
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise InvalidToken(NO_TOKEN)
    return await verifier.verify(token.strip())


def _with_terms(operation: F, **changes: Any) -> F:
    terms = replace(terms_of(operation), **changes)
    if terms.public and terms.roles:
        raise DefinitionError(f"{operation.__name__} cannot be public and require a role")
    setattr(operation, _TERMS, terms)
    return operation
