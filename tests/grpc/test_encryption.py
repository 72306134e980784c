"""gRPC between machines: each end shows who it is, and nobody on the way can read what is said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from google.protobuf.wrappers_pb2 import StringValue

from covey.errors import ConfigurationError, DependencyUnavailable
from covey.grpc.client import GrpcClient, GrpcClientOptions
from covey.resilience.policy import PolicyOptions
from covey.resilience.retry import RetryOptions
from covey.security.tls import Encryption, Identity
from covey.settings import ServiceSettings
from covey.telemetry.health import Readiness
from covey.telemetry.telemetry import Telemetry
from covey.testing.serving import serving_grpc
from tests.grpc.probe import ProbeServicer, ProbeStub, server_of
from tests.grpc.test_client import Caller

SECRET = "4111 1111 1111 1111"

ONCE = GrpcClientOptions(policy=PolicyOptions(retry=RetryOptions(attempts=1)))

SYSTEM = trustme.CA()
SOMEBODY = trustme.CA()


class Listener:
    """A server that notes what it is asked."""

    def __init__(self, telemetry: Telemetry, readiness: Readiness) -> None:
        self.asked: list[str] = []
        self._telemetry = telemetry
        self._readiness = readiness

    @asynccontextmanager
    async def at(self, encryption: Encryption) -> AsyncIterator[str]:
        server = server_of([ProbeServicer(self._note)], self._telemetry, self._readiness, encryption=encryption)
        async with serving_grpc(server) as address:
            yield address

    async def _note(self, value: str, call: Any) -> str:
        self.asked.append(value)
        return f"{value}, it was"


class Wire:
    """A line to an address that keeps all that goes over it, either way."""

    def __init__(self) -> None:
        self.address = ""
        self.heard = bytearray()

    @classmethod
    @asynccontextmanager
    async def to(cls, address: str) -> AsyncIterator[Wire]:
        wire = cls()
        host, _, port = address.rpartition(":")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                wire.heard += data
                sink.write(data)
            sink.close()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, thither = await asyncio.open_connection(host, int(port))
            await asyncio.gather(pump(reader, thither), pump(there, writer))

        listening = await asyncio.start_server(accept, "127.0.0.1", 0)
        async with listening:
            wire.address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
            yield wire


@pytest.fixture
def listener(telemetry: Telemetry, readiness: Readiness) -> Listener:
    return Listener(telemetry, readiness)


@pytest.fixture
def issue(tmp_path: Path) -> Callable[..., Encryption]:
    """A function that has a process certified by `by`, for these names; it believes whom `believes` has certified."""

    def issue(by: trustme.CA = SYSTEM, name: str = "127.0.0.1", believes: trustme.CA = SYSTEM) -> Encryption:
        certificate = by.issue_cert(name)
        files = [tmp_path / file for file in ("certificate.pem", "key.pem", "authorities.pem")]
        certificate.cert_chain_pems[0].write_to_path(files[0])
        certificate.private_key_pem.write_to_path(files[1])
        believes.cert_pem.write_to_path(files[2])
        return Encryption(identity=Identity.read(*files))

    return issue


@asynccontextmanager
async def caller_of(address: str, encryption: Encryption) -> AsyncIterator[Caller]:
    async with GrpcClient.open("probe", address, ONCE, encryption=encryption) as client:
        yield Caller(client)


class TestOnTheWay:
    async def test_nothing_can_be_read(self, listener: Listener, issue: Callable[..., Encryption]) -> None:
        async with (
            listener.at(issue()) as address,
            Wire.to(address) as wire,
            caller_of(wire.address, issue()) as caller,
        ):
            assert await caller.do(SECRET) == f"{SECRET}, it was"

        assert len(wire.heard) > 1_000
        assert SECRET.encode() not in wire.heard

    async def test_it_could_be_without(self, listener: Listener) -> None:
        async with (
            listener.at(Encryption()) as address,
            Wire.to(address) as wire,
            caller_of(wire.address, Encryption()) as caller,
        ):
            await caller.do(SECRET)

        assert wire.heard.count(SECRET.encode()) == 2


class TestAServer:
    async def test_answers_nobody_without_a_certificate(
        self, listener: Listener, issue: Callable[..., Encryption]
    ) -> None:
        anonymous = grpc.ssl_channel_credentials(SYSTEM.cert_pem.bytes())
        async with (
            listener.at(issue()) as address,
            grpc.aio.secure_channel(address, anonymous, [("grpc.use_local_subchannel_pool", 1)]) as channel,
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ProbeStub(channel).Do(StringValue(value="open"), timeout=5)

        assert (refused.value.code().name, listener.asked) == ("UNAVAILABLE", [])

    async def test_answers_nobody_whom_somebody_else_has_certified(
        self, listener: Listener, issue: Callable[..., Encryption]
    ) -> None:
        async with listener.at(issue()) as address, caller_of(address, issue(by=SOMEBODY)) as caller:
            with pytest.raises(DependencyUnavailable):
                await caller.do("open")

        assert listener.asked == []

    async def test_answers_nobody_in_plaintext(self, listener: Listener, issue: Callable[..., Encryption]) -> None:
        async with listener.at(issue()) as address, caller_of(address, Encryption()) as caller:
            with pytest.raises(DependencyUnavailable):
                await caller.do("open")

        assert listener.asked == []

    async def test_does_not_listen_in_plaintext_beyond_its_machine(
        self, telemetry: Telemetry, readiness: Readiness
    ) -> None:
        server = server_of([], telemetry, readiness)

        with pytest.raises(ConfigurationError, match=r"gRPC at 0\.0\.0\.0 would be in plaintext.*TLS_CERTIFICATE"):
            await server.start("0.0.0.0", 0)


class TestAClient:
    async def test_asks_nobody_whom_somebody_else_has_certified(
        self, listener: Listener, issue: Callable[..., Encryption]
    ) -> None:
        async with listener.at(issue(by=SOMEBODY)) as address, caller_of(address, issue()) as caller:
            with pytest.raises(DependencyUnavailable):
                await caller.do(SECRET)

        assert listener.asked == []

    async def test_asks_nobody_with_another_name(self, listener: Listener, issue: Callable[..., Encryption]) -> None:
        async with listener.at(issue(name="payment.example")) as address, caller_of(address, issue()) as caller:
            with pytest.raises(DependencyUnavailable):
                await caller.do(SECRET)

        assert listener.asked == []

    @pytest.mark.parametrize(
        "address",
        [
            "user:50051",
            "10.0.0.7:50051",
            "dns:///user.shop.svc:50051",
            "dns:user:50051",
            "dns://10.0.0.53/user:50051",
            "ipv4:127.0.0.1:50051,10.0.0.7:50051",
            "ipv6:[2001:db8::7]:50051",
            "[2001:db8::7]:50051",
            "localhost.example.org:50051",
            "xds:///user",
            "user",
        ],
    )
    async def test_says_nothing_in_plaintext_beyond_its_machine(self, address: str) -> None:
        with pytest.raises(ConfigurationError, match=r"user over gRPC at .* would be in plaintext"):
            async with GrpcClient.open("user", address):
                pass

        async with GrpcClient.open("user", address, encryption=Encryption(by_others=True)):
            pass

    @pytest.mark.parametrize(
        "address",
        ["127.0.0.1:50051", "localhost:50051", "dns:///localhost:1", "ipv6:[::1]:1", "[::1]:1", "unix:/run/user.sock"],
    )
    async def test_may_speak_plainly_on_its_machine(self, address: str) -> None:
        async with GrpcClient.open("user", address):
            pass


class TestTheSettings:
    def told(self, **files: Path) -> ServiceSettings:
        return ServiceSettings(database_url="postgresql://a@localhost/a", nats_url="nats://unused", **files)

    def test_name_all_three_files_or_none(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="set all three, or none"):
            Encryption.of(self.told(tls_certificate=tmp_path / "certificate.pem"))

        assert Encryption.of(self.told()) == Encryption()

    @pytest.mark.parametrize(
        ("wrong", "how"),
        [
            *((name, "is missing") for name in ("certificate", "key", "authorities")),
            *((name, "is no PEM") for name in ("certificate", "key", "authorities")),
            *((name, "is another's") for name in ("certificate", "key")),
        ],
    )
    def test_are_refused_where_the_files_make_no_identity(
        self, issue: Callable[..., Encryption], tmp_path: Path, wrong: str, how: str
    ) -> None:
        good = issue()
        files = {name: tmp_path / f"{name}.pem" for name in ("certificate", "key", "authorities")}
        told = self.told(**{f"tls_{name}": file for name, file in files.items()})
        assert Encryption.of(told) == good

        if how == "is missing":
            files[wrong].unlink()
        elif how == "is no PEM":
            files[wrong].write_text("-----BEGIN NOTHING-----")
        else:
            other = SYSTEM.issue_cert("other.example")
            part = other.private_key_pem if wrong == "key" else other.cert_chain_pems[0]
            part.write_to_path(files[wrong])
        with pytest.raises(ConfigurationError, match=r"make no identity for TLS: .*They are PEM"):
            Encryption.of(told)
