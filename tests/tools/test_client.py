"""`covey client`: what is made of a contract is Python that mypy takes, and calls the real service."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import TypeAdapter
from user_service.main import service as user_service

from covey.errors import ConfigurationError, Conflict, NotFound
from covey.http.client import HttpClient
from covey.ids import new_id
from covey.local.system import read_system
from covey.messaging.brokers.memory import MemoryBroker
from covey.settings import ServiceSettings
from covey.testing.serving import serving
from covey.testing.tokens import KEY, token
from covey.tools.client import module, read_contract
from tests.docs.pages import ROOT


def _of(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _answering(schema: dict[str, Any], *parameters: dict[str, Any], name: str = "") -> dict[str, Any]:
    answer = {"200": {"content": {"application/json": {"schema": schema}}}}
    return {"responses": answer, "parameters": list(parameters)} | ({"operationId": name} if name else {})


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_TEXT = {"type": "string"}
_ID = {"in": "path", "name": "animal-id", "required": True, "schema": _TEXT}
ZOO: dict[str, Any] = {
    "paths": {
        "/animals/{animal-id}": {
            "parameters": [_ID, {"in": "query", "name": "animal_id", "schema": {"type": "integer"}}],
            "get": _answering(_of("Animal"), name="Animal"),
            "put": _answering({"type": "null"}, {"in": "query", "name": "key", "schema": _TEXT}, {
                "in": "header", "name": "Idempotency-Key", "schema": _TEXT,
            }, {"in": "header", "name": "traceparent", "schema": _TEXT}, name="HttpClient"),
        },
        "/herd": {"get": _answering(_of("Herd")), "put": _answering(_of("Mood"), name="segment")},
        "/tree": {"get": _answering(_of("Tree")), "put": _answering(_of("UUID"))},
        "/rate": {"get": _answering({"enum": [0.5, 1]}), "put": _answering(_of("Elsewhere"))},
        "/names": {"get": _answering(_of("Zoo-Keeper")), "put": _answering(_of("Zoo_Keeper"))},
    },
    "components": {
        "schemas": {
            "Animal": {"oneOf": [_of("Cat"), _of("Dog")]},
            "Herd": {"type": "array", "items": _of("Animal")},
            "Mood": {"enum": ["well", "unwell"]},
            "Tree": {"anyOf": [_TEXT, {"type": "array", "items": _of("Tree")}]},
            "Cat": _object(lives={"type": "integer"}, friends=_of("Herd"), mood=_of("Mood")),
            "Dog": _object(**{"a-b": _TEXT, "a_b": _TEXT, "json": _TEXT, "model_config": _TEXT, "Cat": _of("UUID")}),
            "UUID": _object(text={"type": "string", "format": "uuid"}),
            "Zoo-Keeper": _object(first=_TEXT),
            "Zoo_Keeper": _object(second=_TEXT),
        }
    },
}  # fmt: skip
"""A contract whose names get in each other's way, and whose aliases name what comes behind them."""

SERVICES = ("order", "inventory", "payment", "shipping", "user", "notification")


def contract(service: str) -> dict[str, Any]:
    return read_contract(read_system(ROOT), service)


