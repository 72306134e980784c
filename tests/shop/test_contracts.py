"""The contracts of the shop: checked in as the code has them, valid, and enough for everybody who relies on them."""

from __future__ import annotations

import json
import os
from pathlib import Path

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
