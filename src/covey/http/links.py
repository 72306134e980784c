"""Links of an OpenAPI document: from what was made, or read, to what can be done with it (OpenAPI 3.1, Link Object).

Nobody writes them: they follow from the shape of the addresses. What `POST /orders` answers with has an `id`, which is
the `{order_id}` of `/orders/{order_id}` and of what lies below; what reads a thing has its `ETag`, which is the
`If-Match` of what changes it. A client generator follows them, and a test that goes from one operation to the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_PARAMETER = re.compile(r"{(\w+)}")
_METHODS = frozenset({"get", "put", "patch", "delete", "post"})


def add_links(document: dict[str, Any]) -> None:
    """Add to each answer that leads on where it leads to."""
    operations = list(_operations(document))
    for path, method, operation in operations:
        for answer in _with_id(operation, document):
            if method == "post":
                links = _from_made(path, operations)
            elif method == "get":
                links = _from_read(path, operations)
            else:
                continue
            if links:
                answer["links"] = links


def _from_made(collection: str, operations: list[tuple[str, str, dict[str, Any]]]) -> dict[str, Any]:
    """Return links from what makes something in a collection to all that is about that one alone."""
    links = {}
    for path, method, operation in operations:
        below = path.removeprefix(collection)
        own = _PARAMETER.findall(below)
        if not path.startswith(f"{collection}/{{") or len(own) != 1:
            continue
        given = {name: f"$request.path.{name}" for name in _PARAMETER.findall(collection)}
        links[_name(operation)] = _link(method, operation, {**given, own[0]: "$response.body#/id"})
    return links


def _from_read(path: str, operations: list[tuple[str, str, dict[str, Any]]]) -> dict[str, Any]:
    """Return links from what reads something to what changes it."""
    given = {name: f"$request.path.{name}" for name in _PARAMETER.findall(path)}
    return {
        _name(operation): _link(method, operation, given)
        for other, method, operation in operations
        if other == path and method in ("put", "patch", "delete")
    }


def _link(method: str, operation: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    parameters = {f"path.{name}": value for name, value in given.items()}
    if method != "get" and any(one.get("name") == "If-Match" for one in operation.get("parameters", ())):
        parameters["header.If-Match"] = "$response.header.ETag"
    return {"operationId": operation["operationId"], "parameters": parameters}


def _name(operation: Mapping[str, Any]) -> str:
    return str(operation["operationId"])


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in _METHODS:
                yield path, method, operation


def _with_id(operation: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the answers of success whose body has an `id`."""
    for status, answer in operation["responses"].items():
        schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
        name = schema.get("$ref", "").rpartition("/")[2]
        shape = document.get("components", {}).get("schemas", {}).get(name, {})
        if status.startswith("2") and "id" in shape.get("properties", {}):
            yield answer
