"""One HTTP application from a service's routers: FastAPI inside, the one pass of `edge.py` around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.types import Receive, Scope, Send

from covey.clock import Clock, SystemClock
from covey.http.edge import Edge, HttpOptions
from covey.http.internal import internal
from covey.http.limits import Limits
from covey.http.links import add_links
from covey.http.probes import probes
from covey.http.problems import RESPONSES, SCHEMA
from covey.http.routes import Routes
from covey.http.versioning import Deprecated
from covey.resilience.load_shedding import LoadShedder
from covey.resilience.targets import Targets
from covey.security.access import terms_of
from covey.security.principal import Verifier
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
    deprecated: Mapping[int, Deprecated] | None = None,
    verifier: Verifier | None = None,
    limits: Limits | None = None,
    targets: Targets | None = None,
    options: HttpOptions | None = None,
    clock: Clock | None = None,
) -> Application:
    """Return the application of a service: its routers, `/health`, `/ready`, `/metrics` and `/openapi.json`.

    With `targets`, which it calls, also `/internal/resilience`.

    `transactions` is where routes' `Transaction` begins; `state` becomes `request.app.state`. `deprecated` says which
    versions of its API will end. `verifier` knows who asks; without one all routes are open. `limits` counts the
    requests of routes that are limited; by default in this process. Nothing is opened and nothing is started here: that
    is the caller's, before the first request.
    """
    api = _bare(service, version, deprecated)
    api.include_router(probes(telemetry.metrics, readiness))
    if targets is not None:
        targets.observe(telemetry.metrics)
        api.include_router(internal(targets))
    for router in routers:
        api.include_router(router)
    for name, value in {**(state or {}), "transactions": transactions}.items():
        setattr(api.state, name, value)
    options = options or HttpOptions()
    shedder = _shedder(options, telemetry, clock or SystemClock())
    routes = Routes(api, short=options.direct, deprecated=deprecated, verifier=verifier, limits=limits, shedder=shedder)
    return Application(api, Edge(routes, telemetry, options, clock))


def _shedder(options: HttpOptions, telemetry: Telemetry, clock: Clock) -> LoadShedder | None:
    if options.shedding is None:
        return None
    shedder = LoadShedder(options.shedding, clock)
    telemetry.metrics.observe(
        "http_concurrency_limit", "How many requests may be under way", lambda: {(): float(shedder.limit)}
    )
    telemetry.metrics.observe(
        "http_requests_shed_total",
        "Requests refused because too much was under way",
        lambda: {(level.name.lower(),): float(count) for level, count in shedder.shed.items()},
        ("priority",),
        kind="counter",
    )
    return shedder


def openapi(
    service: str,
    routers: Sequence[APIRouter],
    version: str = "0.1.0",
    deprecated: Mapping[int, Deprecated] | None = None,
) -> dict[str, Any]:
    """Return the OpenAPI document of a service with these routers, the one that it serves as `/openapi.json`."""
    api = _bare(service, version, deprecated)
    for router in routers:
        api.include_router(router)
    return api.openapi()


def _bare(service: str, version: str, deprecated: Mapping[int, Deprecated] | None) -> FastAPI:
    return _Api(
        deprecated or {},
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
    """FastAPI whose OpenAPI document knows the problem details, which versions will end, and what leads where."""

    def __init__(self, ending: Mapping[int, Deprecated], **options: Any) -> None:
        super().__init__(**options)
        self._ending = tuple(f"/api/v{version}/" for version in ending)

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        document.setdefault("components", {}).setdefault("schemas", {})["Problem"] = SCHEMA
        document["components"].setdefault("securitySchemes", {})["bearer"] = {"type": "http", "scheme": "bearer"}
        document["security"] = [{"bearer": []}]
        for found in iter_route_contexts(self.routes):
            for operation in _operations(document, found):
                if found.endpoint is not None and terms_of(found.endpoint).public:
                    operation["security"] = [{"bearer": []}, {}]  # a token is welcome, and a wrong one refused
                if str(found.path_format).startswith(self._ending):
                    operation["deprecated"] = True
        add_links(document)
        return document


def _operations(document: dict[str, Any], found: RouteContext) -> Iterator[dict[str, Any]]:
    described = document["paths"].get(found.path_format, {}) if isinstance(found.original_route, APIRoute) else {}
    return (operation for method, operation in described.items() if method.upper() in (found.methods or ()))
