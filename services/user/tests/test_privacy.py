"""Personal data reaches neither a log line nor a span nor a metric, whatever is done with it."""

from __future__ import annotations

import asyncio
import gzip

import aiohttp
import pytest
from user_service.main import service

from covey.messaging.brokers.memory import MemoryBroker
from covey.settings import ServiceSettings
from covey.testing.collector import FakeCollector
from covey.testing.serving import serving
from covey.testing.tokens import KEY, bearer

NAME, MAILBOX, PHONE = "Canaria Kanarienvogel", "c4n4ry", "+4915198765432"
ADA = {"name": NAME, "email": f"{MAILBOX}@example.org", "phone": PHONE}
CANARIES = (NAME, MAILBOX, PHONE, PHONE.removeprefix("+"))


async def do_everything(http: aiohttp.ClientSession) -> None:
    """Each use of a user that there is, and the ways in which it is refused."""
    async with http.post("/api/v1/users", json=ADA) as response:
        path = response.headers["Location"]
    others = {"name": "Other", "email": "other@example.org"}
    async with http.post("/api/v1/users", json=others) as response:
        other = response.headers["Location"]
    attempts = [
        ("POST", "/api/v1/users", ADA, 409),
        ("PUT", other, ADA, 409),
        ("PUT", path, {**ADA, "age": "old"}, 422),
        ("PUT", path, ADA, 200),
        ("POST", "/api/v1/users", {**ADA, "name": f"{NAME}\0", "email": f"x{ADA['email']}"}, 422),
        ("POST", "/api/v1/users", {**ADA, "name": NAME * 50}, 422),
        ("POST", "/api/v1/users", {**ADA, "email": f"{MAILBOX} at example.org"}, 422),
        ("POST", "/api/v1/users", {**ADA, "phone": f"{PHONE} {PHONE}"}, 422),
        ("POST", "/api/v1/users/announcements", {}, 202),
        ("GET", f"/api/v1/users/{ADA['email']}", None, 422),
        ("GET", path, None, 200),
        ("DELETE", path, None, 412),
    ]
    for method, target, body, expected in attempts:
        async with http.request(method, target, json=body, headers={"If-Match": '"1"'}) as response:
            assert response.status == expected, (method, target)
    async with http.delete(path) as response:
        assert response.status == 204


async def test_no_canary_is_found_in_logs_spans_and_metrics(
    database_url: str, memory_broker: MemoryBroker, capfd: pytest.CaptureFixture[str]
) -> None:
    with FakeCollector() as collector:
        settings = ServiceSettings(
            database_url=database_url,
            nats_url="nats://unused",
            development_key=KEY,
            log_level="DEBUG",
            otel_exporter_otlp_endpoint=collector.endpoint,
        )
        async with (
            service.running(settings, memory_broker) as running,
            serving(running.app) as url,
            aiohttp.ClientSession(url, headers=bearer("staff:test", "staff")) as http,
        ):
            await do_everything(http)
            async with http.get("/metrics") as response:
                metrics = await response.text()
        spans = await asyncio.to_thread(collector.spans)
        sent = b"".join(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body for body in collector.bodies)

    written = capfd.readouterr()
    logs = written.out + written.err
    assert logs.count('"event":"request"') >= 14
    assert any("users" in span.name for span in spans)
    assert "/api/v1/users/{user_id}" in metrics
    for canary in CANARIES:
        assert canary not in logs
        assert canary not in metrics
        assert canary.encode() not in sent
