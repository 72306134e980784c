"""gRPC in the life of a service: user, in a process of its own, with real calls."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import trustme
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_health.v1 import health_pb2, health_pb2_grpc
from user_service.generated.user.v1 import user_pb2 as pb
from user_service.generated.user.v1.user_pb2_grpc import UserServiceStub

from covey.database.pool import Database
from covey.ids import new_id
from covey.local.ports import free_port
from covey.testing.eventually import eventually
from covey.testing.tokens import KEY, token
from covey.work.unit_of_work import Transactions
from tests.docs.pages import ROOT
from tests.service.test_service import Process, started

PROGRAM = """
from user_service.main import service

if __name__ == "__main__":
    service.run()
"""


STAFF = (("authorization", f"Bearer {token('staff:test', 'staff')}"),)


@pytest.fixture
def url(make_database: Callable[[Path | None], str]) -> str:
    return make_database(ROOT / "services/user/migrations")


@asynccontextmanager
async def user_service(folder: Path, url: str, **environment: str) -> AsyncIterator[tuple[Process, grpc.aio.Channel]]:
    """Run user; yields its process, ready, and a channel to it."""
    told = {
        "DATABASE_URL": url,
        "NATS_URL": "nats://127.0.0.1:1",
        "PORT": str(free_port()),
        "GRPC_PORT": str(free_port()),
        "DEVELOPMENT_KEY": KEY,
        **environment,
    }
    async with (
        started(folder, PROGRAM, **told) as process,
        grpc.aio.insecure_channel(f"127.0.0.1:{told['GRPC_PORT']}") as channel,
    ):
        await process.ready()
        yield process, channel


async def ada(channel: grpc.aio.Channel) -> pb.User:
    request = pb.CreateUserRequest(name="Ada", email="ada@example.org", request_id=str(new_id()))
    return (await UserServiceStub(channel).CreateUser(request, timeout=10, metadata=STAFF)).user


async def test_a_call_under_way_at_sigterm_is_answered_and_the_process_ends_with_status_0(
    tmp_path: Path, url: str
) -> None:
    async with user_service(tmp_path, url) as (process, channel), Database.open(url) as database:
        user = await ada(channel)
        change = pb.UpdateUserRequest(
            user=pb.User(id=user.id, etag=user.etag, name="Ada L."), update_mask=FieldMask(paths=["name"])
        )
        transactions = Transactions(database, "user")
        async with transactions.begin() as work:
            await work.execute("SELECT 1 FROM account FOR UPDATE")
            call = asyncio.ensure_future(UserServiceStub(channel).UpdateUser(change, timeout=20, metadata=STAFF))
            await eventually(lambda: _waits(database))
            process.process.send_signal(signal.SIGTERM)
            await eventually(lambda: _refuses(process.url))

        assert (await call).user.name == "Ada L."
        assert await process.ended() == (0, "")


async def test_from_sigterm_on_it_is_not_serving_and_serves_on_for_as_long_as_it_is_told(
    tmp_path: Path, url: str
) -> None:
    async with user_service(tmp_path, url, UNREADY_FOR="3") as (process, channel):
        user = await ada(channel)
        health = health_pb2_grpc.HealthStub(channel)

        async def status() -> int:
            return int((await health.Check(health_pb2.HealthCheckRequest(), timeout=5)).status)

        assert await status() == health_pb2.HealthCheckResponse.SERVING
        process.process.send_signal(signal.SIGTERM)
        await eventually(lambda: _is(status, health_pb2.HealthCheckResponse.NOT_SERVING))
        found = await UserServiceStub(channel).GetUser(pb.GetUserRequest(user_id=user.id), timeout=5, metadata=STAFF)

        assert found.user == user
        assert (await process.ended())[0] == 0


async def test_a_port_that_is_taken_ends_the_start_with_one_line(tmp_path: Path, url: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        told = {"DATABASE_URL": url, "NATS_URL": "nats://127.0.0.1:1", "PORT": "0", "GRPC_PORT": str(port)}
        async with started(tmp_path, PROGRAM, **told) as process:
            status, error = await process.ended()

    assert status == 1
    assert f"cannot listen for gRPC on 127.0.0.1:{port}" in error
    assert "Traceback" not in error


async def test_with_an_identity_it_answers_who_is_certified_and_nobody_else(tmp_path: Path, url: str) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    files = {f"TLS_{name}": tmp_path / f"{name}.pem" for name in ("CERTIFICATE", "KEY", "AUTHORITIES")}
    parts = (certificate.cert_chain_pems[0], certificate.private_key_pem, authority.cert_pem)
    for file, part in zip(files.values(), parts, strict=True):
        part.write_to_path(file)
    credentials = grpc.ssl_channel_credentials(*(part.bytes() for part in reversed(parts)))
    told = {name: str(file) for name, file in files.items()}
    async with user_service(tmp_path, url, GRPC_PORT=str(port := free_port()), **told) as (_, plain):
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            assert (await ada(channel)).name == "Ada"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ada(plain)

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_without_one_it_does_not_start_beyond_its_machine(tmp_path: Path, url: str) -> None:
    told = {"DATABASE_URL": url, "NATS_URL": "nats://127.0.0.1:1", "PORT": "0", "GRPC_PORT": "0", "HOST": "0.0.0.0"}
    async with started(tmp_path, PROGRAM, **told) as process:
        status, error = await process.ended()

    assert status == 1
    assert "gRPC at 0.0.0.0 would be in plaintext" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "module",
    ["covey.service", "covey.testing.serving", "order_service.main", "inventory_service.main", "payment_service.main"],
)
def test_who_serves_no_grpc_imports_none(module: str) -> None:
    command = f"import sys, {module}; print(*({{'grpc', 'google.protobuf', 'google.rpc'}} & set(sys.modules)))"

    loaded = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout

    assert loaded.strip() == ""


async def _waits(database: Database) -> bool:
    async with database.acquire() as connection:
        return bool(await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))


async def _refuses(url: str) -> bool:
    host, _, port = url.removeprefix("http://").rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return True
    writer.close()
    return False


async def _is(ask: Callable[[], object], expected: int) -> bool:
    return bool(await ask() == expected)  # type: ignore[misc]  # a coroutine function
