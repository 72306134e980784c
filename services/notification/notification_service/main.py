"""The notification service: what it is made of, and the mail server that it is told of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from covey.service import Parts, Service
from covey.settings import ServiceSettings
from notification_service.clients import SmtpMailer
from notification_service.handlers import notifications
from notification_service.routes import api


class NotificationSettings(ServiceSettings):
    """What notification needs to know beside the rest."""

    smtp_url: str = Field(description="smtp://host:port of a mail server that takes mail from here")
    smtp_timeout: timedelta = Field(default=timedelta(seconds=5), description="how long handing over one mail may take")
    mail_from: str = Field(default="shop@shop.example", description="the sender of all mail")
    address_patience: timedelta = Field(
        default=timedelta(seconds=5), description="how long a mail waits for the address of a user unknown here"
    )

    @field_validator("smtp_url")
    @classmethod
    def _smtp(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            possible = parts.scheme == "smtp" and parts.hostname and parts.port and not (parts.username or parts.path)
        except ValueError:
            possible = False
        if not possible:
            raise ValueError("it must read like smtp://host:25")
        return value


@asynccontextmanager
async def compose(settings: NotificationSettings) -> AsyncIterator[Parts]:
    """Say where mail goes."""
    async with SmtpMailer.open(settings.smtp_url, settings.mail_from, settings.smtp_timeout) as mailer:
        yield Parts(http=[api], messages=[notifications(mailer, settings.address_patience)])


service = Service("notification", compose, settings=NotificationSettings)
