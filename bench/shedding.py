"""What does a route do that is offered ten times what it can?

It stands on something that takes 50 ms and does 16 things at a time: 320 a second. For 30 s it is offered 3,200 a
second, in an open loop, of which 3 % are checkouts; before and after, half of what it can. The service is a process on
core 0, the clients on core 1.
"""

from __future__ import annotations

from bench.laboratory import Laboratory
from bench.party import running
from bench.results import Answer, Figure, percentile
from bench.rounds import spread

CAPACITY = 320
SECONDS = 30.0
ROUNDS = 3


async def answer(laboratory: Laboratory) -> Answer:
    """Load the route, and look at what it does before, meanwhile and after."""
    goodput, checkouts, after, p99 = [], [], [], []
    for _ in range(ROUNDS):
        async with (
            running("shedding_parties", "service", laboratory.log, 0) as service,
            running("shedding_parties", "clients", laboratory.log, 1, url=await service.ask("url")) as clients,
        ):
            await clients.ask("offer", rate=CAPACITY / 2, seconds=5.0)
            over = await clients.ask("offer", rate=10 * CAPACITY, seconds=SECONDS)
            await clients.ask("offer", rate=CAPACITY / 2, seconds=2.0)
            calm = await clients.ask("offer", rate=CAPACITY / 2, seconds=5.0)
        goodput.append(sum(over["done"].values()) / SECONDS / CAPACITY)
        checkouts.append(over["done"]["checkout"] / over["offered"]["checkout"])
        after.append(sum(calm["done"].values()) / sum(calm["offered"].values()))
        p99.append(percentile(over["ms"], 0.99))
    told = Answer(title="Load shedding")
    told.text = [
        f"{ROUNDS} rounds. Goodput while ten times the capacity is offered: {spread(goodput, 2)} of the capacity."
        f" Checkouts answered: {spread(checkouts, 3)}. What was done then took at p99 {spread(p99)} ms. Of what is"
        f" offered from two seconds after on, done: {spread(after, 3)}.",
    ]
    told.figures = [
        Figure(bar="shedding_goodput", values=goodput),
        Figure(bar="shedding_checkout", values=checkouts),
        Figure(bar="shedding_after", values=after),
    ]
    return told
