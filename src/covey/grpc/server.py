"""The gRPC server of a service: its servicers behind one pass, health and reflection beside them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from covey.clock import Clock
from covey.errors import ConfigurationError, DefinitionError
from covey.grpc.calls import Calls, Method
from covey.grpc.health import Health
from covey.grpc.options import GrpcOptions, limits
from covey.security.access import terms_of
from covey.security.principal import Verifier
from covey.security.tls import LOCAL, Encryption, Identity
from covey.telemetry.health import Readiness
from covey.telemetry.telemetry import Telemetry
from covey.work.unit_of_work import Transactions

_HEALTH = "grpc.health.v1.Health"


class GrpcServer:
    """Serves these servicers, instances of what grpc's generator calls `…Servicer`. Raises DefinitionError for others.

    `transactions` is where `transaction()` begins; without it there is none. `verifier` knows who calls; without one
    all methods are open. `encryption` says how it listens. Making it opens nothing. `start` it once, and `stop` it, on
    the loop that it is to run on.
    """

    def __init__(
        self,
        servicers: Sequence[object],
        telemetry: Telemetry,
        readiness: Readiness,
        transactions: Transactions | None,
        options: GrpcOptions,
        verifier: Verifier | None = None,
        clock: Clock | None = None,
        encryption: Encryption = LOCAL,
    ) -> None:
        self._encryption = encryption
        self._services = _services(servicers)
        self._calls = Calls(telemetry, transactions, options, verifier, clock)
        self._readiness = readiness
        self._options = options
        self._server: Any = None
        self._health: Health | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port, which is a free one for 0. Raises ConfigurationError when that cannot be."""
        options = self._options
        identity = self._encryption.towards(host, f"gRPC at {host}")
        server = grpc.aio.server(
            options=[
                *limits(options.max_message_bytes),
                *options.keep_alive.of_server(),
                ("grpc.so_reuseport", 0),  # or a second server would get half of the connections, and nobody know
            ]
        )
        for service, methods in self._services.items():
            handlers = {method.name.rpartition("/")[2]: self._calls.handler(method) for method in methods}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self._health = Health(self._readiness, self._services)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*self._services, _HEALTH, reflection.SERVICE_NAME), server)
        server.add_generic_rpc_handlers((_Unknown(self._calls.unknown()),))
        bound = _listen(server, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", identity)
        self._server = server
        await server.start()
        return bound

    async def stop(self, grace: timedelta) -> None:
        """Take no new calls, let those under way finish within `grace`, cut off the rest. Again it does nothing."""
        if self._server is not None and self._health is not None:
            self._health.close()
            await self._server.stop(grace.total_seconds())
            self._server = None


class _Unknown(grpc.GenericRpcHandler):
    """Takes what nobody else has taken."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handler


def _listen(server: Any, address: str, identity: Identity | None) -> int:
    try:
        if identity is None:
            port = int(server.add_insecure_port(address))
        else:
            port = int(server.add_secure_port(address, _credentials(identity)))
    except RuntimeError:
        port = 0
    if not port:
        raise ConfigurationError(f"cannot listen for gRPC on {address}: another process does, or HOST is not ours")
    return port


def _credentials(identity: Identity) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(identity.key, identity.certificate)], identity.authorities, require_client_auth=True
    )


def _services(servicers: Sequence[object]) -> Mapping[str, list[Method]]:
    """Return the methods of each service by its full name."""
    found = _Registry()
    for servicer in servicers:
        found.register(servicer)
    return found.services


class _Registry:
    """Stands in for a server where generated code adds what a servicer has."""

    def __init__(self) -> None:
        self.services: dict[str, list[Method]] = {}

    def register(self, servicer: object) -> None:
        for kind in type(servicer).__mro__:
            add = getattr(sys.modules.get(kind.__module__), f"add_{kind.__name__}_to_server", None)
            if add is not None:
                add(servicer, self)
                return
        raise DefinitionError(f"{type(servicer).__name__} extends no servicer that grpc has generated")

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Take nothing: what is registered by name comes below, and is the same."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        if service in self.services:
            raise DefinitionError(f"two servicers are of {service}")
        self.services[service] = [_method(f"{service}/{name}", handler) for name, handler in handlers.items()]


def _method(name: str, handler: Any) -> Method:
    if handler.unary_unary is None:
        raise DefinitionError(f"{name} streams, which covey does not serve: page through lists, publish events")
    answer = handler.unary_unary
    return Method(name, answer, handler.request_deserializer, handler.response_serializer, terms_of(answer))
