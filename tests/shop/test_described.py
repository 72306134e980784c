"""What each service says of itself in OpenAPI is what it does: Schemathesis asks over the wire, and compares.

The services run as one shop in which something has happened, so that there is a payment to read and a parcel to track.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from yarl import URL

from covey.ids import new_id
from covey.testing.tokens import token
from shop.books import SERVICES

if TYPE_CHECKING:
    from conftest import Shop

STAFF = token("staff:test", "staff")
AT_ONCE = 2


@dataclass(frozen=True, kw_only=True)
class Depth:
    """How much is asked: of each operation `examples` by chance, or more, so that each service is asked `fewest` times.

    Besides there are the limits of what each operation takes, and in the phase `stateful` one operation is asked with
    what another has answered. Versions that will end are asked only `with_old`.
    """

    examples: int
    fewest: int
    phases: tuple[str, ...]
    with_old: bool


QUICK = Depth(examples=8, fewest=100, phases=("examples", "coverage", "fuzzing"), with_old=False)
THOROUGH = Depth(examples=50, fewest=2_000, phases=(*QUICK.phases, "stateful"), with_old=True)

REFUSALS = ["2xx", "3xx", "401", "403", "404", "409", "412", "428", "429", "5xx"]
"""What may be answered to a request that is as the document asks. Beyond what Schemathesis takes for granted: no
schema says which ETag is current.
"""
OF_THE_WRONG = ["400", "401", "403", "404", "405", "406", "409", "412", "414", "415", "422", "428", "429", "5xx"]
"""What may be answered to a request that is not as the document asks: 412 besides, for a patch is applied to a state,
and which that is comes first.
"""
MORE_REFUSALS = {
    "GET /api/v1/orders": ["400", "422"],  # a cursor of somebody's own making; the staff that does not say whose
    "GET /api/v1/products": ["400"],  # a cursor
    "GET /api/v1/users": ["400"],  # a cursor
    "GET /api/v2/users": ["400", "422"],  # a cursor; a filter in a language of its own
    "GET /api/v1/notifications": ["400", "422"],  # a cursor; neither order nor user, or both
    "POST /api/v1/orders": ["422"],  # a product that is not sold
    "POST /api/v1/orders/{order_id}/returns": ["422"],  # a product that was not ordered
}
ODD = ["%00", "a%00b", "%FF", "%ED%A0%80", "%C0%80", "%2F..%2F", "%", "%zz", "1e999", "x" * 60_000]
"""What is in an address that nobody means well: no text, half of a character, numbers that are none, and much of it."""
HOOKS = Path(__file__).with_name("schemathesis_hooks.py")

_COUNTED = re.compile(r'http_requests_total\{endpoint="([^"]+)",method="(\w+)",status="(\d+)"\} (\d+)')


@pytest.mark.longest
async def test_services_do_what_they_say(shop: Shop, tmp_path: Path) -> None:
    wrong = await all_mistakes(shop, tmp_path, QUICK)

    assert not wrong, "\n".join(wrong)


@pytest.mark.longest
@pytest.mark.slow
async def test_services_do_what_they_say_however_often_they_are_asked(shop: Shop, tmp_path: Path) -> None:
    wrong = await all_mistakes(shop, tmp_path, THOROUGH)

    assert not wrong, "\n".join(wrong)


async def all_mistakes(shop: Shop, folder: Path, depth: Depth) -> list[str]:
    """Return what the services of a shop do otherwise than they say, and what of them was not seen to work."""
    known = await something_happened(shop)
    turn = asyncio.Semaphore(AT_ONCE)

    async def of(service: str) -> list[str]:
        async with turn:
            return await mistakes(service, shop.urls[service], known, folder / f"{service}.toml", depth)

    found = await asyncio.gather(*map(of, SERVICES))
    return [mistake for of_service in found for mistake in of_service]


async def something_happened(shop: Shop) -> dict[str, list[str]]:
    """Have an order paid for, shipped, told of and returned in part, and one given up; return the ids of it all."""
    mug = await shop.product(1_000_000)
    ada = await shop.customer()
    order_id = await shop.place({mug: 2}, user_id=ada)
    await shop.client.happened(order_id, "place-order completed")
    return_id = await shop.client.return_goods(order_id, {mug: 1})
    await shop.client.returned(order_id, return_id)
    given_up = await shop.place({mug: 1}, "tok_slow", ada)
    await shop.client.cancel(given_up, "changed my mind")
    await shop.client.settled(given_up)
    others = [await shop.customer() for _ in range(9)]  # for some will be gone when another one is to be changed
    of_order = f"order_id={order_id}"
    found = {
        "payment_id": (await shop.client.get("payment", f"/payments?{of_order}"))["payments"],
        "invoice_id": (await shop.client.get("payment", f"/invoices?{of_order}"))["invoices"],
        "shipment_id": (await shop.client.get("shipping", f"/shipments?{of_order}"))["shipments"],
        "notification_id": (await shop.client.get("notification", f"/notifications?{of_order}"))["notifications"],
    }
    made = {
        "order_id": [order_id, given_up],
        "user_id": [ada, *others],
        "product_id": [mug],
        "return_id": [return_id],
    }
    return {name: [str(one) for one in ids] for name, ids in made.items()} | {
        name: [one["id"] for one in several] for name, several in found.items()
    }


async def mistakes(service: str, url: str, known: dict[str, list[str]], config: Path, depth: Depth) -> list[str]:
    """Return what a service does otherwise than it says, and what of it was not seen to work."""
    config.write_text(_configuration(known))  # noqa: ASYNC240 - nobody else is served meanwhile
    operations, before = await _operations(url, with_old=depth.with_old), await _counts(url)
    examples = max(depth.examples, ceil(depth.fewest / len(operations)))
    failed, output = await _asked(url, config, "--max-examples", str(examples), *_which(depth))
    seen = await _counts(url) - before
    worked = {(method, template) for (method, template, status) in seen if status < 300}
    return [
        *([f"{service}: {output}"] if failed else []),
        *(f"{service}: {one} has never worked: {_tried(seen, one)}" for one in sorted(operations - worked)),
        *(f"{service}: {one}" for one in seen if one[2] >= 500),
        *[f"{service}: {one}" async for one in _broken_by_odd_bytes(url)],
        *([] if seen.total() >= depth.fewest else [f"{service}: it was asked {seen.total()} times only"]),
    ]


def _which(depth: Depth) -> tuple[str, ...]:
    return ("--phases", ",".join(depth.phases), *(() if depth.with_old else ("--exclude-deprecated",)))


def _tried(seen: Counter[tuple[str, str, int]], one: tuple[str, str]) -> dict[int, int]:
    """Return how often an operation was answered with each status."""
    return {status: count for (method, template, status), count in seen.items() if (method, template) == one}


async def _asked(url: str, config: Path, *options: str) -> tuple[bool, str]:
    """Have Schemathesis ask in all its ways; return whether something is wrong, and its report."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("st"),
        *("--config-file", config, "run", f"{url}/openapi.json", "--no-color", "--continue-on-failure"),
        *("--seed", "7", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=config.parent,
    )
    output, _ = await process.communicate()
    return process.returncode != 0, output.decode()


