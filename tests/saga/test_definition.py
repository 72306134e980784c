"""A saga that could not work is refused when it is defined."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from pydantic import BaseModel

from covey.errors import DefinitionError
from covey.message import Command
from covey.saga.definition import pivot, retriable, step
from covey.saga.saga import Saga
from covey.work.unit_of_work import Work


class Reserve(Command, type="stock.reserve.v1", key="saga_id"):
    saga_id: UUID
    pieces: int


class Release(Command, type="stock.release.v1", key="saga_id"):
    saga_id: UUID


class Charge(Command, type="money.charge.v1", key="saga_id"):
    saga_id: UUID


class ByOrder(Command, type="money.refund.v1", key="order"):
    order: str


class Data(BaseModel):
    pieces: int


async def confirm(data: Data, work: Work) -> None:
    """Stand for a step in the saga's own database."""


def not_async(data: Data, work: Work) -> None:
    """Stand for a mistake."""


async def void_SEPAMandate_2(data: Data, work: Work) -> None:
    """Stand for a name of several kinds of words."""


def test_a_step_is_called_in_reasons_what_its_label_says_or_else_its_name_in_words() -> None:
    assert step(Reserve, label="reserving the goods").label == "reserving the goods"
    assert pivot(Charge, label="taking the money").label == "taking the money"
    assert retriable(confirm, label="confirming").label == "confirming"
    assert [s.label for s in (step(ByOrder), pivot(confirm), retriable(void_SEPAMandate_2))] == [
        "by order",
        "confirm",
        "void sepa mandate 2",
    ]


def test_steps_that_can_be_undone_then_a_pivot_then_forward_steps_are_a_saga() -> None:
    saga = Saga("place", Data, step(Reserve, undo=Release), pivot(Charge), retriable(confirm))

    assert saga.pivot_index == 1
    assert [s.name for s in saga.steps] == ["Reserve", "Charge", "confirm"]


@pytest.mark.parametrize(
    ("steps", "complaint"),
    [
        ((), "no steps"),
        ((pivot(Charge), step(Reserve, undo=Release)), "order"),
        ((retriable(confirm), pivot(Charge)), "order"),
        ((pivot(Charge), pivot(Reserve)), "at most one pivot"),
        ((step(Reserve), step(Reserve)), "name of its own"),
        ((step(ByOrder),), "keyed by the saga"),
        ((retriable(not_async),), "async def"),
        ((step(Reserve, timeout=timedelta(0)),), "longer than zero"),
    ],
)
def test_a_saga_that_could_not_work_is_refused_and_says_why(steps: tuple[object, ...], complaint: str) -> None:
    with pytest.raises(DefinitionError, match=complaint):
        Saga("place", Data, *steps)  # type: ignore[arg-type]  # mistakes are the point


def test_data_that_cannot_fill_a_command_is_refused_by_the_name_of_the_field() -> None:
    class Empty(BaseModel):
        pass

    with pytest.raises(DefinitionError, match="Empty lacks what Reserve needs: pieces"):
        Saga("place", Empty, step(Reserve, undo=Release))
