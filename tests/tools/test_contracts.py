"""The gate: a change of a provider that breaks a consumer is told with both names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any
from uuid import UUID

import pytest

from covey.errors import ConfigurationError
from covey.local.system import System
from covey.message import Command, Event, Message
from covey.messaging.router import Router
from covey.service import Parts
from covey.tools.asyncapi import document
from covey.tools.contracts import Contracts, hold, read_contracts
from covey.tools.surface import surface
from covey.work.unit_of_work import Work


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Size(StrEnum):
    SMALL = "small"


class Painted(Event, type="paint.painted.v1", key="wall_id"):
    """What paint publishes."""

    wall_id: UUID
    colour: Colour
    coats: int
    note: str = ""


class Finished(Event, type="paint.painted.v1"):
    """The part that house reads."""

    wall_id: UUID
    colour: Colour
    note: str


class Paint(Command, type="paint.paint.v1", key="wall_id"):
    """What house asks for."""

    wall_id: UUID
    colour: Colour


class Order(Command, type="paint.paint.v1", key="wall_id"):
    """As paint reads it."""

    wall_id: UUID
    colour: Colour
    coats: int = 2


def of(name: str, reads: type[Message] | None, *sends: type[Message]) -> dict[str, Any]:
    router = Router()
    if reads is not None:

        @router.on(reads)
        async def handle(message: Message, work: Work) -> None: ...

    return document(surface(name, "1", Parts(messages=[router]), sends))


def told(provider: Mapping[str, Any] | None = None, consumer: Mapping[str, Any] | None = None) -> list[str]:
    """What the gate says of paint and house, one of them changed."""
    return held({"paint": provider or of("paint", Order, Painted), "house": consumer or of("house", Finished, Paint)})


def held(now: Mapping[str, Any], then: Mapping[str, Any] | None = None) -> list[str]:
    """What the gate says of these documents, and of those of the last release."""
    written, released = json.loads(json.dumps([now, then or {}]))
    contracts = {
        name: Contracts(asyncapi=document, released_asyncapi=released.get(name)) for name, document in written.items()
    }
    return [str(breach) for breach in hold(contracts).breaches]


def test_what_fits_breaks_nobody_and_every_expectation_is_counted() -> None:
    contracts = {
        "paint": Contracts(asyncapi=of("paint", Order, Painted)),
        "house": Contracts(asyncapi=of("house", Finished, Paint)),
    }

    assert told() == []
    assert hold(contracts).expectations == 2


class WithoutNote(Event, type="paint.painted.v1", key="wall_id"):
    wall_id: UUID
    colour: Colour


class OtherNote(WithoutNote):
    note: int


class NullableNote(WithoutNote):
    note: str | None = None


class MoreColours(Event, type="paint.painted.v1", key="wall_id"):
    wall_id: UUID
    colour: Colour | Size
    note: str


class AnyColour(Event, type="paint.painted.v1", key="wall_id"):
    wall_id: UUID
    colour: str
    note: str


@pytest.mark.parametrize(
    ("event", "what"),
    [
        (WithoutNote, "note: it is required, and is not sent"),
        (OtherNote, "note: it is integer, and string is read"),
        (NullableNote, "note: it may be null, and null is not read"),
        (MoreColours, "colour: it may be 'small', and only 'red', 'blue' is read"),
        (AnyColour, "colour: it may be any string, and only 'red', 'blue' is read"),
    ],
)
def test_an_event_that_changes_breaks_who_reads_it(event: type[Event], what: str) -> None:
    assert told(of("paint", Order, event)) == [f"house breaks on paint.painted.v1 of paint: {what}"]


def test_a_field_that_is_sent_only_sometimes_breaks_who_requires_it() -> None:
    provider = of("paint", Order, Painted)
    provider["components"]["schemas"]["Painted"]["required"].remove("note")

    assert told(provider) == ["house breaks on paint.painted.v1 of paint: note: it is required, and may be absent"]


class MoreAsked(Order):
    ladder: bool


class FewerColours(Command, type="paint.paint.v1"):
    wall_id: UUID
    colour: Size


class OtherId(Command, type="paint.paint.v1"):
    wall_id: int
    colour: Colour


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (MoreAsked, "ladder: it is required, and is not sent"),
        (FewerColours, "colour: it may be 'red', 'blue', and only 'small' is read"),
        (OtherId, "wall_id: it is string (uuid), and integer is read"),
    ],
)
def test_a_command_that_asks_for_more_breaks_who_sends_it(command: type[Command], what: str) -> None:
    assert told(of("paint", command, Painted)) == [f"house breaks on paint.paint.v1 of paint: {what}"]


def test_what_is_neither_published_nor_handled_breaks_who_expects_it() -> None:
    assert told(of("paint", None)) == [
        "house breaks on paint.paint.v1 of paint: paint handles no such command",
        "house breaks on paint.painted.v1 of paint: paint publishes no such event",
    ]


def test_a_service_that_is_not_there_breaks_who_expects_it() -> None:
    assert held({"house": of("house", Finished, Paint)}) == [
        "house breaks on paint.paint.v1 of paint: no service handles it",
        "house breaks on paint.painted.v1 of paint: no service publishes it",
    ]


def test_a_field_that_nobody_reads_may_go() -> None:
    provider = of("paint", Order, Painted)
    del provider["components"]["schemas"]["Painted"]["properties"]["coats"]
    provider["components"]["schemas"]["Painted"]["required"].remove("coats")

    assert told(provider) == []


def test_every_consumer_that_breaks_is_named() -> None:
    documents = {"paint": of("paint", Order), "house": of("house", Finished), "shed": of("shed", Finished)}

    assert held(documents) == [
        f"{consumer} breaks on paint.painted.v1 of paint: paint publishes no such event"
        for consumer in ("house", "shed")
    ]


class TestTheLastRelease:
    """Two versions run side by side while one replaces the other, and streams hold what the old one wrote."""

    def test_that_is_what_is_there_now_breaks_nobody(self) -> None:
        documents = {"paint": of("paint", Order, Painted), "house": of("house", Finished, Paint)}

        assert held(documents, documents) == []

    def test_of_a_reader_breaks_when_a_field_goes_on_both_sides_at_once(self) -> None:
        class Noteless(Event, type="paint.painted.v1"):
            wall_id: UUID

        now = {"paint": of("paint", Order, WithoutNote), "house": of("house", Noteless, Paint)}
        then = {"paint": of("paint", Order, Painted), "house": of("house", Finished, Paint)}

        assert held(now, then) == [
            "house as released breaks on paint.painted.v1 of paint: note: it is required, and is not sent"
        ]

    def test_of_a_writer_breaks_who_requires_what_it_did_not_send(self) -> None:
        now = {"paint": of("paint", Order, Painted), "house": of("house", Finished, Paint)}
        then = {"paint": of("paint", Order, WithoutNote), "house": of("house", None, Paint)}

        assert held(now, then) == [
            "house breaks on paint.painted.v1 of paint as released: note: it is required, and is not sent"
        ]

    def test_of_who_handles_a_command_breaks_who_no_longer_sends_what_it_requires(self) -> None:
        class Colourless(Command, type="paint.paint.v1", key="wall_id"):
            wall_id: UUID

        now = {"paint": of("paint", Colourless, Painted), "house": of("house", Finished, Colourless)}
        then = {"paint": of("paint", Order, Painted), "house": of("house", Finished, Paint)}

        assert held(now, then) == [
            "house breaks on paint.paint.v1 of paint as released: colour: it is required, and is not sent"
        ]

    def test_without_what_is_new_on_both_sides_breaks_nobody(self) -> None:
        now = {"paint": of("paint", Order, Painted), "house": of("house", Finished, Paint)}

        assert held(now, {"paint": of("paint", None), "house": of("house", None)}) == []

    def test_says_once_what_breaks_now_and_then(self) -> None:
        now = {"paint": of("paint", Order, WithoutNote), "house": of("house", Finished, Paint)}
        then = {"paint": of("paint", Order, Painted), "house": of("house", Finished, Paint)}

        assert held(now, then) == ["house breaks on paint.painted.v1 of paint: note: it is required, and is not sent"]


@pytest.mark.parametrize(("text", "complaint"), [(None, "has no"), ("<<<<<<<", "is not JSON")])
def test_a_contract_that_cannot_be_read_is_named_with_what_writes_it(
    write_system: Callable[..., System], text: str | None, complaint: str
) -> None:
    system = write_system(**({"contracts/asyncapi.json": text} if text else {}))

    with pytest.raises(ConfigurationError, match=f"{complaint}.*covey export club"):
        read_contracts(system)


def test_what_a_service_reads_is_found_in_its_folder(write_system: Callable[..., System]) -> None:
    gym = {"paths": {"/rings": {"get": {"responses": {}}}}}
    proto = """
        syntax = "proto3";
        package gym.v1;
        service Gym { rpc Rings(Ring) returns (Ring); }
        message Ring {}
    """
    system = write_system(
        **{
            "contracts/asyncapi.json": '{"operations": {}}',
            "contracts/openapi.json": "{}",
            "contracts/reads/gym/openapi.json": json.dumps(gym),
            "contracts/reads/gym/v1/gym.proto": proto,
        }
    )

    assert [str(breach) for breach in hold(read_contracts(system)).breaches] == [
        "club breaks on GET /rings of gym: there is no such operation",
        "club breaks on gym.v1.Gym/Rings of gym: no service publishes it",
    ]
