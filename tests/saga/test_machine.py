"""The saga machine, for any definition and whatever happens: promise 5 without a database."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from covey.message import Command, Reply
from covey.saga.definition import Definition, Step, is_command, pivot, retriable, step
from covey.saga.machine import (
    Again,
    Cancel,
    Compensated,
    Compensating,
    Completed,
    Done,
    Input,
    Later,
    NotDone,
    Nothing,
    Perform,
    Running,
    Silent,
    State,
    decide,
)
from covey.work.unit_of_work import Work


class Data(BaseModel):
    """What the sagas of these tests carry: nothing."""


async def undo(data: Data, work: Work) -> None:
    """Stand for any compensation."""


def action(name: str) -> object:
    """Return an action of that name."""

    async def act(data: Data, work: Work) -> Reply | None:
        return None

    act.__name__ = name
    return act


def command(name: str) -> type[Command]:
    """Return a command of that name to another service."""

    class Asked(Command, type=f"other.{name}.v1", key="saga_id"):
        saga_id: UUID

    Asked.__name__ = name
    return Asked


COMMANDS = [command(f"c{n}") for n in range(4)]


def definition(undoable: list[tuple[bool, bool]], has_pivot: bool, forward: int) -> Definition[Data]:
    """Return a saga with these compensatable steps, perhaps a pivot, and so many steps that only go forward.

    Of each compensatable step: can it be undone, and is it a command or a function of the saga's own.
    """
    steps: list[Step] = [
        step(COMMANDS[n] if remote else action(f"s{n}"), undo=undo if u else None)  # type: ignore[arg-type]  # an async function
        for n, (u, remote) in enumerate(undoable)
    ]
    steps += [pivot(action("p"))] if has_pivot else []  # type: ignore[arg-type]  # an async function
    steps += [retriable(action(f"f{n}")) for n in range(forward)]  # type: ignore[arg-type]  # an async function
    return Definition("any", Data, *(steps or [retriable(action("only"))]))  # type: ignore[arg-type]  # an async function


sagas = st.builds(
    definition, st.lists(st.tuples(st.booleans(), st.booleans()), max_size=4), st.booleans(), st.integers(0, 3)
)
inputs = st.lists(
    st.one_of(
        st.just(Done()),
        st.builds(NotDone, st.just("no")),
        st.just(Silent()),
        st.builds(Cancel, st.just("changed my mind")),
    ),
    max_size=60,
)


@dataclass
class World:
    """What the participants have seen, whatever the saga believes."""

    may_have_happened: set[int] = field(default_factory=set)
    undone: list[int] = field(default_factory=list)
    asked: set[int] = field(default_factory=set)

    def see(self, saga: Definition[Data], state: State, given: Input) -> None:
        """Note what an input says about the step that the state waited for.

        A command that was asked for may have been carried out. A function runs in the transaction that moves the saga
        on, so one that the saga still waits for has not.
        """
        match state, given:
            case Running(at), Done():
                self.may_have_happened.add(at)
            case Running(at), Silent() | Cancel() if is_command(saga.steps[at].action):
                self.may_have_happened.add(at)
            case Running(at), NotDone():
                self.may_have_happened.discard(at)
            case Compensating(at), Done():
                self.undone.append(at)
            case _:
                pass


def run(saga: Definition[Data], script: list[Input]) -> tuple[State, World, list[State]]:
    """Feed the script until the saga ends or the script does."""
    state: State = Running(0)
    world = World()
    states: list[State] = [state]
    for happening in script:
        if isinstance(state, Running):
            world.asked.add(state.step)
        before = state
        state, decision = decide(saga, state, happening)
        if not isinstance(decision, Nothing):
            world.see(saga, before, happening)
        states.append(state)
        if isinstance(state, (Completed, Compensated)):
            break
    return state, world, states


@given(sagas, inputs)
def test_everything_that_may_have_happened_is_undone_once_and_in_reverse(
    saga: Definition[Data], script: list[Input]
) -> None:
    state, world, _ = run(saga, script)

    if isinstance(state, Compensated):
        expected = {n for n in world.may_have_happened if saga.steps[n].undo is not None}
        assert set(world.undone) == expected
        assert world.undone == sorted(expected, reverse=True)


@given(sagas, inputs)
def test_nothing_is_compensated_once_the_pivot_is_done(saga: Definition[Data], script: list[Input]) -> None:
    _, _, states = run(saga, script)

    decided = [n for n, s in enumerate(states) if isinstance(s, Running) and s.step > saga.pivot_index]
    if decided:
        assert all(isinstance(s, (Running, Completed)) for s in states[decided[0] :])


@given(sagas, inputs)
def test_a_silent_pivot_is_asked_again_and_never_given_up(saga: Definition[Data], script: list[Input]) -> None:
    for state in run(saga, script)[2]:
        if isinstance(state, Running) and saga.steps[state.step].kind != "compensatable":
            after, decision = decide(saga, state, Silent())
            assert isinstance(decision, Again)
            assert isinstance(after, Running)
            assert after.step == state.step


@given(sagas, inputs)
def test_only_steps_that_were_asked_for_are_undone(saga: Definition[Data], script: list[Input]) -> None:
    _, world, _ = run(saga, script)

    assert set(world.undone) <= world.asked


@given(sagas, inputs)
def test_from_every_state_participants_that_answer_bring_the_saga_to_its_end(
    saga: Definition[Data], script: list[Input]
) -> None:
    state, _, _ = run(saga, script)

    for _ in range(2 * len(saga.steps) + 1):
        if isinstance(state, (Completed, Compensated)):
            break
        state, decision = decide(saga, state, Done())
        assert isinstance(decision, Perform)

    assert isinstance(state, (Completed, Compensated))


@given(sagas, inputs)
def test_an_ended_saga_stays_ended(saga: Definition[Data], script: list[Input]) -> None:
    state, _, _ = run(saga, script)

    if isinstance(state, (Completed, Compensated)):
        for happening in (Done(), NotDone("no"), Silent(), Cancel("no")):
            after, decision = decide(saga, state, happening)
            assert after == state
            assert isinstance(decision, Nothing)


@given(sagas, inputs)
def test_cancelling_is_accepted_before_the_pivot_and_only_there(saga: Definition[Data], script: list[Input]) -> None:
    for state in run(saga, script)[2]:
        after, decision = decide(saga, state, Cancel("stop"))
        before_the_pivot = isinstance(state, Running) and state.step < saga.pivot_index
        assert isinstance(decision, Nothing) is not before_the_pivot
        assert (after != state) is before_the_pivot


def test_a_refused_forward_step_is_asked_later_under_a_new_id() -> None:
    saga = definition([(True, True)], True, 1)

    after, decision = decide(saga, Running(2, attempts=3), NotDone("not yet"))

    assert after == Running(2, attempts=0, refusals=1)
    assert isinstance(decision, Later)


def test_a_refused_compensation_is_asked_later_and_keeps_its_reason() -> None:
    saga = definition([(True, True)], True, 0)

    after, decision = decide(saga, Compensating(0, "why", attempts=2), NotDone("not yet"))

    assert after == Compensating(0, "why", attempts=0, refusals=1)
    assert isinstance(decision, Later)
