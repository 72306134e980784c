"""The whole of it in a process of its own, behind uvicorn, over sockets."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from covey.testing.collector import FakeCollector
from covey.testing.eventually import eventually

MIB = 1024 * 1024


class Server:
    """A running service."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port
        self.address = f"http://127.0.0.1:{port}"

    async def answers(self) -> bool:
        assert self.process.poll() is None, "it ended at once"
        try:
            async with aiohttp.ClientSession() as client, client.get(f"{self.address}/health") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    def stopped(self) -> list[dict[str, Any]]:
        """End it as a platform does, and return its log."""
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=20)
        assert self.process.returncode == 0
        return [json.loads(line) for line in output.splitlines()]


@contextmanager
def served(**environment: str) -> Iterator[Server]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    program = Path(__file__).with_name("served.py")
    process = subprocess.Popen(
        [sys.executable, str(program), str(port)], stdout=subprocess.PIPE, env={**os.environ, **environment}
    )
    try:
        yield Server(process, port)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def server() -> Iterator[Server]:
    with served() as started:
        yield started


async def test_a_body_of_ten_mebibytes_gets_its_problem_details(server: Server, client: aiohttp.ClientSession) -> None:
    await eventually(server.answers)

    async with client.post(f"{server.address}/api/v1/users", data=io.BytesIO(b"x" * 10 * MIB)) as answer:
        assert answer.status == 413
        assert answer.content_type == "application/problem+json"
        assert (await answer.json(content_type=None))["type"] == "/problems/too-large"
    async with client.post(f"{server.address}/api/v1/users", json={"a": 1}) as answer:
        assert answer.status == 200


async def test_ten_thousand_levels_of_nesting_get_theirs_and_the_process_lives(
    server: Server, client: aiohttp.ClientSession
) -> None:
    await eventually(server.answers)

    for body in (b"[" * 10_000 + b"]" * 10_000, b'{"a":' * 100_000):
        async with client.post(
            f"{server.address}/api/v1/users", data=body, headers={"Content-Type": "application/json"}
        ) as answer:
            assert answer.status == 400
    assert await server.answers()


async def test_a_header_that_would_forge_a_log_line_comes_back_harmless(server: Server) -> None:
    await eventually(server.answers)
    hostile = b"X-Correlation-ID: <script>alert(1)</script>\x80\xff%0d%0aSet-Cookie: a=b\r\n"

    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /api/v1/users/1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + hostile + b"\r\n")
    answer = await reader.read()
    writer.close()

    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 200")
    assert b"script" not in head and b"set-cookie" not in head
    assert all("script" not in json.dumps(line) for line in server.stopped())


async def test_sigterm_writes_every_line_and_exits_with_0(server: Server, client: aiohttp.ClientSession) -> None:
    await eventually(server.answers)
    for number in range(200):
        async with client.get(f"{server.address}/api/v1/users/{number}") as answer:
            assert answer.status == 200

    log = server.stopped()

    assert [line["user_id"] for line in log if line["event"] == "user read"] == list(range(200))
    assert [line["path"] for line in log if line["event"] == "request"] == [
        f"/api/v1/users/{number}" for number in range(200)
    ]


async def test_sigterm_loses_no_span(client: aiohttp.ClientSession) -> None:
    with FakeCollector() as collector, served(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint) as server:
        await eventually(server.answers)
        for number in range(200):
            async with client.get(f"{server.address}/api/v1/users/{number}") as answer:
                assert answer.status == 200

        server.stopped()

        spans = collector.spans()
        assert [span.attributes["url.path"] for span in spans] == [f"/api/v1/users/{number}" for number in range(200)]
        assert {span.resource["service.name"] for span in spans} == {"served"}


async def test_a_request_makes_one_span_although_fastapi_is_told_to_trace_itself(client: aiohttp.ClientSession) -> None:
    with FakeCollector() as collector:
        eager = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_SERVICE_NAME": "from-the-environment",
            "FASTAPI_OTEL_AUTO_CONFIGURE": "true",
        }
        with served(**eager) as server:
            await eventually(server.answers)
            async with client.get(f"{server.address}/api/v1/users/1") as answer:
                assert answer.status == 200
            server.stopped()

        assert [(span.name, span.kind) for span in collector.spans()] == [("GET /api/v1/users/{user_id}", "server")]


async def test_log_and_spans_of_a_request_are_of_one_trace(client: aiohttp.ClientSession) -> None:
    with FakeCollector() as collector, served(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint) as server:
        await eventually(server.answers)
        headers = {"traceparent": f"00-{0xABC:032x}-{0xDEF:016x}-01"}
        async with client.get(f"{server.address}/api/v1/users/1", headers=headers) as answer:
            assert answer.status == 200

        log = server.stopped()

        (span,) = collector.spans()
        assert (span.trace_id, span.parent_id) == (f"{0xABC:032x}", f"{0xDEF:016x}")
        assert {line["trace_id"] for line in log if "trace_id" in line} == {span.trace_id}


async def test_what_uvicorn_says_is_in_the_log_too(server: Server) -> None:
    await eventually(server.answers)

    log = server.stopped()

    assert any(line.get("logger") == "uvicorn.error" for line in log)
    assert all({"timestamp", "level", "event", "service"} <= line.keys() for line in log)


async def test_a_client_that_hangs_up_in_the_middle_of_its_body_harms_nobody(
    server: Server, client: aiohttp.ClientSession
) -> None:
    await eventually(server.answers)

    for _ in range(10):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.transport.abort()

    async def counted() -> bool:
        async with client.get(f"{server.address}/metrics") as answer:
            return 'endpoint="unmatched",method="POST",status="499"} 10.0' in await answer.text()

    await eventually(counted)
    assert all(line["level"] == "info" for line in server.stopped())


async def test_an_answer_that_breaks_off_is_seen_by_the_client_and_logged_with_one_stack(
    server: Server, client: aiohttp.ClientSession
) -> None:
    await eventually(server.answers)

    with pytest.raises(aiohttp.ClientPayloadError):
        async with client.get(f"{server.address}/api/v1/torn", headers={"X-Correlation-ID": "torn-1"}) as answer:
            await answer.read()

    assert [line["correlation_id"] for line in server.stopped() if "exception" in line] == ["torn-1"]


def test_a_service_without_a_collector_imports_no_opentelemetry_sdk() -> None:
    program = (
        "import sys, covey.http.application, covey.telemetry.telemetry;"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter',"
        " 'google.protobuf', 'requests'))])"
    )

    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "[]"
