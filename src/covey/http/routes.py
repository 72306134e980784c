"""Finds the route of a request, once, in a flat table made from FastAPI's tree of routers.

FastAPI matches each included router twice and keeps its own layers of middleware around; both together cost
a quarter of a small request. The table holds what FastAPI made of each route (`iter_route_contexts`), so
everything behind the match is FastAPI's own. What is no plain route (mounts, WebSockets) goes the normal way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from fastapi import FastAPI
from fastapi._compat import field_annotation_is_scalar
from fastapi._compat.shared import field_annotation_is_scalar_sequence
from fastapi.dependencies.models import Dependant
from fastapi.params import Body, Form
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette._utils import get_route_path
from starlette.convertors import StringConvertor
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from covey import context
from covey.errors import Invalid
from covey.http import answers, patience
from covey.http.access import caller, principal_in
from covey.http.arguments import HEADERS
from covey.http.direct import direct
from covey.http.limits import Limits, Quotas, quotas_of
from covey.http.sendable import sendable
from covey.http.shedding import priority_of
from covey.http.transaction import begin
from covey.http.versioning import PARAMETER, Deprecated, Versions, require_json
from covey.resilience.load_shedding import LoadShedder, Priority
from covey.security.access import Terms, terms_of
from covey.security.principal import Principal, Verifier

UNMATCHED = "unmatched"
"""The one label under which all requests are counted that no route matches."""

MORE = "covey.more_headers"
"""Where the scope of a request has what is to be in the head of its answer, whatever the answer is."""

MOST_QUERY_BYTES = 16_384
"""What is read before anybody is known, and not shed, is short: this is twice as long as 200 ids."""

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
    """Those that make something else of the text in the path."""
    methods: frozenset[str]
    app: ASGIApp
    original: APIRoute
    endpoint: Callable[..., Any]
    terms: Terms
    quotas: Quotas | None
    priority: Priority | None
    takes_form: bool
    media_type: str | None
    """What a body has to be sent as; None: as JSON of any kind, or as a form."""
    is_json: bool
    parameters: frozenset[str] | None
    """What may be in the query; None: the route reads it by itself."""


class _Answer:
    """Passes an answer on. `waited` is for how many seconds there was no room for it: that time is its reader's."""

    __slots__ = ("_now", "_send", "waited")

    def __init__(self, send: Send, now: Callable[[], float]) -> None:
        self._send = send
        self._now = now
        self.waited = 0.0

    async def send(self, message: Message) -> None:
        begun = self._now()
        await self._send(message)
        self.waited += self._now() - begun


class Routes:
    """An ASGI application that hands a request to the first route of `api` that matches path and method.

    An address that is written out (`/users/announcements`) is no value of a template (`/users/{user_id}`), whichever
    comes first: so OpenAPI reads them, and so 405 and `Allow` are of the one that is meant.

    It takes the place of FastAPI's middleware: errors leave it as exceptions. Raises DefinitionError for a version that
    is said to end and that no route has.
    """

    def __init__(
        self,
        api: FastAPI,
        *,
        short: bool = True,
        deprecated: Mapping[int, Deprecated] | None = None,
        verifier: Verifier | None = None,
        limits: Limits | None = None,
        shedder: LoadShedder | None = None,
    ) -> None:
        self._api = api
        self._short = short
        self._verifier = verifier
        self._limits = limits or Limits(None, "", "")
        self._shedder = shedder
        self._deprecated = deprecated or {}
        self._versions = Versions([], {})
        self._table: list[_Route | _Other] = []
        self._fixed: dict[str, list[_Route | _Other]] = {}
        if deprecated:
            self._flatten()  # so that one that there is not is found at the start

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the request. Raises HTTPException 404 and 405, the latter with every method that the path knows.

        Raises also what `Versions.path` does, NotAcceptable where JSON will not do, and Invalid for a parameter of the
        query that the route does not know: one that is misspelt would otherwise filter nothing.
        """
        if scope["type"] == "lifespan":
            await self._api(scope, receive, send)
            return
        scope["app"] = self._api
        scope["starlette.exception_handlers"] = _NO_HANDLERS
        route = self._match(scope) if scope["type"] == "http" else None
        if self._shedder is None or route is None or route.priority is None:
            await self._admitted(route, scope, receive, send)
            return
        begun, done, answer = self._shedder.enter(route.priority), False, _Answer(send, self._shedder.now)
        try:
            await self._admitted(route, scope, receive, answer.send)
            done = True
        finally:
            self._shedder.leave(begun, route.template, done=done, waited=answer.waited)

    async def _admitted(self, route: _Route | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle what there is room for, if its caller may ask for it and has not asked too often."""
        principal = None
        if self._verifier is not None:
            principal = await principal_in(scope, self._verifier)
            (route.terms if route else self._terms_elsewhere(scope, principal)).admit(principal)
        if route is not None and route.quotas is not None and route.quotas.about(principal):
            told = await self._limits.take(scope, route.template, route.quotas, principal)
            scope[MORE] = [*scope[MORE], *told] if MORE in scope else told
        if principal is None:
            await self._answer(route, scope, receive, send)
            return
        with context.use(context.current().on_behalf_of(principal.subject)):
            await self._answer(route, scope, receive, send)

    async def _answer(self, route: _Route | None, scope: Scope, receive: Receive, send: Send) -> None:
        if route is not None and route.media_type is not None:
            _require_media_type(scope, route.media_type)
        if route is not None and not route.takes_form:
            scope["fastapi_middleware_astack"] = _NO_FILES
            await route.app(scope, receive, send)
            return
        async with AsyncExitStack() as stack:
            scope["fastapi_middleware_astack"] = stack
            await (route.app if route else self._api.router)(scope, receive, send)

    def _match(self, scope: Scope) -> _Route | None:
        """Return the route, or None when FastAPI's own router must look."""
        if len(scope["query_string"]) > MOST_QUERY_BYTES:
            raise HTTPException(414, f"a query may have {MOST_QUERY_BYTES:,} bytes: say less, or send it as a body")
        table = self._table or self._flatten()
        path, method = self._versions.path(scope, get_route_path(scope)), scope["method"]
        others: list[_Route] = []
        for route in self._fixed.get(path, table):
            if (found := route.pattern.match(path)) is None:
                continue
            if isinstance(route, _Other):
                if route.original.matches(scope)[0] is not Match.NONE:
                    return None
            elif method in route.methods:
                return self._entered(scope, route, found)
            else:
                others.append(route)
        if others:
            scope[_TEMPLATE] = others[0].template
            raise HTTPException(405, headers={"Allow": _allowed(others)})
        return None

    def _terms_elsewhere(self, scope: Scope, principal: Principal | None) -> Terms:
        """Return the terms of what is no route of ours: a mount and a WebSocket are closed.

        FastAPI's own pages, which describe the API, are for everybody. Raises HTTPException 404 to who is unknown for
        what is not in the table, whether FastAPI has been given it since or has it not.
        """
        others = (route.original for route in self._table or self._flatten() if isinstance(route, _Other))
        found = next((route for route in others if route.matches(scope)[0] is not Match.NONE), None)
        if found is None and principal is None:
            raise HTTPException(404)
        api = self._api
        described = {api.openapi_url, api.docs_url, api.redoc_url, api.swagger_ui_oauth2_redirect_url}
        return Terms(public=isinstance(found, Route) and found.path in described)

    def _flatten(self) -> list[_Route | _Other]:
        self._table = [_flat(found, self._short) for found in iter_route_contexts(self._api.routes)]
        templates = [route.template for route in self._table if isinstance(route, _Route)]
        self._versions = Versions(templates, self._deprecated)
        self._fixed = {template: self._of(template) for template in templates if "{" not in template}
        return self._table

    def _of(self, template: str) -> list[_Route | _Other]:
        """Return the routes of an address that is written out, and what may stand before them."""
        return [route for route in self._table if not isinstance(route, _Route) or route.template == template]

    def _entered(self, scope: Scope, route: _Route, found: re.Match[str]) -> _Route:
        scope["endpoint"] = route.endpoint
        scope["route"] = route.original
        scope[_TEMPLATE] = route.template
        more = self._versions.headers(route.template)
        if more is not None:
            scope[MORE] = more
        scope["path_params"] = values = found.groupdict()
        try:
            for name, converter in route.converters.items():
                values[name] = converter.convert(values[name])
        except ValueError:  # a number of more digits than Python reads
            raise HTTPException(404) from None
        if route.is_json:
            require_json(scope)
        if scope["query_string"] and route.parameters is not None:
            _require_known(scope["query_string"], route.parameters)
        return route


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


