"""Conditional requests: of two writers with one tag one is refused, and a reader is not sent what it has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest
from fastapi import APIRouter, Response

from covey.http.application import Application
from covey.http.conditional import IfMatch, entity_tag, require_match, tag
from covey.http.edge import HttpOptions
from covey.testing.asgi import Answer, ask

Make = Callable[..., Application]


@pytest.fixture(params=[True, False], ids=["the short way", "through FastAPI"])
def make(request: pytest.FixtureRequest, make: Make) -> Make:
    """The function of all tests here, for either way that a request may take."""
    return partial(make, options=HttpOptions(direct=request.param))


def note() -> APIRouter:
    """Return routes of one note, whose version counts its changes."""
    api, version, lock = APIRouter(), [3], asyncio.Lock()

    @api.get("/note")
    async def get_note(response: Response) -> dict[str, int]:
        tag(response, version[0])
        return {"version": version[0]}

    @api.put("/note")
    async def put_note(response: Response, if_match: IfMatch = None) -> dict[str, int]:
        async with lock:
            await asyncio.sleep(0)
            require_match(if_match, version[0])
            version[0] += 1
        tag(response, version[0])
        return {"version": version[0]}

    @api.post("/note")
    async def post_note(response: Response) -> dict[str, int]:
        tag(response, version[0])
        return {"version": version[0]}

    @api.get("/untagged")
    async def untagged() -> str:
        return "x"

    return api


async def get(app: Application, known: str | None = None, path: str = "/note", method: str = "GET") -> Answer:
    return await ask(app, method, path, headers={"If-None-Match": known} if known is not None else {})


async def put(app: Application, expected: str | None) -> Answer:
    return await ask(app, "PUT", "/note", headers={} if expected is None else {"If-Match": expected})


async def test_an_answer_has_a_tag_and_who_has_it_is_sent_nothing(make: Make) -> None:
    app = make(note())
    first = await get(app)

    again = await get(app, first.headers["etag"])

    assert (first.status, first.headers["etag"], first.headers["cache-control"]) == (200, '"3"', "private, no-cache")
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", '"3"')
    assert "content-length" not in again.headers and "content-type" not in again.headers
    assert again.headers["x-correlation-id"]


@pytest.mark.parametrize("known", ['"3"', 'W/"3"', '"1", "3"', 'W/"1" ,W/"3"', "*", ' "3" ', '"a,b","3"'])
async def test_a_tag_is_found_in_every_way_it_may_be_written(make: Make, known: str) -> None:
    assert (await get(make(note()), known)).status == 304


@pytest.mark.parametrize("known", ['"2"', "3", '"33"', "", '"', 'W/"2", "4"', "nonsense"])
async def test_what_names_another_state_or_nothing_is_answered_whole(make: Make, known: str) -> None:
    assert (await get(make(note()), known)).status == 200


async def test_a_head_is_conditional_too_and_a_post_is_not(make: Make) -> None:
    app = make(note())

    assert (await get(app, '"3"', method="HEAD")).status == 304
    assert (await get(app, '"3"', method="POST")).status == 200
    assert (await get(app, "*", path="/untagged")).status == 200


async def test_a_change_without_a_tag_is_refused_and_told_what_to_send(make: Make) -> None:
    app = make(note())

    refused = await put(app, None)

    assert (refused.status, refused.json()["type"]) == (428, "/problems/precondition-required")
    assert "If-Match" in refused.json()["detail"]
    assert (await get(app)).json() == {"version": 3}


@pytest.mark.parametrize("expected", ['"2"', 'W/"3"', "3", '"2", "4"', ""])
async def test_a_change_of_another_state_is_refused(make: Make, expected: str) -> None:
    app = make(note())

    assert ((await put(app, expected)).status, (await get(app)).json()) == (412, {"version": 3})


@pytest.mark.parametrize("expected", ['"3"', "*", '"2", "3"'])
async def test_a_change_of_the_state_that_was_read_is_made(make: Make, expected: str) -> None:
    changed = await put(make(note()), expected)

    assert (changed.status, changed.headers["etag"]) == (200, '"4"')


async def test_of_two_who_change_with_one_tag_one_is_refused(make: Make) -> None:
    app = make(note())

    answers = await asyncio.gather(*(put(app, '"3"') for _ in range(2)))

    assert sorted(answer.status for answer in answers) == [200, 412]


def test_every_form_has_a_tag_of_its_own() -> None:
    assert entity_tag(3) != entity_tag(3, "v2") != entity_tag(3, "v1")
