"""The AsyncAPI document of a service: https://www.asyncapi.com/docs/reference/specification/v3.0.0

A channel is a stream: the service's own, and those of the services that it reads or asks. It says `send` of its events
and of the commands that it sends, with the models by which it writes them; `receive` of the commands that it handles
and of others' events, with the models by which it reads them: of an event that is the part that it needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import getdoc
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from covey.message import Command, Message, Reply, stream_of
from covey.messaging.delivery import IN_REPLY_TO
from covey.tools.surface import Surface
from covey.work.inbox import COMMAND_ID, DEADLINE, REPLY_TO

Json = dict[str, Any]

KEY = "x-covey-key"
"""The field whose value orders the messages of a type; absent where only a part is read that lacks it."""

KIND = "x-covey-kind"
"""`event`, `command` or `reply`."""

_ASKER = "asker.reply"
_UUID = {"type": "string", "format": "uuid"}
_TEXT = {"type": "string"}
_NOTHING = {"type": "object", "maxProperties": 0, "description": "It was refused."}
_ON_EVERY_MESSAGE: dict[str, Json] = {
    "ce-specversion": {"const": "1.0"},
    "ce-id": {**_UUID, "description": "The same through every retry: by it a duplicate is recognized."},
    "ce-type": {**_TEXT, "description": "What the message is."},
    "ce-source": {**_TEXT, "description": "The service that it comes from."},
    "ce-subject": {**_TEXT, "description": "The key: messages of one key come in the order of their commits."},
    "ce-time": {**_TEXT, "format": "date-time"},
    "correlation-id": {**_TEXT, "pattern": "^[A-Za-z0-9._-]{1,64}$"},
    "traceparent": {**_TEXT, "description": "The position in the trace, as W3C Trace Context has it."},
    "causation-id": {**_UUID, "description": "The message that was being handled when this one was written."},
}
_ON_COMMANDS: dict[str, Json] = {
    REPLY_TO: {**_TEXT, "description": "The service whose stream the answer goes to; absent: none is wanted."},
    COMMAND_ID: {**_UUID, "description": "The same however often the command is sent."},
    DEADLINE: {**_TEXT, "format": "date-time", "description": "Nobody waits for the answer after it."},
}
_ON_REPLIES: dict[str, Json] = {IN_REPLY_TO: {**_UUID, "description": f"The {COMMAND_ID} that this is the answer to."}}


def document(surface: Surface) -> Json:
    """Return what the service sends and receives. Every part of it is there for a message that the code has."""
    payloads, schemas = _schemas(surface)
    answers = {kind: _answer(kind, payloads, models) for kind, models in sorted(surface.replies.items())}
    used = {**surface.receives, **surface.sends}
    messages = {kind: _message(model, payloads[model]) for kind, model in used.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": surface.name, "version": surface.version},
        "defaultContentType": "application/json",
        "channels": _channels(surface.name, messages, answers),
        "operations": dict(_operations(surface)),
        "components": {
            "messages": {**messages, **_named(answers)},
            "schemas": {**schemas, **_headers(messages, answers)},
        },
    }


class _Schemas(GenerateJsonSchema):
    """JSON Schema that says what is on the wire: a publisher writes every field, those with a default too."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        written = self.mode == "serialization" and field["type"] != "typed-dict-field"
        return field.get("serialization_exclude_if") is None if written else super().field_is_required(field, total)

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # the name of the field again, in other letters


def _schemas(surface: Surface) -> tuple[dict[type[Message], Json], Json]:
    """Return a reference to the schema of each model, and the schemas: as it is written, or as it is read."""
    written = {*surface.sends.values(), *(model for models in surface.replies.values() for model in models)}
    modes: list[tuple[type[Message], JsonSchemaMode]] = [
        *((model, "serialization") for model in written),
        *((model, "validation") for model in surface.receives.values()),
    ]
    modes.sort(key=lambda pair: (pair[0].__module__, pair[0].__qualname__, pair[1]))
    found, whole = models_json_schema(modes, ref_template="#/components/schemas/{model}", schema_generator=_Schemas)
    return {model: found[model, mode] for model, mode in modes}, whole.get("$defs", {})


