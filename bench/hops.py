"""What does a chain of three services do whose last one is down, and what goes on when nobody waits any more?

Each service is a process with covey's client, its whole policy as it comes, breakers too; 16 callers ask the first,
once for each call. First the last one answers 500 to everything: how many requests come to it for each call, as
services are, and with breakers that never open, so that only the budget of retries holds them back: a tenth, and the
ten that it has in reserve. Then the last one takes longer than its callers have: they have a second and a half, it
would work for five; how much of what it does falls after the deadline of the last of them, by the clock of the machine,
which is one for all. Ends are up to 10 ms late (`TimeLimits`), and the processes share two cores: the longest delay is
told. The share is of these sixteen calls and this deadline: on a busy machine 64 calls of half a second had 0.067.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from bench.laboratory import Laboratory
from bench.party import Party, running
from bench.results import Answer, Figure
from bench.rounds import spread
from covey.testing.eventually import eventually

HOPS = 3
ROUNDS = 5
CALLS = 2_000
AT_ONCE = 16
DEADLINE_SECONDS = 1.5


@dataclass
class Chain:
    """The services, the first first, and who calls it."""

    services: list[Party]
    caller: Party


async def answer(laboratory: Laboratory) -> Answer:
    """Try both, in new processes each round."""
    grown, spared, late, delays = list[float](), list[float](), list[float](), list[float]()
    for _ in range(ROUNDS):
        grown.append(await _grown(laboratory, breakers=False))
        spared.append(await _grown(laboratory, breakers=True))
        share, delay = await _late(laboratory)
        late.append(share)
        delays.append(delay * 1e3)
    told = Answer(title="Three hops")
    told.text = [
        f"{ROUNDS} rounds. {CALLS:,} calls while the last of {HOPS} is down: requests that come to it for each call"
        f" {spread(spared, 3)}; with breakers that never open {spread(grown, 3)}. {AT_ONCE} calls with"
        f" {DEADLINE_SECONDS:g} s that would take 5 s: {spread(late, 4)} of the work is after the deadline, the last of"
        f" it {spread(delays)} ms.",
    ]
    told.figures = [
        Figure(bar="hops_load", values=spared),
        Figure(bar="hops_late", values=late),
    ]
    return told


async def _grown(laboratory: Laboratory, *, breakers: bool) -> float:
    async with AsyncExitStack() as stack:
        chain = await _chain(stack, laboratory, breakers)
        await chain.services[-1].ask("go_down")
        await chain.caller.ask("calls", number=CALLS, at_once=AT_ONCE, seconds=30.0)
        came = [await service.ask("came") for service in chain.services]
    if came[0] != CALLS:
        raise RuntimeError(f"of {CALLS} calls {came[0]} came to the first service")
    return float(came[-1]) / CALLS


async def _late(laboratory: Laboratory) -> tuple[float, float]:
    """Return the share of the work that is late, and the longest delay in seconds."""
    async with AsyncExitStack() as stack:
        chain = await _chain(stack, laboratory, breakers=True)
        over = await chain.caller.ask("calls", number=AT_ONCE, at_once=AT_ONCE, seconds=DEADLINE_SECONDS)
        await eventually(lambda: _is_quiet(chain))
        steps = await chain.services[-1].ask("steps")
    if not steps:
        raise RuntimeError("nothing came to the last service")
    return sum(step > over for step in steps) / len(steps), max(steps) - over


async def _is_quiet(chain: Chain) -> bool:
    return not any([await service.ask("under_way") for service in chain.services])


async def _chain(stack: AsyncExitStack, laboratory: Laboratory, breakers: bool) -> Chain:
    services: list[Party] = []
    following = ""
    for number in range(HOPS, 0, -1):
        settings = {"name": f"hop-{number}", "following": following, "breakers": breakers}
        party = await stack.enter_async_context(running("hop_parties", "service", laboratory.log, None, **settings))
        services.insert(0, party)
        following = await party.ask("url")
    caller = running("hop_parties", "caller", laboratory.log, None, url=following)
    return Chain(services, await stack.enter_async_context(caller))
