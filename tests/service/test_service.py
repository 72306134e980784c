"""The life of a service: opened in order, closed in reverse, stopped without a failed request."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from covey.database.pool import Database
from covey.errors import ConfigurationError, DatabaseUnavailable
from covey.http.edge import HttpOptions
from covey.local.engines.embedded import Engines
from covey.local.ports import free_port
from covey.messaging.brokers.memory import MemoryBroker
from covey.messaging.router import Router
from covey.service import Parts, Service
from covey.settings import ServiceSettings, load
from covey.testing.asgi import ask
from covey.testing.collector import FakeCollector
from covey.testing.eventually import eventually

PROGRAM = """
import asyncio
from fastapi import APIRouter
from covey.security.access import public
from covey.http.transaction import Transaction
from covey.service import Parts, Service

api = APIRouter()

@api.get("/slow")
@public
async def slow(work: Transaction) -> dict[str, int]:
    await work.execute("SELECT pg_sleep(0.3)")
    return {"one": 1}

service = Service("shop", Parts(http=[api]))

if __name__ == "__main__":
    service.run()
"""

STUBBORN = """
from contextlib import asynccontextmanager
from covey.service import Parts, Service

@asynccontextmanager
async def compose(settings):
    raise RuntimeError(f"cannot work with {settings.database_url}")
    yield Parts()

