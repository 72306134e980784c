"""Questions to one script that leave as one call: each gets its own part of the answer, or all the same failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from covey.errors import ValkeyRefused, ValkeyUnavailable
from covey.local.engines.embedded import Engines
from covey.testing.cable import Cable
from covey.testing.eventually import eventually
from covey.valkey import connection
from covey.valkey.client import Valkey, ValkeyOptions
from covey.valkey.script import Script
from covey.valkey.together import MOST_KEYS

WITH_HOW_MANY = Script(
    "local told = {} for n, key in ipairs(KEYS) do told[n] = key .. ' of ' .. #KEYS .. ' ' .. ARGV[1] end return told"
)
COUNTING = Script("local found = {} for n, key in ipairs(KEYS) do found[n] = redis.call('INCR', key) end return found")
ONE_TOO_FEW = Script("local found = {} for n = 1, #KEYS - 1 do found[n] = n end return found")
NO_LIST = Script("return #KEYS")
FAILS = Script("if KEYS[1] == 'wrong' then return redis.error_reply('WRONG key') end return KEYS")


@pytest.fixture
async def valkey(covey_engines: Engines) -> AsyncIterator[Valkey]:
    async with Valkey.open(covey_engines.valkey_url) as opened:
        yield opened


async def test_each_gets_its_own_part_of_one_answer(valkey: Valkey) -> None:
    answers = await asyncio.gather(*(valkey.ask(WITH_HOW_MANY, [key], "keys") for key in "abc"))

    assert answers == [[b"a of 3 keys"], [b"b of 3 keys"], [b"c of 3 keys"]]


async def test_who_asks_otherwise_is_asked_for_apart(valkey: Valkey) -> None:
    questions = [(["a"], "x"), (["b", "c"], "x"), (["d"], "y"), (["e"], "x")]

    answers = await asyncio.gather(*(valkey.ask(WITH_HOW_MANY, keys, argument) for keys, argument in questions))

    assert answers == [[b"a of 2 x"], [b"b of 2 x", b"c of 2 x"], [b"d of 1 y"], [b"e of 2 x"]]


async def test_between_commands_they_are_asked_where_the_first_of_them_stood(valkey: Valkey, system_name: str) -> None:
    key = f"{system_name}:count"
    await valkey.ask(COUNTING, [key])  # what the server does not know is asked again, behind what came meanwhile
    await valkey.call("DEL", key)

    asked = [
        valkey.ask(COUNTING, [key]),
        valkey.call("INCR", key),
        valkey.ask(COUNTING, [key]),
        valkey.call("GET", key),
    ]

    assert await asyncio.gather(*asked) == [[1], 3, [2], b"3"]


async def test_many_leave_in_several_calls(valkey: Valkey) -> None:
    keys = [f"key {n}" for n in range(2 * MOST_KEYS + 10)]

    answers = await asyncio.gather(*(valkey.ask(WITH_HOW_MANY, [key], "") for key in keys))

    assert [answer[0].partition(b" of ")[0].decode() for answer in answers] == keys
    assert [int(answer[0].split()[-1]) for answer in answers[::MOST_KEYS]] == [MOST_KEYS, MOST_KEYS, 10]


async def test_one_that_is_cancelled_leaves_the_others_their_own(covey_engines: Engines) -> None:
    async with Cable.to(covey_engines.valkey_url) as cable, Valkey.open(cable.url) as valkey:
        cable.freeze()
        first, second, third = (asyncio.ensure_future(valkey.ask(WITH_HOW_MANY, [key], "")) for key in "abc")
        second.cancel()  # before it has left
        await asyncio.sleep(0)
        first.cancel()
        cable.thaw()

        assert await asyncio.wait_for(third, 5) == [b"c of 3 "]


async def test_when_the_server_dies_all_of_them_fail_and_none_is_repeated(
    covey_engines: Engines, system_name: str
) -> None:
    key = f"{system_name}:died"
    async with Cable.to(covey_engines.valkey_url) as cable, Valkey.open(cable.url) as valkey:
        cable.freeze()
        asked = [asyncio.ensure_future(valkey.ask(COUNTING, [key])) for _ in range(3)]
        await asyncio.sleep(0)
        cable.cut()

        answers = await asyncio.gather(*asked, return_exceptions=True)
        cable.mend()
        cable.thaw()
        await eventually(lambda: valkey.is_connected)

        assert all(isinstance(answer, ValkeyUnavailable) for answer in answers)
        assert len({id(answer) for answer in answers}) == 3
        assert int(await valkey.call("GET", key) or 0) % 3 == 0


async def test_what_has_not_left_when_the_connection_is_lost_fails_too(valkey: Valkey) -> None:
    asked = [valkey.ask(WITH_HOW_MANY, [key], "") for key in "ab"]

    valkey.connection.close()

    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(answer, ValkeyUnavailable) for answer in answers)


@pytest.mark.parametrize("script", [ONE_TOO_FEW, NO_LIST])
async def test_an_answer_with_fewer_parts_is_nobodys(valkey: Valkey, script: Script) -> None:
    before = valkey.connection

    answers = await asyncio.gather(*(valkey.ask(script, [key]) for key in "abc"), return_exceptions=True)

    assert all(isinstance(answer, ValkeyRefused) for answer in answers)
    assert await valkey.ask(WITH_HOW_MANY, ["d"], "") == [b"d of 1 "]
    assert valkey.connection is before


async def test_what_is_wrong_with_one_fails_those_of_its_call_alone(valkey: Valkey) -> None:
    together = await asyncio.gather(*(valkey.ask(FAILS, [key]) for key in ("wrong", "a")), return_exceptions=True)

    assert all(isinstance(answer, ValkeyRefused) and answer.code == "WRONG" for answer in together)
    assert await valkey.ask(FAILS, ["a"]) == [b"a"]


async def test_what_cannot_be_sent_fails_at_once_and_nobody_else(valkey: Valkey) -> None:
    before = valkey.connection
    asked = valkey.ask(WITH_HOW_MANY, ["a"], "")

    with pytest.raises(UnicodeEncodeError):
        valkey.ask(WITH_HOW_MANY, ["half a pair: \ud800"], "")
    with pytest.raises(UnicodeEncodeError):
        valkey.ask(WITH_HOW_MANY, ["b"], "\ud800")

    assert await asked == [b"a of 1 "]
    assert valkey.connection is before


async def test_a_script_is_sent_when_the_server_does_not_know_it(valkey: Valkey, system_name: str) -> None:
    script = Script(f"return KEYS -- {system_name}")

    for _ in range(2):
        answers = await asyncio.gather(*(valkey.ask(script, [key, key]) for key in "ab"))
        await valkey.call("SCRIPT", "FLUSH")

        assert answers == [[b"a", b"a"], [b"b", b"b"]]


async def test_who_comes_when_too_many_wait_is_refused(covey_engines: Engines) -> None:
    patient = ValkeyOptions(answer=timedelta(seconds=20))
    async with Cable.to(covey_engines.valkey_url) as cable, Valkey.open(cable.url, patient) as valkey:
        for _ in range(2):  # and there is room again when they have been answered
            cable.freeze()
            waiting = [valkey.ask(WITH_HOW_MANY, ["a"], "") for _ in range(connection.MOST_WAITING)]

            with pytest.raises(ValkeyUnavailable, match="is behind"):
                valkey.ask(WITH_HOW_MANY, ["a"], "")
            cable.thaw()

            assert len(await asyncio.gather(*waiting)) == connection.MOST_WAITING
