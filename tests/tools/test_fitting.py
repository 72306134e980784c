"""What one service writes, read by another: every kind of change that breaks a reader, and those that break none."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from covey.tools.fitting import Side, misfits


class Euro(BaseModel):
    cents: int


class Price(BaseModel):
    cents: int
    currency: str


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    cents: int


class Sealed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Defaulted(BaseModel):
    cents: int = 0


class Tree(BaseModel):
    size: int
    branches: list[Tree]


class Bush(BaseModel):
    size: str
    branches: list[Bush]


class Cash(BaseModel):
    kind: Literal["cash"]
    given: int


class Card(BaseModel):
    kind: Literal["card"]
    number: str


class Cheque(BaseModel):
    kind: Literal["cheque"]


class Notes(BaseModel):
    kind: Literal["cash"]
    given: str


class Lenient(BaseModel):
    cents: int
    currency: str = "EUR"


def found(written: Any, read: Any) -> list[str]:
    def side(of: Any, mode: Literal["serialization", "validation"]) -> Side:
        schema = TypeAdapter(of).json_schema(mode=mode, ref_template="#/$defs/{model}")
        return Side(schema, schema)

    return list(misfits(side(written, "serialization"), side(read, "validation")))


@pytest.mark.parametrize(
    ("written", "read", "told"),
    [
        (Euro, Price, "currency: it is required, and is not sent"),
        (Lenient, Price, "currency: it is required, and may be absent"),
        (int, str, "the whole: it is integer, and string is read"),
        (float, int, "the whole: it is number, and integer is read"),
        (str, UUID, "the whole: it is string, and string (uuid) is read"),
        (datetime, UUID, "the whole: it is string (date-time), and string (uuid) is read"),
        (int | None, int, "the whole: it may be null, and null is not read"),
        (int | None, str | None, "the whole: it is integer, and string is read"),
        (int | str, int, "the whole: it is string, and integer is read"),
        (bool, int | str, "the whole: it may be boolean, and only integer or string is read"),
        (Any, int, "the whole: it is anything, and integer is read"),
        (Literal["a", "b"], Literal["a"], "the whole: it may be 'b', and only 'a' is read"),
        (Literal["a"], Literal["b", "c"], "the whole: it may be 'a', and only 'b', 'c' is read"),
        (str, Literal["a", "b"], "the whole: it may be any string, and only 'a', 'b' is read"),
        (Literal["a"], int, "the whole: it is 'a', and integer is read"),
        (Price, Strict, "currency: it is sent, and what is not known is forbidden"),
        (dict[str, int], Euro, "cents: it is required, and is not sent"),
        (dict[str, str], Defaulted, "cents: it is string, and integer is read"),
        (dict[str, int], Sealed, "*: it may be sent, and what is not known is forbidden"),
        (
            Literal["a", "b", "c"],
            Literal["a"] | int | Literal["b"],
            "the whole: it may be 'c', and only 'a' or integer or 'b' is read",
        ),
        (dict[str, int], dict[str, str], "*: it is integer, and string is read"),
        (Price, dict[str, int], "currency: it is string, and integer is read"),
        (list[int], list[str], "[]: it is integer, and string is read"),
        (list[int], int, "the whole: it is array, and integer is read"),
        (tuple[int, str], tuple[int, int], "[1]: it is string, and integer is read"),
        (tuple[int], tuple[int, int], "[1]: it is required, and is not sent"),
        (tuple[int, int], tuple[int], "[1]: it is sent, and what is not known is forbidden"),
        (list[Euro], list[Price], "[].currency: it is required, and is not sent"),
        (Tree, Bush, "size: it is integer, and string is read"),
        (Cash | Card | Cheque, Cash | Card, "the whole: it may be Cheque, and only Cash or Card is read"),
        (Cash | Card, Notes | Card, "given: it is integer, and string is read"),
        (Optional[Euro], Optional[Price], "currency: it is required, and is not sent"),  # noqa: UP045 - as users do
    ],
    ids=str,
)
def test_what_cannot_be_read_is_named(written: Any, read: Any, told: str) -> None:
    assert found(written, read) == [told]


CENTS = {"properties": {"cents": {"type": "integer"}}, "required": ["cents"]}
CURRENCY = {"type": "object", "properties": {"currency": {"type": "string"}}, "required": ["currency"]}
BOTH = {"allOf": [CENTS, {"$ref": "#/currency"}], "currency": CURRENCY}


@pytest.mark.parametrize(
    ("read", "told"),
    [
        (CENTS, "cents: it is required, and is not sent"),
        ({"items": {}}, "the whole: it is object, and array is read"),
        (BOTH, "cents: it is required, and is not sent"),
        (
            {"allOf": [BOTH["currency"]], "properties": {"id": {}}, "required": ["id"]},
            "id: it is required, and is not sent",
        ),
    ],
)
def test_a_schema_written_by_hand_is_held_without_its_type_and_with_all_that_it_consists_of(
    read: dict[str, Any], told: str
) -> None:
    assert list(misfits(Side(CURRENCY, CURRENCY), Side(read, read))) == [told]
    assert list(misfits(Side(BOTH, BOTH), Side(read, read))) == [one for one in [told] if "cents" not in one]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (Price, Euro),
        (Euro, Lenient),
        (int, float),
        (UUID, str),
        (int, int | None),
        (int, int | str),
        (Literal["a"], Literal["a", "b"]),
        (Literal["a"], str),
        (Literal[1], int),
        (Literal["a"] | None, str | None),
        (Price, Any),
        (Price, Annotated[Any, Field(description="whatever")]),
        (Literal["a", None], str | None),
        (Literal["a", 1], int | Literal["a"]),
        (Euro, dict[str, int]),
        (Price, Price),
        (Tree, Tree),
        (list[Price], list[Euro]),
        (tuple[int, int], list[int]),
        (Cash | Card, Cash | Card | Cheque),
        (Annotated[Cash | Card, Field(discriminator="kind")], Annotated[Card | Cash, Field(discriminator="kind")]),
        (Decimal, Decimal),
        (str, Annotated[str, Field(min_length=1, pattern="^[a-z]+$")]),
    ],
    ids=str,
)
def test_what_can_be_read_breaks_nobody(written: Any, read: Any) -> None:
    assert found(written, read) == []
