"""Pacts about gRPC without Pact's plugin for it: a call is a synchronous message, its messages are in proto-JSON.

The request names its method in the metadata `grpc-method`, the answer its status in `grpc-status`, and fields are
called as in the `.proto`. Over the wire both sides speak protobuf, always by the consumer's part of the contract: so a
field that the provider has given another number is missed, and one that it calls otherwise is not. A field without a
value of its own (0, "", none of a list) cannot be told from one that is not sent: where the example has a value, such a
field is missing.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from pact import Pact
from pact.interaction import SyncMessageInteraction
from starlette.requests import Request
from starlette.responses import Response

from covey.testing.pacts import State, interactions, read, replay, verifier_of

_METHOD, _STATUS, _TYPE = "grpc-method", "grpc-status", "contentType"
_JSON = "application/json"
_SECONDS = 10


def call(
    pact: Pact,
    what: str,
    method: str,
    request: Mapping[str, Any],
    answer: Mapping[str, Any] | None = None,
    *,
    status: str = "OK",
    metadata: Mapping[str, Any] | None = None,
) -> SyncMessageInteraction:
    """Describe a call of a method, such as `user.v1.UserService/GetUser`, and what it is answered.

    Request, answer and metadata are made of values and matchers (`pact.match`). What stands for a refusal is its status
    alone.
    """
    interaction = pact.upon_receiving(what, "Sync").with_body(dict(request), _JSON)
    interaction.with_metadata({_METHOD: method, **(metadata or {})})
    # An answer without a body would not be written at all, its status neither.
    return interaction.will_respond_with().with_body(dict(answer or {}), _JSON).with_metadata({_STATUS: status})


@asynccontextmanager
async def provider(pact: Pact, pool: DescriptorPool) -> AsyncIterator[str]:
    """Serve what a pact says inside the block, on a free port of 127.0.0.1; yields its address.

    `pool` has the consumer's part of the contract. Raises AssertionError at the end of the block for a call that the
    pact does not have, and for one that it has and nobody made.
    """
    stand_in = _StandIn(read(pact)["interactions"], pool)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((stand_in,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
    if stand_in.complaints():
        raise AssertionError("; ".join(stand_in.complaints()))


async def verify(
    provider: str,
    file: Path,
    address: str,
    states: Mapping[str, State],
    pool: DescriptorPool,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Replay a pact against the provider that serves this address, as `covey.testing.pacts.verify` does.

    `pool` has the consumer's part of the contract. What `metadata` names is sent instead of what the pact has: a token
    that the provider under test takes.
    """
    examples: dict[str, Any] = {_about(one): one.get("response") for one in interactions(file)}
    async with grpc.aio.insecure_channel(address) as channel:

        async def answer(request: Request) -> Response:
            about = await request.json()
            example = examples[_about(about)][0]["contents"]["content"]
            said, status = await _called(channel, pool, about["request"], metadata or {}, example)
            told = base64.b64encode(json.dumps({_STATUS: status, _TYPE: _JSON}).encode()).decode()
            return Response(json.dumps(said), media_type=_JSON, headers={"Pact-Message-Metadata": told})

        await replay(verifier_of(provider, file, "127.0.0.1"), file, states, answer)


def pool_of(files: FileDescriptorSet) -> DescriptorPool:
    """Return the pool of a contract that was compiled (`covey.tools.proto.compiled`), each file after its imports."""
    pool = DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool


def _about(interaction: Mapping[str, Any]) -> str:
    """Return what one interaction is told from all others by."""
    return json.dumps([interaction["description"], interaction.get("providerStates", [])], sort_keys=True)


