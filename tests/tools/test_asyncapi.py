"""The AsyncAPI document of a service: what stands in it, and that it is one."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from covey.errors import DefinitionError
from covey.ids import new_id
from covey.message import Command, Envelope, Event, Message, Refused, Reply
from covey.messaging.cloud_events import to_headers
from covey.messaging.router import Router
from covey.saga.definition import step
from covey.saga.saga import Saga
from covey.service import Parts
from covey.tools.asyncapi import document
from covey.tools.surface import surface
from covey.work.unit_of_work import Work
from tests.tools.schemas import asyncapi_mistakes


class Lent(Event, type="library.lent.v1", key="book_id"):
    """A book is with a reader now."""

    book_id: UUID
    reader: str | None = None
    span: timedelta = timedelta(days=28)


class Moved(Event, type="people.moved.v1"):
    person: UUID
    town: str = "unknown"


class Reserve(Command, type="library.reserve.v1", key="saga_id"):
    saga_id: UUID
    book_id: UUID


class Reserved(Reply):
    until: datetime


class Charge(Command, type="till.charge.v1", key="saga_id"):
    saga_id: UUID
    cents: int


class Remind(Command, type="post.remind.v1", key="book_id"):
    book_id: UUID


class Fine(BaseModel):
    cents: int


router = Router()


@router.on(Moved)
async def forward(event: Moved, work: Work) -> None: ...


@router.on(Reserve)
async def reserve(command: Reserve, work: Work) -> Reserved | Refused:
    return Refused(reason="lent")


PARTS = Parts(messages=[router], sagas=[Saga("fine", Fine, step(Charge))])


def library(parts: Parts = PARTS, declared: Iterable[type[Message]] = (Lent, Moved, Reserve, Remind)) -> dict[str, Any]:
    return document(surface("library", "1.2.0", parts, declared))


def payload(found: dict[str, Any], name: str) -> dict[str, Any]:
    reference: str = found["components"]["messages"][name]["payload"]["$ref"]
    schema: dict[str, Any] = found["components"]["schemas"][reference.rpartition("/")[2]]
    return schema


def test_it_is_an_asyncapi_document() -> None:
    assert asyncapi_mistakes(library()) == []
    assert asyncapi_mistakes(library(Parts(), ())) == []


@pytest.mark.parametrize("spoilt", ["asyncapi", "info", "operations.receive.library.reserve.v1.action"])
def test_the_judge_finds_what_is_wrong(spoilt: str) -> None:
    found = library()
    *path, last = spoilt.split(".", 1)[0], *spoilt.rsplit(".", 1)[1:]
    at = found["operations"]["receive.library.reserve.v1"] if path else found
    del at[last]

    assert asyncapi_mistakes(found)


def test_each_message_is_sent_or_received_on_the_stream_that_its_type_names() -> None:
    found = library()

    said = {name: (one["action"], one["channel"]["$ref"]) for name, one in found["operations"].items()}
    assert said == {
        "send.library.lent.v1": ("send", "#/channels/library"),
        "send.post.remind.v1": ("send", "#/channels/post"),
        "send.till.charge.v1": ("send", "#/channels/till"),
        "receive.people.moved.v1": ("receive", "#/channels/people"),
        "receive.library.reserve.v1": ("receive", "#/channels/library"),
    }
    assert [found["channels"][name]["address"] for name in ("library", "till")] == ["library", "till"]


def test_a_message_has_its_type_kind_and_key() -> None:
    lent = library()["components"]["messages"]["library.lent.v1"]

    assert (lent["name"], lent["x-covey-kind"], lent["x-covey-key"]) == ("library.lent.v1", "event", "book_id")
    assert lent["description"] == "A book is with a reader now."
    assert "x-covey-key" not in library()["components"]["messages"]["people.moved.v1"]


def test_the_headers_are_those_that_travel() -> None:
    envelope = Envelope(new_id(), "library.lent.v1", "k", "library", datetime.now(UTC), b"{}")

    headers = library()["components"]["schemas"]["headers-of-event"]

    assert set(to_headers(envelope)) <= set(headers["properties"])
    assert {name for name in headers["properties"] if name.startswith("ce-")} == set(to_headers(envelope))


def test_a_publisher_promises_every_field_and_a_reader_asks_for_those_without_a_default() -> None:
    assert payload(library(), "library.lent.v1")["required"] == ["book_id", "reader", "span"]
    assert payload(library(), "people.moved.v1")["required"] == ["person"]


def test_a_command_that_is_handled_has_a_reply_to_who_asks() -> None:
    found = library()

    reply = found["operations"]["receive.library.reserve.v1"]["reply"]

    assert reply["address"]["location"] == "$message.header#/reply-to"
    assert found["channels"]["asker.reply"]["address"] is None
    data = found["components"]["messages"]["library.reserve.v1.reply"]["payload"]["properties"]["data"]
    assert {"$ref": "#/components/schemas/Reserved"} in data["anyOf"]


def test_what_nobody_handles_is_not_in_it() -> None:
    assert "library.reserve.v1" not in library(Parts())["components"]["messages"]


def test_its_own_event_that_a_service_handles_is_sent_only() -> None:
    own = Router()

    @own.on(Lent)
    async def count(event: Lent, work: Work) -> None: ...

    assert list(library(Parts(messages=[own]), [Lent])["operations"]) == ["send.library.lent.v1"]


def test_a_type_that_is_sent_as_two_models_is_refused() -> None:
    class LentOut(Event, type="library.lent.v1", key="book"):
        book: UUID

    with pytest.raises(DefinitionError, match=r"library\.lent\.v1 is declared twice.*Lent and.*LentOut"):
        library(declared=[Lent, LentOut])
