"""What a drill does to a system. `at` is in seconds from the start of the load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never


@dataclass(frozen=True, kw_only=True, order=True)
class Kill:
    """SIGKILL to a process and what it has started; the supervisor starts it again."""

    at: float
    unit: str


@dataclass(frozen=True, kw_only=True, order=True)
class KillRelay:
    """SIGKILL to whichever process of a service publishes its messages then: they wait until another one does."""

    at: float
    service: str


@dataclass(frozen=True, kw_only=True, order=True)
class Pause:
    """SIGSTOP to a process and its children, SIGCONT after so long: what it was doing comes late."""

    at: float
    unit: str
    seconds: float


@dataclass(frozen=True, kw_only=True, order=True)
class Duplicate:
    """All that a service has written in the last `reach_seconds` is published again, under the same ids."""

    at: float
    service: str
    reach_seconds: float


@dataclass(frozen=True, kw_only=True, order=True)
class Own:
    """A fault that the system brings along, for so long."""

    at: float
    name: str
    seconds: float


Fault = Kill | KillRelay | Pause | Duplicate | Own


def lasts(fault: Fault) -> float:
    """Return for how many seconds a fault is meant to last; what is over at once lasts none."""
    match fault:
        case Kill() | KillRelay() | Duplicate():
            return 0.0
        case Pause() | Own():
            return fault.seconds
        case _:
            assert_never(fault)


def lane(fault: Fault) -> str:
    """Return what a fault happens to: the name of a process, of a service's messages, of the system's own fault."""
    match fault:
        case Kill() | Pause():
            return fault.unit
        case KillRelay():
            return f"relay of {fault.service}"
        case Duplicate():
            return f"messages of {fault.service}"
        case Own():
            return fault.name
        case _:
            assert_never(fault)


def kind(fault: Fault) -> str:
    """Return what a fault is one of; each of the system's own is a kind."""
    match fault:
        case Kill():
            return "kills"
        case KillRelay():
            return "kills of relays"
        case Pause():
            return "pauses"
        case Duplicate():
            return "duplicates"
        case Own():
            return fault.name
        case _:
            assert_never(fault)


def text(fault: Fault) -> str:
    """Return what a fault is, in words."""
    match fault:
        case Kill():
            return f"kill -9 of {fault.unit}"
        case KillRelay():
            return f"kill -9 of whoever relays for {fault.service}"
        case Pause():
            return f"{fault.unit} stands still for {fault.seconds:.1f} s"
        case Duplicate():
            return f"what {fault.service} wrote in the last {fault.reach_seconds:.0f} s is published again"
        case Own():
            return f"{fault.name} for {fault.seconds:.1f} s"
        case _:
            assert_never(fault)
