"""Routes of every plain kind, and some that are not, for the comparison of the ways through them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    Header,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
)
from fastapi.responses import PlainTextResponse, RedirectResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, Json, computed_field, field_validator

from covey.errors import NotFound
from covey.http.idempotency import IdempotentRoute


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Tag(BaseModel):
    label: str = Field(max_length=5)
    weight: Decimal = Decimal(1)


class Item(BaseModel):
    name: str
    price: float = Field(gt=0)
    colour: Colour | None = None
    seen: datetime | None = None
    tags: list[Tag] = []

    @field_validator("name")
    @classmethod
    def is_sane(cls, name: str) -> str:
        if name == "forbidden":
            raise HTTPException(418, "the validator does not want it")
        return name.strip()


class Exact(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    count: int
    share: float
    on: date | None = None
    sort: Literal["up", "down"] = "up"


class Shown(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)
    item_id: int = Field(alias="itemId")
    note: str | None = None
    secret: str = "hidden"

    @computed_field
    def double(self) -> int:
        return self.item_id * 2


SHARED: list[str] = []
"""A default that every request would change, were it not copied."""

PATHS: dict[str, Any] = {
    "str": str, "int": int, "float": float, "bool": bool, "uuid": UUID, "date": date, "datetime": datetime,
    "decimal": Decimal, "enum": Colour, "literal": Literal["a", "b"], "either": int | str,
    "bounded": Annotated[int, Path(ge=-5, le=5)], "short": Annotated[str, Path(max_length=3, pattern="^[a-z]*$")],
}  # fmt: skip
"""Paths `/path/<name>/{value}`, and the type that each takes."""


def echo(kind: Any) -> Callable[..., Any]:
    async def endpoint(value: Any) -> str:
        return repr(value)

    endpoint.__annotations__ = {"value": kind, "return": str}
    return endpoint


paths = APIRouter(prefix="/path")
for _name, _kind in PATHS.items():
    paths.add_api_route(f"/{_name}/{{value}}", echo(_kind), methods=["GET"])
paths.add_api_route("/converted/{value:int}", echo(int), methods=["GET"])
paths.add_api_route("/rest/{value:path}", echo(str), methods=["GET"])

api = APIRouter()


@api.get("/query")
async def query(
    q: str,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
    colour: Colour | None = None,
    sort: Literal["up", "down"] = "up",
    since: Annotated[date | None, Query(alias="from")] = None,
    exact: Annotated[bool, Query(validation_alias="is-exact")] = False,
    made: Annotated[str, Query(default_factory=lambda: "made")] = ...,  # type: ignore[assignment]  # the factory's
    checked: Annotated[int, Query(validate_default=True)] = "7",  # type: ignore[assignment]  # what is validated
    nested: Json[int] | None = None,
) -> str:
    return repr((q, limit, colour, sort, since, exact, made, checked, nested))


@api.get("/collected")
async def collected(seen: Annotated[Any, Query(default_factory=lambda: SHARED)]) -> str:
    seen.append("once")
    return repr(seen)


@api.get("/headers")
async def headers(
    x_version: Annotated[int, Header()],
    user_agent: Annotated[str | None, Header()] = None,
    x_Mixed_case: Annotated[str, Header(convert_underscores=False)] = "none",  # the point of it
) -> str:
    return repr((x_version, user_agent, x_Mixed_case))


@api.post("/items", status_code=201)
async def items(item: Item) -> Item:
    return item


@api.put("/items/{item_id}")
async def put_item(item_id: int, item: Item, dry: bool = False) -> str:
    return repr((item_id, item, dry))


@api.patch("/exact")
async def exact(body: Exact) -> str:
    return repr(body)


@api.post("/numbers")
async def numbers(body: dict[str, int]) -> dict[str, int]:
    return body


@api.post("/list")
async def many(body: list[Exact | Item]) -> int:
    return len(body)


@api.post("/anything")
async def anything(body: Annotated[Any, Body()]) -> str:
    return repr(body)


@api.post("/optional")
async def optional(item: Item | None = None) -> str:
    return repr(item)


@api.post("/scalar")
async def scalar(body: Annotated[int, Body(ge=0)]) -> int:
    return body


@api.post("/read-again")
async def read_again(item: Item, request: Request) -> str:
    async with asyncio.timeout(5):
        seen = (await request.is_disconnected(), await request.body(), await request.json())
    return repr((item, *seen, dict(request.query_params), request.path_params, request.state._state))


@api.post("/read-raw")
async def read_raw(request: Request) -> str:
    return repr((await request.body(), request.headers.get("content-type"), request.url.path))


@api.get("/shown", response_model=Shown)
async def shown(item_id: int = 1, note: str | None = None) -> Any:
    return {"itemId": item_id, "note": note, "secret": "s", "unknown": 1}


@api.get("/shown/bare", response_model=Shown, response_model_exclude_none=True, response_model_by_alias=False)
async def shown_bare(note: str | None = None) -> Any:
    return Shown(itemId=3, note=note)


@api.get("/shown/set", response_model=Shown, response_model_exclude_unset=True, response_model_exclude={"item_id"})
async def shown_set() -> Any:
    return Shown(itemId=3)


@api.get("/shown/least", response_model=Shown, response_model_exclude_defaults=True, response_model_include={"note"})
async def shown_least(note: str | None = None) -> Any:
    return Shown(itemId=3, note=note)


@api.get("/untyped")
async def untyped(q: str = "é"):  # type: ignore[no-untyped-def]  # such routes exist
    return {"q": q, "at": date(2026, 1, 1), "colour": Colour.RED, "item": Tag(label="x"), "float": 1.0}


@api.get("/nothing")
async def nothing() -> None:
    return None


@api.delete("/gone", status_code=204)
async def gone() -> None:
    return None


@api.post("/set", status_code=201)
async def set_headers(response: Response, status: int | None = None) -> dict[str, int]:
    response.headers["Location"] = "/set/1"
    response.headers["Content-Type"] = "application/vnd.test+json"
    response.set_cookie("a", "b")
    response.set_cookie("c", "d")
    if status is not None:
        response.status_code = status
    return {"a": 1}


@api.get("/returned", response_model=None)
async def returned(response: Response, code: int = 200) -> Response:
    response.headers["X-Lost"] = "as the response is another"
    return PlainTextResponse("plain", code, {"X-Own": "1"})


@api.get("/redirect")
async def redirect() -> RedirectResponse:
    return RedirectResponse("/elsewhere")


@api.post("/streamed")
async def streamed(item: Item) -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        yield b"a"
        yield item.name.encode()

    return StreamingResponse(parts(), media_type="text/csv")


@api.get("/raises/{kind}")
async def raises(kind: Literal["http", "covey", "value", "key"]) -> str:
    raise {
        "http": HTTPException(402, "pay", {"X-Price": "1"}),
        "covey": NotFound("not here"),
        "value": ValueError("must not be taken for a mistake in the request"),
        "key": KeyError("nor this"),
    }[kind]


@api.get("/broken", response_model=Shown)
async def broken(q: int = 0) -> Any:
    return {"itemId": "no number", "q": q}


@api.get("/unserializable")
async def unserializable() -> Any:
    return {"value": object()}


plain = [paths, api]

idempotent = APIRouter(route_class=IdempotentRoute, prefix="/idempotent")
idempotent.add_api_route("/items", items, methods=["POST"], status_code=201)


class OwnRoute(IdempotentRoute):
    """Inherits what says that the short way may be taken, and may have overridden anything."""


async def known(x_who: Annotated[str, Header()] = "nobody") -> str:
    return x_who


def in_thread(value: int) -> int:
    return value


async def takes_list(value: Annotated[list[int], Query()]) -> list[int]:
    return value


async def takes_model(value: Annotated[Tag, Query()]) -> Tag:
    return value


async def takes_two(item: Item, other: Tag) -> str:
    return item.name + other.label


async def takes_embedded(item: Annotated[Item, Body(embed=True)]) -> str:
    return item.name


async def takes_cookie(value: Annotated[str, Cookie()] = "none") -> str:
    return value


async def takes_tasks(tasks: BackgroundTasks) -> int:
    return len(tasks.tasks)


async def takes_dependency(who: Annotated[str, Depends(known)]) -> str:
    return who


async def streams() -> AsyncIterator[Tag]:
    yield Tag(label="x")


def others() -> dict[str, APIRouter]:
    """Return routers of one route each, which only FastAPI handles."""
    endpoints = {
        "GET": [in_thread, takes_list, takes_model, takes_cookie, takes_tasks, takes_dependency, streams],
        "POST": [takes_two, takes_embedded],
    }
    made = {}
    for method, functions in endpoints.items():
        for function in functions:
            made[function.__name__] = router = APIRouter()
            router.add_api_route("/", function, methods=[method])
    made["limited"] = APIRouter(max_body_size=10)
    made["limited"].add_api_route("/", items, methods=["POST"])
    made["text"] = APIRouter(default_response_class=PlainTextResponse)
    made["text"].add_api_route("/", untyped, methods=["GET"])
    made["own class"] = APIRouter(route_class=OwnRoute)
    made["own class"].add_api_route("/", items, methods=["POST"])
    made["guarded"] = APIRouter(dependencies=[Depends(known)])
    made["guarded"].add_api_route("/", items, methods=["POST"])
    return made
