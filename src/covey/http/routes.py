"""Finds the route of a request, once, in a flat table made from FastAPI's tree of routers.

FastAPI matches each included router twice and keeps its own layers of middleware around; both together cost
a quarter of a small request. The table holds what FastAPI made of each route (`iter_route_contexts`), so
everything behind the match is FastAPI's own. What is no plain route (mounts, WebSockets) goes the normal way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.params import Form
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette._utils import get_route_path
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from covey.http import patience
from covey.http.direct import direct
from covey.http.sendable import sendable

UNMATCHED = "unmatched"
"""The one label under which all requests are counted that no route matches."""

_TEMPLATE = "covey.route"
_ANY_PATH = re.compile("")
_NO_HANDLERS: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})
_NO_FILES = AsyncExitStack()
"""FastAPI asks for a stack on which uploaded files are closed; only routes that take a form touch theirs."""


@dataclass(frozen=True, slots=True)
class _Other:
    """What is no route of FastAPI: whether it takes a request is its own to say, if the path fits `pattern`."""

    pattern: re.Pattern[str]
    original: BaseRoute


@dataclass(frozen=True, slots=True)
class _Route:
    template: str
    pattern: re.Pattern[str]
    converters: dict[str, Any]
    methods: frozenset[str]
    app: ASGIApp
    original: APIRoute
    endpoint: Callable[..., Any]
    takes_form: bool


class Routes:
    """An ASGI application that hands a request to the first route of `api` that matches path and method.

    It takes the place of FastAPI's middleware: errors leave it as exceptions.
    """

    def __init__(self, api: FastAPI, *, short: bool = True) -> None:
        self._api = api
        self._short = short
        self._table: list[_Route | _Other] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the request. Raises HTTPException 404 and 405, the latter with every method that the path knows."""
        if scope["type"] == "lifespan":
            await self._api(scope, receive, send)
            return
        scope["app"] = self._api
        scope["starlette.exception_handlers"] = _NO_HANDLERS
        route = self._match(scope) if scope["type"] == "http" else None
        if route is not None and not route.takes_form:
            scope["fastapi_middleware_astack"] = _NO_FILES
            await route.app(scope, receive, send)
            return
        async with AsyncExitStack() as stack:
            scope["fastapi_middleware_astack"] = stack
            await (route.app if route else self._api.router)(scope, receive, send)

    def _match(self, scope: Scope) -> _Route | None:
        """Return the route, or None when FastAPI's own router must look."""
        path, method = get_route_path(scope), scope["method"]
        others: list[_Route] = []
        for route in self._table or self._flatten():
            if (found := route.pattern.match(path)) is None:
                continue
            if isinstance(route, _Other):
                if route.original.matches(scope)[0] is not Match.NONE:
                    return None
            elif method in route.methods:
                return _entered(scope, route, found)
            else:
                others.append(route)
        if others:
            scope[_TEMPLATE] = others[0].template
            raise HTTPException(405, headers={"Allow": _allowed(others)})
        return None

    def _flatten(self) -> list[_Route | _Other]:
        self._table = [_flat(found, self._short) for found in iter_route_contexts(self._api.routes)]
        return self._table


def template_of(scope: Scope) -> str:
    """Return the template of the route that a finished request took: `/orders/{order_id}`, or `unmatched`."""
    known = scope.get(_TEMPLATE)
    if known is not None:
        return str(known)
    route = scope.get("route")
    mounted = scope.get("root_path", "").removeprefix(scope.get("app_root_path", scope.get("root_path", "")))
    inner = getattr(route, "path_format", None)
    if inner is None:
        return f"{mounted}/{{path}}" if mounted else UNMATCHED
    return f"{mounted}{inner}"


def _entered(scope: Scope, route: _Route, found: re.Match[str]) -> _Route:
    values = found.groupdict()
    try:
        scope["path_params"] = {name: route.converters[name].convert(value) for name, value in values.items()}
    except ValueError:  # a number of more digits than Python reads
        raise HTTPException(404) from None
    scope["endpoint"] = route.endpoint
    scope["route"] = route.original
    scope[_TEMPLATE] = route.template
    return route


def _allowed(routes: Sequence[_Route]) -> str:
    return ", ".join(sorted({method for route in routes for method in route.methods}))


def _flat(found: RouteContext, short: bool) -> _Route | _Other:
    original = found.original_route
    if not isinstance(original, APIRoute) or found.path_format is None or found.endpoint is None:
        return _Other(original.path_regex if type(original) is Route else _ANY_PATH, original)
    patience.limit(found.dependant)
    methods = frozenset(found.methods or ())
    fastapi = sendable(found)
    return _Route(
        template=found.path_format,
        pattern=found.path_regex,
        converters=found.param_convertors,
        methods=methods | {"HEAD"} if "GET" in methods else methods,
        app=direct(found, fastapi) if short else fastapi,
        original=original,
        endpoint=found.endpoint,
        takes_form=found.body_field is not None and isinstance(found.body_field.field_info, Form),
    )
