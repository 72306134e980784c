"""Hints are heard at most once, and who may have missed some is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from covey.local.engines.embedded import Engines
from covey.testing.eventually import eventually
from covey.valkey import hints as module
from covey.valkey.client import Valkey
from covey.valkey.hints import MISSED, MOST_WAITING, Heard, Hint, Hints
from tests.harness.breakable_valkey import breakable_valkey

PATIENCE_SECONDS = 20.0


@pytest.fixture
async def hints(covey_engines: Engines, system_name: str) -> AsyncIterator[Hints]:
    async with Valkey.open(covey_engines.valkey_url) as valkey:
        yield Hints(valkey, system_name)


async def heard(by: Heard, number: int) -> list[Hint]:
    """Return the next so many."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return [await anext(by) for _ in range(number)]


async def test_all_who_listen_hear_it_and_who_comes_later_does_not(hints: Hints) -> None:
    async with hints.hear_at_most_once("prices") as one, hints.hear_at_most_once("prices") as other:
        assert [await heard(one, 1), await heard(other, 1)] == [[MISSED], [MISSED]]

        assert await hints.say_at_most_once("prices", "é") == 2

        assert [await heard(one, 1), await heard(other, 1)] == [["é"], ["é"]]
        async with hints.hear_at_most_once("prices") as late:
            assert await heard(late, 1) == [MISSED]
            await hints.say_at_most_once("prices", "second")
            assert await heard(late, 1) == ["second"]


async def test_what_is_no_unicode_is_heard_as_far_as_it_is(hints: Hints) -> None:
    async with hints.hear_at_most_once("prices") as heard:
        assert await anext(heard) is MISSED

        assert await hints.say_at_most_once("prices", "a\ud800b") == 1

        assert await anext(heard) == "a?b"


async def test_channels_and_systems_do_not_hear_each_other(hints: Hints) -> None:
    async with hints.hear_at_most_once("prices") as prices:
        await heard(prices, 1)
        assert await Hints(hints._valkey, "another").say_at_most_once("prices", "a") == 0
        assert await hints.say_at_most_once("stock", "b") == 0
        await hints.say_at_most_once("prices", "c")

        assert await heard(prices, 1) == ["c"]


async def test_who_is_too_slow_is_told_that_it_has_missed_some(hints: Hints) -> None:
    async with hints.hear_at_most_once("prices") as prices:
        await heard(prices, 1)
        for n in range(MOST_WAITING + 5):
            await hints.say_at_most_once("prices", str(n))
        await eventually(lambda: MISSED in prices._hints)

        assert await heard(prices, 1) == [MISSED]


async def test_while_valkey_is_away_nobody_hears_and_afterwards_is_told_so(tmp_path: Path) -> None:
    async with breakable_valkey(tmp_path / "engines") as server, Valkey.open(server.url) as valkey:
        hints = Hints(valkey, "shop")
        async with hints.hear_at_most_once("prices") as prices:
            await heard(prices, 1)
            await server.kill()
            assert await hints.say_at_most_once("prices", "lost") == 0
            await server.start()

            assert await heard(prices, 1) == [MISSED]
            await eventually(lambda: hints.say_at_most_once("prices", "back"))
            assert await heard(prices, 1) == ["back"]


def test_what_may_get_lost_says_so_where_it_is_used() -> None:
    assert "at most once" in (module.__doc__ or "")
    assert [name for name in vars(Hints) if not name.startswith("_")] == ["say_at_most_once", "hear_at_most_once"]