async def _called(
    channel: grpc.aio.Channel,
    pool: DescriptorPool,
    asked: Mapping[str, Any],
    metadata: Mapping[str, str],
    example: Mapping[str, Any],
) -> tuple[dict[str, Any], str]:
    """Make the call that a pact has; return what is answered, and its status."""
    name = asked["metadata"][_METHOD]
    method = _method(pool, name)
    request = ParseDict(asked["contents"]["content"], GetMessageClass(method.input_type)())
    make: Any = channel.unary_unary(f"/{name}", response_deserializer=GetMessageClass(method.output_type).FromString)
    sent = {**_own_metadata(asked), **metadata}
    try:
        answer = await make(request.SerializeToString(), timeout=_SECONDS, metadata=tuple(sent.items()))
        return _sent(_shown(answer), MessageToDict(answer, preserving_proto_field_name=True), example), "OK"
    except grpc.aio.AioRpcError as error:
        return {}, error.code().name


@dataclass
class _StandIn(grpc.GenericRpcHandler):
    """Answers as interactions say."""

    interactions: list[dict[str, Any]]
    pool: DescriptorPool
    made: set[str] = field(default_factory=set)
    unknown: list[str] = field(default_factory=list)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        name = handler_call_details.method.removeprefix("/")

        async def answer(request: bytes, context: Any) -> bytes:
            method = _method(self.pool, name)
            shown = _shown(GetMessageClass(method.input_type).FromString(request))
            metadata = dict(context.invocation_metadata() or ())
            for one in self.interactions:
                if _is(one["request"], name, shown, metadata):
                    self.made.add(one["description"])
                    return await _say(one["response"][0], method, context)
            self.unknown.append(f"{name} was called with {shown} and {sorted(metadata)}, which the pact does not have")
            return bytes(await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the pact has no such call"))

        return grpc.unary_unary_rpc_method_handler(answer)

    def complaints(self) -> list[str]:
        """Return what was not as the pact says."""
        missed = [one["description"] for one in self.interactions if one["description"] not in self.made]
        return [*self.unknown, *(f"nobody made the call: {what}" for what in missed)]


async def _say(answer: Mapping[str, Any], method: MethodDescriptor, context: Any) -> bytes:
    status = answer["metadata"][_STATUS]
    if status != "OK":
        await context.abort(grpc.StatusCode[status], "as the pact says")
    return ParseDict(answer["contents"]["content"], GetMessageClass(method.output_type)()).SerializeToString()


def _is(request: Mapping[str, Any], name: str, shown: Mapping[str, Any], metadata: Mapping[str, str]) -> bool:
    """Tell whether a call is the one that is described: of its examples, and of metadata that fits its patterns."""
    rules = request.get("matchingRules", {}).get("metadata", {})
    return (
        request["metadata"][_METHOD] == name
        and request["contents"]["content"] == shown
        and all(_fits(metadata.get(key), value, rules.get(key)) for key, value in _own_metadata(request).items())
    )


def _fits(value: str | None, example: str, rule: Mapping[str, Any] | None) -> bool:
    patterns = [one["regex"] for one in rule["matchers"] if one["match"] == "regex"] if rule else []
    if value is None or not patterns:
        return value == example
    return all(re.fullmatch(pattern, value) for pattern in patterns)


def _own_metadata(request: Mapping[str, Any]) -> dict[str, str]:
    return {key: value for key, value in request["metadata"].items() if key not in (_METHOD, _TYPE)}


def _shown(message: Message) -> dict[str, Any]:
    """Return a message in proto-JSON, with the fields whose absence nobody could tell from their default."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _sent(shown: Any, sent: Any, example: Any) -> Any:
    """Return what is shown of an answer, without the fields that only their defaults stand for and not the example."""
    match shown, example:
        case dict(), dict():
            return {
                name: _sent(value, sent.get(name), example.get(name))
                for name, value in shown.items()
                if name in sent or example.get(name, value) == value
            }
        case list(), [first, *_]:
            return [_sent(one, other, first) for one, other in zip(shown, sent, strict=True)]
        case _:
            return shown


def _method(pool: DescriptorPool, name: str) -> MethodDescriptor:
    service, _, method = name.rpartition("/")
    return pool.FindServiceByName(service).methods_by_name[method]
