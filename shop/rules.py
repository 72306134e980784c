"""What must be true of the shop's books when nothing moves any more. Pure: a rule yields a sentence a violation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from uuid import UUID

from shop.books import Books, Carried, Confirmation, Invoice, Letter, Money, Order, Return

_ANNOUNCEMENTS = {"confirmed": "order.confirmed.v1", "rejected": "order.rejected.v1", "cancelled": "order.cancelled.v1"}
_NOTHING = Money()
_NOT_CARRIED = Carried()
_NOT_INVOICED = Invoice(amount=0, credited=0)


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


def refunds_add_up(books: Books) -> Iterator[str]:
    """Yield orders of which more was returned than taken, or something else than payment and its invoices say."""
    done, asked = Counter[UUID](), Counter[UUID]()
    for refund in books.refunds.values():
        if refund.status != "declined":
            (done if refund.status == "done" else asked)[refund.order_id] += refund.amount
    for reference, money in books.provider.items():
        if money.refunded > money.captured:
            yield f"order {reference}: the provider captured {money.captured} and refunded {money.refunded}"
    for order_id, money in books.payments.items():
        if money.refunded != done[order_id]:
            yield f"order {order_id}: payment says {money.refunded} refunded, its refunds {done[order_id]}"
        if asked[order_id]:
            yield f"order {order_id}: {asked[order_id]} are still being refunded"
        yield from _invoiced(books, order_id, money)


def parcels_follow_the_order(books: Books) -> Iterator[str]:
    """Yield orders of which the carrier has not exactly the parcels that follow from their status."""
    for order_id in sorted(books.carrier.keys() - {str(order_id) for order_id in books.orders}):
        yield f"the carrier has parcels of order {order_id}, which does not exist"
    for order in (order for order in books.orders.values() if order.status != "pending"):
        parcels = books.carrier.get(str(order.id), _NOT_CARRIED)
        expected = int(order.status == "confirmed" and order.shipped)
        if parcels.shipments != expected:
            yield f"order {order.id} is {order.status}, and the carrier has {parcels.shipments} shipments of it"
        elif expected and parcels.shipped != sum(order.lines.values()):
            ordered = sum(order.lines.values())
            yield f"order {order.id} is of {ordered} pieces, and the carrier has {parcels.shipped}"
        if (books.shipments.get(order.id, "booking") != "booking") != bool(expected):
            said = books.shipments.get(order.id, "nothing")
            yield f"order {order.id} is {order.status}, but shipping says that its shipment is {said}"


def returns_are_whole(books: Books) -> Iterator[str]:
    """Yield returns of which goods, money and stock have not gone the same way, and what came back for no return."""
    for return_id, one in books.returns.items():
        yield from _return(books, return_id, one)
    for what, known in (("shipping has goods", books.goods), ("inventory has restocked pieces", books.restocks)):
        for return_id in known.keys() - books.returns.keys():
            yield f"{what} of return {return_id}, which does not exist"
    wanted = _pieces(one for one in books.returns.values() if one.status != "refused")
    received = _pieces(one for one in books.goods.values() if one.status == "received")
    for order in books.orders.values():
        if wanted.get(order.id, Counter()) - Counter(order.lines):
            yield f"order {order.id}: more is returned than was ordered"
        ours = received.get(order.id, Counter()).total()
        theirs = books.carrier.get(str(order.id), _NOT_CARRIED).returned
        if ours != theirs:
            yield f"order {order.id}: shipping has received {ours} pieces, the carrier says {theirs}"


def stock_adds_up(books: Books) -> Iterator[str]:
    """Yield products whose pieces do not add up."""
    held, sold = Counter[UUID](), Counter[UUID]()
    for reservation in books.reservations.values():
        if reservation.status in ("held", "sold"):
            (held if reservation.status == "held" else sold).update(reservation.lines)
        sold.subtract(reservation.restocked)
    for product_id, stock in books.stocks.items():
        there = stock.free + stock.reserved + stock.sold
        if there != stock.received:
            yield f"product {product_id}: {stock.received} received, but {there} are free, reserved or sold"
        if stock.free < 0:
            yield f"product {product_id}: {stock.free} pieces are free"
        if stock.reserved != held[product_id]:
            yield f"product {product_id}: {stock.reserved} are reserved, but orders hold {held[product_id]}"
        if stock.sold != sold[product_id]:
            yield f"product {product_id}: {stock.sold} are sold, but orders have bought and kept {sold[product_id]}"


def stock_follows_the_order(books: Books) -> Iterator[str]:
    """Yield orders whose stock does not follow from their status."""
    for order_id in books.reservations.keys() - books.orders.keys():
        yield f"inventory has a reservation for order {order_id}, which does not exist"
    restocked = _pieces(books.restocks.values())
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
        back = restocked.get(order.id, Counter())
        if reservation and back != Counter(reservation.restocked):
            noted = sum(reservation.restocked.values())
            yield f"order {order.id}: {back.total()} pieces were restocked, and its reservation says {noted}"


def users_are_known(books: Books) -> Iterator[str]:
    """Yield users whom notification knows otherwise than as they are."""
    for user_id in books.recipients.keys() - books.users.keys():
        yield f"notification knows user {user_id}, who does not exist"
    for user_id, user in books.users.items():
        known = books.recipients.get(user_id)
        if known is None:
            yield f"user {user_id} is at version {user.version}, and notification does not know them"
        elif known.version != user.version:
            yield f"user {user_id} is at version {user.version}, and notification knows version {known.version}"
        elif known != user:
            yield f"user {user_id} is known to notification with another address or other wishes"


def customers_are_told(books: Books) -> Iterator[str]:
    """Yield confirmed orders without their one mail. Copies of it there may be, as many as it was handed over."""
    for order in (order for order in books.orders.values() if order.status == "confirmed" and order.shipped):
        letters = books.letters.get(str(order.id), [])
        match books.confirmations.get(order.id, []):
            case [one]:
                yield from _told(books, order, one, letters)
            case several:
                yield f"order {order.id} is confirmed, and notification has {len(several)} mails about it"


def mail_is_wanted(books: Books) -> Iterator[str]:
    """Yield mails about orders that were not confirmed, and mails to who wants none, or who is not the customer.

    What a user wanted who has changed it since is not on the books: of those nothing is said.
    """
    orders = {str(order.id): order for order in books.orders.values()}
    about = {str(order_id) for order_id in books.confirmations} | books.letters.keys()
    for order_id in sorted(about - orders.keys()):
        yield f"there is mail about order {order_id}, which does not exist"
    for order in (orders[order_id] for order_id in sorted(about & orders.keys())):
        letters = books.letters.get(str(order.id), [])
        user = books.users.get(order.user_id)
        if order.status != "confirmed" or not order.shipped:
            yield f"order {order.id} is {order.status}, and there is mail about it"
        elif letters and user is None:
            yield f"order {order.id}: {len(letters)} mails were sent to somebody who has no account"
        elif letters and user is not None and user.version == 1:
            if not user.wants_order_mail:
                yield f"order {order.id}: {len(letters)} mails were sent to user {order.user_id}, who wants none"
            if {letter.to for letter in letters} != {user.address}:
                yield f"order {order.id}: a mail was sent to somebody else than user {order.user_id}"


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


def _pieces(returns: Iterable[Return]) -> dict[UUID, Counter[UUID]]:
    """Add up the lines of returns, by order and product."""
    sums: dict[UUID, Counter[UUID]] = {}
    for one in returns:
        sums.setdefault(one.order_id, Counter()).update(one.lines)
    return sums


def _invoiced(books: Books, order_id: UUID, money: Money) -> Iterator[str]:
    invoice = books.invoices.get(order_id, _NOT_INVOICED)
    if invoice.amount != money.captured:
        yield f"order {order_id}: {money.captured} were captured, {invoice.amount} is invoiced"
    if invoice.credited != money.refunded:
        yield f"order {order_id}: {money.refunded} were refunded, {invoice.credited} is credited"


def _return(books: Books, return_id: UUID, one: Return) -> Iterator[str]:
    """Yield what is wrong with a return: all three have come back, or none."""
    if one.status == "requested":
        yield f"return {return_id} is still under way; its saga is {one.saga or 'missing'}"
        return
    done = one.status == "completed"
    if one.saga != ("completed" if done else "compensated"):
        yield f"return {return_id} is {one.status}, but its saga is {one.saga or 'missing'}"
    goods, refund, restock = (
        books.goods.get(return_id),
        books.refunds.get(return_id),
        books.restocks.get(return_id),
    )
    expected = one.lines if done else {}
    received = goods.lines if goods and goods.status in ("receiving", "received", "cancelling") else {}
    if received != expected:
        yield f"return {return_id} is {one.status}, but its goods are {goods.status if goods else 'missing'}"
    refunded = refund.amount if refund and refund.status == "done" else 0
    if refunded != (one.amount if done else 0):
        yield f"return {return_id} over {one.amount} is {one.status}, but {refunded} were refunded for it"
    if (restock.lines if restock else {}) != expected:
        pieces = sum(restock.lines.values()) if restock else 0
        yield f"return {return_id} is {one.status}, but {pieces} pieces were restocked for it"


def _told(books: Books, order: Order, mail: Confirmation, letters: list[Letter]) -> Iterator[str]:
    """Yield what is wrong with the mail about a confirmed order: it is settled, and arrived as what it was sent as."""
    user = books.users.get(order.user_id)
    if mail.status in ("waiting", "sending"):
        yield f"order {order.id} is confirmed, and its mail is {mail.status}"
    if mail.status == "sent" and not letters:
        yield f"order {order.id}: its mail is sent, and the mail server has none"
    if mail.status == "skipped" and user is not None and user.version == 1 and user.wants_order_mail:
        yield f"order {order.id}: user {order.user_id} wants mail and got none: {mail.reason}"
    names = {letter.sent_as for letter in letters}
    if len(names) > 1:
        yield f"order {order.id}: the mail server has {len(names)} different mails about it"
    elif names and names != {str(mail.id)}:
        yield f"order {order.id}: the mail server has another mail than the one that notification has sent"
    if len(letters) > mail.attempts:
        yield f"order {order.id}: its mail was handed over {mail.attempts} times, and has arrived {len(letters)} times"


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
    "no more is refunded than was captured; invoices and credit notes say so": refunds_add_up,
    "every piece is free, reserved or sold, and is so for an order": stock_adds_up,
    "a confirmed order has its pieces, all of them; any other none": stock_follows_the_order,
    "a confirmed order is one shipment at the carrier; any other none": parcels_follow_the_order,
    "goods, money and stock of a return have come back, all or none": returns_are_whole,
    "notification knows every user as they are": users_are_known,
    "who wants mail has one about each confirmed order, with one Message-ID": customers_are_told,
    "no mail about any other order, none to who wants none or to a stranger": mail_is_wanted,
    "every outcome was announced once": outcomes_are_announced_once,
    "no message waits, is held, is dead or is lost": queues_are_empty,
}


def findings(books: Books) -> dict[str, list[str]]:
    """Return the violations of each rule."""
    return {sentence: list(rule(books)) for sentence, rule in RULES.items()}
