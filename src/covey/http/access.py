"""Who may use a route: nobody unknown, unless it says so.

    @api.get("/products")
    @public                                  # also without a token
    async def list_products(work: Transaction) -> ProductList: ...

    @api.post("/products")
    @requires("staff")                       # a role
    async def create_product(body: NewProduct, work: Transaction) -> Product: ...

    @api.get("/orders/{order_id}")           # whoever is known; and the object has a say:
    async def get_order(order_id: OrderId, caller: Caller, work: Transaction) -> OrderView:
        order = await storage.order_by_id(work, order_id)
        require_owner(caller, f"user:{order.user_id}", or_role="staff")

A request without a token that is needed gets 401, one whose token is wrong too, also where none is needed; who is
known and may not gets 403 (RFC 6750, section 3). It is decided before the body is validated, so that nobody unknown
learns what a valid one is. `Authorization: Bearer` is all that is read. Who asks is in the context of the request from
then on, and with it in the claim on its `Idempotency-Key`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from starlette.types import Scope

from covey.errors import DefinitionError, Forbidden, Unauthenticated
from covey.http.arguments import HEADERS
from covey.security.principal import InvalidToken, Principal, Verifier

F = TypeVar("F", bound=Callable[..., Any])

PRINCIPAL = "covey.principal"
"""Where the scope of a request has who asks; nothing where nobody said."""

_TERMS = "covey_terms"
_NO_TOKEN = "say who you are: send Authorization: Bearer and a token"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a route asks of its callers."""

    public: bool = False
    role: str | None = None

    def admit(self, principal: Principal | None) -> None:
        """Raise Unauthenticated or Forbidden for who may not use the route."""
        if principal is None:
            if not self.public:
                raise Unauthenticated(_NO_TOKEN)
        elif self.role is not None and self.role not in principal.roles:
            raise Forbidden(f"this needs the role {self.role}")


def public(endpoint: F) -> F:
    """Have a route take requests without a token."""
    return _with_terms(endpoint, public=True)


def requires(role: str) -> Callable[[F], F]:
    """Have a route take requests only of those who have a role."""
    return lambda endpoint: _with_terms(endpoint, role=role)


def terms_of(endpoint: Callable[..., Any]) -> Terms:
    """Return what a route's function was declared with."""
    terms: Terms = getattr(endpoint, _TERMS, Terms())
    return terms


async def principal_in(scope: Scope, verifier: Verifier) -> Principal | None:
    """Return whose token a request brings; None: it brings none. Raises InvalidToken, Unavailable."""
    given: bytes | None = scope[HEADERS].get(b"authorization")
    if given is None:
        return None
    scheme, _, token = given.decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise InvalidToken(_NO_TOKEN)
    principal = await verifier.verify(token.strip())
    scope[PRINCIPAL] = principal
    return principal


def caller_in(scope: Scope) -> Principal:
    """Return who makes this request. Raises Unauthenticated when nobody said."""
    principal: Principal | None = scope.get(PRINCIPAL)
    if principal is None:
        raise Unauthenticated(_NO_TOKEN)
    return principal


async def caller(request: Request) -> Principal:
    """Return who makes this request; what a parameter of the type `Caller` is made by."""
    return caller_in(request.scope)


Caller = Annotated[Principal, Depends(caller, scope="function")]
"""A route's parameter of this type is who makes the request."""


def require_owner(caller: Principal, subject: str, or_role: str | None = None) -> None:
    """Raise Forbidden unless the caller is this subject, or has the role."""
    if caller.subject != subject and (or_role is None or or_role not in caller.roles):
        raise Forbidden("it belongs to somebody else")


def _with_terms(endpoint: F, **changes: Any) -> F:
    terms = replace(terms_of(endpoint), **changes)
    if terms.public and terms.role is not None:
        raise DefinitionError(f"{endpoint.__name__} cannot be public and require a role")
    setattr(endpoint, _TERMS, terms)
    return endpoint
