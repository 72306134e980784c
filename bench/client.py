"""What does it cost to call another service with care? The policy alone, and the HTTP client that has it.

The policy: a call of nothing that succeeds, by itself and through the policy, or through what a team assembles instead;
one after the other, on core 0. The client: 64 in flight over connections that are kept, on core 0, to a server on core
1 that answers everything with the same 100 bytes. covey sends who asks, until when, trace and token, and has its whole
policy on; the clients beside it, which are those that were found to be the fastest, have none. Of them the fastest of
each round counts. Below all of them is what no client is: a loop that writes the same bytes each time and parses what
comes with httptools. How far covey is from that is told beside the others (docs/decisions/0030).
"""

from __future__ import annotations

from bench.client_parties import CLIENTS, PEERS
from bench.laboratory import Laboratory
from bench.party import running
from bench.results import Answer, Figure
from bench.rounds import spread

ROUNDS = 7
SECONDS = 2.0
IN_FLIGHT = 64
CALLS = 50_000


async def answer(laboratory: Laboratory) -> Answer:
    """Ask both."""
    costs: dict[str, list[float]] = {"covey": [], "assembled": []}
    rates: dict[str, list[float]] = {name: [] for name in CLIENTS}
    async with running("client_parties", "server", laboratory.log, 1) as server:
        port = await server.ask("port")
        async with running("client_parties", "caller", laboratory.log, 0, port=port) as caller:
            for number in range(ROUNDS + 1):
                found = await caller.ask("policies", number=CALLS)
                seen = {
                    name: await caller.ask("calls", client=name, in_flight=IN_FLIGHT, seconds=SECONDS)
                    for name in (list(CLIENTS) if number % 2 else reversed(CLIENTS))
                }
                if number:  # the first round is to warm up
                    for name, cost in found.items():
                        costs[name].append(cost)
                    for name, rate in seen.items():
                        rates[name].append(rate)
    return _told(costs, rates)


def _told(costs: dict[str, list[float]], rates: dict[str, list[float]]) -> Answer:
    to_assembled = [theirs / ours for ours, theirs in zip(costs["covey"], costs["assembled"], strict=True)]
    fastest = [max(of_one_round) for of_one_round in zip(*(rates[name] for name in PEERS), strict=True)]
    told = Answer(title="Calling others")
    told.text = [
        f"What a policy adds to a call that succeeds, {ROUNDS} rounds: covey {spread(costs['covey'], 2)} µs, assembled"
        f" {spread(costs['assembled'], 1)} µs.",
        "",
        f"Calls a second, {IN_FLIGHT} in flight:",
        "",
        "| | calls/s | covey to it |",
        "|---|---|---|",
        *(
            f"| {name} | {spread(values)} | {spread(_ratios(rates['covey'], values), 2)} |"
            for name, values in rates.items()
        ),
    ]
    told.figures = [
        Figure(bar="policy_us", values=costs["covey"]),
        Figure(bar="policy_to_assembled", values=to_assembled),
        Figure(bar="client_to_bare", values=_ratios(rates["covey"], fastest)),
    ]
    return told


def _ratios(ours: list[float], theirs: list[float]) -> list[float]:
    return [one / other for one, other in zip(ours, theirs, strict=True)]
