"""The servers that http_overhead.py compares, all with the same two routes: `python -m bench.http_apps covey 8000`.

Each is pinned to core 0. `assembled` is in http_assembled.py, whose packages only the group `bench` has.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel
from starlette.types import ASGIApp

from bench.load import pin

SECRET = "the benchmark's own secret, long enough for HS256"
OFF: Any = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}


class User(BaseModel):
    """What the routes give and take."""

    id: int
    name: str
    email: str


async def get_user(user_id: int) -> User:
    """Return one user."""
    return User(id=user_id, name="Ann", email="ann@example.org")


async def post_user(user: User) -> User:
    """Return what was sent, validated."""
    return user


def routes() -> APIRouter:
    """Return the routes that every subject serves."""
    router = APIRouter(prefix="/api/v1")
    router.add_api_route("/users/{user_id}", get_user, methods=["GET"])
    router.add_api_route("/users", post_user, methods=["POST"], status_code=201)
    return router


def bare() -> ASGIApp:
    """Return FastAPI alone."""
    app = FastAPI(telemetry=OFF)
    app.include_router(routes())
    return app


def serve(app: ASGIApp, port: int) -> None:
    """Serve with uvicorn on uvloop and httptools, its own access log off."""
    uvicorn.run(app, port=port, log_level="warning", access_log=False)


def serve_covey(port: int) -> None:
    """Serve the same routes on covey as a service does: everything on, each span sent, each request logged."""
    from covey.http.application import application
    from covey.http.slow_readers import BoundedAnswer
    from covey.telemetry.health import Readiness
    from covey.telemetry.telemetry import Telemetry, TelemetryOptions

    options = TelemetryOptions(service="bench", otlp_endpoint=os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"])
    with Telemetry.open(options) as telemetry:
        readiness = Readiness()
        readiness.started()
        app = application("bench", [routes()], telemetry, readiness)
        uvicorn.run(
            app, port=port, http=BoundedAnswer, log_config=None, access_log=False, lifespan="off", server_header=False
        )


def main() -> None:
    """Serve the named subject on the given port."""
    name, port = sys.argv[1], int(sys.argv[2])
    pin(0)
    if name == "covey":
        serve_covey(port)
    elif name == "bare":
        serve(bare(), port)
    else:
        from bench.http_assembled import assembled

        serve(assembled(secured="unsecured" not in name, pure="pure" in name), port)


if __name__ == "__main__":
    main()