def _require_known(query: bytes, parameters: frozenset[str]) -> None:
    given = {name for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True)}
    unknown = sorted(given - parameters)
    if unknown:
        errors = [
            {
                "in": "query",
                "pointer": "#/" + name[:100],
                "what": "there is no such parameter",
                "rule": "extra_forbidden",
            }
            for name in unknown
        ]
        raise Invalid(f"the query may have {', '.join(sorted(parameters - {PARAMETER})) or 'no parameters'}", errors)


def _require_media_type(scope: Scope, media_type: str) -> None:
    """Raise HTTPException 415 for a body of another kind, saying which is right (RFC 9110, 15.5.16; RFC 5789, 2.2)."""
    given: bytes = scope[HEADERS].get(b"content-type", b"")
    if given.partition(b";")[0].strip().lower() != media_type.encode():
        names = ("Accept", "Accept-Patch") if scope["method"] == "PATCH" else ("Accept",)
        raise HTTPException(415, f"send it with Content-Type: {media_type}", dict.fromkeys(names, media_type))


def _media_type(found: RouteContext) -> str | None:
    """Return the dialect of JSON that a route reads, which no other says; raw bytes are taken whatever they are."""
    info = found.body_field.field_info if found.body_field is not None else None
    return info.media_type if type(info) is Body and info.media_type.endswith("+json") else None


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
        converters={n: made for n, made in found.param_convertors.items() if type(made) is not StringConvertor},
        methods=methods | {"HEAD"} if "GET" in methods else methods,
        app=direct(found, fastapi) if short else fastapi,
        original=original,
        endpoint=found.endpoint,
        terms=terms_of(found.endpoint),
        quotas=quotas_of(found.endpoint),
        priority=priority_of(found.endpoint),
        takes_form=found.body_field is not None and isinstance(found.body_field.field_info, Form),
        media_type=_media_type(found),
        is_json=answers.are_plain(found),
        parameters=_parameters(found.dependant),
    )


def _parameters(dependant: Dependant) -> frozenset[str] | None:
    """Return the names that a query may have; None when a model or the route itself reads it."""
    names = {PARAMETER}
    for field in dependant.query_params:
        kind, name = field.field_info.annotation, field.validation_alias or field.alias
        if not (field_annotation_is_scalar(kind) or field_annotation_is_scalar_sequence(kind)):
            return None
        names.add(name)
    for inner in dependant.dependencies:
        inside = _parameters(inner)
        if inside is None:
            return None
        names |= inside
    reads = dependant.request_param_name is not None or dependant.http_connection_param_name is not None
    return None if reads and dependant.call not in (begin, caller) else frozenset(names)