def _message(model: type[Message], payload: Json) -> Json:
    kind = "command" if issubclass(model, Command) else "event"
    return {
        "name": model.message_type,
        "title": model.__name__,
        **_described(model),
        KIND: kind,
        **({KEY: model.key_field} if model.key_field else {}),
        **_carried(kind),
        "payload": payload,
    }


def _answer(kind: str, payloads: Mapping[type[Message], Json], models: frozenset[type[Reply]]) -> Json:
    """Return the answer to a command; its type on the wire begins with the name of who asked."""
    data = [payloads[model] for model in sorted(models, key=lambda model: model.__qualname__)]
    return {
        "name": "reply.v1",
        "title": f"The answer to {kind}",
        KIND: "reply",
        **_carried("reply"),
        "payload": {
            "type": "object",
            "required": ["outcome", "reason", "data"],
            "properties": {
                "outcome": {"enum": ["done", "refused"]},
                "reason": {"type": ["string", "null"], "description": "Why it was refused, for people."},
                "data": {"anyOf": [*data, _NOTHING]} if data else {"type": "object"},
            },
        },
    }


def _carried(kind: str) -> Json:
    return {
        "headers": {"$ref": f"#/components/schemas/headers-of-{kind}"},
        "correlationId": {"location": "$message.header#/correlation-id"},
    }


def _headers(messages: Mapping[str, Json], answers: Mapping[str, Json]) -> Json:
    """Return the headers of each kind that there is."""
    kinds = {message[KIND] for message in (*messages.values(), *answers.values())}
    extra: dict[str, Json] = {"event": {}, "command": _ON_COMMANDS, "reply": _ON_REPLIES}
    required = {"reply": [IN_REPLY_TO]}
    return {
        f"headers-of-{kind}": {
            "type": "object",
            "description": "CloudEvents 1.0 in binary mode.",
            "required": ["ce-id", "ce-source", "ce-time", "ce-type", *required.get(kind, [])],
            "properties": {**_ON_EVERY_MESSAGE, **headers},
        }
        for kind, headers in extra.items()
        if kind in kinds
    }


def _channels(name: str, messages: Mapping[str, Json], answers: Mapping[str, Json]) -> Json:
    channels: Json = {}
    for kind in messages:
        stream = stream_of(kind)
        whose = "The stream of this service" if stream == name else f"The stream of the service {stream}"
        channel = channels.setdefault(stream, {"address": stream, "description": f"{whose}.", "messages": {}})
        channel["messages"][kind] = _reference("components", "messages", kind)
    if answers:
        channels[_ASKER] = {
            "address": None,
            "description": "The stream of the service that has asked.",
            "messages": {kind: _reference("components", "messages", kind) for kind in _named(answers)},
        }
    return channels


def _operations(surface: Surface) -> Iterator[tuple[str, Json]]:
    actions = {"send": surface.sends, "receive": surface.receives}
    for action, kind, model in (
        (action, kind, model) for action, all in actions.items() for kind, model in all.items()
    ):
        operation = {
            "action": action,
            "channel": _reference("channels", stream_of(kind)),
            "messages": [_reference("channels", stream_of(kind), "messages", kind)],
            **_described(model),
        }
        if kind in surface.replies and action == "receive":
            operation["reply"] = {
                "address": {"location": f"$message.header#/{REPLY_TO}"},
                "channel": _reference("channels", _ASKER),
                "messages": [_reference("channels", _ASKER, "messages", f"{kind}.reply")],
            }
        yield f"{action}.{kind}", operation


def _named(answers: Mapping[str, Json]) -> dict[str, Json]:
    return {f"{kind}.reply": answer for kind, answer in answers.items()}


def _described(model: type[Message]) -> Json:
    doc = getdoc(model) if "__doc__" in vars(model) else None
    return {"description": " ".join(doc.split())} if doc else {}


def _reference(*path: str) -> Json:
    return {"$ref": "#/" + "/".join(path)}
