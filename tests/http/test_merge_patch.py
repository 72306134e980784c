"""A part is changed by a merge patch, as RFC 7396 says, and what comes of it is what the model takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import orjson
import pytest
from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter

from covey.errors import DefinitionError
from covey.http.application import Application, openapi
from covey.http.edge import HttpOptions
from covey.http.merge_patch import MEDIA_TYPE, MergePatch, Patch, merged, schema_of
from covey.testing.asgi import Answer, ask

Make = Callable[..., Application]


@pytest.fixture(params=[True, False], ids=["the short way", "through FastAPI"])
def make(request: pytest.FixtureRequest, make: Make) -> Make:
    """The function of all tests here, for either way that a request may take."""
    return partial(make, options=HttpOptions(direct=request.param))


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Reach(Shape):
    email: str
    phone: str | None = None


class Person(Shape):
    name: str = Field(min_length=1)
    age: int | None = Field(default=None, strict=True, ge=0)
    contact: Reach
    tags: list[str] = []


ADA = Person(name="Ada", age=36, contact=Reach(email="ada@example.org", phone="+49"), tags=["a", "b"])


def people() -> APIRouter:
    api = APIRouter()

    @api.patch("/ada")
    async def patch_ada(patch: MergePatch[Person]) -> Person:
        return patch.applied_to(ADA)

    return api


async def patched(app: Application, patch: Any, media_type: str = MEDIA_TYPE) -> Answer:
    return await ask(app, "PATCH", "/ada", body=orjson.dumps(patch), headers={"Content-Type": media_type})


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_the_examples_of_the_rfc(target: Any, patch: Any, result: Any) -> None:
    assert merged(target, patch) == result


@pytest.mark.parametrize(
    ("patch", "changes"),
    [
        ({}, {}),
        ({"name": "Ada L."}, {"name": "Ada L."}),
        ({"age": None}, {"age": None}),
        ({"contact": {"phone": None}}, {"contact": {"email": "ada@example.org", "phone": None}}),
        ({"tags": ["c"]}, {"tags": ["c"]}),
        ({"tags": None}, {"tags": []}),
    ],
    ids=str,
)
async def test_what_is_not_in_a_patch_stays(make: Make, patch: Any, changes: dict[str, Any]) -> None:
    answer = await patched(make(people()), patch)

    assert (answer.status, answer.json()) == (200, {**ADA.model_dump(), **changes})


@pytest.mark.parametrize(
    ("patch", "pointers"),
    [
        ({"name": None}, ["#/name"]),
        ({"name": "", "age": -1}, ["#/name", "#/age"]),
        ({"age": "36"}, ["#/age"]),
        ({"colour": "red", "name": ""}, ["#/colour"]),
        ({"colour": None}, ["#/colour"]),
        ({"contact": {"fax": None}}, ["#/contact/fax"]),
        ({"contact": None}, ["#/contact"]),
        ({"contact": "by mail"}, ["#/contact"]),
        ([], ["#"]),
        (None, ["#"]),
        ("Ada", ["#"]),
    ],
    ids=str,
)
async def test_a_patch_that_leads_to_what_cannot_be_is_refused_with_every_place(
    make: Make, patch: Any, pointers: list[str]
) -> None:
    answer = await patched(make(people()), patch)

    assert answer.status == 422
    assert [(error["in"], error["pointer"]) for error in answer.json()["errors"]] == [
        ("body", pointer) for pointer in pointers
    ]


@pytest.mark.parametrize("media_type", ["application/json", "application/json-patch+json", "text/plain", ""])
async def test_a_patch_of_another_kind_is_refused_and_told_the_right_one(make: Make, media_type: str) -> None:
    answer = await patched(make(people()), {"name": "Ada L."}, media_type)

    assert (answer.status, answer.json()["type"]) == (415, "/problems/unsupported-media-type")
    assert answer.headers["accept-patch"] == answer.headers["accept"] == MEDIA_TYPE


@pytest.mark.parametrize("media_type", [f"{MEDIA_TYPE}; charset=utf-8", "Application/Merge-Patch+JSON"])
async def test_the_media_type_may_be_written_in_other_ways(make: Make, media_type: str) -> None:
    assert (await patched(make(people()), {"name": "Ada L."}, media_type)).status == 200


class Known(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    id: UUID
    homes: dict[str, Reach] = {}
    friends: list[Reach] = []
    boss: Reach | None = None
    under: Known | None = None


def test_a_patch_of_one_member_takes_the_others_as_they_are_shown() -> None:
    known = Known(id=UUID(int=7), homes={"a": Reach(email="a")}, friends=[Reach(email="b")])

    changed = Patch(Known, {"homes": {"b": {"email": "c"}}, "boss": {"email": "d"}}).applied_to(known)

    assert (changed.id, changed.friends) == (known.id, known.friends)
    assert changed.homes == {"a": Reach(email="a"), "b": Reach(email="c")}
    assert changed.boss == Reach(email="d")


def test_a_patch_that_is_nested_without_end_is_refused() -> None:
    patch: dict[str, Any] = {}
    for _ in range(5_000):
        patch = {"name": patch}

    with pytest.raises(RequestValidationError):
        Patch(Person, patch).applied_to(ADA)


class Secret(BaseModel):
    word: SecretStr


class Hidden(BaseModel):
    word: str = Field("it", exclude=True)


class Renamed(BaseModel):
    word: str = Field(validation_alias="in", serialization_alias="out")


class Around(BaseModel):
    inner: Hidden


class Listed(BaseModel):
    several: list[Hidden] = []


class Perhaps(BaseModel):
    word: SecretStr | None = None


@pytest.mark.parametrize("model", [Secret, Hidden, Renamed, Around, Listed, Perhaps])
def test_what_is_not_shown_as_it_is_read_cannot_be_patched(model: type[BaseModel]) -> None:
    """A patch of another member would put stars, or a default, in its place."""
    with pytest.raises(DefinitionError, match="cannot be patched"):
        TypeAdapter(Patch[model])  # type: ignore[valid-type]  # one of several


def test_a_model_that_has_models_in_lists_and_in_itself_is_described() -> None:
    schema = schema_of(Known)

    assert "$ref" not in str(schema) and "$defs" not in str(schema)
    assert set(schema["properties"]["friends"]["anyOf"][0]["items"]["properties"]) == {"email", "phone"}


def test_a_patch_is_described_as_what_it_changes_without_what_that_requires() -> None:
    content = openapi("people", [people()])["paths"]["/ada"]["patch"]["requestBody"]["content"]

    (schema,) = [one["schema"] for one in content.values()]
    assert list(content) == [MEDIA_TYPE]
    assert "required" not in schema and schema["additionalProperties"] is False
    assert schema["properties"]["name"] == {"minLength": 1, "title": "Name", "type": "string"}
    assert set(schema["properties"]["contact"]["properties"]) == {"email", "phone"}
    assert {"type": "null"} in schema["properties"]["tags"]["anyOf"]
