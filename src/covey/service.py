"""A service: what it is made of, and its life from start to graceful end.

It opens its resources in order and closes them in reverse, also when the start fails half-way. At SIGTERM it says
that it is not ready, lets requests and turns that have begun finish, and exits with status 0; what it had not begun
is in the database and belongs to the next (H14). Crashing is always safe: nothing lives in memory alone.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload
from urllib.parse import urlsplit

import structlog
import uvicorn
import uvloop
from fastapi import APIRouter
from fastapi.routing import iter_route_contexts

from covey.cache.caches import Caches
from covey.clock import Grace
from covey.database.pool import Database, PoolOptions
from covey.errors import ConfigurationError, CoveyError, DefinitionError, HistoryLost
from covey.garbage import spare_what_is_there
from covey.grpc.options import GrpcOptions
from covey.http.application import application
from covey.http.edge import HttpOptions
from covey.http.limits import Limits, quotas_of
from covey.http.live import Pages
from covey.http.slow_readers import BoundedAnswer
from covey.http.versioning import Deprecated
from covey.messaging.broker import Broker
from covey.messaging.messaging import Messaging
from covey.messaging.options import MessagingOptions
from covey.messaging.queue import Queue
from covey.messaging.queues import Queues
from covey.messaging.retention import Retention
from covey.messaging.router import Router
from covey.resilience.targets import Client, Targets
from covey.saga.definition import Definition
from covey.saga.engine import SagaEngine
from covey.saga.journal import SAGAS
from covey.saga.timers import SagaTimers
from covey.security.principal import DevelopmentTokens, Nobody, Verifier
from covey.security.tls import Encryption
from covey.settings import VALKEY_SCHEMES, ServiceSettings, load
from covey.telemetry.health import Readiness
from covey.telemetry.redaction import redact_text, text_of
from covey.telemetry.telemetry import Telemetry, TelemetryOptions
from covey.valkey.client import Valkey, ValkeyOptions
from covey.valkey.hints import Hints

if TYPE_CHECKING:  # 70 ms that a service without gRPC must not pay
    from covey.grpc.server import GrpcServer

S = TypeVar("S", bound=ServiceSettings)

log = structlog.get_logger("covey.service")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a service is made of: routers, gRPC servicers, message routers, sagas, queues, and routes' `app.state`.

    `clients` are those of other services and providers, one for each target, opened by whoever composes the parts: that
    they are named here makes breakers, budgets and bulkheads visible.
    `limits` says what a request may be, `calls` what a gRPC call may be, `messaging` how messages are handled,
    `deprecated` which versions of its API will end. `verifier` knows who makes a request: by default by the development
    tokens of its system, and where there is no key for those, nobody is known, so that only public routes answer. With
    `valkey`, or with a route that is limited, the service opens its Valkey, if it has one (VALKEY_URL); one that is
    away keeps it neither from starting nor from being ready. With `queues` it must have one.
    """

    http: Sequence[APIRouter] = ()
    grpc: Sequence[object] = ()
    messages: Sequence[Router] = ()
    sagas: Sequence[Definition[Any]] = ()
    clients: Sequence[Client] = ()
    queues: Sequence[Queue[Any]] = ()
    state: dict[str, object] = field(default_factory=dict)
    messaging: MessagingOptions = field(default_factory=MessagingOptions)
    limits: HttpOptions = field(default_factory=HttpOptions)
    calls: GrpcOptions = field(default_factory=GrpcOptions)
    deprecated: Mapping[int, Deprecated] = field(default_factory=dict)
    verifier: Verifier | None = None
    valkey: bool = False


Compose = Callable[[S], AbstractAsyncContextManager[Parts]]


