"""The order service: what it is made of, and the user service that it asks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from pydantic import Field

from covey.resilience.targets import Client
from covey.security.principal import service_token
from covey.security.tls import Encryption
from covey.service import Parts, Service
from covey.settings import ServiceSettings
from order_service.handlers import router
from order_service.ports import Customers
from order_service.routes import api
from order_service.saga.place_order import place_order, place_order_v1
from order_service.saga.return_order import return_order


class OrderSettings(ServiceSettings):
    """What order needs to know beside the rest."""

    user_grpc: str | None = Field(default=None, description="host:port of the user service's gRPC, to show customers")


def parts_of(customers: Customers | None, clients: Sequence[Client] = ()) -> Parts:
    """Return what the service is made of, with who knows the customers, if anybody does, and whom it calls."""
    return Parts(
        http=[api],
        messages=[router],
        sagas=[place_order, place_order_v1, return_order],
        clients=clients,
        state={"customers": customers},
    )


@asynccontextmanager
async def compose(settings: OrderSettings) -> AsyncIterator[Parts]:
    """Open the client of the user service for as long as the service runs."""
    if settings.user_grpc is None:
        yield parts_of(None)
        return
    from order_service.clients import GrpcCustomers  # gRPC costs 70 ms that nobody pays who does not use it

    token = service_token(settings.development_key, "order")
    async with GrpcCustomers.open(settings.user_grpc, token, Encryption.of(settings)) as customers:
        yield parts_of(customers, [customers.client])


service = Service("order", compose, settings=OrderSettings)