def _configuration(known: dict[str, list[str]]) -> str:
    """Return what Schemathesis is told: who asks, and mostly for what there is."""
    lines = [f"hooks = {json.dumps(str(HOOKS))}", "warnings = false"]
    lines += ["[auth.openapi.bearer]", f'bearer = "{STAFF}"', "[generation]", 'database = "none"']
    lines += ["allow-x00 = false"]  # no schema says that text holds none; see ODD
    lines += ["[checks.positive_data_acceptance]", f"expected-statuses = {REFUSALS}"]
    lines += ["[checks.negative_data_rejection]", f"expected-statuses = {OF_THE_WRONG}"]
    for operation, more in MORE_REFUSALS.items():
        lines += ["[[operations]]", f'include-name = "{operation}"']
        lines += ["[operations.checks.positive_data_acceptance]", f"expected-statuses = {REFUSALS + more}"]
    for name, ids in {**known, "any": ["*"]}.items():
        lines += [f"[dictionaries.{name}]", f"values = {json.dumps(ids)}"]
    lines += ["[parameters]"]
    lines += [f'"{place}" = {{ dictionary = "{name}", probability = 0.75 }}' for place, name in _places(known)]
    return "\n".join(lines) + "\n"


def _places(known: Iterable[str]) -> list[tuple[str, str]]:
    """Return where Schemathesis is to use what it knows: places in requests, and which ids."""
    named = [(f"{where}.{name}", name) for where in ("path", "query", "body") for name in known]
    return [*named, ("body.lines[*].product_id", "product_id"), ("header.If-Match", "any")]


async def _broken_by_odd_bytes(url: str) -> AsyncIterator[str]:
    """Yield what is answered with 5xx, or not at all, when odd bytes are in a path or a filter."""
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {STAFF}"}) as http:
        for path, item in (await _paths(url)).items():
            for place in _with_odd_bytes(path, item.get("get", {})):
                async with http.get(URL(url + place, encoded=True)) as response:
                    if response.status >= 500:
                        yield f"{response.status} for {place[:200]}"


def _with_odd_bytes(path: str, read: dict[str, Any]) -> Iterator[str]:
    for odd in ODD:
        if "{" in path:
            yield re.sub(r"{\w+}", odd, path)
        for parameter in read.get("parameters", ()):
            if parameter["in"] == "query":
                yield f"{re.sub(r'{.*?}', str(new_id()), path)}?{parameter['name']}={odd}"


async def _counts(url: str) -> Counter[tuple[str, str, int]]:
    """Return how many requests of each method, route and status a service has answered."""
    async with aiohttp.ClientSession(url) as http, http.get("/metrics") as response:
        text = await response.text()
    return Counter(
        {(method, route, int(status)): int(count) for route, method, status, count in _COUNTED.findall(text)}
    )


async def _operations(url: str, *, with_old: bool) -> set[tuple[str, str]]:
    return {
        (method.upper(), path)
        for path, item in (await _paths(url)).items()
        for method, operation in item.items()
        if with_old or not operation.get("deprecated")
    }


async def _paths(url: str) -> dict[str, dict[str, Any]]:
    async with aiohttp.ClientSession(url) as http, http.get("/openapi.json") as response:
        paths: dict[str, dict[str, Any]] = (await response.json())["paths"]
    return paths