@dataclass(frozen=True, slots=True)
class Running:
    """A service that has started. `app` is its ASGI application, `grpc` its gRPC server, if any: neither listens.

    `grace` is how long everything together may take to finish what was begun. `valkey` is None when none of its parts
    asked for it, or VALKEY_URL is not set.
    """

    app: Any
    messaging: Messaging
    database: Database
    telemetry: Telemetry
    readiness: Readiness
    grace: Grace
    valkey: Valkey | None
    grpc: GrpcServer | None = None


class Service(Generic[S]):
    """One service. Making it connects to nothing; `run()` is its process.

    `parts` is what it is made of, or an async context manager that opens what they need from the settings, yields
    them, and closes everything at the end. Whatever it opens connects when it is first used: tools compose a service
    where nobody listens.
    """

    @overload
    def __init__(
        self: Service[ServiceSettings], name: str, parts: Parts | Compose[ServiceSettings], *, version: str = ...
    ) -> None: ...

    @overload
    def __init__(self, name: str, parts: Parts | Compose[S], *, settings: type[S], version: str = ...) -> None: ...

    def __init__(self, name: str, parts: Any, *, settings: Any = ServiceSettings, version: str = "0.1.0") -> None:
        self.name = name
        self.version = version
        self._parts: Parts | Compose[S] = parts
        self._settings: type[S] = settings

    def run(self) -> None:
        """Run until SIGTERM or SIGINT. Exits with 0 after a graceful end, with 1 and one line when it cannot start.

        What the line says is searched for secrets, for an error may quote a setting. The stack is in the log.
        """
        try:
            uvloop.run(self._run(self.load_settings()))
        except (Exception, BaseExceptionGroup) as error:
            sys.exit(last_words(self.name, error))

    def load_settings(self, environment: Mapping[str, str] | None = None) -> S:
        """Read its settings from that environment, by default the process's.

        Raises ConfigurationError naming each variable that is wrong.
        """
        return load(self._settings, self.name, environment)

    @asynccontextmanager
    async def composed(self, settings: S) -> AsyncIterator[Parts]:
        """Have its parts inside the block and nothing running: for tools, which ask what it serves."""
        if isinstance(self._parts, Parts):
            yield self._parts
            return
        async with self._parts(settings) as parts:
            yield parts

    @asynccontextmanager
    async def running(self, settings: S, broker: Broker | None = None) -> AsyncIterator[Running]:
        """Have everything but the sockets running inside the block: resources, messaging, sagas, the application."""
        async with AsyncExitStack() as stack:
            telemetry = stack.enter_context(Telemetry.open(self._telemetry_options(settings)))
            stack.push(_log_failure)
            database = await stack.enter_async_context(Database.open(settings.database_url, _pool(self.name, settings)))
            if broker is None:
                broker = await stack.enter_async_context(_broker(self.name, settings))
            parts = await stack.enter_async_context(self.composed(settings))
            valkey = await self._open_valkey(stack, settings) if _needs_valkey(parts) else None
            engine = SagaEngine(self.name, parts.sagas, telemetry)
            messaging = Messaging(
                self.name, database, broker, [*parts.messages, engine.router()], telemetry, options=parts.messaging
            )
            messaging.transactions.resources[Caches] = Caches(valkey, settings.system, self.name, telemetry.metrics)
            pages = Pages(None if valkey is None else Hints(valkey, settings.system))
            messaging.transactions.resources[Pages] = pages
            telemetry.metrics.observe("live_pages", "Pages that are open", lambda: {(): float(pages.count)})
            queues = _queues(parts, valkey, settings, messaging, telemetry) if parts.queues else None
            if parts.sagas:
                timers = SagaTimers(database, messaging.transactions, messaging.wake)
                messaging.add_role("saga timers", timers.run)
                messaging.add_role("saga retention", Retention(database, SAGAS).run)
            readiness = _readiness(database, messaging)
            readiness.at_drain(pages.end)
            verifier = parts.verifier or _verifier(settings)
            app = application(
                self.name,
                list(parts.http),
                telemetry,
                readiness,
                transactions=messaging.transactions,
                state=parts.state,
                deprecated=parts.deprecated,
                verifier=verifier,
                limits=Limits(valkey, settings.system, self.name),
                targets=Targets(parts.clients),
                options=parts.limits,
                version=self.version,
            )
            grpc = _grpc(parts, settings, telemetry, readiness, messaging, verifier) if parts.grpc else None
            grace = Grace(settings.drain_timeout)
            await stack.enter_async_context(messaging.running(grace))
            if queues is not None:
                await stack.enter_async_context(queues.running(grace))
            yield Running(app, messaging, database, telemetry, readiness, grace, valkey, grpc)

    async def serve(self, settings: S, stop: asyncio.Event, started: Callable[[], None]) -> None:
        """Run until `stop` is set, then drain; raises what keeps it from starting, or ends it.

        Calls `started` when all but its HTTP socket is up.

        It takes nothing that a process has one of, so that several services serve in one, each in a task of its own.
        """
        async with self.running(settings) as running, _listening(running.grpc, settings) as stop_grpc:
            started()
            server = _Server(_http(running.app, settings))
            serving = asyncio.create_task(server.serve(), name="http")
            ended = asyncio.create_task(stop.wait(), name="stop")
            await asyncio.wait((serving, ended), return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                await serving  # it could not listen: raise what it has to say
            running.readiness.drain()
            log.info("draining", service=self.name)
            await asyncio.sleep(settings.unready_for.total_seconds())
            running.grace.begin()
            server.should_exit = True
            await asyncio.gather(serving, stop_grpc())

    async def _run(self, settings: S) -> None:
        await self.serve(settings, stopped_by_signals(), spare_what_is_there)

    async def _open_valkey(self, stack: AsyncExitStack, settings: S) -> Valkey | None:
        """Open the one client that all parts of the service share."""
        if settings.valkey_url is None:
            log.warning("no_valkey", service=self.name, hint="a part of it would use one: set VALKEY_URL")
            return None
        return await stack.enter_async_context(Valkey.open(settings.valkey_url, ValkeyOptions(name=self.name)))

    def _telemetry_options(self, settings: S) -> TelemetryOptions:
        return TelemetryOptions(
            service=self.name,
            version=self.version,
            instance=f"{self.name}-{settings.replica}",
            otlp_endpoint=settings.otel_exporter_otlp_endpoint,
            otlp_headers=settings.otel_exporter_otlp_headers,
            log_level=settings.log_level,
        )


def stopped_by_signals() -> asyncio.Event:
    """Return an event of the running loop that SIGTERM and SIGINT set from now on: for who owns the process."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def last_words(service: str, error: BaseException) -> str:
    """Return one line that says what ended a service, without the secrets that an error may quote."""
    first = error
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    name = "" if isinstance(first, CoveyError) else f"{type(first).__name__}: "
    return f"{service}: {redact_text(name + text_of(first))}"


def service_of(package: str) -> Service[Any]:
    """Return the service that a package defines, by convention as `service` in its `main`; raises DefinitionError."""
    main = f"{package}.main"
    try:
        found = getattr(import_module(main), "service", None)
    except ModuleNotFoundError as error:
        if error.name not in (package, main):
            raise  # of something that it imports
        found = None
    if not isinstance(found, Service):
        raise DefinitionError(f"there is no `service = Service(…)` in {main}")
    return found


def _log_failure(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
    """Log what ends the service, while there is a log; a CoveyError says enough in one line, alone in a group too."""
    first = error
    while isinstance(first, BaseExceptionGroup) and len(first.exceptions) == 1:
        first = first.exceptions[0]
    if isinstance(first, (Exception, BaseExceptionGroup)) and not isinstance(first, CoveyError):
        log.critical("service_failed", exc_info=error)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the service decides when it stops."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; where that is impossible uvicorn would end the process with a status of its own."""
        try:
            await super().startup(sockets)
        except SystemExit:
            raise ConfigurationError(
                f"cannot listen on {self.config.host}:{self.config.port}: another process does, or HOST is not ours"
            ) from None


def _needs_valkey(parts: Parts) -> bool:
    endpoints = (found.endpoint for router in parts.http for found in iter_route_contexts(router.routes))
    return (
        parts.valkey
        or bool(parts.queues)
        or any(endpoint is not None and quotas_of(endpoint) for endpoint in endpoints)
    )


def _queues(
    parts: Parts, valkey: Valkey | None, settings: ServiceSettings, messaging: Messaging, telemetry: Telemetry
) -> Queues:
    if valkey is None:
        raise ConfigurationError("a service with queues keeps their jobs in Valkey: set VALKEY_URL")
    return Queues(parts.queues, valkey, settings.system, messaging.transactions, telemetry.metrics)


def _verifier(settings: ServiceSettings) -> Verifier:
    return Nobody() if settings.development_key is None else DevelopmentTokens(settings.development_key)


def _http(app: Any, settings: ServiceSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=BoundedAnswer,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,  # uvicorn believes them of loopback, and there anybody may say who he is
        timeout_graceful_shutdown=max(1, int(settings.drain_timeout.total_seconds())),
        reset_contextvars=False,  # a request inherits from this task whose log it writes to
    )


def _grpc(
    parts: Parts,
    settings: ServiceSettings,
    telemetry: Telemetry,
    readiness: Readiness,
    messaging: Messaging,
    verifier: Verifier,
) -> GrpcServer:
    from covey.grpc.server import GrpcServer

    return GrpcServer(
        parts.grpc,
        telemetry,
        readiness,
        messaging.transactions,
        parts.calls,
        verifier,
        encryption=Encryption.of(settings),
    )


@asynccontextmanager
async def _listening(
    server: GrpcServer | None, settings: ServiceSettings
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Have the gRPC server, if there is one, listen before HTTP does; yields what lets its calls finish and ends it."""
    if server is None:
        yield _nothing
        return
    await server.start(settings.host, settings.grpc_port)
    try:
        yield partial(server.stop, settings.drain_timeout)
    finally:
        await server.stop(timedelta(0))


async def _nothing() -> None:
    return None


def _pool(service: str, settings: ServiceSettings) -> PoolOptions:
    return PoolOptions(
        size=settings.pool_size,
        wait=settings.pool_wait,
        statement_timeout=settings.statement_timeout,
        idle_in_transaction_timeout=settings.idle_in_transaction_timeout,
        connect_timeout=settings.connect_timeout,
        application=f"{service} {settings.replica}",
    )


@asynccontextmanager
async def _broker(service: str, settings: ServiceSettings) -> AsyncIterator[Broker]:
    """Open the broker that the settings name, by the scheme of its address."""
    broker = await _opened(service, settings)
    try:
        yield broker
    finally:
        with suppress(CoveyError):
            await broker.close()


async def _opened(service: str, settings: ServiceSettings) -> Broker:
    """Imports what it opens only now: NATS costs a quarter of a second that no tool needs to pay."""
    if urlsplit(settings.broker).scheme in VALKEY_SCHEMES:
        from covey.messaging.brokers.valkey import ValkeyBroker

        return await ValkeyBroker.open(settings.broker, settings.system, reader=service)
    from covey.messaging.brokers.nats import NatsBroker

    return await NatsBroker.open(settings.broker, settings.system)


def _readiness(database: Database, messaging: Messaging) -> Readiness:
    """Ready is: the database answers and no stream has lost what we have not read.

    Not the broker: without it requests are still accepted, and their events wait in the outbox.
    """

    async def history() -> None:
        lost = messaging.observation.history_lost
        if lost:
            raise HistoryLost("; ".join(lost.values()))

    readiness = Readiness()
    readiness.add("database", database.check, timeout=timedelta(seconds=2))
    readiness.add("history", history, timeout=timedelta(seconds=1))
    readiness.started()
    return readiness
