"""The parts of the tour: its texts, its keys, its counters, and what it does when an act goes wrong."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from covey.database.pool import Database
from covey.errors import Conflict, DeadlineExceeded
from covey.ids import new_id
from covey.messaging.dead_letters import DeadLetters
from covey.testing.eventually import eventually
from covey.work.unit_of_work import Transactions
from shop.books import Sources
from shop.seed import PIECES, seed
from shop.terminal import Terminal
from shop.tour.act import Act, perform
from shop.tour.keys import Keys, Nobody, Quit, Skipped
from shop.tour.poison import FaultyProductChanged, tidy
from shop.tour.program import ACTS
from shop.tour.pulse import Gauge, Pulse
from shop.tour.stage import Stage

if TYPE_CHECKING:
    from conftest import Shop

ROOT = Path(__file__).parents[2]
LONG_AGO = datetime.now(UTC) - timedelta(days=1)


class FakeKeys:
    """Somebody who presses these keys, each when the one before it was looked at; `""` is a look without a key."""

    attended = True

    def __init__(self, *pressed: str) -> None:
        self._pressed = deque(pressed)

    def take(self) -> str | None:
        return (self._pressed.popleft() or None) if self._pressed else "q"


class FakeGauge(Gauge):
    """A shop that is always as quiet as this."""

    def __init__(self) -> None:
        super().__init__({}, LONG_AGO)

    async def read(self) -> Pulse:
        return Pulse(orders={"confirmed": 3})


def stage_with(keys: Keys, stream: StringIO | None = None) -> Stage:
    """A stage in front of nothing: a system without processes."""
    system: Any = SimpleNamespace(units={}, url=str, database_url=str)
    client: Any = None
    return Stage(system, client, FakeGauge(), Terminal(stream or StringIO()), keys)


async def nothing(_stage: Stage) -> None:
    """Do nothing."""


def act(play: Any = nothing, needs: tuple[str, ...] = ()) -> Act:
    return Act(title="An act", before=("a", "b"), after=("c", "d"), page="README.md", play=play, needs=needs)


class QuietStage(Stage):
    """A stage whose books agree."""

    async def invariants(self) -> None:
        self.check("invariants")


def quiet_stage(stream: StringIO) -> Stage:
    plain = stage_with(Nobody(), stream)
    return QuietStage(plain.system, plain.client, FakeGauge(), plain.terminal, Nobody())


@pytest.mark.parametrize("shown", ACTS, ids=lambda shown: shown.title)
def test_an_act_fits_on_a_narrow_terminal_and_names_a_page_that_exists(shown: Act) -> None:
    lines = [f"  {line}" for line in (*shown.before, *shown.after)]

    assert max(map(len, [*lines, f"{len(ACTS)}/{len(ACTS)}  {shown.title}"])) <= 80
    assert (ROOT / shown.page.split()[0]).is_file()


async def test_enter_goes_on_and_what_was_pressed_before_the_question_does_not() -> None:
    assert await stage_with(FakeKeys("\n", "s", "", "", "\r")).turn("kill it") is False


async def test_q_quits_whenever_it_was_pressed() -> None:
    with pytest.raises(Quit):
        await stage_with(FakeKeys("", "q")).turn("kill it")
    with pytest.raises(Quit):
        await stage_with(FakeKeys("q")).watch(never, "it never happens")


async def test_s_leaves_an_act_out_at_its_beginning_only() -> None:
    with pytest.raises(Skipped):
        await stage_with(FakeKeys("", "s")).turn("kill it", first=True)

    assert await stage_with(FakeKeys("", "s", "\r")).turn("start it") is False


async def test_what_was_done_by_hand_is_noticed() -> None:
    stream = StringIO()

    assert await stage_with(FakeKeys("", "", ""), stream).turn("kill it", always) is True

    assert stream.getvalue() == "  it was done by hand\n"


async def test_nobody_is_waited_for() -> None:
    assert await stage_with(Nobody()).turn("kill it", never, first=True) is False


async def test_what_does_not_happen_in_time_is_said() -> None:
    with pytest.raises(DeadlineExceeded, match="payment does not die"):
        await stage_with(Nobody()).watch(never, "payment does not die", within=0.01)


async def never() -> bool:
    return False


async def always() -> bool:
    return True


async def test_an_act_that_fails_is_a_failure_and_the_next_one_has_its_turn() -> None:
    async def fails(_stage: Stage) -> None:
        raise Conflict("it went wrong")

    stream = StringIO()
    stage = quiet_stage(stream)

    await perform(stage, [act(fails), act()])

    assert stage.failures == ["it went wrong"]
    assert "✗ it went wrong" in stream.getvalue()
    assert "2/2  An act\n  a b\n  ✓ invariants\n  c d\n  read README.md" in stream.getvalue()


async def test_an_act_is_left_out_when_it_is_skipped_or_its_engine_is_not_ours() -> None:
    async def skipped(_stage: Stage) -> None:
        raise Skipped

    stream = StringIO()
    stage = quiet_stage(stream)

    await perform(stage, [act(skipped), act(needs=("postgres",))])

    assert stage.failures == []
    assert "1/2  An act\n  a b\n  left out\n" in stream.getvalue()
    assert "left out: postgres is one of yours" in stream.getvalue()


def test_the_pulse_says_what_waits_and_the_pending_orders_first() -> None:
    pulse = Pulse(orders={"rejected": 1, "confirmed": 2, "pending": 8}, waiting={"order": 0, "payment": 8})

    assert str(pulse) == "messages waiting: 8 for payment · orders: 8 pending, 2 confirmed, 1 rejected"
    assert str(Pulse()) == "messages waiting: none · orders: none"


async def test_the_gauge_counts_what_was_sent_to_a_service_that_is_away(sources: Sources) -> None:
    gauge = Gauge(sources.databases, LONG_AGO)
    await publish_faulty(sources)

    pulse = await gauge.read()
    gauge.close()

    assert pulse == Pulse(orders={}, waiting={"order": 1})


async def test_the_gauge_says_nothing_while_a_database_does_not_answer(sources: Sources) -> None:
    away = sources.databases | {"payment": "postgresql://nobody@127.0.0.1:1/none"}
    gauge = Gauge(away, LONG_AGO)

    assert await gauge.read() is None


async def test_the_poison_is_poison_and_is_tidied_away_without_other_letters(shop: Shop) -> None:
    poisoned, other = await publish_faulty(shop.sources), await publish_faulty(shop.sources, "by weight")
    async with Database.open(shop.sources.databases["order"]) as database:
        letters = DeadLetters(Transactions(database, "order"))

        async def both_are_dead() -> bool:
            return {letter.key for letter in await letters.page()} == {poisoned, other}

        await eventually(both_are_dead)
        await tidy(letters)

        (left,) = await letters.page()

    assert left.key == other
    assert left.reason.startswith("unreadable: not a inventory.product-changed.v1: price")


async def publish_faulty(sources: Sources, price: str = "a handful of euros") -> str:
    """Publish what order cannot read, as inventory; return its key."""
    faulty = FaultyProductChanged(product_id=new_id(), name="Mug", price=price, version=1)
    url = sources.databases["inventory"]
    async with Database.open(url) as database, Transactions(database, "inventory").begin() as work:
        work.publish(faulty)
    return str(faulty.product_id)


async def test_a_shop_that_is_filled_again_has_no_more_than_before(shop: Shop) -> None:
    products = await seed(shop.client)

    again = await seed(shop.client)

    stocks = [await shop.client.get("inventory", f"/products/{product_id}/stock") for product_id in again.values()]
    assert again == products
    assert {stock["free"] for stock in stocks} == {PIECES}
