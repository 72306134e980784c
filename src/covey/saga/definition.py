"""Sagas: processes over several services that end completed or fully compensated.

Garcia-Molina and Salem, *Sagas* (1987); the kinds of steps are those of Richardson, *Microservices Patterns*,
chapter 4. A saga reads as its own specification:

    place_order = Saga("place-order", PlaceOrder,
        step(ReserveStock, undo=ReleaseStock, timeout=timedelta(seconds=10)),
        step(AuthorizePayment, undo=VoidAuthorization, timeout=timedelta(seconds=30)),
        pivot(CapturePayment),
        retriable(confirm_order),
        compensated=reject_order)

First come steps that can be undone, then at most one pivot, which decides, then steps that only go forward. This
order, and that the saga's data can fill every command, is checked here, when the saga is defined.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Literal, TypeGuard, TypeVar

from pydantic import BaseModel

from covey.errors import DefinitionError
from covey.message import Command, Reply
from covey.work.unit_of_work import Work

D = TypeVar("D", bound=BaseModel)

StepKind = Literal["compensatable", "pivot", "retriable"]
Local = Callable[[Any, Work], Awaitable[Reply | None]]
Action = type[Command] | Local
Ended = Callable[[D, str, Work], Awaitable[None]]

SAGA_ID = "saga_id"


@dataclass(frozen=True, slots=True)
class Step:
    """One step: a command to a service, or a function that runs in the saga's own transaction.

    `timeout` is how long an answer is waited for. A compensatable step that has not answered by then is undone, as
    if it had happened; any other is asked again, with the same command id, for as long as it takes. `label` is what
    the step is called in reasons, which people outside may read.
    """

    kind: StepKind
    action: Action
    undo: Action | None
    timeout: timedelta
    label: str

    @property
    def name(self) -> str:
        """Return what the step is called in the history."""
        return name_of_action(self.action)


TIMEOUT = timedelta(seconds=30)


def step(action: Action, *, undo: Action | None = None, timeout: timedelta = TIMEOUT, label: str = "") -> Step:
    """Declare a step that can be undone; without `undo` there is nothing to undo.

    `label` stands before the colon in a reason, `authorizing the payment: no answer in time`; without one the words of
    the action's name do. The same is true of `pivot` and `retriable`.
    """
    return Step("compensatable", action, undo, timeout, label or words_of(action))


def pivot(action: Action, *, timeout: timedelta = TIMEOUT, label: str = "") -> Step:
    """Declare the step that decides: refused, the saga compensates; done, it only goes forward. Never compensated.

    While its outcome is unknown it is asked again with the same command id, until the answer is definite.
    """
    return Step("pivot", action, None, timeout, label or words_of(action))


def retriable(action: Action, *, timeout: timedelta = TIMEOUT, label: str = "") -> Step:
    """Declare a step that only goes forward: repeated, with growing pauses, until it is done."""
    return Step("retriable", action, None, timeout, label or words_of(action))


class Definition(Generic[D]):
    """What a saga is made of. It holds no state; running sagas are rows of the service's database.

    A running saga keeps the `version` that it was started with: when you change the steps, raise the version and
    keep the old definition registered until its last saga has ended (H11). `compensated` runs in the transaction
    that ends a compensated saga, with the saga's data and the reason.
    """

    def __init__(
        self,
        name: str,
        data: type[D],
        *steps: Step,
        version: int = 1,
        compensated: Ended[D] | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.data = data
        self.steps = steps
        self.compensated = compensated
        self._check()

    @property
    def pivot_index(self) -> int:
        """Return the place of the first step that cannot be undone; behind the last step if all can."""
        return next((i for i, s in enumerate(self.steps) if s.kind != "compensatable"), len(self.steps))

    def _check(self) -> None:
        if not self.steps:
            raise DefinitionError(f"saga {self.name}: it has no steps")
        ranks = [("compensatable", "pivot", "retriable").index(s.kind) for s in self.steps]
        if ranks != sorted(ranks) or ranks.count(1) > 1:
            raise DefinitionError(
                f"saga {self.name}: steps must come in the order step…, at most one pivot, retriable…;"
                f" they are {', '.join(f'{s.kind} {s.name}' for s in self.steps)}"
            )
        names = [s.name for s in self.steps]
        if len(set(names)) != len(names):
            raise DefinitionError(f"saga {self.name}: each step needs a name of its own; they are {', '.join(names)}")
        for one in self.steps:
            for action in (one.action, one.undo):
                if action is not None:
                    self._check_action(action)
            if one.timeout <= timedelta(0):
                raise DefinitionError(f"saga {self.name}: the timeout of {one.name} must be longer than zero")

    def _check_action(self, action: Action) -> None:
        if not is_command(action):
            if not inspect.iscoroutinefunction(action):
                raise DefinitionError(f"saga {self.name}: {action!r} is neither a Command nor an `async def`")
            return
        if action.key_field != SAGA_ID:
            raise DefinitionError(
                f"saga {self.name}: {action.__name__} must be keyed by the saga:"
                f" class {action.__name__}(Command, type='…', key='{SAGA_ID}') with a field {SAGA_ID}: UUID"
            )
        missing = [
            name
            for name, field in action.model_fields.items()
            if field.is_required() and name != SAGA_ID and name not in self.data.model_fields
        ]
        if missing:
            raise DefinitionError(
                f"saga {self.name}: {self.data.__name__} lacks what {action.__name__} needs: {', '.join(missing)}"
            )


def is_command(action: Action) -> TypeGuard[type[Command]]:
    """Tell whether an action is a command to a service rather than a function."""
    return isinstance(action, type) and issubclass(action, Command)


def name_of_action(action: Action) -> str:
    """Return what an action is called in the history: its class or function name."""
    return str(getattr(action, "__name__", action))


def words_of(action: Action) -> str:
    """Return the words of an action's name: `AuthorizePayment` and `authorize_payment` give `authorize payment`."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name_of_action(action))
    return " ".join(words).lower() or name_of_action(action)
