"""What payment has agreed with its provider: asked by the real client, and held against the sandbox.

A real provider would have to keep the same file, or payment could not be moved to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pact import Pact, match
from payment_service.clients import HttpProvider, ProviderMisused
from payment_service.domain import Money
from payment_service.ports import Approved, Declined, Provider, Voided
from sandbox_provider.api import application

from covey.errors import DependencyUnavailable
from covey.testing.clock import FakeClock
from covey.testing.pacts import State, difference, exact_values, provider, verify
from covey.testing.serving import serving

PACTS = Path(__file__).parents[1] / "contracts/pacts"
PRICE = Money(4_900, "EUR")
LIMIT = timedelta(seconds=5)

AUTHORIZE, CAPTURE, REFUND, VOID = "/authorizations", "/captures", "/refunds", "/voids"
NOTHING, AUTHORIZED, CAPTURED = "nothing is known of the reference", "an open authorization", "captured money"
DONE, BUSY, DOWN = "the key was used for this", "the call of the key is under way", "the provider is down"
OTHER = "the key was used for something else"
ANSWERS = (201, 402)
"""What settles the matter; everything else is a problem."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A call, the state that it is made in, its answer, and what the client makes of it.

    Each has a reference and a key of its own, so that none is in another's way.
    """

    what: str
    given: str
    path: str
    call: Callable[[Provider, str, str], Awaitable[object]]
    status: int = 201
    answer: Mapping[str, Any] = field(default_factory=lambda: {"amount": match.int(PRICE.amount)})
    comes: object = Approved(PRICE.amount)
    token: str = ""

    @property
    def reference(self) -> str:
        return self.what.replace(" ", "-")

    @property
    def key(self) -> str:
        return f"{self.reference}-key"


def refused(detail: str) -> dict[str, Any]:
    return {"detail": match.str(detail)}


def authorize(token: str) -> Callable[[Provider, str, str], Awaitable[object]]:
    return lambda client, reference, key: client.authorize(reference, PRICE, token, key)


def capture(client: Provider, reference: str, key: str) -> Awaitable[object]:
    return client.capture(reference, PRICE, key)


def refund(client: Provider, reference: str, key: str) -> Awaitable[object]:
    return client.refund(reference, PRICE, key)


def void(client: Provider, reference: str, key: str) -> Awaitable[object]:
    return client.void(reference, key)


ok = authorize("tok_ok")
EXAMPLES = [
    Example(what="an authorization", given=NOTHING, path=AUTHORIZE, call=ok, token="tok_ok"),
    Example(what="an authorization again", given=DONE, path=AUTHORIZE, call=ok, token="tok_ok"),
    Example(
        what="an authorization of a bad card",
        given=NOTHING,
        path=AUTHORIZE,
        call=authorize("tok_declined"),
        token="tok_declined",
        status=402,
        answer=refused("the card was declined"),
        comes=Declined("the card was declined"),
    ),
    Example(
        what="an authorization that is under way",
        given=BUSY,
        path=AUTHORIZE,
        call=authorize("tok_slow"),
        token="tok_slow",
        status=409,
        answer=refused("it is under way"),
        comes=DependencyUnavailable,
    ),
    Example(
        what="an authorization with a used key",
        given=OTHER,
        path=AUTHORIZE,
        call=ok,
        token="tok_ok",
        status=422,
        answer=refused("another request"),
        comes=ProviderMisused,
    ),
    Example(
        what="an authorization in vain",
        given=DOWN,
        path=AUTHORIZE,
        call=ok,
        token="tok_ok",
        status=503,
        answer=refused("the provider is down"),
        comes=DependencyUnavailable,
    ),
    Example(what="a capture", given=AUTHORIZED, path=CAPTURE, call=capture),
    Example(
        what="a capture of nothing",
        given=NOTHING,
        path=CAPTURE,
        call=capture,
        status=402,
        answer=refused("there is no open authorization"),
        comes=Declined("there is no open authorization"),
    ),
    Example(what="a refund", given=CAPTURED, path=REFUND, call=refund),
    Example(
        what="a refund of nothing",
        given=NOTHING,
        path=REFUND,
        call=refund,
        status=402,
        answer=refused("more than was captured"),
        comes=Declined("more than was captured"),
    ),
    Example(
        what="a void",
        given=AUTHORIZED,
        path=VOID,
        call=void,
        answer={"amount": match.int(PRICE.amount), "authorized": match.int(PRICE.amount)},
        comes=Voided(authorized=PRICE.amount, amount=PRICE.amount),
    ),
]


def describe(pact: Pact, example: Example) -> None:
    price = {"amount": match.int(PRICE.amount), "currency": match.regex(PRICE.currency, regex="[A-Z]{3}")}
    money = {} if example.path == VOID else price
    token = {"token": match.str(example.token)} if example.token else {}
    (
        pact.upon_receiving(example.what)
        .given(example.given, path=example.path, reference=example.reference, key=example.key, token=example.token)
        .with_request("POST", example.path)
        .with_header("Idempotency-Key", match.regex(example.key, regex=".+"))
        .with_body({"reference": match.str(example.reference), **money, **token}, "application/json")
        .will_respond_with(example.status)
        .with_body(
            dict(example.answer), "application/json" if example.status in ANSWERS else "application/problem+json"
        )
    )


def whole() -> Pact:
    pact = Pact("payment", "payment-provider")
    for example in EXAMPLES:
        describe(pact, example)
    return pact


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.what)
async def test_the_client_asks_and_reads_as_agreed(example: Example) -> None:
    pact = Pact("payment", "payment-provider")
    describe(pact, example)

    with provider(pact) as url:
        async with HttpProvider.open(url, LIMIT) as client:
            if isinstance(example.comes, type):
                with pytest.raises(example.comes):
                    await example.call(client, example.reference, example.key)
            else:
                assert await example.call(client, example.reference, example.key) == example.comes


def test_the_pact_is_what_is_checked_in() -> None:
    assert difference(whole(), PACTS) is None


def test_no_answer_must_be_one_to_the_letter() -> None:
    assert exact_values(PACTS / "payment-payment-provider.json") == []


async def test_the_sandbox_keeps_what_was_agreed(tmp_path: Path, fake_clock: FakeClock) -> None:
    async with (
        serving(application(tmp_path / "book", clock=fake_clock), lifespan=True) as sandbox,
        aiohttp.ClientSession(sandbox) as http,
        states(http, fake_clock) as known,
    ):
        await verify("payment-provider", PACTS / "payment-payment-provider.json", sandbox, known)


@asynccontextmanager
async def states(http: aiohttp.ClientSession, clock: FakeClock) -> AsyncIterator[Mapping[str, State]]:
    """Yield how the sandbox comes into each state: by calls of its own interface."""
    under_way: list[asyncio.Task[int]] = []

    async def post(path: str, said: Mapping[str, Any], key: str, **other: Any) -> int:
        body = {"reference": said["reference"], "amount": PRICE.amount, "currency": PRICE.currency, **other}
        async with http.post(path, json=body, headers={"Idempotency-Key": key}) as response:
            return response.status

    async def nothing(said: Mapping[str, Any]) -> None:
        async with http.get("/book", params={"reference": said["reference"]}) as response:
            assert (await response.json())["entries"] == []

    async def authorized(said: Mapping[str, Any]) -> None:
        assert await post(AUTHORIZE, said, "a before " + said["key"], token="tok_ok") == 201

    async def captured(said: Mapping[str, Any]) -> None:
        await authorized(said)
        assert await post(CAPTURE, said, "c before " + said["key"]) == 201

    async def done(said: Mapping[str, Any]) -> None:
        assert await post(said["path"], said, said["key"], token=said["token"]) == 201

    async def other(said: Mapping[str, Any]) -> None:
        assert await post(said["path"], {"reference": "another"}, said["key"], token="tok_ok") == 201

    async def busy(said: Mapping[str, Any]) -> None:
        """Begin the call, which is slow by a clock that stands still."""
        under_way.append(asyncio.create_task(post(said["path"], said, said["key"], token=said["token"])))
        await clock.sleepers(1)

    async def down(_: Mapping[str, Any]) -> None:
        async with http.put("/admin/mode", json={"mode": "down", "calls": 1}) as response:
            assert response.status == 204

    yield {
        NOTHING: nothing,
        AUTHORIZED: authorized,
        CAPTURED: captured,
        DONE: done,
        OTHER: other,
        BUSY: busy,
        DOWN: down,
    }
    await clock.advance(timedelta(minutes=1))
    assert await asyncio.gather(*under_way) == [201]
