"""Idle connections with pings: neither side closes on the other (pitfall 8)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc
import pytest

from covey.errors import DefinitionError
from covey.grpc.client import GrpcClient, GrpcClientOptions
from covey.grpc.options import GrpcOptions, KeepAlive
from covey.testing.eventually import eventually
from tests.grpc.conftest import Serve
from tests.grpc.probe import ProbeStub

PINGS = 4
"""A server that bears no pings sends a client away at the third."""

OFTEN = KeepAlive(every=timedelta(seconds=1), tolerated=timedelta(milliseconds=400))
_PING, _GOAWAY, _ACK = 0x6, 0x7, 0x1


async def echo(value: str, context: Any) -> str:
    return value


@dataclass
class Wire:
    """What has passed between a client and a server: frames of HTTP/2 by type."""

    port: int = 0
    pings: int = 0
    farewells: list[bytes] = field(default_factory=list)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool) -> None:
        """Pass frames on, and note them."""
        try:
            if from_client:
                writer.write(await reader.readexactly(24))  # the preface
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                if from_client and head[3] == _PING and not head[4] & _ACK:
                    self.pings += 1
                if head[3] == _GOAWAY:
                    self.farewells.append(payload)
                writer.write(head + payload)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@asynccontextmanager
async def wire(address: str) -> AsyncIterator[Wire]:
    """Stand between a client and the server at that address."""
    seen = Wire()
    host, _, port = address.rpartition(":")
    carrying: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        writers.extend((writer, back))
        carrying.add(asyncio.create_task(seen.carry(reader, back, from_client=True)))
        carrying.add(asyncio.create_task(seen.carry(there, writer, from_client=False)))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    seen.port = listener.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        listener.close()
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)
        for end in writers:
            end.transport.abort()
        await listener.wait_closed()


async def test_an_idle_client_pings_on_and_is_not_sent_away(serve: Serve) -> None:
    async with serve(echo, GrpcOptions(keep_alive=OFTEN)) as probe, wire(probe.address) as seen:
        options = GrpcClientOptions(keep_alive=OFTEN)
        async with GrpcClient.open("probe", f"127.0.0.1:{seen.port}", options) as client:
            await client.call(ProbeStub(client.channel).Do, _text("x"), repeatable=True)
            before = seen.pings
            await eventually(lambda: seen.pings >= before + PINGS, timedelta(seconds=20))

            assert seen.farewells == []
            assert client.channel.get_state() is grpc.ChannelConnectivity.READY


async def test_a_client_of_the_same_kind_is_sent_away_by_a_server_that_was_told_nothing(serve: Serve) -> None:
    """So the test above would see it."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with wire(f"127.0.0.1:{port}") as seen:
            options = GrpcClientOptions(keep_alive=OFTEN)
            async with GrpcClient.open("probe", f"127.0.0.1:{seen.port}", options) as client:
                client.channel.get_state(try_to_connect=True)
                await eventually(lambda: seen.farewells, timedelta(seconds=20))

        assert b"too_many_pings" in seen.farewells[0]
    finally:
        await server.stop(None)


@pytest.mark.parametrize(
    "spans",
    [
        {"every": timedelta(seconds=5)},
        {"every": timedelta(seconds=4)},
        {"tolerated": timedelta(0)},
        {"patience": timedelta(0)},
    ],
)
def test_pings_that_a_server_would_not_bear_cannot_be_chosen(spans: dict[str, timedelta]) -> None:
    with pytest.raises(DefinitionError, match="keep-alive cannot be like this"):
        KeepAlive(**spans)


def _text(value: str) -> Any:
    from google.protobuf.wrappers_pb2 import StringValue

    return StringValue(value=value)
