"""One connection to one NATS server, from its opening to its loss.

nats-py speaks the protocol; whether a connection is alive is decided here. A lost connection is never revived:
what waits on it fails at once, and its owner opens another. So nothing that a publisher has given up on is sent
later from a buffer, and no reader goes on behind a hole. (nats-py on its own ends for good after most `-ERR`, and
waits without limit for a frozen server when it reconnects.)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Self
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client, Server
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext

from covey.errors import BrokerUnavailable, ConfigurationError

_log = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
"""How long the server may take to confirm a message or to answer a question."""

_CONNECT_SECONDS = 2
_PING_SECONDS = 3
_CLOSE_SECONDS = 1.0
_LOOK_SECONDS = 1.0
_NEVER_SECONDS = 86_400.0

_KEPT_BYTES = 64 * 2**20

# uvloop has a RuntimeError for who writes to a socket that is closed, nats-py asserts that it has one.
_GONE = (nats.errors.Error, OSError, TimeoutError, RuntimeError, AssertionError)


class Connection:
    """A client that is connected until `lost` is set, and then never again. `problem` says why it was lost."""

    def __init__(self) -> None:
        self.client = Client()
        self.lost = asyncio.Event()
        self.problem = ""
        self.address = ""
        self._error: Exception | None = None
        self._subscriptions: set[Subscription] = set()
        self._on_loss: set[Callable[[str], None]] = set()

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to the server at `url` within a few seconds, or raise BrokerUnavailable."""
        connection = cls()
        connection.address = address_of(url)
        try:
            await connection.client.connect(
                servers=[url],
                connect_timeout=_CONNECT_SECONDS,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                reconnect_to_server_handler=_never_again,
                disconnected_cb=connection._disconnected,
                closed_cb=connection._disconnected,
                error_cb=connection._erred,
                ping_interval=_PING_SECONDS,
                max_outstanding_pings=1,
                # Neither keeps messages for a later connection nor waits, uninterruptibly, inside publish.
                pending_size=0,
            )
        except BaseException as error:
            await connection.abandon()
            with translated(f"connecting to {connection.address}"):
                if isinstance(error, nats.errors.NoServersError):
                    raise connection._error or error from None  # why each attempt failed says more
                raise
        return connection

    @property
    def jetstream(self) -> JetStreamContext:
        """The JetStream questions to ask on this connection."""
        return self.client.jetstream(timeout=ANSWER_SECONDS)

    async def subscribe(self, subject: str, receive: Callable[[Msg], Awaitable[None]]) -> Subscription:
        """Hand each message under `subject` to `receive`, one after another. `receive` must not wait."""
        subscription = await self.client.subscribe(subject, cb=receive, pending_bytes_limit=_KEPT_BYTES)
        self._subscriptions.add(subscription)
        return subscription

    async def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription, also on a connection that is lost."""
        self._subscriptions.discard(subscription)
        with suppress(*_GONE):
            await subscription.unsubscribe()

    def on_loss(self, act: Callable[[str], None]) -> None:
        """Call `act` with the reason once the connection is lost."""
        self._on_loss.add(act)

    def forget(self, act: Callable[[str], None]) -> None:
        """Undo `on_loss`."""
        self._on_loss.discard(act)

    def lose(self, problem: str) -> None:
        """Give the connection up: all that waits on it fails now."""
        if self.lost.is_set():
            return
        self.problem = problem
        self.lost.set()
        for act in list(self._on_loss):
            act(problem)

    async def until_lost(self) -> None:
        """Wait for the loss. Looks, too: nats-py can fail on its way to the callback that reports it."""
        while self.client.is_connected and not self.lost.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self.lost.wait()
        self.lose(f"the connection to {self.address} was lost")

    async def abandon(self) -> None:
        """Let go of the client. Neither a server that is frozen nor nats-py keeps anybody waiting, or says anything."""
        self.lose("the connection was closed")
        closing = asyncio.create_task(self._close(), name="closing of a connection to NATS")
        await asyncio.wait([closing], timeout=_CLOSE_SECONDS)  # nats-py may swallow that it is cancelled
        closing.cancel()
        await _hang_up(self.client)

    async def _close(self) -> None:
        try:
            for subscription in list(self._subscriptions):
                await self.unsubscribe(subscription)
            await self.client.close()
        except Exception as error:
            _log.debug("NATS at %s was not closed in good order: %s", self.address, error)

    async def _disconnected(self) -> None:
        self.lose(f"the connection to {self.address} was lost" + (f": {self._error}" if self._error else ""))

    async def _erred(self, error: Exception) -> None:
        self._error = error
        _log.debug("NATS at %s: %s", self.address, error)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn every error of nats-py, the network and time into BrokerUnavailable, which says what was being done."""
    try:
        yield
    except _GONE as error:
        raise BrokerUnavailable(f"{doing} failed: {str(error) or type(error).__name__}") from error


def address_of(url: str) -> str:
    """Return host and port of a server's url, without its password; raise ConfigurationError if it has none."""
    try:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        host, port = parts.hostname, parts.port or 4222
    except ValueError:
        host, port = None, 0
    if not host:
        raise ConfigurationError("a NATS url must read like nats://host:4222 or nats://user:password@host:4222")
    return f"{host}:{port}"


async def _hang_up(client: Client) -> None:
    """Close the socket without waiting for a frozen server to take what is written. nats-py has no way to do it."""
    writer = getattr(client._transport, "_io_writer", None)
    if writer is not None:
        writer.transport.abort()
        await asyncio.sleep(0)


def _never_again(servers: list[Server], info: dict[str, object]) -> tuple[None, float]:
    """Keep nats-py from reconnecting on its own."""
    return None, _NEVER_SECONDS
