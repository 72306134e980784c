"""The shared connection to Valkey: pipelined, bounded, and open again when the server is."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from covey.errors import ConfigurationError, ValkeyRefused, ValkeyUnavailable
from covey.local.engines.embedded import Engines
from covey.testing.cable import Cable
from covey.testing.eventually import eventually
from covey.valkey import connection
from covey.valkey.client import Valkey, ValkeyOptions
from covey.valkey.script import Script

QUICK = ValkeyOptions(name="test", answer=timedelta(milliseconds=200))


@pytest.fixture
async def valkey(covey_engines: Engines) -> AsyncIterator[Valkey]:
    async with Valkey.open(covey_engines.valkey_url) as opened:
        yield opened


async def test_answers_come_as_what_they_are(valkey: Valkey, system_name: str) -> None:
    key = f"{system_name}:thing"

    assert await valkey.call("SET", key, "ä\r\n") == b"OK"
    assert await valkey.call("GET", key) == "ä\r\n".encode()
    assert await valkey.call("GET", f"{system_name}:none") is None
    assert await valkey.call("INCRBY", f"{system_name}:number", 7) == 7
    assert await valkey.call("HGETALL", f"{system_name}:none") == {}
    assert await valkey.call("EVAL", "return {1, 'two', {3}}", 0) == [1, b"two", [3]]


async def test_what_is_asked_together_leaves_together_and_is_answered_in_order(
    valkey: Valkey, system_name: str
) -> None:
    await valkey.call("DEL", f"{system_name}:count")

    answers = await asyncio.gather(*(valkey.call("INCR", f"{system_name}:count") for _ in range(500)))

    assert answers == list(range(1, 501))


async def test_a_caller_that_is_cancelled_leaves_the_others_their_own_answers(covey_engines: Engines) -> None:
    async with Cable.to(covey_engines.valkey_url) as cable, Valkey.open(cable.url) as valkey:
        cable.freeze()
        first, second = (asyncio.ensure_future(valkey.call("ECHO", word)) for word in ("one", "two"))
        await asyncio.sleep(0)
        first.cancel()
        cable.thaw()

        assert await second == b"two"


async def test_a_command_that_does_not_fit_is_refused_and_nobody_else_is(valkey: Valkey, system_name: str) -> None:
    await valkey.call("SET", f"{system_name}:text", "x")

    wrong, right = await asyncio.gather(
        valkey.call("INCR", f"{system_name}:text"), valkey.call("ECHO", "fine"), return_exceptions=True
    )

    assert isinstance(wrong, ValkeyRefused)
    assert wrong.code == "ERR"
    assert right == b"fine"


async def test_an_error_inside_an_answer_is_refused_too(valkey: Valkey) -> None:
    with pytest.raises(ValkeyRefused):
        await valkey.call("EVAL", "return redis.error_reply('WRONG x')", 0)


async def test_while_the_server_is_away_calls_fail_at_once_and_later_succeed_again(covey_engines: Engines) -> None:
    async with Cable.to(covey_engines.valkey_url) as cable, Valkey.open(cable.url, QUICK) as valkey:
        cable.cut()
        assert valkey.is_unbroken
        await eventually(lambda: not valkey.is_connected)

        with pytest.raises(ValkeyUnavailable, match="is away: the connection was lost"):
            valkey.call("PING")
        cable.mend()
        await eventually(lambda: valkey.is_connected)

        assert await valkey.call("PING") == b"PONG"
        assert not valkey.is_unbroken


async def test_a_server_that_never_answers_says_so(covey_engines: Engines) -> None:
    async with Cable.to(covey_engines.valkey_url) as cable:
        cable.freeze()
        async with Valkey.open(cable.url, QUICK) as valkey:
            with pytest.raises(ValkeyUnavailable, match="no answer in time"):
                valkey.call("PING")


async def test_a_server_that_is_away_at_the_start_keeps_nobody_from_beginning(covey_engines: Engines) -> None:
    async with Cable.to(covey_engines.valkey_url) as cable:
        cable.cut()
        async with Valkey.open(cable.url, QUICK) as valkey:
            assert not valkey.is_connected
            cable.mend()
            await eventually(lambda: valkey.is_connected)


async def test_a_server_that_falls_silent_fails_what_waits_within_the_time_for_an_answer(
    covey_engines: Engines,
) -> None:
    async with Cable.to(covey_engines.valkey_url) as cable, Valkey.open(cable.url, QUICK) as valkey:
        cable.freeze()
        begun = asyncio.get_running_loop().time()

        answers = await asyncio.gather(*(valkey.call("PING") for _ in range(3)), return_exceptions=True)

        assert asyncio.get_running_loop().time() - begun < 1
        assert all(isinstance(answer, ValkeyUnavailable) for answer in answers)
        assert "may or may not have happened" in str(answers[0])
        assert not valkey.is_connected


async def test_a_server_that_is_never_asked_may_be_silent(covey_engines: Engines) -> None:
    options = ValkeyOptions(answer=timedelta(milliseconds=20))
    async with Valkey.open(covey_engines.valkey_url, options) as valkey:
        await valkey.call("PING")
        async with valkey.connected(timedelta(seconds=5)) as blocking:
            await blocking.call("BLPOP", "nothing-comes", 0.1)

        assert await valkey.call("PING") == b"PONG"


class Blocking(asyncio.Protocol):
    """Blocks the loop while it reads, as a parser does that is given far too much."""

    def data_received(self, data: bytes) -> None:
        time.sleep(0.5)


async def test_a_loop_that_was_busy_for_long_does_not_lose_what_has_come_meanwhile(covey_engines: Engines) -> None:
    options = ValkeyOptions(answer=timedelta(milliseconds=200))
    near, far = socket.socketpair()
    async with Valkey.open(covey_engines.valkey_url, options) as valkey:
        transport, _ = await asyncio.get_running_loop().create_connection(Blocking, sock=near)
        before = valkey.connection
        far.send(b"much")
        try:
            assert await valkey.call("PING") == b"PONG"
            assert valkey.connection is before
        finally:
            transport.abort()
            far.close()


async def test_who_comes_when_too_many_wait_is_refused(covey_engines: Engines) -> None:
    patient = ValkeyOptions(answer=timedelta(seconds=20))  # all of it passes through this one loop
    async with Cable.to(covey_engines.valkey_url) as cable, Valkey.open(cable.url, patient) as valkey:
        cable.freeze()
        waiting = [valkey.call("PING") for _ in range(connection.MOST_WAITING)]

        with pytest.raises(ValkeyUnavailable, match="is behind"):
            valkey.call("PING")
        cable.thaw()

        assert set(await asyncio.gather(*waiting)) == {b"PONG"}


async def test_a_script_is_sent_when_the_server_does_not_know_it(valkey: Valkey, system_name: str) -> None:
    script = Script(f"return {{KEYS[1], ARGV[1]}} -- {system_name}")

    answers = [await valkey.run(script, ["a"], "b") for _ in range(2)]
    await valkey.call("SCRIPT", "FLUSH")

    assert answers == [[b"a", b"b"]] * 2
    assert await valkey.run(script, ["a"], "b") == [b"a", b"b"]


async def test_a_wrong_password_is_a_mistake_and_is_not_quoted(covey_engines: Engines) -> None:
    port = covey_engines.valkey_url.rpartition(":")[2]

    with pytest.raises(ConfigurationError, match="WRONGPASS") as raised:
        async with Valkey.open(f"valkey://:guessed-it@127.0.0.1:{port}"):
            pass

    assert "guessed" not in str(raised.value)


@pytest.mark.parametrize("url", ["valkey://", "http://localhost", "valkey://host:port", "valkey://host/x", "unix://"])
async def test_an_address_that_cannot_be_read_is_a_mistake(url: str) -> None:
    with pytest.raises(ConfigurationError, match="VALKEY_URL"):
        async with Valkey.open(url):
            pass
