"""The short way through a plain route: FastAPI's own steps, without what they need only for other routes.

FastAPI spends most of a small request on stacks and objects that a plain route leaves empty. Here only success is
handled: a request that is unusual in any way (a parameter that is missing, a body that is absent or invalid) goes to
FastAPI untouched, before the endpoint has run and before a transaction has begun. So every refusal is FastAPI's, to
the letter. Validation may therefore run twice: a validator of one's own must have no effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import iscoroutinefunction
from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, RouteContext
from starlette.types import ASGIApp, Receive, Scope, Send

from covey.http import answers, arguments
from covey.http.access import caller, caller_in
from covey.http.answers import Answers
from covey.http.arguments import HEADERS, Arguments
from covey.http.transaction import WORK, begin, transactions_of

UNLESS = "direct_unless"
"""A class of routes that does what APIRoute does, unless a request has a certain header, names it in this attribute."""


def direct(found: RouteContext, fastapi: ASGIApp) -> ASGIApp:
    """Return what handles the requests of a route: FastAPI's application, behind the short way if it is plain."""
    return _Direct(found, fastapi) if is_plain(found) else fastapi


def is_plain(found: RouteContext) -> bool:
    """Tell whether requests of a route may go the short way: it uses nothing that is not done here."""
    dependant, kind = found.dependant, type(found.original_route)
    return (
        (kind is APIRoute or UNLESS in vars(kind))
        and iscoroutinefunction(dependant.call)
        and found.max_body_size is None
        and arguments.are_plain(found)
        and answers.are_plain(found)
        and _are_plain(dependant.dependencies)
        and dependant.http_connection_param_name is None
        and dependant.websocket_param_name is None
        and dependant.background_tasks_param_name is None
        and dependant.security_scopes_param_name is None
    )


def _are_plain(dependencies: Sequence[Dependant]) -> bool:
    """Tell whether all that a route depends on is its transaction and its caller, each once."""
    kinds = [inner.call for inner in dependencies]
    return (
        all(inner.scope == "function" and inner.name and inner.concurrency is None for inner in dependencies)
        and set(kinds) <= {begin, caller}
        and len(set(kinds)) == len(kinds)
    )


class _Direct:
    """Handles the ordinary requests of a plain route and leaves the others to FastAPI."""

    def __init__(self, found: RouteContext, fastapi: ASGIApp) -> None:
        dependant: Dependant = found.dependant
        self._fastapi = fastapi
        self._unless: bytes | None = getattr(found.original_route, UNLESS, None)
        self._overrides = found.dependency_overrides_provider
        self._arguments = Arguments(found)
        self._takes_body = bool(dependant.body_params)
        self._request = dependant.request_param_name
        names = {inner.call: inner.name for inner in dependant.dependencies}
        self._work, self._caller = names.get(begin), names.get(caller)
        self._answers = Answers(found)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arguments = self._ordinary(scope)
        if arguments is None:
            await self._fastapi(scope, receive, send)
            return
        if self._caller is not None:
            arguments[self._caller] = caller_in(scope)
        if self._request is not None:
            arguments[self._request] = request = Request(scope, receive, send)
            if self._takes_body:
                await request.body()  # so that it is at hand, and `receive` beyond it, as when FastAPI has read it
        if self._work is None:
            response = await self._answers.of(scope, arguments)
        else:
            async with transactions_of(scope).begin() as work:
                scope[WORK] = arguments[self._work] = work
                response = await self._answers.of(scope, arguments)
        await response(scope, receive, send)

    def _ordinary(self, scope: Scope) -> dict[str, Any] | None:
        """Return the arguments that a request gives, or None when it is FastAPI's to handle."""
        if self._unless is not None and self._unless in scope[HEADERS]:
            return None
        depends = self._work is not None or self._caller is not None
        if depends and self._overrides is not None and self._overrides.dependency_overrides:
            return None
        try:
            return self._arguments.of(scope)
        except (ValueError, RecursionError):
            return None
