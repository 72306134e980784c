"""One HTTP application from a service's routers: FastAPI inside, the one pass of `edge.py` around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.types import Receive, Scope, Send

from covey.clock import Clock
from covey.http.edge import Edge, HttpOptions
from covey.http.probes import probes
from covey.http.problems import RESPONSES, SCHEMA
from covey.http.routes import Routes
from covey.telemetry.health import Readiness
from covey.telemetry.telemetry import Telemetry
from covey.work.unit_of_work import Transactions


class Application:
    """An ASGI application. `api` is the FastAPI inside, for its OpenAPI document and its dependency overrides."""

    def __init__(self, api: FastAPI, edge: Edge) -> None:
        self.api = api
        self._edge = edge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as ASGI 3 defines it."""
        await self._edge(scope, receive, send)


def application(
    service: str,
    routers: Sequence[APIRouter],
    telemetry: Telemetry,
    readiness: Readiness,
    *,
    transactions: Transactions | None = None,
    state: Mapping[str, object] | None = None,
    version: str = "0.1.0",
    options: HttpOptions | None = None,
    clock: Clock | None = None,
) -> Application:
    """Return the application of a service: its routers, `/health`, `/ready`, `/metrics` and `/openapi.json`.

    `transactions` is where routes' `Transaction` begins; `state` becomes `request.app.state`. Nothing is opened and
    nothing is started here: that is the caller's, before the first request.
    """
    api = _bare(service, version)
    api.include_router(probes(telemetry.metrics, readiness))
    for router in routers:
        api.include_router(router)
    for name, value in {**(state or {}), "transactions": transactions}.items():
        setattr(api.state, name, value)
    options = options or HttpOptions()
    return Application(api, Edge(Routes(api, short=options.direct), telemetry, options, clock))


def openapi(service: str, routers: Sequence[APIRouter], version: str = "0.1.0") -> dict[str, Any]:
    """Return the OpenAPI document of a service with these routers, the one that it serves as `/openapi.json`."""
    api = _bare(service, version)
    for router in routers:
        api.include_router(router)
    return api.openapi()


def _bare(service: str, version: str) -> FastAPI:
    return _Api(
        title=service,
        version=version,
        responses=RESPONSES,
        redirect_slashes=False,
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
    )


class _Api(FastAPI):
    """FastAPI whose OpenAPI document knows the problem details."""

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        document.setdefault("components", {}).setdefault("schemas", {})["Problem"] = SCHEMA
        return document
