"""The servers that users.py compares, all with the route of a user: `python -m bench.users_apps covey 8000`.

Each is pinned to core 0. `assembled` is put together as in http_assembled.py, without the token.
"""

from __future__ import annotations

import os
import sys
from uuid import UUID

import uvicorn
import uvloop
from fastapi import APIRouter, FastAPI, Request, Response
from user_service.domain import Profile, User, UserId
from user_service.routes.shapes import require_self
from user_service.routes.v1 import UserView

from bench.http_apps import OFF, serve
from bench.load import pin
from covey.http.access import Caller
from covey.http.conditional import tag
from covey.http.limits import Limits, limited
from covey.valkey.client import Valkey

KEY = "the benchmark's own key of tokens"
LIMIT = "10000000/minute"
USER = User(
    UserId(UUID("0199f2c0-0000-7000-8000-000000000000")),
    Profile("Ada Lovelace of Ockham", "ada@example.org", "+4915112345678", 36),
)


def serve_bare(port: int) -> None:
    """Serve FastAPI alone."""
    app = FastAPI(telemetry=OFF)

    @app.get("/api/v1/users/{user_id}")
    async def get_user(user_id: UUID) -> UserView:
        return UserView.of(USER)

    serve(app, port)


def serve_assembled(port: int) -> None:
    """Serve the assembled stack, its log as middleware of FastAPI, which is what its documentation shows."""
    from bench.http_assembled import limiter, stacked

    api = APIRouter(prefix="/api/v1")

    @api.get("/users/{user_id}")
    @limiter.limit(LIMIT)
    async def get_user(request: Request, user_id: UUID) -> UserView:
        return UserView.of(USER)

    serve(stacked(api, pure=False), port)


async def serve_covey(port: int, valkey: Valkey | None) -> None:
    """Serve as a service does: everything on, each span sent, each request logged."""
    from covey.http.application import application
    from covey.http.slow_readers import BoundedAnswer
    from covey.security.principal import DevelopmentTokens
    from covey.telemetry.health import Readiness
    from covey.telemetry.telemetry import Telemetry, TelemetryOptions

    api = APIRouter(prefix="/api/v1")

    @api.get("/users/{user_id}")
    @limited(LIMIT)
    async def get_user(user_id: UserId, caller: Caller, response: Response) -> UserView:
        require_self(caller, user_id)
        tag(response, USER.version)
        return UserView.of(USER)

    options = TelemetryOptions(service="bench", otlp_endpoint=os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"])
    with Telemetry.open(options) as telemetry:
        readiness = Readiness()
        readiness.started()
        app = application(
            "user",
            [api],
            telemetry,
            readiness,
            verifier=DevelopmentTokens(KEY),
            limits=Limits(valkey, "bench", "user"),
        )
        config = uvicorn.Config(
            app,
            port=port,
            http=BoundedAnswer,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            reset_contextvars=False,
        )
        await uvicorn.Server(config).serve()


async def serve_covey_with_valkey(port: int) -> None:
    """Serve with limits that are counted in Valkey."""
    async with Valkey.open(os.environ["VALKEY_URL"]) as valkey:
        await serve_covey(port, valkey)


def main() -> None:
    """Serve the named subject on the given port."""
    name, port = sys.argv[1], int(sys.argv[2])
    pin(0)
    if name == "covey":
        uvloop.run(serve_covey_with_valkey(port))
    elif name == "covey-local":
        uvloop.run(serve_covey(port, None))
    elif name == "bare":
        serve_bare(port)
    else:
        serve_assembled(port)


if __name__ == "__main__":
    main()
