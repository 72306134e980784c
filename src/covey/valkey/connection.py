"""One connection to one Valkey server, from its opening to its loss, shared by all who use it.

Commands of one tick of the event loop leave in one write and are answered in order (pipelining). The protocol is RESP3
(https://github.com/redis/redis-specifications/blob/master/protocol/RESP3.md). hiredis packs and parses it; libvalkey
does too, but cannot tell a push from an answer.

A lost connection is never revived: what waits on it fails at once. So nothing that a caller has given up on is sent
later, and no command is repeated unasked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import hiredis

from covey.errors import ConfigurationError, ValkeyRefused, ValkeyUnavailable
from covey.valkey.address import Address
from covey.valkey.script import Script
from covey.valkey.together import MOST_KEYS, Answer, Part, Together

MOST_WAITING = 20_000
"""So many commands may wait for their answers; who comes then is refused, or a frozen server would fill the memory."""

_SECOND_LOOK_SECONDS = 0.01
_NOTHING = object()
_AWAY = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "OOM", "BUSY", "NOREPLICAS", "MISCONF")
_ENTRY = ("WRONGPASS", "NOAUTH", "NOPERM")
_UNKNOWN = "what was asked may or may not have happened"


class Connection(asyncio.Protocol):
    """Connected until `lost` is set, and then never again. `problem` says why it was lost.

    It is lost, too, when commands wait and nothing has come for `answer_seconds`; that the loop was busy for so long is
    not held against the server.
    """

    def __init__(self, address: Address, answer_seconds: float) -> None:
        self.lost = asyncio.Event()
        self.problem = ""
        self._address = address
        self._answer_seconds = answer_seconds
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[Answer] = deque()
        self._waiting_besides = 0  # those who wait together with another
        self._outgoing: list[bytes | Together] = []
        self._open: dict[tuple[Part, ...], Together] = {}
        self._heard = 0.0
        self._overdue = False
        self._watch: asyncio.TimerHandle | None = None
        self._heard_push: Callable[[list[Any]], None] | None = None

    @classmethod
    async def open(cls, address: Address, name: str, seconds: float) -> Self:
        """Connect and enter, within `seconds`, which is also how long an answer may take afterwards.

        Raises ValkeyUnavailable, and ConfigurationError when the server lets nobody in under this name and password.
        """
        connection = cls(address, seconds)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                if address.path:
                    await loop.create_unix_connection(lambda: connection, address.path)
                else:
                    await loop.create_connection(lambda: connection, address.host, address.port, ssl=address.tls)
                await connection._enter(name)
        except (OSError, TimeoutError) as error:
            connection.close()
            raise ValkeyUnavailable(f"Valkey at {address}: {str(error) or 'no answer in time'}") from error
        except BaseException:
            connection.close()
            raise
        return connection

    async def _enter(self, name: str) -> None:
        address = self._address
        entry = ("AUTH", address.username, address.password) if address.password else ()
        await self.call("HELLO", 3, *entry, "SETNAME", name)
        if address.database:
            await self.call("SELECT", address.database)

    def call(self, *command: Part) -> asyncio.Future[Any]:
        """Send a command; the future has its answer: bytes, int, float, bool, None, list or dict.

        Raises, or the future does, ValkeyUnavailable when the outcome is unknown or the server cannot now, and
        ValkeyRefused when it takes the command for wrong. A caller that is cancelled takes nothing back.
        """
        self._require_room()
        answer: asyncio.Future[Any] = self._loop.create_future()
        packed = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub takes one part only
        self._send(packed, answer)
        return answer

    def ask(self, script: Script, keys: Sequence[str], *arguments: Part) -> asyncio.Future[list[Any]]:
        """Ask a script together with all who ask it in this tick with as many keys, one or more, and these arguments.

        The future has one part of the script's answer for each key: see `together.py` for what the script has to be.
        It raises what `call` does. What is wrong with one question fails all that are asked with it.
        """
        self._require_room()
        encoded = [key.encode() for key in keys]
        answer: asyncio.Future[list[Any]] = self._loop.create_future()
        kind = (script.sha, len(keys), *arguments)
        together = self._open.get(kind)
        if together is None or len(together.keys) >= MOST_KEYS:
            self._open[kind] = together = Together(script, arguments, self._send_together)
            together.add(encoded, answer)
            self._send_together(together)
        else:
            together.add(encoded, answer)
            self._waiting_besides += 1
        return answer

    async def run(self, script: Script, keys: Sequence[str], *arguments: Part) -> Any:
        """Run a script with these keys and arguments: one round trip, two when the server does not know it yet."""
        try:
            return await self.call("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except ValkeyRefused as refused:
            if refused.code != "NOSCRIPT":
                raise
        return await self.call("EVAL", script.text, len(keys), *keys, *arguments)

    def subscribe(self, channel: str, heard: Callable[[list[Any]], None]) -> None:
        """Have the server push what is published in a channel; `heard` is called with each push, that it begins first.

        One channel, on a connection of one's own.
        """
        self._heard_push = heard
        if self._transport is not None:
            self._transport.write(hiredis.pack_command(("SUBSCRIBE", channel)))  # type: ignore[arg-type]  # as in `call`

    def answer_within(self, seconds: float) -> None:
        """Allow the server to be silent for so long from now on."""
        self._answer_seconds = seconds

    def close(self) -> None:
        """Let go of the connection; what waits fails."""
        self.lose("the connection was closed")

    def lose(self, problem: str) -> None:
        """Give the connection up: all that waits on it fails now."""
        if self.lost.is_set():
            return
        self.problem = problem
        self.lost.set()
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._outgoing.clear()
        self._open.clear()
        for answer in self._waiting:
            if not answer.done():
                answer.set_exception(ValkeyUnavailable(f"Valkey at {self._address}: {problem}; {_UNKNOWN}"))
        self._waiting.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; asyncio calls this."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        if self.lost.is_set():
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End; asyncio calls this."""
        self.lose(f"the connection was lost{f' ({exc})' if exc else ''}")

    def data_received(self, data: bytes) -> None:
        """Hand out answers; asyncio calls this."""
        self._heard, self._overdue = self._loop.time(), False
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _NOTHING:
                self._answer(reply)
        except hiredis.ProtocolError as error:
            self.lose(f"what came is not RESP3: {error}")

    def _answer(self, reply: Any) -> None:
        if isinstance(reply, hiredis.PushNotification):
            if self._heard_push is not None:
                self._heard_push(list(reply))
            return
        if not self._waiting:
            self.lose("an answer came to nothing that was asked")
            return
        answer = self._waiting.popleft()
        if isinstance(answer, Together):
            self._waiting_besides -= len(answer.answers) - 1
        if answer.done():  # its caller was cancelled
            return
        if isinstance(reply, hiredis.ReplyError):
            answer.set_exception(_error(str(reply), self._address))
        else:
            answer.set_result(reply)

    def _require_room(self) -> None:
        if self.lost.is_set():
            raise ValkeyUnavailable(f"Valkey at {self._address}: {self.problem}")
        if len(self._waiting) + self._waiting_besides >= MOST_WAITING:
            raise ValkeyUnavailable(f"Valkey at {self._address} is behind: {MOST_WAITING:,} commands wait for it")

    def _send(self, command: bytes | Together, answer: Answer) -> None:
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(command)
        if not self._waiting:
            self._heard = self._loop.time()
            self._look_later()
        self._waiting.append(answer)

    def _send_together(self, together: Together) -> None:
        self._waiting_besides += len(together.answers) - 1
        self._send(together, together)

    def _flush(self) -> None:
        if self._outgoing and self._transport is not None and not self._transport.is_closing():
            self._open.clear()  # who comes now is in the next tick
            self._transport.write(
                b"".join(part.packed() if isinstance(part, Together) else part for part in self._outgoing)
            )
            self._outgoing.clear()

    def _look_later(self) -> None:
        if self._watch is None:
            self._watch = self._loop.call_later(self._answer_seconds, self._look)

    def _look(self) -> None:
        self._watch = None
        if not self._waiting:
            return
        silent = self._loop.time() - self._heard
        if silent < self._answer_seconds:
            self._watch = self._loop.call_later(self._answer_seconds - silent, self._look)
        elif self._overdue:
            self.lose(f"no answer within {self._answer_seconds:g} s")
        else:  # it may be this loop that was busy: uvloop runs its timers before it reads what has come
            self._overdue = True
            self._watch = self._loop.call_later(_SECOND_LOOK_SECONDS, self._look)


def _error(text: str, address: Address) -> Exception:
    """Say in covey's words what the server has answered."""
    code = text.partition(" ")[0]
    if code in _AWAY:
        return ValkeyUnavailable(f"Valkey at {address} cannot now: {text}")
    if code in _ENTRY:
        return ConfigurationError(f"Valkey at {address} refuses this user (VALKEY_URL): {text}")
    return ValkeyRefused(f"Valkey at {address}: {text}", code)
