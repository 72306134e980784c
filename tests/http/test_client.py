"""Another service over HTTP: what goes along, what comes back, what is tried again, and that no time is exceeded."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from covey import context, errors
from covey.clock import SystemClock
from covey.errors import DeadlineExceeded, DependencyTooSlow, DependencyUnavailable, TooLarge
from covey.http.client import HttpClient, HttpClientOptions, Query, segment
from covey.local.ports import free_port
from covey.resilience.circuit_breaker import BreakerOptions, CircuitOpen
from covey.resilience.policy import PolicyOptions
from covey.resilience.retry import RetryOptions
from covey.testing.eventually import eventually
from tests.http.scripted import answer, cut_off_after, hang_up, reset, say_nothing, scripted

QUICK = RetryOptions(base=timedelta(milliseconds=1), cap=timedelta(milliseconds=2))
POLICY = PolicyOptions(deadline=timedelta(seconds=5), timeout=timedelta(seconds=3), retry=QUICK)


class User(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str


ADA = answer(b'{"name": "Ada"}')


@asynccontextmanager
async def calling(
    url: str, policy: PolicyOptions = POLICY, token: str | None = None, **options: Any
) -> AsyncIterator[HttpClient]:
    how = HttpClientOptions(policy=policy, **options)
    async with HttpClient.open("user", url, how, caller="order", token=token) as client:
        yield client


def header(request: bytes, name: str) -> str | None:
    lines = request.split(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return next((v.strip() for k, _, v in (line.partition(":") for line in lines) if k.lower() == name), None)


class TestARequest:
    async def test_says_who_asks_as_part_of_what_and_how_long_it_waits(self) -> None:
        about = context.new_context("order-17")
        async with scripted(ADA) as server, calling(server.url, token="secret") as client:
            with context.use(about):
                await client.ask("GET", "/users/1", User)

        (request,) = server.seen
        assert header(request, "host") == server.url.removeprefix("http://")
        assert header(request, "user-agent") == "covey-order"
        assert header(request, "authorization") == "Bearer secret"
        assert header(request, "x-correlation-id") == "order-17"
        assert header(request, "traceparent") == about.trace.traceparent()
        assert 2_500 < int(header(request, "covey-timeout-ms") or 0) <= 3_000

    async def test_has_its_body_as_json_or_as_it_is(self) -> None:
        async with scripted(ADA) as server, calling(server.url) as client:
            await client.send("POST", "/users", body=User(name="Zoë"))
            await client.send("PUT", "/picture", body=b"\x00\r\n", headers={"Content-Type": "image/png"})
            await client.send("POST", "/users/1/close")

        model, picture, nothing = server.seen
        assert model.endswith(b'\r\n\r\n{"name":"Zo\xc3\xab"}')
        assert header(model, "content-type") == "application/json"
        assert picture.endswith(b"\r\n\r\n\x00\r\n")
        assert header(picture, "content-type") == "image/png"
        assert header(nothing, "content-length") == "0"

    async def test_has_its_query_encoded(self) -> None:
        async with scripted(ADA) as server, calling(f"{server.url}/base/") as client:
            query: Query = {"name": "a b&c=ä\r\n", "open": True, "tag": ["x", "y"], "none": None, "most": 5}
            await client.ask("GET", f"/users/{segment('1/../ü')}", User, query=query)

        line = server.seen[0].split(b"\r\n")[0]
        encoded = b"?name=a+b%26c%3D%C3%A4%0D%0A&open=true&tag=x&tag=y&most=5"
        assert line == b"GET /base/users/1%2F..%2F%C3%BC" + encoded + b" HTTP/1.1"

    @pytest.mark.parametrize(
        "path",
        ["", "users", "http://elsewhere/", "//elsewhere/x", "/a\r\nX: y", "/a b", "/a/../b", "/..", "/a?b=c", "/ä"],
    )
    async def test_does_not_go_elsewhere(self, path: str) -> None:
        async with scripted(ADA) as server, calling(server.url) as client:
            with pytest.raises(errors.DefinitionError):
                await client.send("GET", path)

        assert server.connections == 0

    @pytest.mark.parametrize(
        "headers",
        [
            *({"X-A": "b\r\nX-C: d"}, {"X A": "b"}, {"X-A": ""}, {"X-A": "b", "x-a": "c"}),
            *({"Host": "elsewhere"}, {"covey-timeout-ms": "1"}, {"Traceparent": "00-1"}, {"x-correlation-id": "a"}),
            {"Accept-Encoding": "gzip"},
        ],
    )
    async def test_does_not_end_a_line_early(self, headers: dict[str, str]) -> None:
        async with scripted(ADA) as server, calling(server.url) as client:
            with pytest.raises(errors.DefinitionError):
                await client.send("GET", "/", headers=headers)

        assert server.connections == 0

    @pytest.mark.parametrize(
        ("url", "why"),
        [
            *(
                (url, "http://host:port")
                for url in ("", "carrier:80", "ftp://carrier", "http://", "http://u:p@carrier")
            ),
            ("http://a/b c", "http://host:port"),
            ("http://carrier/api?version=2", "no query"),
            ("http://carrier?", "no query"),
            ("http://carrier/api#top", "no fragment"),
            ("http://carrier:0", "port 0"),
        ],
    )
    async def test_needs_an_address(self, url: str, why: str) -> None:
        with pytest.raises(errors.ConfigurationError, match=why):
            async with calling(url):
                pass

    async def test_says_nothing_twice_when_who_calls_says_it_otherwise(self) -> None:
        mine = {"authorization": "Bearer theirs", "user-agent": "me", "accept": "text/csv", "content-type": "text/csv"}
        async with scripted(ADA) as server, calling(server.url, token="secret") as client:
            await client.ask("POST", "/users", User, body=b"", headers=mine)

        names = [line.split(b":")[0].lower() for line in server.seen[0].split(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
        assert len(set(names)) == len(names)
        assert {name: header(server.seen[0], name) for name in mine} == mine

    async def test_says_ours_where_who_calls_says_nothing(self) -> None:
        nothing = {"Authorization": None, "Accept": None, "Content-Type": None}
        async with scripted(ADA) as server, calling(server.url, token="secret") as client:
            await client.ask("POST", "/users", User, body={}, headers=nothing)

        said = [header(server.seen[0], name.lower()) for name in nothing]
        assert said == ["Bearer secret", "application/json", "application/json"]

    @pytest.mark.parametrize(
        "body",
        [float("nan"), {"rate": float("inf")}, [-float("inf")], "\ud800", {"\ud800": 1}, {"of": b"\xff"}, object()],
        ids=["nan", "infinity", "less", "surrogate", "name", "bytes", "object"],
    )
    async def test_has_no_body_that_is_no_json(self, body: object) -> None:
        async with scripted(ADA) as server, calling(server.url) as client:
            with pytest.raises(errors.DefinitionError, match="cannot be JSON"):
                await client.send("POST", "/users", body=body)

        assert server.connections == 0

    async def test_may_speak_of_what_is_no_number(self) -> None:
        async with scripted(ADA) as server, calling(server.url) as client:
            await client.send("POST", "/users", body={"NaN": "-Infinity"})

        assert server.seen[0].endswith(b'{"NaN":"-Infinity"}')

    async def test_has_no_query_and_no_segment_that_is_not_unicode(self) -> None:
        async with scripted(ADA) as server, calling(server.url) as client:
            with pytest.raises(errors.DefinitionError):
                await client.send("GET", "/users", query={"name": "\ud800"})

        assert server.connections == 0
        with pytest.raises(errors.Invalid):
            segment("\ud800")

    @pytest.mark.parametrize("value", ["", ".", ".."])
    def test_names_something(self, value: str) -> None:
        with pytest.raises(errors.Invalid):
            segment(value)


class TestAnAnswer:
    async def test_is_read_as_the_model_that_is_asked_for(self) -> None:
        async with scripted(ADA, answer(b'[{"name": "Ada"}]')) as server, calling(server.url) as client:
            assert await client.ask("GET", "/users/1", User) == User(name="Ada")
            assert await client.ask("GET", "/users", list[User]) == [User(name="Ada")]

    @pytest.mark.parametrize("body", [b"", b"<html>secret</html>", b'{"name": 7}', b'{"nom": "secret"}', b'{"name"'])
    async def test_that_cannot_be_read_is_of_no_use_and_is_not_repeated(self, body: bytes) -> None:
        async with scripted(answer(body)) as server, calling(server.url) as client:
            with pytest.raises(DependencyUnavailable, match="cannot be read") as caught:
                await client.ask("GET", "/users/1", User)

        assert len(server.seen) == 1
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize(
        "content",
        [
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b'8\r\n{"name":\r\n6\r\n "Ada"\r\n1\r\n}\r\n0\r\nx-t: 1\r\n\r\n',
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ADA,
        ],
    )
    async def test_may_come_in_chunks_or_after_information(self, content: bytes) -> None:
        async with scripted(content) as server, calling(server.url) as client:
            for _ in range(2):
                assert await client.ask("GET", "/users/1", User) == User(name="Ada")

        assert server.connections == 1

    async def test_has_the_headers_of_its_head_and_of_nothing_else(self) -> None:
        content = (
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nX-A: \t1 \r\nTransfer-Encoding: chunked\r\n\r\n"
            b"d\r\n\r\n\r\nX-Body: 1\r\n0\r\nX-Trailer: 1\r\n\r\n"
        )
        async with scripted(content) as server, calling(server.url) as client:
            came = await client.send("GET", "/users/1")

        assert came.headers == [(b"X-A", b"1"), (b"Transfer-Encoding", b"chunked")]
        assert came.body == b"\r\n\r\nX-Body: 1"

    async def test_without_a_length_ends_with_the_connection(self) -> None:
        async with (
            scripted(cut_off_after(b'HTTP/1.1 200 OK\r\n\r\n{"name": "Ada"}')) as server,
            calling(server.url) as client,
        ):
            for _ in range(2):
                assert await client.ask("GET", "/users/1", User) == User(name="Ada")

        assert server.connections == 2

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"name"',
            b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{"name":',
            b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked \r\n\r\n8\r\n{"name":',
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}",
            b"SSH-2.0-OpenSSH\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2_000_000,
        ],
    )
    async def test_that_is_cut_off_or_malformed_is_none(self, content: bytes) -> None:
        async with scripted(cut_off_after(content)) as server, calling(server.url) as client:
            with pytest.raises(DependencyUnavailable):
                await client.send("POST", "/users")

        assert len(server.seen) == 1

    @pytest.mark.parametrize(
        "content",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5_000,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1388\r\n" + b"x" * 5_000,
        ],
    )
    async def test_that_is_too_large_is_not_waited_for(self, content: bytes) -> None:
        async with scripted(content) as server, calling(server.url, max_body_bytes=1_000) as client:
            with pytest.raises(TooLarge):
                await client.send("GET", "/users")
            await eventually(lambda: server.closed == 1)

    async def test_that_is_all_framing_is_not_waited_for(self) -> None:
        endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1;xxxxxxxxxxxx\r\nx\r\n" * 100_000
        async with scripted(endless) as server, calling(server.url, max_body_bytes=200_000) as client:
            with pytest.raises(DependencyUnavailable, match="more than an answer may have"):
                await client.send("POST", "/users")

    async def test_to_head_has_a_length_and_no_body(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n"
        async with scripted(head, ADA) as server, calling(server.url) as client:
            came = await client.send("HEAD", "/users")
            assert (came.status, came.header("content-length"), came.body) == (200, "9000000", b"")
            assert await client.ask("GET", "/users/1", User) == User(name="Ada")


class TestAConnection:
    async def test_is_kept_and_used_again(self) -> None:
        async with scripted(ADA) as server, calling(server.url) as client:
            for _ in range(5):
                await client.send("GET", "/")

            assert server.connections == 1

    async def test_is_not_used_again_after_an_answer_that_says_so(self) -> None:
        async with scripted(answer(b"{}", "200 OK", "Connection: close")) as server, calling(server.url) as client:
            for _ in range(3):
                await client.send("GET", "/")

            assert server.connections == 3

    async def test_on_which_something_came_unasked_is_not_used_again(self) -> None:
        async with scripted(ADA + answer(b'{"name": "Eve"}'), ADA) as server, calling(server.url) as client:
            for _ in range(3):
                assert await client.ask("GET", "/", User) == User(name="Ada")

            assert server.connections == 2

    async def test_is_closed_when_the_caller_is_cancelled(self) -> None:
        async with scripted(say_nothing) as server, calling(server.url) as client:
            call = asyncio.create_task(client.send("GET", "/"))
            await eventually(lambda: len(server.seen) == 1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

            await eventually(lambda: server.closed == 1)
            assert client.policy.bulkhead.under_way == 0
            assert client.policy.breaker.state == "closed"

    async def test_whose_answer_came_in_half_is_not_used_again(self) -> None:
        half = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"name"'
        hasty = replace(POLICY, timeout=timedelta(milliseconds=50))
        async with scripted(half, ADA) as server, calling(server.url, hasty) as client:
            with pytest.raises(DependencyTooSlow):
                await client.send("POST", "/")
            assert await client.ask("GET", "/", User) == User(name="Ada")

            assert server.connections == 2
            await eventually(lambda: server.closed == 1)

    async def test_that_rests_for_long_is_closed(self) -> None:
        async with scripted(ADA) as server, calling(server.url, idle=timedelta(milliseconds=50)) as client:
            await asyncio.gather(*(client.send("GET", "/") for _ in range(3)))
            assert server.connections == 3

            await eventually(lambda: server.closed == 3)

    async def test_is_one_of_few_that_rest(self) -> None:
        async with scripted(ADA) as server, calling(server.url, max_idle=2) as client:
            await asyncio.gather(*(client.send("GET", "/") for _ in range(5)))

            await eventually(lambda: server.closed == 3)

    async def test_that_is_closed_here_has_not_brought_an_answer_whose_end_is_unknown(self) -> None:
        async def begin(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\npart")
            begun.set()
            await asyncio.Event().wait()

        begun = asyncio.Event()
        async with scripted(begin) as server:
            async with calling(server.url) as client:
                call = asyncio.create_task(client.send("POST", "/"))
                await begun.wait()
                await asyncio.sleep(0)
            with pytest.raises(DependencyUnavailable):
                await call

    async def test_is_closed_with_the_client(self) -> None:
        async with scripted(ADA, say_nothing) as server:
            async with calling(server.url) as client:
                await client.send("GET", "/")
                call = asyncio.create_task(client.send("POST", "/"))
                await eventually(lambda: len(server.seen) == 2)
            with pytest.raises(DependencyUnavailable):
                await call
            with pytest.raises(errors.Defect):
                await client.send("GET", "/")

            await eventually(lambda: server.closed == server.connections)

    async def test_whose_handshake_is_under_way_is_closed_with_the_client(self) -> None:
        async with scripted(say_nothing) as server:
            async with calling(server.url.replace("http:", "https:")) as client:
                call = asyncio.create_task(client.send("POST", "/"))
                await eventually(lambda: server.connections == 1)
            with pytest.raises(errors.Defect, match="the client is closed"):
                await call

            await eventually(lambda: server.closed == 1)

    async def test_whose_handshake_is_under_way_is_closed_when_the_caller_is_cancelled(self) -> None:
        async with scripted(say_nothing) as server, calling(server.url.replace("http:", "https:")) as client:
            call = asyncio.create_task(client.send("GET", "/"))
            await eventually(lambda: server.connections == 1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

            await eventually(lambda: server.closed == 1)


class TestAStaleConnection:
    """One that the server has closed when the next request is on its way."""

    async def test_is_noticed_before_anything_is_written_that_could_not_be_repeated(self) -> None:
        hung_up = threading.Event()

        def serve(server: socket.socket) -> None:
            for is_first in (True, False):
                connection, _ = server.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(ADA)
                    if is_first:
                        may_hang_up.wait()
                hung_up.set()

        may_hang_up = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(2)
            serving = asyncio.create_task(asyncio.to_thread(serve, server))
            async with calling(f"http://127.0.0.1:{server.getsockname()[1]}") as client:
                await client.send("GET", "/")
                may_hang_up.set()
                hung_up.wait()  # so that the loop does not see that it has happened

                await client.send("POST", "/")
            await serving

        assert client.policy.outcomes["succeeded"] == 2

    async def test_says_nothing_of_the_target_where_the_call_cannot_be_repeated(self) -> None:
        policy = replace(POLICY, breaker=BreakerOptions(minimum=1, failure_rate=0.1))
        async with scripted(ADA, hang_up, ADA) as server, calling(server.url, policy) as client:
            await client.send("GET", "/")
            with pytest.raises(DependencyUnavailable):
                await client.send("POST", "/")

            assert client.policy.breaker.state == "closed"
            assert len(server.seen) == 2

    async def test_is_replaced_once_without_a_pause_where_the_call_can_be_repeated(self) -> None:
        async with scripted(ADA, hang_up, ADA) as server, calling(server.url) as client:
            await client.send("GET", "/")
            await client.send("POST", "/", key="k")

            assert (server.connections, len(server.seen)) == (2, 3)
            assert client.policy.outcomes["succeeded"] == 2

    async def test_is_not_where_the_call_cannot(self) -> None:
        async with scripted(ADA, reset, ADA) as server, calling(server.url) as client:
            await client.send("GET", "/")
            with pytest.raises(DependencyUnavailable):
                await client.send("POST", "/")

            assert len(server.seen) == 2

    async def test_counts_against_the_budget(self) -> None:
        policy = replace(POLICY, retry=replace(QUICK, attempts=1, share=0.0, reserve=1))
        async with scripted(ADA, hang_up, ADA, hang_up, ADA) as server, calling(server.url, policy) as client:
            await client.send("GET", "/")
            await client.send("GET", "/")
            with pytest.raises(DependencyUnavailable):
                await client.send("GET", "/")

            assert (len(server.seen), client.policy.retries) == (4, 1)


class TestARetry:
    @pytest.mark.parametrize(
        ("method", "key", "asked"),
        [
            ("GET", None, 3),
            ("PUT", None, 3),
            ("DELETE", None, 3),
            ("POST", "k", 3),
            ("POST", None, 1),
            ("PATCH", None, 1),
        ],
    )
    async def test_is_made_of_what_can_be_repeated_with_the_same_key(
        self, method: str, key: str | None, asked: int
    ) -> None:
        async with scripted(hang_up) as server, calling(server.url) as client:
            with pytest.raises(DependencyUnavailable):
                await client.send(method, "/users/1", key=key)

        assert len(server.seen) == asked
        assert {header(request, "idempotency-key") for request in server.seen} == {key}

    async def test_waits_as_long_as_the_target_wants(self) -> None:
        busy = answer(b"{}", "429 Too Many Requests", "Retry-After: 1")
        async with scripted(busy, ADA) as server, calling(server.url) as client:
            began = time.monotonic()
            assert await client.ask("GET", "/", User) == User(name="Ada")

        assert time.monotonic() - began >= 1

    async def test_is_not_made_by_everybody_in_a_chain(self) -> None:
        body = b'{"type": "/problems/dependency-unavailable", "status": 502}'
        async with scripted(answer(body, "502 Bad Gateway")) as server, calling(server.url) as client:
            for _ in range(30):
                with pytest.raises(DependencyUnavailable):
                    await client.send("GET", "/")

        assert len(server.seen) == 30
        assert client.policy.breaker.state == "closed", "the target itself answers"

    async def test_finds_nobody_once_too_many_have_failed(self) -> None:
        policy = replace(POLICY, breaker=BreakerOptions(minimum=3))
        async with calling(f"http://127.0.0.1:{free_port()}", policy) as client:
            for _ in range(3):
                with pytest.raises(DependencyUnavailable, match="user cannot be reached"):
                    await client.send("POST", "/")
            with pytest.raises(CircuitOpen) as caught:
                await client.send("POST", "/")

        assert caught.value.retry_after is not None

    async def test_finds_a_target_that_was_started_anew(self) -> None:
        port = free_port()
        async with calling(f"http://127.0.0.1:{port}") as client:
            with pytest.raises(DependencyUnavailable):
                await client.send("GET", "/")
            async with scripted(ADA, port=port):
                assert await client.ask("GET", "/", User) == User(name="Ada")


class TestTime:
    @pytest.mark.parametrize(("whole", "each"), [(5.0, 0.1), (0.1, 5.0)])
    async def test_is_never_exceeded(self, whole: float, each: float) -> None:
        policy = replace(POLICY, deadline=timedelta(seconds=whole), timeout=timedelta(seconds=each))
        async with scripted(say_nothing) as server, calling(server.url, policy) as client:
            began = time.monotonic()
            with pytest.raises(DependencyTooSlow, match=r"did not answer within 0\.1 s"):
                await client.send("POST", "/")

            assert 0.1 <= time.monotonic() - began < 0.4
            await eventually(lambda: server.closed == 1)

    async def test_is_no_longer_than_that_of_who_waits(self) -> None:
        soon = replace(context.new_context(), deadline=SystemClock().now() + timedelta(milliseconds=100))
        async with scripted(say_nothing) as server, calling(server.url) as client:
            began = time.monotonic()
            with context.use(soon), pytest.raises(DeadlineExceeded):
                await client.send("GET", "/")

            assert time.monotonic() - began < 0.4
            assert 0 < int(header(server.seen[0], "covey-timeout-ms") or 0) <= 100

    async def test_is_not_gained_by_sending_byte_after_byte(self) -> None:
        async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not writer.is_closing():
                writer.write(b" ")
                await asyncio.sleep(0.02)

        policy = replace(POLICY, timeout=timedelta(milliseconds=200))
        async with scripted(trickle) as server, calling(server.url, policy) as client:
            began = time.monotonic()
            with pytest.raises(DependencyTooSlow):
                await client.send("POST", "/")

            assert time.monotonic() - began < 0.5

    async def test_that_is_over_asks_nobody(self) -> None:
        over = replace(context.new_context(), deadline=SystemClock().now() - timedelta(seconds=1))
        async with scripted(ADA) as server, calling(server.url) as client:
            with context.use(over), pytest.raises(DeadlineExceeded):
                await client.send("GET", "/")

        assert server.connections == 0
