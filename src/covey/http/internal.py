"""What operators ask a service: `/internal/resilience`, how it stands with whom it calls. For the staff alone."""

from __future__ import annotations

from fastapi import APIRouter, Response
from starlette.responses import JSONResponse

from covey.http.shedding import priority
from covey.resilience.targets import Targets
from covey.security.access import requires


def internal(targets: Targets) -> APIRouter:
    """Return the routes that every service has for the roles `staff` and `internal`. OpenAPI does not list them."""
    router = APIRouter(prefix="/internal", include_in_schema=False)

    @router.get("/resilience")
    @requires("staff", "internal")
    @priority(None)
    async def resilience() -> Response:
        return JSONResponse({"targets": targets.report()}, headers={"Cache-Control": "no-store"})

    return router
