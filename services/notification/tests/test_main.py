"""What notification is told at its start."""

from __future__ import annotations

import pytest
from notification_service.main import NotificationSettings

from covey.errors import ConfigurationError
from covey.settings import load


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://localhost/notification")
    monkeypatch.setenv("NATS_URL", "nats://localhost")


def test_a_mail_server_is_a_host_and_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_URL", "smtp://mail.internal:25")

    assert load(NotificationSettings, "notification").smtp_url == "smtp://mail.internal:25"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mail.internal:25",
        "http://mail:25",
        "smtp://mail",
        "smtp://:25",
        "smtp://mail:x",
        "smtp://me:secret@mail:25",
    ],
)
def test_what_is_no_mail_server_is_named_and_not_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_URL", url)

    with pytest.raises(ConfigurationError, match="SMTP_URL: it must read like smtp://host:25") as raised:
        load(NotificationSettings, "notification")

    assert "secret" not in str(raised.value)
