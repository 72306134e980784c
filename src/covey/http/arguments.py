"""What a request says of an endpoint's arguments, where all that it says is ordinary: scalars and one JSON body.

It is FastAPI's `solve_dependencies` for the most common parameters. Whatever is unusual raises ValueError, among them
pydantic's ValidationError; what it means to the client is for FastAPI to say (see `direct.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from fastapi._compat import ModelField, field_annotation_is_scalar
from fastapi.params import Body
from fastapi.routing import RouteContext
from starlette.types import Scope

HEADERS = "covey.headers"
"""Where the edge leaves the headers: a dictionary, of several with one name the first."""
BODY = "covey.body"
"""Where the edge leaves a body that it has read; `receive` gives it again."""

_JSON = frozenset(
    (
        b"application/json",
        b"application/json;charset=utf-8",
        b"application/json; charset=utf-8",
        b"application/json;charset=UTF-8",
        b"application/json; charset=UTF-8",
    )
)


def are_plain(found: RouteContext) -> bool:
    """Tell whether `Arguments` knows every parameter of a route, apart from its dependencies."""
    dependant = found.dependant
    return (
        all(map(_is_scalar, (*dependant.path_params, *dependant.query_params, *dependant.header_params)))
        and _is_plain_body(found.body_field, dependant.body_params)
        and not dependant.cookie_params
    )


class Arguments:
    """Reads the arguments of one endpoint from its requests."""

    def __init__(self, found: RouteContext) -> None:
        dependant = found.dependant
        self._path = [_Parameter(field) for field in dependant.path_params]
        self._query = [_Parameter(field) for field in dependant.query_params]
        self._headers = [_Header(field) for field in dependant.header_params]
        self._body = [(field.name, validator(field)) for field in dependant.body_params]

    def of(self, scope: Scope) -> dict[str, Any]:
        """Return the arguments by name. Raises ValueError, or RecursionError, where the request is unusual."""
        arguments: dict[str, Any] = {}
        for parameter in self._path:
            arguments[parameter.name] = parameter.of(scope["path_params"])
        if self._query:
            query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
            for parameter in self._query:
                arguments[parameter.name] = parameter.of(query)
        for header in self._headers:
            arguments[header.name] = header.of(scope[HEADERS])
        for name, validate in self._body:
            arguments[name] = validate(_json(scope))
        return arguments


def validator(field: ModelField) -> Callable[[Any], Any]:
    """Return the function with which FastAPI validates a field, without the description of what is wrong."""
    adapter = field._type_adapter
    complete = adapter.validator if adapter.pydantic_complete else adapter  # which is looked at anew each time
    return partial(complete.validate_python, from_attributes=True)


class _Parameter:
    """One scalar of the path or the query."""

    def __init__(self, field: ModelField) -> None:
        self.name = field.name
        self._field = field
        self._key = field.validation_alias or field.alias
        self._validate = validator(field)

    def of(self, given: Mapping[str, Any]) -> Any:
        value = given.get(self._key)
        return self._default() if value is None else self._validate(value)

    def _default(self) -> Any:
        if self._field.field_info.is_required():
            raise ValueError("a parameter is missing")
        value = deepcopy(self._field.default)
        return self._validate(value) if self._field.field_info.validate_default else value


class _Header(_Parameter):
    """One scalar of the headers."""

    def __init__(self, field: ModelField) -> None:
        super().__init__(field)
        self._bytes = self._key.lower().encode("latin-1")

    def of(self, given: Mapping[Any, Any]) -> Any:
        value = given.get(self._bytes)
        return self._default() if value is None else self._validate(value.decode("latin-1"))


def _json(scope: Scope) -> Any:
    body = scope.get(BODY)
    if not body or scope[HEADERS].get(b"content-type") not in _JSON:
        raise ValueError("no body, or perhaps no JSON")
    return json.loads(body)


def _is_scalar(field: ModelField) -> bool:
    info = field.field_info
    return field_annotation_is_scalar(info.annotation) and isinstance(info.validation_alias, str | None)


def _is_plain_body(whole: ModelField | None, parameters: list[ModelField]) -> bool:
    """Tell whether the body is one parameter, sent as JSON; for several FastAPI makes a field of its own."""
    return not parameters or (whole is parameters[0] and type(whole.field_info) is Body)
