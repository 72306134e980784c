"""What stands in Valkey is believed only if it is of this shape and of this epoch, and keeps the rules of its type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from covey.cache.entries import ABSENT, MARKED, Entries
from covey.errors import DefinitionError
from tests.cache.shelf import Thing

EPOCH = b"1700000000000000"
LATER = b"1700000000000001"

entries: Entries[Thing | None] = Entries(Thing | None, 1)


def lease(epoch: bytes = EPOCH) -> bytes:
    return entries.shape + epoch + b"~token"


@pytest.mark.parametrize("value", [Thing(1, 7), None])
def test_a_value_comes_out_as_it_went_in(value: Thing | None) -> None:
    entry = entries.entry_of(value, lease())

    assert entries.value_in(entry, EPOCH) == value


def test_what_was_true_before_this_epoch_is_not_believed() -> None:
    entry = entries.entry_of(Thing(1, 7), lease())

    assert entries.value_in(entry, LATER) is ABSENT
    assert entries.value_in(entries.entry_of(Thing(1, 7), lease(LATER)), EPOCH) == Thing(1, 7)


@pytest.mark.parametrize("entry", [None, b"", lease(), MARKED, b"x" * 24, b"x" * 200])
def test_what_is_no_value_is_none(entry: bytes | None) -> None:
    assert entries.value_in(entry, EPOCH) is ABSENT


@given(st.binary())
def test_garbage_is_no_value_and_no_error(garbage: bytes) -> None:
    assert entries.value_in(entries.shape + EPOCH + garbage, EPOCH) in (ABSENT, None)
    assert entries.value_in(entries.shape + EPOCH + b"=" + garbage, EPOCH) is ABSENT


def test_what_breaks_a_rule_of_the_domain_is_no_value() -> None:
    entry = entries.entry_of(Thing(1, 7), lease()).replace(b"7}", b"0}")

    assert entries.value_in(entry, EPOCH) is ABSENT


def test_what_is_nearly_of_the_type_is_not() -> None:
    entry = entries.entry_of(Thing(1, 7), lease()).replace(b"7}", b'"7"}')

    assert entries.value_in(entry, EPOCH) is ABSENT


def test_another_shape_or_meaning_is_another_shape() -> None:
    @dataclass(frozen=True)
    class Longer:
        id: int
        version: int
        name: str = ""

    kinds: list[Entries[Any]] = [Entries(Thing | None, 2), Entries(Longer, 1), Entries(int, 1)]

    assert len({kind.shape for kind in kinds} | {entries.shape}) == 4
    assert Entries(Thing | None, 1).shape == entries.shape


def test_what_is_not_of_the_type_is_not_written() -> None:
    with pytest.raises(ValueError, match="Thing"):
        entries.entry_of("no thing", lease())  # type: ignore[arg-type]  # on purpose


def test_what_cannot_be_json_cannot_be_cached() -> None:
    class Odd(BaseModel):
        model_config = {"arbitrary_types_allowed": True}
        what: Gadget

    with pytest.raises(DefinitionError, match="JSON"):
        Entries(Odd, 1)


class Gadget:
    """Something that pydantic knows nothing of."""
