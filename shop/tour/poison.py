"""The act in which a message cannot be handled: its key waits, all others flow, a person mends it.

The message is one that a faulty build of inventory might publish: a product whose price is in words. It goes the way
of every message, through inventory's outbox; no code of a service knows of it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from uuid import UUID

import asyncpg

from covey.database.pool import Database
from covey.errors import Conflict, NotFound
from covey.local.dead import dead_letters_of, page
from covey.local.up import covey
from covey.message import Event
from covey.messaging.dead_letters import DeadLetter, DeadLetters, Filter, Whole
from covey.work.unit_of_work import Transactions
from shop.tour.stage import Stage

_WORDS = "a handful of euros"
_POISONED, _HEALTHY = "Cast-iron teapot", "Stoneware mug"
_DEARER = 10
_ORDERS = 4
_SHOWN = ("key", "message", "reason", "body", "  ")


class FaultyProductChanged(Event, type="inventory.product-changed.v1", key="product_id"):
    """What no reader of product-changed can read: its price is a text."""

    product_id: UUID
    name: str
    price: str
    version: int


async def a_message_is_poison(stage: Stage) -> None:
    """Publish it, see who waits and who does not, mend it, replay it."""
    poisoned, healthy = stage.products[_POISONED], stage.products[_HEALTHY]
    await stage.turn("publish a message that order cannot read", first=True)
    async with dead_letters_of("order", stage.system.state, {}) as letters:
        try:
            await _publish(stage, poisoned)
            letter = await stage.watch(lambda: _letter(letters, poisoned), "the message is no dead letter", within=20)
            assert letter is not None  # `watch` returns nothing that is false
            stage.check("order has a dead letter")
            _show(stage, await letters.show(letter.key))
            prices = {product_id: await _dearer(stage, product_id) for product_id in (poisoned, healthy)}
            await _arrives(stage, healthy, prices[healthy])
            behind = await stage.watch(lambda: _behind(letters, poisoned), "nothing waits behind the dead letter")
            stage.check("the mug's price changes, and order hears of it: its key flows")
            stage.check(f"the teapot's price changes, and waits: {behind} behind the letter")
            await stage.confirmed(await stage.place(_ORDERS))
            await _mended(stage, letters, poisoned, prices[poisoned])
            await _arrives(stage, poisoned, prices[poisoned])
            stage.check("the letter is mended and replayed, and what waited behind it has followed")
        finally:
            await tidy(letters)


async def tidy(letters: DeadLetters) -> None:
    """Discard what a tour that was left in the middle has poisoned, so that it is in nobody's way."""
    for letter in await letters.page(only=Filter(type=FaultyProductChanged.message_type)):
        with suppress(Conflict, NotFound):  # somebody deals with it just now
            if json.loads((await letters.show(letter.key)).body).get("price") == _WORDS:
                await letters.discard(letter.key, "left behind by the tour")


async def _publish(stage: Stage, product_id: UUID) -> None:
    product = await stage.client.get("inventory", f"/products/{product_id}")
    faulty = FaultyProductChanged(product_id=product_id, name=product["name"], price=_WORDS, version=product["version"])
    url = stage.system.database_url("inventory")
    async with Database.open(url) as database, Transactions(database, "inventory").begin() as work:
        work.publish(faulty)


async def _letter(letters: DeadLetters, product_id: UUID) -> DeadLetter | None:
    return next((one for one in await letters.page() if one.key == str(product_id)), None)


def _show(stage: Stage, letter: Whole) -> None:
    """Show what `covey dead show` does, in part."""
    stage.terminal.say(f"  {stage.terminal.styled(f'$ {covey()} dead show order {letter.letter.key}', 'cyan')}")
    facts, _, rest = page(letter, "order").partition("\nheaders\n")
    body = rest.partition("\nbody\n")[2].partition("\nhistory\n")[0]
    for line in (*facts.splitlines(), "body", *body.splitlines()):
        if line.startswith(_SHOWN):
            stage.terminal.quote(line)


async def _behind(letters: DeadLetters, product_id: UUID) -> int:
    letter = await _letter(letters, product_id)
    return letter.behind if letter else 0


async def _dearer(stage: Stage, product_id: UUID) -> int:
    product = await stage.client.get("inventory", f"/products/{product_id}")
    price = int(product["price"]["amount"]) + _DEARER
    await stage.client.reprice(product_id, price)
    return price


async def _knows(stage: Stage, product_id: UUID, price: int) -> bool:
    connection = await asyncpg.connect(stage.system.database_url("order"))
    try:
        return bool(await connection.fetchval("SELECT price_amount FROM product WHERE id = $1", product_id) == price)
    finally:
        await connection.close()


async def _arrives(stage: Stage, product_id: UUID, price: int) -> None:
    await stage.watch(lambda: _knows(stage, product_id, price), "order does not hear of the new price", within=20)


async def _mended(stage: Stage, letters: DeadLetters, product_id: UUID, price: int) -> None:
    """Give the letter the body that it should have had and replay it, unless somebody does."""
    key = str(product_id)
    stage.suggest(
        f"{covey()} dead show order {key}", f"{covey()} dead edit order {key}", f"{covey()} dead replay order {key}"
    )
    if await stage.turn("mend its price, and replay it", lambda: _knows(stage, product_id, price)):
        return
    with suppress(Conflict, NotFound):  # somebody has dealt with it just now
        product = await stage.client.get("inventory", f"/products/{product_id}")
        body = json.loads((await letters.show(key)).body) | {
            "price": product["price"],
            "version": product["version"] - 1,
        }
        await letters.edit(key, json.dumps(body).encode())
        await letters.replay(key)
