"""What must be true of the shop's books when nothing moves any more. Pure: a rule yields a sentence a violation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from uuid import UUID

from shop.books import Books, Money, Order

_ANNOUNCEMENTS = {"confirmed": "order.confirmed.v1", "rejected": "order.rejected.v1", "cancelled": "order.cancelled.v1"}
_NOTHING = Money()


def orders_are_settled(books: Books) -> Iterator[str]:
    """Yield accepted orders that are lost, orders without an end, and sagas that ended otherwise."""
    for order_id in books.accepted:
        if order_id not in books.orders:
            yield f"order {order_id} was accepted and is lost"
    for order in books.orders.values():
        if order.status == "pending":
            yield f"order {order.id} is still pending; its saga is {order.saga or 'missing'}"
        elif order.saga != ("completed" if order.status == "confirmed" else "compensated"):
            yield f"order {order.id} is {order.status}, but its saga is {order.saga or 'missing'}"


def everybody_agrees_about_money(books: Books) -> Iterator[str]:
    """Yield differences between payment and the provider."""
    for order_id in books.payments.keys() - books.orders.keys():
        yield f"payment has money of order {order_id}, which does not exist"
    for reference in sorted(books.provider.keys() - {str(order_id) for order_id in books.payments}):
        yield f"the provider has money under {reference}, of which payment knows nothing"
    for order_id, ours in books.payments.items():
        theirs = books.provider.get(str(order_id), _NOTHING)
        for name in ("authorized", "captured", "voided", "refunded"):
            mine, his = getattr(ours, name), getattr(theirs, name)
            if mine != his:
                yield f"order {order_id}: payment says {mine} {name}, the provider {his}"


def money_follows_the_order(books: Books) -> Iterator[str]:
    """Yield orders whose money does not follow from their status."""
    for order in books.orders.values():
        money = books.provider.get(str(order.id), _NOTHING)
        if order.status == "confirmed":
            yield from _charged_once(order, money)
        elif order.status != "pending" and money.captured != money.refunded:
            kept = money.captured - money.refunded
            yield f"order {order.id} is {order.status}, but {kept} {order.currency} were captured and not refunded"
        open_amount = money.authorized - money.captured - money.voided
        if order.status != "pending" and open_amount > 0:
            yield f"order {order.id} is {order.status}, but {open_amount} {order.currency} are still put aside for it"


def stock_adds_up(books: Books) -> Iterator[str]:
    """Yield products whose pieces do not add up."""
    held, sold = Counter[UUID](), Counter[UUID]()
    for reservation in books.reservations.values():
        if reservation.status in ("held", "sold"):
            (held if reservation.status == "held" else sold).update(reservation.lines)
    for product_id, stock in books.stocks.items():
        there = stock.free + stock.reserved + stock.sold
        if there != stock.received:
            yield f"product {product_id}: {stock.received} received, but {there} are free, reserved or sold"
        if stock.free < 0:
            yield f"product {product_id}: {stock.free} pieces are free"
        if stock.reserved != held[product_id]:
            yield f"product {product_id}: {stock.reserved} are reserved, but orders hold {held[product_id]}"
        if stock.sold != sold[product_id]:
            yield f"product {product_id}: {stock.sold} are sold, but orders have bought {sold[product_id]}"


def stock_follows_the_order(books: Books) -> Iterator[str]:
    """Yield orders whose stock does not follow from their status."""
    for order_id in books.reservations.keys() - books.orders.keys():
        yield f"inventory has a reservation for order {order_id}, which does not exist"
    for order in books.orders.values():
        reservation = books.reservations.get(order.id)
        status = reservation.status if reservation else "missing"
        if order.status == "confirmed":
            if status != "sold":
                yield f"order {order.id} is confirmed, but its reservation is {status}"
            elif reservation and reservation.lines != order.lines:
                yield f"order {order.id} is confirmed, but other pieces were sold than it has ordered"
        elif order.status != "pending" and status in ("held", "sold"):
            yield f"order {order.id} is {order.status}, but its stock is {status}"


def outcomes_are_announced_once(books: Books) -> Iterator[str]:
    """Yield orders that were announced too often, not at all, or as something else."""
    for order in (order for order in books.orders.values() if order.remembered):
        for status, event in _ANNOUNCEMENTS.items():
            expected, published = int(order.status == status), order.events[event]
            if published != expected:
                yield f"order {order.id} is {order.status}, and {event} was published {published} times"


def queues_are_empty(books: Books) -> Iterator[str]:
    """Yield what has not reached its end."""
    for queue, count in books.waiting.items():
        if count:
            yield f"{count} messages wait in {queue}"
    for hold in books.holds:
        what = "a dead letter" if hold.state == "dead" else f"a message that is {hold.state}"
        yield f"{hold.service} has {what} of key {hold.key}: {hold.error}"
    for message_type, count in books.undelivered.items():
        yield f"{count} messages {message_type} were sent and have not arrived"


def _charged_once(order: Order, money: Money) -> Iterator[str]:
    if money.captured != order.total or money.captures != 1:
        yield (
            f"order {order.id} is confirmed over {order.total} {order.currency}, but the provider captured"
            f" {money.captured} in {money.captures} captures"
        )


Rule = Callable[[Books], Iterator[str]]

RULES: Mapping[str, Rule] = {
    "every accepted order has come to its end, and its saga with it": orders_are_settled,
    "payment and the provider have the same sums for every order": everybody_agrees_about_money,
    "a confirmed order is charged its total, once; any other nothing": money_follows_the_order,
    "every piece is free, reserved or sold, and is so for an order": stock_adds_up,
    "a confirmed order has its pieces, all of them; any other none": stock_follows_the_order,
    "every outcome was announced once": outcomes_are_announced_once,
    "no message waits, is held, is dead or is lost": queues_are_empty,
}


def findings(books: Books) -> dict[str, list[str]]:
    """Return the violations of each rule."""
    return {sentence: list(rule(books)) for sentence, rule in RULES.items()}