Service("shop", compose).run()
"""


def settings(database_url: str) -> ServiceSettings:
    return ServiceSettings(database_url=database_url, nats_url="nats://unused")


@dataclass
class Process:
    """A service in a process of its own."""

    process: asyncio.subprocess.Process
    url: str
    statuses: list[int] = field(default_factory=list)
    log: str = ""

    async def ready(self) -> None:
        """Wait until it says that it is ready."""

        async def asked() -> bool:
            assert self.process.returncode is None, "it has ended"
            try:
                async with aiohttp.ClientSession() as client, client.get(f"{self.url}/ready") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        await eventually(asked)

    async def ended(self) -> tuple[int, str]:
        """Wait for its end; return its status and what it wrote to standard error."""
        async with asyncio.timeout(20):
            said, error = await self.process.communicate()
        assert self.process.returncode is not None
        self.log = said.decode()
        return self.process.returncode, error.decode()


@asynccontextmanager
async def started(folder: Path, program: str = PROGRAM, **environment: str) -> AsyncIterator[Process]:
    """Start a program with nothing in its environment but this."""
    (folder / "shop.py").write_text(program)
    outer = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "shop.py",
        cwd=folder,
        env=outer | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Process(process, f"http://127.0.0.1:{environment.get('PORT', '')}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


class TestResources:
    async def test_are_closed_in_reverse_when_the_start_fails_half_way(self, database_url: str) -> None:
        happened: list[str] = []

        @asynccontextmanager
        async def resource(name: str) -> AsyncIterator[None]:
            happened.append(f"open {name}")
            try:
                yield
            finally:
                happened.append(f"close {name}")

        @asynccontextmanager
        async def compose(given: ServiceSettings) -> AsyncIterator[Parts]:
            async with resource("first"), resource("second"):
                raise ConfigurationError("the third does not open")
                yield Parts()

        service = Service("shop", compose)
        with pytest.raises(ConfigurationError, match="third"):
            async with service.running(settings(database_url), MemoryBroker()):
                pytest.fail("it must not run")

        assert happened == ["open first", "open second", "close second", "close first"]
        await _no_session_is_left(database_url)

    async def test_of_the_chassis_are_closed_when_its_parts_contradict_each_other(self, database_url: str) -> None:
        router = Router()
        router.ignore("feed.added.v1")
        with pytest.raises(Exception, match="handler already"):
            async with Service("shop", Parts(messages=[router, router])).running(
                settings(database_url), MemoryBroker()
            ):
                pytest.fail("it must not run")

        await _no_session_is_left(database_url)

    async def test_refuse_what_the_limits_of_the_service_forbid(self, database_url: str) -> None:
        parts = Parts(limits=HttpOptions(max_body_bytes=10))
        async with Service("shop", parts).running(settings(database_url), MemoryBroker()) as running:
            assert (await ask(running.app, "POST", "/nowhere", body=b"x" * 11)).status == 413

    async def test_include_valkey_where_a_part_asks_for_it_and_there_is_one(
        self, database_url: str, covey_engines: Engines
    ) -> None:
        there = settings(database_url).model_copy(update={"valkey_url": covey_engines.valkey_url})
        for asked, given, expected in [
            (False, there, False),
            (True, there, True),
            (True, settings(database_url), False),
        ]:
            async with Service("shop", Parts(valkey=asked)).running(given, MemoryBroker()) as running:
                assert (running.valkey is not None) is expected
                assert running.valkey is None or await running.valkey.call("PING") == b"PONG"

    async def test_include_a_valkey_that_is_away(self, database_url: str) -> None:
        away = settings(database_url).model_copy(update={"valkey_url": "valkey://127.0.0.1:1"})
        async with Service("shop", Parts(valkey=True)).running(away, MemoryBroker()) as running:
            assert running.valkey is not None
            assert not running.valkey.is_connected
            assert (await ask(running.app, "GET", "/ready")).status == 200

    async def test_are_all_closed_at_the_end(self, database_url: str) -> None:
        async with Service("shop", Parts()).running(settings(database_url), MemoryBroker()) as running:
            assert (await running.readiness.report()).ready

        await _no_session_is_left(database_url)

    async def test_that_are_not_there_are_an_error_of_ours(self) -> None:
        with pytest.raises(DatabaseUnavailable):
            async with Service("shop", Parts()).running(settings("postgresql://a:b@127.0.0.1:1/c"), MemoryBroker()):
                pytest.fail("it must not run")


class TestAProcess:
    async def test_ends_at_sigterm_with_status_0_and_no_failed_request(
        self, database_url: str, covey_engines: Engines, tmp_path: Path
    ) -> None:
        """Requests under way are answered; later ones are not accepted any more."""
        port = free_port()
        environment = {"DATABASE_URL": database_url, "NATS_URL": covey_engines.nats_url, "PORT": str(port)}
        async with started(tmp_path, **environment) as shop, aiohttp.ClientSession() as client:
            await shop.ready()

            async def ask() -> int:
                async with client.get(f"{shop.url}/slow") as answer:
                    return answer.status

            asked = [asyncio.create_task(ask()) for _ in range(5)]
            await eventually(lambda: _asleep(database_url, 5))
            shop.process.send_signal(signal.SIGTERM)

            assert await asyncio.gather(*asked) == [200] * 5
            status, error = await shop.ended()
            assert (status, error) == (0, "")
        await _no_session_is_left(database_url)

    async def test_started_without_an_environment_says_what_it_needs_and_how_to_get_it(self, tmp_path: Path) -> None:
        async with started(tmp_path) as shop:
            status, error = await shop.ended()

        assert status == 1
        for text in ("DATABASE_URL", "NATS_URL", "covey up --without shop"):
            assert text in error
        assert "Traceback" not in error

    async def test_whose_database_is_not_there_says_so_in_one_line(self, tmp_path: Path) -> None:
        url = "postgresql://a:secret-word@127.0.0.1:1/c"
        async with started(tmp_path, DATABASE_URL=url, NATS_URL="nats://127.0.0.1:1", PORT="0") as shop:
            status, error = await shop.ended()

        assert status == 1
        assert error.startswith("shop: ")
        assert len(error.splitlines()) == 1
        assert "secret-word" not in error

    @pytest.mark.parametrize(
        "password", ["hunter/two", "hunter?two", "hunter#two", "hunter[two", "hunter:two", "hunter two"]
    )
    async def test_shows_no_part_of_the_password_in_a_url_that_it_cannot_use(
        self, tmp_path: Path, password: str
    ) -> None:
        url = f"postgresql://role:{password}@127.0.0.1:1/c"
        async with started(tmp_path, DATABASE_URL=url, NATS_URL="nats://127.0.0.1:1", PORT="0") as shop:
            status, error = await shop.ended()

        assert status == 1
        assert error.startswith("shop: ")
        for part in ("hunter", "two"):
            assert part not in error + shop.log

    async def test_ended_by_an_error_of_its_own_shows_the_stack_in_its_log_and_no_secret_anywhere(
        self, database_url: str, tmp_path: Path
    ) -> None:
        password = database_url.split(":")[2].split("@")[0]
        async with started(tmp_path, STUBBORN, DATABASE_URL=database_url, NATS_URL="nats://127.0.0.1:1") as shop:
            status, error = await shop.ended()

        assert status == 1
        assert error.startswith("shop: RuntimeError: cannot work with postgresql://")
        assert len(error.splitlines()) == 1
        (failed,) = [line for line in map(json.loads, shop.log.splitlines()) if line["event"] == "service_failed"]
        assert "in compose" in failed["exception"]["frames"][-1]
        assert password not in error + shop.log

    async def test_whose_port_is_taken_ends_with_an_error(
        self, database_url: str, covey_engines: Engines, tmp_path: Path
    ) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            environment = {"DATABASE_URL": database_url, "NATS_URL": covey_engines.nats_url, "PORT": str(port)}
            async with started(tmp_path, **environment) as shop:
                status, error = await shop.ended()

        assert status == 1
        assert f"cannot listen on 127.0.0.1:{port}" in error
        assert "Traceback" not in error
        assert "service_failed" not in shop.log
        await _no_session_is_left(database_url)

    async def test_starts_while_its_broker_is_away(self, database_url: str, tmp_path: Path) -> None:
        port = free_port()
        environment = {"DATABASE_URL": database_url, "NATS_URL": "nats://127.0.0.1:1", "PORT": str(port)}
        async with started(tmp_path, **environment) as shop:
            await shop.ready()

            shop.process.send_signal(signal.SIGTERM)
            assert (await shop.ended())[0] == 0

    async def test_cuts_off_a_request_whose_head_never_ends(self, database_url: str, tmp_path: Path) -> None:
        port, sent = free_port(), 0
        environment = {"DATABASE_URL": database_url, "NATS_URL": "nats://127.0.0.1:1", "PORT": str(port)}
        async with started(tmp_path, **environment) as shop:
            await shop.ready()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nX-Long: ")
            with suppress(ConnectionError):
                while not reader.at_eof() and sent < 5_000_000:
                    writer.write(b"a" * 10_000)
                    await writer.drain()
                    sent += 10_000
            writer.close()

        assert sent < 5_000_000


class TestSettings:
    def test_name_each_variable_that_is_wrong(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("DATABASE_URL", "NATS_URL"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PORT", "many")
        monkeypatch.setenv("POOL_SIZE", "0")

        with pytest.raises(ConfigurationError) as caught:
            load(ServiceSettings, "shop")

        for name in ("DATABASE_URL", "NATS_URL", "PORT", "POOL_SIZE"):
            assert name in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "headers"),
        [
            ("", {}),
            ("api-key=abc,x-tenant=shop", {"api-key": "abc", "x-tenant": "shop"}),
            (" Api-Key = abc , ,x=", {"api-key": "abc", "x": ""}),
            ("authorization=Basic%20dXNlcjpwYXNz%3D%3D", {"authorization": "Basic dXNlcjpwYXNz=="}),
            ("authorization=Basic dXNlcjpwYXNz==", {"authorization": "Basic dXNlcjpwYXNz=="}),
            ("a=1%2C2,a=3", {"a": "3"}),
        ],
    )
    def test_take_headers_for_the_collector_as_opentelemetry_writes_them(
        self, monkeypatch: pytest.MonkeyPatch, text: str, headers: dict[str, str]
    ) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", text)

        found = ServiceSettings(database_url="postgresql://unused", nats_url="nats://unused")

        assert found.otel_exporter_otlp_headers == headers

    @pytest.mark.parametrize("text", ["hunter2", "=hunter2", "a b=hunter2", "a=hunter2%0d%0ax-b: c", "a=hunter2%C3%A9"])
    def test_refuse_headers_that_are_none_without_showing_them(
        self, monkeypatch: pytest.MonkeyPatch, text: str
    ) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", text)

        with pytest.raises(ConfigurationError, match=r"OTEL_EXPORTER_OTLP_HEADERS: .*name=value") as caught:
            load(ServiceSettings, "shop")

        assert "hunter2" not in str(caught.value)


async def test_spans_reach_a_collector_that_asks_for_a_key(database_url: str) -> None:
    with FakeCollector() as collector:
        given = settings(database_url).model_copy(
            update={
                "otel_exporter_otlp_endpoint": collector.endpoint,
                "otel_exporter_otlp_headers": {"api-key": "abc"},
            }
        )
        async with Service("shop", Parts()).running(given, MemoryBroker()) as running:
            with running.telemetry.tracer.span("work"):
                pass

    assert [span.name for span in collector.spans()] == ["work"]
    assert collector.headers["api-key"] == "abc"


async def _asleep(url: str, count: int) -> bool:
    async with Database.open(url) as database, database.acquire() as connection:
        return bool(
            await connection.fetchval(
                "SELECT count(*) >= $1 FROM pg_stat_activity WHERE datname = current_database()"
                " AND query LIKE '%pg_sleep%' AND state = 'active' AND pid <> pg_backend_pid()",
                count,
            )
        )


async def _no_session_is_left(url: str) -> None:
    async with Database.open(url) as database, database.acquire() as connection:

        async def gone() -> bool:
            left = await connection.fetch(
                "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name <> 'covey' AND pid <> pg_backend_pid()"
            )
            assert not left, left
            return True

        await eventually(gone)
