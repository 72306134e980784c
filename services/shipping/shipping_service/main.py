"""The shipping service: what it is made of, and the carrier that it opens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from pydantic import Field

from covey.service import Parts, Service
from covey.settings import ServiceSettings
from shipping_service.clients import HttpCarrier
from shipping_service.handlers import effects
from shipping_service.routes import api


class ShippingSettings(ServiceSettings):
    """What shipping needs to know beside the rest."""

    carrier_url: str = Field(description="http://host:port of the carrier")
    carrier_timeout: timedelta = Field(default=timedelta(seconds=2), description="how long one call to it may take")


@asynccontextmanager
async def compose(settings: ShippingSettings) -> AsyncIterator[Parts]:
    """Open the carrier for as long as the service runs."""
    async with HttpCarrier.open(settings.carrier_url, settings.carrier_timeout) as carrier:
        yield Parts(http=[api], messages=[effects(carrier)], clients=[carrier.client], state={"carrier": carrier})


service = Service("shipping", compose, settings=ShippingSettings)
