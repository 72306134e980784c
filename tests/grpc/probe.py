"""A service of one method, `test.v1.Probe/Do`, whose body a test gives, and a plain client of it, without covey's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import status_pb2
from grpc_status import rpc_status

from covey.grpc.options import GrpcOptions
from covey.grpc.server import GrpcServer
from covey.security.tls import LOCAL, Encryption
from covey.telemetry.health import Readiness
from covey.telemetry.telemetry import Telemetry

Do = Callable[[str, Any], Awaitable[Any]]

METHOD = "test.v1.Probe/Do"


class ProbeServicer:
    """What a generator would have made, with the method in it."""

    def __init__(self, do: Do) -> None:
        self._do = do

    async def Do(self, request: StringValue, context: Any) -> Any:
        answer = await self._do(request.value, context)
        return StringValue(value=answer) if isinstance(answer, str) else answer


def add_ProbeServicer_to_server(servicer: ProbeServicer, server: Any) -> None:
    """Register it, as generated code does."""
    handlers = {
        "Do": grpc.unary_unary_rpc_method_handler(
            servicer.Do,
            request_deserializer=StringValue.FromString,
            response_serializer=StringValue.SerializeToString,
        )
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.v1.Probe", handlers),))
    server.add_registered_method_handlers("test.v1.Probe", handlers)


class ProbeStub:
    """What a generator would have made."""

    def __init__(self, channel: Any) -> None:
        self.Do = channel.unary_unary(
            f"/{METHOD}",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )


@dataclass(frozen=True)
class Refused:
    """A call that ended in an error."""

    code: str
    details: str
    status: status_pb2.Status | None
    trailing: dict[str, Any]

    def detail(self, kind: type[Any]) -> Any:
        """Return the detail of that type, None when there is none."""
        for packed in self.status.details if self.status else ():
            found = kind()
            if packed.Unpack(found):
                return found
        return None


class Probe:
    """Calls the method."""

    def __init__(self, address: str, channel: Any, server: GrpcServer) -> None:
        self.address = address
        self.channel = channel
        self.server = server
        self.stub = ProbeStub(channel)

    @classmethod
    @asynccontextmanager
    async def open(cls, address: str, server: GrpcServer) -> AsyncIterator[Probe]:
        async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            yield cls(address, channel, server)

    async def do(self, value: str = "", **options: Any) -> str:
        """Return the answer."""
        answer = await self.stub.Do(StringValue(value=value), **options)
        return str(answer.value)

    async def refused(self, value: str = "", **options: Any) -> Refused:
        """Return the error that a call must end in."""
        try:
            answer = await self.do(value, **options)
        except grpc.aio.AioRpcError as error:
            return refusal(error)
        raise AssertionError(f"it answered {answer!r}")


def refusal(error: grpc.aio.AioRpcError) -> Refused:
    """Return what an error of grpc says."""
    trailing = {str(key): value for key, value in error.trailing_metadata() or ()}
    return Refused(error.code().name, error.details() or "", rpc_status.from_call(error), trailing)


def server_of(
    servicers: Sequence[object],
    telemetry: Telemetry,
    readiness: Readiness,
    options: GrpcOptions | None = None,
    encryption: Encryption = LOCAL,
) -> GrpcServer:
    """Return a server without a database."""
    return GrpcServer(servicers, telemetry, readiness, None, options or GrpcOptions(), encryption=encryption)
