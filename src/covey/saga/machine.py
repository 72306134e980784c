"""What a saga does next: a pure function, without clock, database or messages.

`decide(saga, state, input)` gives the next state and what to do. Everything that keeps promise 5 of the design is
here: an unknown outcome of a compensatable step is undone, an unknown pivot is asked again, behind the pivot and in
compensation there is no way but on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, assert_never

from covey.saga.definition import Definition, is_command


@dataclass(frozen=True, slots=True)
class Running:
    """Waiting for the outcome of `step`; asked `attempts` times again, refused `refusals` times."""

    step: int
    attempts: int = 0
    refusals: int = 0


@dataclass(frozen=True, slots=True)
class Compensating:
    """Waiting until `step` is undone."""

    step: int
    reason: str
    attempts: int = 0
    refusals: int = 0


@dataclass(frozen=True, slots=True)
class Completed:
    """Every step was done."""


@dataclass(frozen=True, slots=True)
class Compensated:
    """Everything that was done, or may have been, is undone."""

    reason: str


State = Running | Compensating | Completed | Compensated


@dataclass(frozen=True, slots=True)
class Done:
    """The step, or its undoing, was done."""


@dataclass(frozen=True, slots=True)
class NotDone:
    """The step, or its undoing, was refused: it has definitely not happened."""

    reason: str


@dataclass(frozen=True, slots=True)
class Silent:
    """No answer came in time: the outcome is unknown."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Somebody wants the saga to end without effect."""

    reason: str


Input = Done | NotDone | Silent | Cancel


@dataclass(frozen=True, slots=True)
class Perform:
    """Do the step of the new state for the first time."""


@dataclass(frozen=True, slots=True)
class Again:
    """Ask for the same thing once more."""


@dataclass(frozen=True, slots=True)
class Later:
    """Wait, then ask for the same thing under a new id: the answer to the old one is known and was no."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """Change nothing; `why` goes into the history."""

    why: str


Decision = Perform | Again | Later | Nothing


def decide(saga: Definition[Any], state: State, given: Input) -> tuple[State, Decision]:
    """Return the next state and what to do to enter it."""
    match state:
        case Running():
            return _running(saga, state, given)
        case Compensating():
            return _compensating(saga, state, given)
        case Completed() | Compensated():
            return state, Nothing("the saga has ended")
        case _:
            assert_never(state)


def _running(saga: Definition[Any], state: Running, given: Input) -> tuple[State, Decision]:
    can_undo = saga.steps[state.step].kind == "compensatable"
    # A function runs only in the transaction that moves the saga on: one that is waited for has not happened.
    last_possible = state.step if is_command(saga.steps[state.step].action) else state.step - 1
    match given:
        case Done():
            following = state.step + 1
            return (Running(following) if following < len(saga.steps) else Completed()), Perform()
        case NotDone(reason):
            if saga.steps[state.step].kind == "retriable":
                return replace(state, refusals=state.refusals + 1, attempts=0), Later()
            return _undo(saga, state.step - 1, reason), Perform()
        case Silent():
            if can_undo:
                reason = f"{saga.steps[state.step].label}: no answer in time"
                return _undo(saga, last_possible, reason), Perform()
            return replace(state, attempts=state.attempts + 1), Again()
        case Cancel(reason):
            if can_undo:
                return _undo(saga, last_possible, reason), Perform()
            return state, Nothing(f"too late to cancel: {saga.steps[saga.pivot_index].label} has been asked for")
        case _:
            assert_never(given)


def _compensating(saga: Definition[Any], state: Compensating, given: Input) -> tuple[State, Decision]:
    match given:
        case Done():
            return _undo(saga, state.step - 1, state.reason), Perform()
        case NotDone():
            return replace(state, refusals=state.refusals + 1, attempts=0), Later()
        case Silent():
            return replace(state, attempts=state.attempts + 1), Again()
        case Cancel():
            return state, Nothing("it is being compensated already")
        case _:
            assert_never(given)


def _undo(saga: Definition[Any], step: int, reason: str) -> State:
    """Return the state that undoes `step` and what came before it; steps with nothing to undo are passed over."""
    while step >= 0:
        if saga.steps[step].undo is not None:
            return Compensating(step, reason)
        step -= 1
    return Compensated(reason)
