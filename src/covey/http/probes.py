"""What the platform asks: `/health` (does it live), `/ready` (should it get work), `/metrics` (how is it doing)."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse, PlainTextResponse

from covey.http.shedding import priority
from covey.security.access import public
from covey.telemetry.exposition import Exposition
from covey.telemetry.health import Readiness
from covey.telemetry.metrics import Metrics


def probes(metrics: Metrics, readiness: Readiness) -> APIRouter:
    """Return the routes that every service has. They are no part of its API, so OpenAPI does not list them."""
    router = APIRouter(include_in_schema=False)
    exposition = Exposition(metrics)

    @router.get("/health")
    @public
    @priority(None)
    async def health() -> Response:
        return PlainTextResponse("ok")

    @router.get("/ready")
    @public
    @priority(None)
    async def ready() -> Response:
        report = await readiness.report()
        return JSONResponse(
            {"ready": report.ready, "checks": report.checks},
            status_code=200 if report.ready else 503,
            headers={"Cache-Control": "no-store"} | ({} if report.ready else {"Retry-After": "1"}),
        )

    @router.get("/metrics")
    @public
    @priority(None)
    async def scrape(request: Request) -> Response:
        content, content_type = await asyncio.to_thread(exposition.render, request.headers.get("accept", ""))
        return Response(content, headers={"content-type": content_type})

    return router
