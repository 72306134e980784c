"""The contracts of the shop: checked in as the code has them, valid, and enough for everybody who relies on them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from covey.local.system import read_system
from covey.tools.contracts import hold, read_contracts
from covey.tools.export import export, table
from tests.tools.schemas import asyncapi_mistakes, openapi_mistakes

SYSTEM = read_system(Path(__file__).parents[2])


async def test_they_are_what_the_code_says() -> None:
    exported = await export(SYSTEM, SYSTEM.services, os.environ)

    assert len(exported) == 2 * len(SYSTEM.services)
    assert not any(one.difference for one in exported), table(exported, written=False)


def test_no_service_breaks_another() -> None:
    held = hold(read_contracts(SYSTEM))

    assert held.expectations >= 7
    assert held.breaches == []


@pytest.mark.parametrize("service", SYSTEM.services)
def test_they_are_valid(service: str) -> None:
    folder = SYSTEM.folder(service) / "contracts"

    assert asyncapi_mistakes(json.loads((folder / "asyncapi.json").read_text())) == []
    assert openapi_mistakes(json.loads((folder / "openapi.json").read_text())) == []


@pytest.mark.parametrize("service", SYSTEM.services)
def test_no_request_may_have_a_member_that_its_model_does_not(service: str) -> None:
    """What was not asked for cannot be set: not an id, a version, a state (OWASP API3, mass assignment)."""
    document = json.loads((SYSTEM.folder(service) / "contracts/openapi.json").read_text())
    bodies = [
        (f"{method} {path}", content["schema"])
        for path, item in document["paths"].items()
        for method, operation in item.items()
        for content in operation.get("requestBody", {}).get("content", {}).values()
    ]

    assert [f"{name}: {place}" for name, schema in bodies for place in open_objects(document, schema)] == []


def open_objects(document: dict[str, Any], schema: dict[str, Any], place: str = "#") -> Iterator[str]:
    """Yield where a schema takes objects with members of any name. Schemas of requests do not contain themselves."""
    if "$ref" in schema:
        yield from open_objects(document, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], place)
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        yield place
    inside = [(f"{place}/{name}", inner) for name, inner in schema.get("properties", {}).items()]
    inside += [(place, inner) for word in ("anyOf", "oneOf", "allOf") for inner in schema.get(word, ())]
    inside += [(f"{place}/*", schema["items"])] if "items" in schema else []
    for where, inner in inside:
        yield from open_objects(document, inner, where)
