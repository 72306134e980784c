"""Messages that come twice, late, out of order or not at all change nothing in what comes of an order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from covey.database.pool import Database
from covey.messaging.relay import republish
from tests.faults.conftest import Open, Scene
from tests.faults.taps import Delaying, Doubling, Losing, Swapping, Together
from tests.wire.exchange import Arrival, Publication, Tap

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHORT, LONG = 24, 400
NUMBERS = [pytest.param(SHORT, id="short"), pytest.param(LONG, id="long", marks=pytest.mark.slow)]


def put(scene: Scene, tap: Tap) -> None:
    """Put a tap on all wires of all processes."""
    for replicas in scene.shop.replicas.values():
        for replica in replicas:
            replica.tap(tap)


@pytest.mark.parametrize("number", NUMBERS)
async def test_messages_stored_and_delivered_twice_have_one_effect(open_scene: Open, number: int) -> None:
    async with open_scene(1) as scene:
        doubling = Doubling(seed=number, share_of_deliveries=0.05)
        put(scene, doubling)

        await scene.crowd.order(number)
        await scene.crowd.settle()

        assert doubling.doubled > number


@pytest.mark.parametrize("number", NUMBERS)
async def test_a_whole_outbox_published_again_has_no_second_effect(open_scene: Open, number: int) -> None:
    async with open_scene(1) as scene:
        put(scene, Doubling(seed=number, share_of_deliveries=0))
        await scene.crowd.order(number)
        await scene.crowd.settle()

        for url in scene.shop.sources.databases.values():
            async with Database.open(url) as database:
                assert await republish(database, datetime.now(UTC) - timedelta(hours=1)) > 0

        await scene.crowd.settle()


# A connection that delays passes some fifty statements or messages a second: a crowd of 400 would only wait in line.
@pytest.mark.parametrize(
    ("number", "most_seconds"),
    [
        pytest.param(20, 0.05, id="short", marks=pytest.mark.slow),
        pytest.param(120, 0.1, id="long", marks=pytest.mark.slow),
    ],
)
async def test_delay_and_disorder_between_keys_change_no_outcome(
    open_scene: Open, number: int, most_seconds: float
) -> None:
    async with open_scene(1) as scene:
        delaying = Delaying(seed=number, most_seconds=most_seconds)
        put(scene, delaying)

        await scene.crowd.order(number)

        await scene.crowd.settle(within_seconds=60 + number)
        assert delaying.delayed.total() > number
        assert delaying.delayed[Publication] > 0
        assert delaying.delayed[Arrival] > 0


@pytest.mark.parametrize("number", NUMBERS)
async def test_connections_that_break_in_the_middle_lose_nothing(open_scene: Open, number: int) -> None:
    async with open_scene(1) as scene:
        losing = Losing(seed=number, share=0.01)
        put(scene, losing)

        await scene.crowd.order(number)
        put(scene, Together([]))

        await scene.crowd.settle()
        assert losing.lost > 0


@pytest.mark.parametrize("number", NUMBERS)
async def test_neighbours_of_different_keys_that_change_places_change_no_outcome(open_scene: Open, number: int) -> None:
    async with open_scene(1) as scene:
        swapping = Swapping()
        put(scene, swapping)

        await scene.crowd.order(number)

        await scene.crowd.settle()
        assert swapping.swapped + swapping.swapped_in_bundles > number / 4
