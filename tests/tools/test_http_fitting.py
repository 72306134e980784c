"""A change of an HTTP interface is told with the operation, and with who breaks: a service, or whoever knows it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict

from covey.errors import ConfigurationError
from covey.http.application import openapi
from covey.tools.contracts import Contracts, hold

NO_MESSAGES: dict[str, Any] = {"operations": {}}


class NewWall(BaseModel):
    model_config = ConfigDict(extra="forbid")
    height: int
    colour: Literal["red", "blue"] = "red"


class Wall(BaseModel):
    id: int
    colour: Literal["red", "blue"]
    note: str


def published() -> dict[str, Any]:
    """What the service walls publishes."""
    api = APIRouter()

    @api.get("/walls", responses={200: {"headers": {"ETag": {"schema": {"type": "string"}}}}})
    async def listed(limit: Annotated[int, Query()] = 50) -> list[Wall]: ...  # type: ignore[empty-body]

    @api.get("/walls/{wall_id}")
    async def shown(wall_id: int) -> Wall: ...  # type: ignore[empty-body]

    @api.post("/walls", status_code=201)
    async def build(body: NewWall) -> Wall: ...  # type: ignore[empty-body]

    @api.delete("/walls/{wall_id}", status_code=204)
    async def tear_down(wall_id: int) -> Response: ...  # type: ignore[empty-body]

    document: dict[str, Any] = json.loads(json.dumps(openapi("walls", [api], "1", {})))
    return document


def read_by_house() -> dict[str, Any]:
    """The part that house uses: it builds, looks, and has no use for a note."""
    part = published()
    for address, method in (("/walls/{wall_id}", "delete"), ("/walls", "get")):
        del part["paths"][address][method]
    del schema(part, "Wall")["properties"]["note"]
    schema(part, "Wall")["required"].remove("note")
    part["paths"]["/walls/{id}"] = part["paths"].pop("/walls/{wall_id}")
    part["paths"]["/walls/{id}"]["get"]["parameters"][0]["name"] = "id"
    return part


def schema(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["schemas"][name]
    return found


def operation(document: dict[str, Any], method: str, address: str) -> dict[str, Any]:
    found: dict[str, Any] = document["paths"][address][method]
    return found


def told(now: dict[str, Any], *, then: dict[str, Any] | None = None) -> list[str]:
    """What the gate says to walls, whose part house reads, and of whose last release others know."""
    contracts = {
        "walls": Contracts(asyncapi=NO_MESSAGES, openapi=now, released_openapi=then),
        "house": Contracts(asyncapi=NO_MESSAGES, reads={"walls": read_by_house()}),
    }
    return [str(breach) for breach in hold(contracts).breaches]


def test_what_fits_breaks_nobody_whatever_a_part_of_an_address_is_called() -> None:
    assert told(published(), then=published()) == []


def gone(document: dict[str, Any]) -> None:
    del document["paths"]["/walls"]["post"]


def more_asked(document: dict[str, Any]) -> None:
    schema(document, "NewWall")["properties"]["bricks"] = {"type": "integer"}
    schema(document, "NewWall")["required"].append("bricks")


def less_taken(document: dict[str, Any]) -> None:
    del schema(document, "NewWall")["properties"]["colour"]


def fewer_colours(document: dict[str, Any]) -> None:
    schema(document, "NewWall")["properties"]["colour"]["enum"] = ["red"]


def more_colours(document: dict[str, Any]) -> None:
    schema(document, "Wall")["properties"]["colour"]["enum"].append("green")


def less_shown(document: dict[str, Any]) -> None:
    del schema(document, "Wall")["properties"]["id"]
    schema(document, "Wall")["required"].remove("id")


def other_type(document: dict[str, Any]) -> None:
    schema(document, "Wall")["properties"]["id"] = {"type": "string"}


def other_address(document: dict[str, Any]) -> None:
    operation(document, "get", "/walls/{wall_id}")["parameters"][0]["schema"] = {"type": "string", "format": "uuid"}


def other_status(document: dict[str, Any]) -> None:
    answers = operation(document, "post", "/walls")["responses"]
    answers["202"] = answers.pop("201")


def no_status(document: dict[str, Any]) -> None:
    answers = operation(document, "post", "/walls")["responses"]
    answers["default"] = answers.pop("201")


def other_media_type(document: dict[str, Any]) -> None:
    content = operation(document, "get", "/walls/{wall_id}")["responses"]["200"]["content"]
    content["text/html"] = content.pop("application/json")


def other_body(document: dict[str, Any]) -> None:
    content = operation(document, "post", "/walls")["requestBody"]["content"]
    content["multipart/form-data"] = content.pop("application/json")


def key_required(document: dict[str, Any]) -> None:
    key = {"in": "header", "name": "Idempotency-Key", "required": True, "schema": {"type": "string"}}
    operation(document, "post", "/walls").setdefault("parameters", []).append(key)


BUILD, LOOK = "POST /walls", "GET /walls/{id}"


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        (gone, BUILD, "there is no such operation"),
        (more_asked, BUILD, "body.bricks: it is required, and is not sent"),
        (less_taken, BUILD, "body.colour: it is sent, and what is not known is forbidden"),
        (fewer_colours, BUILD, "body.colour: it may be 'blue', and only 'red' is read"),
        (more_colours, LOOK, "200.colour: it may be 'green', and only 'red', 'blue' is read"),
        (less_shown, LOOK, "200.id: it is required, and is not sent"),
        (other_type, LOOK, "200.id: it is string, and integer is read"),
        (other_address, LOOK, "part 1 of the address: it is integer, and string (uuid) is read"),
        (other_status, BUILD, "it may answer 202, and only 201 is read"),
        (no_status, BUILD, "it does not say what it answers, and 201 is read"),
        (other_media_type, LOOK, "200: it is text/html, and application/json is read"),
        (other_body, BUILD, "body: it is application/json, and multipart/form-data is read"),
        (key_required, BUILD, "header idempotency-key: it is required, and is not sent"),
    ],
)
def test_an_operation_that_changes_breaks_who_calls_it(
    change: Callable[[dict[str, Any]], None], where: str, what: str
) -> None:
    now = published()
    change(now)

    assert f"house breaks on {where} of walls: {what}" in told(now)


def without_limit(document: dict[str, Any]) -> None:
    operation(document, "get", "/walls")["parameters"] = []


def without_tag(document: dict[str, Any]) -> None:
    del operation(document, "get", "/walls")["responses"]["200"]["headers"]


def other_tag(document: dict[str, Any]) -> None:
    headers = operation(document, "get", "/walls")["responses"]["200"]["headers"]
    headers["ETag"] = {"schema": {"type": "integer"}}


def without_note(document: dict[str, Any]) -> None:
    del schema(document, "Wall")["properties"]["note"]
    schema(document, "Wall")["required"].remove("note")


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        (without_limit, "GET /walls", "query limit: it is sent, and is not known"),
        (without_tag, "GET /walls", "200: header ETag is read, and is not sent"),
        (other_tag, "GET /walls", "200 header ETag: it is integer, and string is read"),
        (without_note, "GET /walls/{wall_id}", "200.note: it is required, and is not sent"),
    ],
)
def test_what_no_service_uses_breaks_who_knows_the_last_release(
    change: Callable[[dict[str, Any]], None], where: str, what: str
) -> None:
    now = published()
    change(now)

    assert told(now) == []
    assert f"who knows the last release breaks on {where} of walls: {what}" in told(now, then=published())


def test_a_parameter_of_a_path_that_does_not_have_it_is_named() -> None:
    now = published()
    operation(now, "get", "/walls/{wall_id}")["parameters"][0]["name"] = "wall"

    with pytest.raises(ConfigurationError, match=r"the path has no \{wall\}"):
        told(now)


def test_what_is_new_breaks_nobody() -> None:
    now = published()
    now["paths"]["/roofs"] = now["paths"]["/walls"]
    schema(now, "Wall")["properties"]["age"] = {"type": "integer"}
    schema(now, "NewWall")["properties"]["age"] = {"type": "integer"}
    operation(now, "get", "/walls")["parameters"].append({"in": "query", "name": "sort", "schema": {"type": "string"}})

    assert told(now, then=published()) == []


def test_a_service_that_is_not_there_breaks_who_calls_it() -> None:
    breaches = hold({"house": Contracts(asyncapi=NO_MESSAGES, reads={"walls": read_by_house()})}).breaches

    assert {(breach.consumer, breach.provider, breach.message) for breach in breaches} == {
        ("house", "walls", BUILD),
        ("house", "walls", LOOK),
    }