def imported(path: Path) -> ModuleType:
    """Import a module that nothing else knows."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = found  # where pydantic looks for what a model mentions
    spec.loader.exec_module(found)
    return found


def test_a_client_of_each_service_is_clean_to_mypy_and_ruff(tmp_path: Path) -> None:
    for service in SERVICES:
        (tmp_path / f"{service}_client.py").write_text(module(service, contract(service)))
    (tmp_path / "zoo_client.py").write_text(module("zoo", ZOO))

    python, settings = sys.executable, str(ROOT / "pyproject.toml")
    for command in (
        [python, "-m", "mypy", "--config-file", settings, "--cache-dir", str(tmp_path / "cache"), str(tmp_path)],
        [python, "-m", "ruff", "check", "--no-cache", "--config", settings, str(tmp_path)],
        [python, "-m", "ruff", "format", "--no-cache", "--check", "--config", settings, str(tmp_path)],
    ):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_a_function_for_each_operation() -> None:
    for service in SERVICES:
        document = contract(service)
        operations = sum(
            len(set(item) & {"get", "post", "put", "patch", "delete"}) for item in document["paths"].values()
        )

        assert module(service, document).count("\nasync def ") == operations


async def test_a_client_that_was_made_calls_the_real_service(
    tmp_path: Path, make_database: Callable[[Path | None], str], memory_broker: MemoryBroker
) -> None:
    path = tmp_path / "made_user_client.py"
    path.write_text(module("user", contract("user")))
    users = imported(path)
    settings = ServiceSettings(
        database_url=make_database(ROOT / "services/user/migrations"), nats_url="nats://unused", development_key=KEY
    )

    async with (
        user_service.running(settings, memory_broker) as running,
        serving(running.app) as url,
        HttpClient.open("user", url, caller="test", token=token("staff:test", "staff")) as client,
    ):
        ada = await users.create_user(client, users.NewUser(name="Ada", email="ada@example.com"), key="one")
        again = await users.create_user(client, users.NewUser(name="Ada", email="ada@example.com"), key="one")
        with pytest.raises(Conflict):
            await users.create_user(client, users.NewUser(name="Eve", email="ada@example.com"))
        found = await users.get_user(client, ada.id)
        listed = await users.list_users(client, ids=[ada.id, new_id()])
        changed = await users.change_profile(
            client, ada.id, users.WholeProfile(name="Ada L.", email="ada@example.com"), if_match="*"
        )
        patched = await users.patch_profile(client, ada.id, {"age": 36}, if_match="*")
        await users.close_account(client, ada.id)
        with pytest.raises(NotFound):
            await users.get_user(client, ada.id)

    assert ada == again == found
    assert listed.users == [ada]
    assert changed.name == "Ada L."
    assert (patched.name, patched.age) == ("Ada L.", 36)
    assert users.announce_users_v1 is not users.announce_users  # of the version that will end, and of the newest


def test_names_that_python_has_no_room_for_are_written_otherwise(tmp_path: Path) -> None:
    thing = {
        "type": "object",
        "description": 'What ends in\na quote: \\ "so"',
        "required": ["from", "2nd"],
        "properties": {
            "from": {"type": "string", "format": "date-time"},
            "2nd": {"anyOf": [{"$ref": "#/components/schemas/Thing"}, {"type": "null"}]},
            "kind": {"enum": ["a", 1]},
            "more": {"type": "object", "additionalProperties": {"type": "number"}},
            "rest": {},
            "date": {"type": "string", "format": "date"},
        },
    }
    answer = {"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}}}
    document = {
        "paths": {"/things/{thing-id}": {"get": {"responses": answer, "parameters": [
            {"in": "path", "name": "thing-id", "required": True, "schema": {"type": "integer"}},
            {"in": "query", "name": "class", "required": True, "schema": {"type": "boolean"}},
        ]}}},
        "components": {"schemas": {"Thing": thing, "Unused": {"type": "object", "properties": {}}}},
    }  # fmt: skip
    path = tmp_path / "made_thing_client.py"

    path.write_text(module("thing", json.loads(json.dumps(document))))
    made = imported(path)

    read = made.Thing.model_validate_json('{"from": "2026-01-01T00:00:00Z", "2nd": null, "kind": 1, "unknown": 7}')
    assert (read.from_.year, read.n2nd, read.kind) == (2026, None, 1)
    assert not hasattr(made, "Unused")
    assert made.get_things_thing_id.__kwdefaults__ is None


def test_names_that_get_in_each_others_way_are_told_apart_and_aliases_name_what_is_behind_them(tmp_path: Path) -> None:
    path = tmp_path / "made_zoo_client.py"

    path.write_text(module("zoo", ZOO))
    made = imported(path)

    dog = {"a-b": "1", "a_b": "2", "json": "3", "model_config": "4", "Cat": {"text": str(new_id())}}
    read = TypeAdapter(made.Animal).validate_python(dog)
    assert (read.a_b_, read.a_b, read.json_, read.model_config_) == ("1", "2", "3", "4")
    assert read.model_dump(mode="json", by_alias=True) == dog
    cat = made.Cat.model_validate({"lives": 9, "friends": [dog], "mood": "well"})
    assert cat.friends == [read]
    assert TypeAdapter(made.Tree).validate_python(["a", ["b"]]) == ["a", ["b"]]
    assert (made.Zoo_Keeper(second="x").second, made.Zoo_Keeper_(first="y").first) == ("x", "y")
    assert list(inspect.signature(made.Animal_).parameters) == ["client", "animal_id", "animal_id_"]
    assert list(inspect.signature(made.HttpClient_).parameters) == ["client", "animal_id", "animal_id_", "key_", "key"]


def test_a_parameter_that_is_in_a_path_and_not_declared_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"GET /herd/\{name\} declares no parameter 'name'"):
        module("zoo", {"paths": {"/herd/{name}": {"get": _answering(_TEXT)}}})


def test_what_a_contract_refers_to_is_there_as_if_it_were_written_out() -> None:
    written = {"paths": {"/herd/{animal-id}": {
        "put": {**_answering(_TEXT, _ID), "requestBody": {"content": {"application/json": {"schema": _TEXT}}}},
    }}}  # fmt: skip
    operation = written["paths"]["/herd/{animal-id}"]["put"]
    parts = {"id": _ID, "body": operation["requestBody"], "answer": operation["responses"]["200"]}
    referring = {**written, "parts": parts, "paths": {"/herd/{animal-id}": {"put": {
        "parameters": [{"$ref": "#/parts/id"}],
        "requestBody": {"$ref": "#/parts/body"},
        "responses": {"200": {"$ref": "#/parts/answer"}},
    }}}}  # fmt: skip

    assert module("zoo", referring) == module("zoo", written)


def test_a_path_says_nothing_but_a_path() -> None:
    path = '/herd/"+exit()+"/{animal-id}'

    made = ast.parse(module("zoo", {"paths": {path: {"get": _answering(_TEXT, _ID)}}}))

    assert "exit" not in {node.id for node in ast.walk(made) if isinstance(node, ast.Name)}


def test_a_service_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigurationError, match="'loyalty' is no service"):
        contract("loyalty")
