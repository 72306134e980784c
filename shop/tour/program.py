"""The acts of the tour, in their order, and what is said about each."""

from __future__ import annotations

import asyncio
from uuid import UUID

from shop.scenarios import SCENARIOS, Scenario
from shop.tour.act import Act
from shop.tour.outages import a_replica_dies, nats_dies, payment_dies, postgres_dies
from shop.tour.poison import a_message_is_poison
from shop.tour.stage import Stage

_SHOWN = SCENARIOS[:7]
"""The rest of them are in `make demo`: a provider that does not answer takes its time."""


async def orders_of_a_few_outcomes(stage: Stage) -> None:
    """Place an order of each of a few outcomes, all at once."""
    await stage.turn("place them", first=True)
    orders = await asyncio.gather(*(_act(stage, scenario) for scenario in _SHOWN))
    for scenario, order in zip(_SHOWN, await stage.settled(orders), strict=True):
        outcome = f"{scenario.title:<39} {order['status']:<10} {order['reason'] or ''}".rstrip()
        stage.check(outcome if len(outcome) <= 74 else f"{outcome[:73]}…", good=scenario.fulfilled_by(order))


async def the_books(stage: Stage) -> None:
    """Say which rules hold, after all the kills."""
    await stage.turn("see every rule", first=True)
    found = await stage.audited()
    for line in found.summary():
        stage.terminal.say(f"  {line}")
    for rule, violations in found.findings.items():
        stage.check(rule, good=not violations)


ACTS = (
    Act(
        title="Orders of a few outcomes",
        before=(
            "Seven orders at once: some go well, one is too big, two are declined, one is",
            "cancelled, one sent back. Watch them end: services talk by messages only.",
        ),
        after=(
            "An order is a saga: reserve, authorize, capture, ship, mail. A step that is",
            "refused has those before it undone. A return is a saga, too: receive, refund.",
        ),
        page="docs/patterns/sagas.md",
        play=orders_of_a_few_outcomes,
    ),
    Act(
        title="A service dies: kill -9 of payment",
        before=(
            "Payment is killed without notice and stays dead while orders are placed.",
            "Watch what waits for it: it is in databases and in the broker, in no process.",
        ),
        after=(
            "Nothing sent to payment was lost: it read on where it had stopped. An order",
            "that waits 10 s for a step is given up, and what was done for it is undone.",
        ),
        page="docs/patterns/delivery.md",
        play=payment_dies,
    ),
    Act(
        title="A message is poison",
        before=(
            "A faulty build of inventory publishes a product whose price is in words, and",
            "order cannot read that. Watch the teapot's messages wait, and all others flow.",
        ),
        after=(
            "Poison stops its own key, so that nothing overtakes it, and no other key.",
            "A person sees it, mends it and replays it; nothing was lost or reordered.",
        ),
        page="docs/operations.md (dead letters)",
        play=a_message_is_poison,
    ),
    Act(
        title="The database dies: kill -9 of PostgreSQL",
        before=(
            "PostgreSQL is killed with orders under way: all services lose it at once.",
            "Watch what a new order is answered meanwhile, and how the others go on.",
        ),
        after=(
            "What was accepted was committed, so it survives; what cannot be committed is",
            "refused and not half done. State and messages are one transaction: the outbox.",
        ),
        page="docs/patterns/outbox.md",
        play=postgres_dies,
        needs=("postgres",),
    ),
    Act(
        title="The broker dies: kill -9 of NATS",
        before=(
            "NATS is killed and stays dead while orders are placed. They are accepted.",
            "Watch what waits for inventory: it is in order's outbox until NATS is back.",
        ),
        after=(
            "A message goes to the database first, with the row that it tells of. The relay",
            "publishes it when there is a broker; the inbox drops what comes twice.",
        ),
        page="docs/patterns/outbox.md",
        play=nats_dies,
        needs=("nats",),
    ),
    Act(
        title="One of two replicas dies",
        before=(
            "A second payment is started beside the first, and the first is killed while",
            "calls to the provider are under way. Watch the other one take them over.",
        ),
        after=(
            "Replicas are equal and share the keys of their inbox; nobody owns an order.",
            "A call under way was asked again with the same idempotency key: charged once.",
        ),
        page="docs/patterns/external-effects.md",
        play=a_replica_dies,
    ),
    Act(
        title="The books",
        before=(
            "All databases, and the books of provider, carrier and mail server, are read",
            "past the services' code, and held against each other, rule by rule.",
        ),
        after=(
            "The crash test does this after a kill at each point of an order, one by one.",
            "Next: write a service (examples/first-service), then break it the same way.",
        ),
        page="docs/tour.md",
        play=the_books,
    ),
)


async def _act(stage: Stage, scenario: Scenario) -> UUID:
    order_id = await scenario.act(stage.client, scenario.order(stage.products, stage.user_id))
    stage.accepted(order_id)
    return order_id
