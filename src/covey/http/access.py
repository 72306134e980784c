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

from typing import Annotated

from fastapi import Depends, Request
from starlette.types import Scope

from covey.errors import Unauthenticated
from covey.http.arguments import HEADERS
from covey.security.access import NO_TOKEN, bearer_of
from covey.security.principal import Principal, Verifier

PRINCIPAL = "covey.principal"
"""Where the scope of a request has who asks; nothing where nobody said."""


async def principal_in(scope: Scope, verifier: Verifier) -> Principal | None:
    """Return whose token a request brings; None: it brings none. Raises InvalidToken, Unavailable."""
    given: bytes | None = scope[HEADERS].get(b"authorization")
    if given is None:
        return None
    scope[PRINCIPAL] = principal = await bearer_of(given.decode("latin-1"), verifier)
    return principal


def caller_in(scope: Scope) -> Principal:
    """Return who makes this request. Raises Unauthenticated when nobody said."""
    principal: Principal | None = scope.get(PRINCIPAL)
    if principal is None:
        raise Unauthenticated(NO_TOKEN)
    return principal


async def caller(request: Request) -> Principal:
    """Return who makes this request; what a parameter of the type `Caller` is made by."""
    return caller_in(request.scope)


Caller = Annotated[Principal, Depends(caller, scope="function")]
"""A route's parameter of this type is who makes the request."""
