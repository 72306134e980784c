"""What a team puts together from the usual packages, each set up as its own documentation says.

asgi-correlation-id, prometheus-fastapi-instrumentator, opentelemetry-instrumentation-fastapi with OTLP over HTTP,
a JSON access log by structlog as FastAPI middleware, tokens by PyJWT, limits by slowapi.
"""

import time
from typing import Annotated, Any

import jwt
import orjson
import structlog
from asgi_correlation_id import CorrelationIdMiddleware, correlation_id
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_fastapi_instrumentator import Instrumentator
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from slowapi.util import get_remote_address
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bench.http_apps import OFF, SECRET, User, get_user, post_user, routes

log = structlog.get_logger()
limiter = Limiter(key_func=get_remote_address)


async def claims(credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> dict[str, Any]:
    """Return what the token says."""
    try:
        return jwt.decode(credentials.credentials, SECRET, algorithms=["HS256"], audience="bench")
    except jwt.PyJWTError as error:
        raise HTTPException(401) from error


secured_routes = APIRouter(prefix="/api/v1", dependencies=[Depends(claims)])


@secured_routes.get("/users/{user_id}")
@limiter.limit("100000000/minute")
async def get_one(request: Request, user_id: int) -> User:
    """Return one user."""
    return await get_user(user_id)


@secured_routes.post("/users", status_code=201)
@limiter.limit("100000000/minute")
async def post_one(request: Request, user: User) -> User:
    """Return what was sent, validated."""
    return await post_user(user)


def assembled(*, secured: bool, pure: bool) -> ASGIApp:
    """Return the stack; without token and limiter if not `secured`; its log as pure ASGI middleware if `pure`."""
    return stacked(secured_routes if secured else routes(), pure=pure)


def stacked(router: APIRouter, *, pure: bool) -> ASGIApp:
    """Return the stack around some routes; its log is pure ASGI middleware if `pure`."""
    app = FastAPI(telemetry=OFF)
    trace_to_collector()
    log_as_json()
    app.include_router(router)
    app.state.limiter = limiter
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)
    if pure:
        app.add_middleware(AccessLog)
    else:
        app.middleware("http")(access_log)
    app.add_middleware(CorrelationIdMiddleware)
    Instrumentator().instrument(app).expose(app)
    FastAPIInstrumentor.instrument_app(app)
    return app


def trace_to_collector() -> None:
    """Send every span to OTEL_EXPORTER_OTLP_ENDPOINT."""
    provider = TracerProvider(resource=Resource.create({"service.name": "bench"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def log_as_json() -> None:
    """Configure structlog as its page on performance says."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ],
        logger_factory=structlog.BytesLoggerFactory(),
        cache_logger_on_first_use=True,
    )


async def access_log(request: Request, call_next: Any) -> Any:
    """Log a request, as middleware of FastAPI."""
    begun = time.perf_counter()
    response = await call_next(request)
    tell(request.method, request.url.path, response.status_code, begun)
    return response


class AccessLog:
    """Logs a request, as pure ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on."""
        begun, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            if scope["type"] == "http":
                tell(scope["method"], scope["path"], status, begun)


def tell(method: str, path: str, status: int, begun: float) -> None:
    """Write the line."""
    log.info(
        "request",
        correlation_id=correlation_id.get(),
        method=method,
        path=path,
        status=status,
        duration_ms=(time.perf_counter() - begun) * 1000,
    )
