"""The payment service: what it is made of, and the provider that it opens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from pydantic import Field

from covey.service import Parts, Service
from covey.settings import ServiceSettings
from payment_service.clients import HttpProvider
from payment_service.handlers import effects
from payment_service.routes import api, refunds


class PaymentSettings(ServiceSettings):
    """What payment needs to know beside the rest."""

    provider_url: str = Field(description="http://host:port of the payment provider")
    provider_timeout: timedelta = Field(default=timedelta(seconds=2), description="how long one call to it may take")


@asynccontextmanager
async def compose(settings: PaymentSettings) -> AsyncIterator[Parts]:
    """Open the provider for as long as the service runs."""
    async with HttpProvider.open(settings.provider_url, settings.provider_timeout) as provider:
        yield Parts(http=[api, refunds], messages=[effects(provider)], clients=[provider.client])


service = Service("payment", compose, settings=PaymentSettings)
