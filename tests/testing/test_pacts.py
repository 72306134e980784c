"""What holds consumers and providers to a pact: it must notice who does not keep it, and a pact that holds nobody."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from pact import Pact, match
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from covey.testing import grpc_pacts
from covey.testing.grpc_pacts import call, pool_of, provider
from covey.testing.pacts import difference, exact_values, read, verify
from covey.testing.serving import serving

WALL = "walls.v1.Walls/Show"
WALLS = FileDescriptorSet()
WALLS.file.add(name="walls.proto", package="walls.v1", syntax="proto3")
WALLS.file[0].message_type.add(name="Wall").field.add(name="id", number=1, type=9, label=1)
WALLS.file[0].service.add(name="Walls").method.add(
    name="Show", input_type=".walls.v1.Wall", output_type=".walls.v1.Wall"
)


def agreed(colour: object = "red") -> Pact:
    """A pact of house with walls."""
    pact = Pact("house", "walls")
    asked = pact.upon_receiving("a wall").given("a wall", id=1).with_request("GET", "/walls/1")
    asked.will_respond_with(200).with_body({"colour": colour}, "application/json")
    return pact


def checked_in(pact: Pact, folder: Path) -> Path:
    difference(pact, folder)
    return next(folder.glob("*.json"))


async def held(file: Path, answer: object, state: str = "a wall") -> None:
    """Replay a pact against a provider that gives this answer once it is in its state."""
    walls: list[Mapping[str, Any]] = []

    async def wall(said: Mapping[str, Any]) -> None:
        walls.append(said)

    async def show(request: Request) -> Response:
        return JSONResponse(answer) if walls == [{"id": 1}] else Response(status_code=404)

    async with serving(Starlette(routes=[Route("/walls/1", show)])) as url:
        try:
            await verify("walls", file, url, {state: wall})
        except AssertionError as error:
            told = error
        else:
            return
    raise told  # outside of the block, which would make it one of a group


async def test_a_provider_that_keeps_it_in_its_state_passes(tmp_path: Path) -> None:
    await held(checked_in(agreed(match.str("red")), tmp_path), {"colour": "blue", "height": 2})


@pytest.mark.parametrize("answer", [{"colour": 1}, {"color": "red"}, []])
async def test_a_provider_that_does_not_keep_it_is_told(tmp_path: Path, answer: object) -> None:
    with pytest.raises(AssertionError, match="a wall"):
        await held(checked_in(agreed(match.str("red")), tmp_path), answer)


async def test_a_state_that_the_provider_does_not_know_is_told(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="KeyError: 'a wall'"):
        await held(checked_in(agreed(match.str("red")), tmp_path), {"colour": "red"}, "another")


async def test_a_call_that_expects_no_answer_holds_nobody_and_is_told(tmp_path: Path) -> None:
    """Pact takes it for met: what has no body is not written, its status neither."""
    pact = Pact("house", "walls")
    pact.upon_receiving("a wall", "Sync").with_body({}).will_respond_with().with_metadata({"grpc-status": "NOT_FOUND"})

    with pytest.raises(AssertionError, match="it expects no answer"):
        await held(checked_in(pact, tmp_path), {})


async def test_a_pact_with_another_provider_is_told(tmp_path: Path) -> None:
    file = checked_in(agreed(), tmp_path)
    file.write_text(json.dumps({**json.loads(file.read_text()), "provider": {"name": "another"}}))

    with pytest.raises(AssertionError, match="was made with another, not with"):
        await held(file, {})


async def test_a_pact_without_an_interaction_holds_nobody_and_is_told(tmp_path: Path) -> None:
    file = checked_in(agreed(), tmp_path)
    file.write_text(json.dumps({**json.loads(file.read_text()), "interactions": []}))

    with pytest.raises(AssertionError, match="the pact has no interaction"):
        await held(file, {})


@pytest.mark.parametrize(
    ("colours", "place"),
    [
        (match.each_like({"name": match.str("red")}), "$.colour"),
        (match.like([1]), "$.colour"),
        (match.like({"tones": [1]}), "$.colour.tones"),
        (match.each_like({"tones": [1]}, min=1), r"$.colour[*].tones"),
    ],
)
async def test_a_list_that_may_be_empty_holds_nobody_to_what_is_in_it_and_is_told(
    tmp_path: Path, colours: object, place: str
) -> None:
    """Pact takes an empty list for one like the example."""
    with pytest.raises(AssertionError, match=f"a wall: {re.escape(place)}: an empty list would do"):
        await held(checked_in(agreed(colours), tmp_path), {"colour": []})


async def test_a_list_of_one_at_least_is_held_to_what_is_in_it(tmp_path: Path) -> None:
    file = checked_in(agreed(match.each_like({"name": match.str("red")}, min=1)), tmp_path)

    await held(file, {"colour": [{"name": "blue"}, {"name": "green"}]})
    for answer in ([], [{"name": 1}], [{"name": "blue"}, {}]):
        with pytest.raises(AssertionError, match="a wall"):
            await held(file, {"colour": answer})


@pytest.mark.parametrize("answer", [b"\x12\x011", b""])
async def test_a_field_of_grpc_that_the_provider_does_not_send_is_missed(tmp_path: Path, answer: bytes) -> None:
    """Who reads it sees its default, which has the type that was agreed."""
    await shown(agreed_call({"id": match.str("1")}), tmp_path, b"\n\x012")
    with pytest.raises(AssertionError, match="a wall"):
        await shown(agreed_call({"id": match.str("1")}), tmp_path, answer)


async def test_a_field_of_grpc_may_have_its_default_where_the_example_has_it(tmp_path: Path) -> None:
    await shown(agreed_call({"id": match.str("")}), tmp_path, b"")


def agreed_call(answer: Mapping[str, object]) -> Pact:
    """A pact of house with walls, over gRPC."""
    pact = Pact("house", "walls")
    call(pact, "a wall", WALL, {"id": match.str("1")}, answer).given("a wall")
    return pact


async def shown(pact: Pact, folder: Path, answer: bytes) -> None:
    """Replay a pact against a provider that gives this answer."""

    async def show(_: bytes, __: object) -> bytes:
        return answer

    async def wall(_: Mapping[str, Any]) -> None:
        pass

    service, _, method = WALL.partition("/")
    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(show)})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        address = f"127.0.0.1:{port}"
        await grpc_pacts.verify("walls", checked_in(pact, folder), address, {"a wall": wall}, pool_of(WALLS))
    finally:
        await server.stop(None)


def test_a_pact_is_written_once_and_held_from_then_on(tmp_path: Path) -> None:
    assert "has been written" in (difference(agreed(), tmp_path) or "")
    assert difference(agreed(), tmp_path) is None
    assert difference(agreed("blue"), tmp_path) == (
        '/interactions/0/response/body/content/colour: the file has "red", the pact "blue"; '
        "if that is meant, remove house-walls.json and run this again"
    )


def test_the_version_of_pact_is_no_difference(tmp_path: Path) -> None:
    file = checked_in(agreed(), tmp_path)
    assert "pactRust" not in read(agreed())["metadata"]

    written = json.loads(file.read_text())
    written["metadata"]["pactRust"] = {"models": "0.0.1"}
    file.write_text(json.dumps(written))

    assert difference(agreed(), tmp_path) is None


@pytest.mark.parametrize(
    ("colour", "places"),
    [("red", ["a wall: $.colour"]), (match.str("red"), []), (match.like({"name": "red", "tones": [1]}), [])],
)
def test_a_value_that_must_be_met_to_the_letter_is_named(tmp_path: Path, colour: object, places: list[str]) -> None:
    assert exact_values(checked_in(agreed(colour), tmp_path)) == places


class TestAProviderOfGrpc:
    """Stands in for a real one, and says what the pact says."""

    async def test_answers_what_is_described_and_misses_what_nobody_asks(self) -> None:
        pact = Pact("house", "walls")
        call(pact, "a wall", WALL, {"id": match.str("1")}, {"id": match.str("1")})
        call(pact, "no wall", WALL, {"id": match.str("2")}, status="NOT_FOUND")

        with pytest.raises(AssertionError, match="nobody made the call: no wall"):
            async with provider(pact, pool_of(WALLS)) as address:
                assert await show(address, b"\n\x011") == b"\n\x011"

    @pytest.mark.parametrize(("id", "token"), [(b"\n\x012", "Bearer x"), (b"\n\x011", "x"), (b"\n\x011", "")])
    async def test_tells_of_a_call_that_is_not_described(self, id: bytes, token: str) -> None:
        pact = Pact("house", "walls")
        metadata = {"authorization": match.regex("Bearer y", regex="Bearer .+")}
        call(pact, "a wall", WALL, {"id": match.str("1")}, {"id": match.str("1")}, metadata=metadata)

        with pytest.raises(AssertionError, match="was called with"):
            async with provider(pact, pool_of(WALLS)) as address:
                with pytest.raises(grpc.aio.AioRpcError, match="no such call"):
                    await show(address, id, (("authorization", token),) if token else ())


async def show(address: str, request: bytes, metadata: tuple[tuple[str, str], ...] = ()) -> bytes:
    async with grpc.aio.insecure_channel(address) as channel:
        answer: bytes = await channel.unary_unary(f"/{WALL}")(request, timeout=5, metadata=metadata)
        return answer
