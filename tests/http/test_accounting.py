"""Metrics, access log and span of a request, however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter, BackgroundTasks, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.routing import Mount, Route

from covey.http.application import Application
from covey.telemetry.metrics import Counter, Histogram
from covey.telemetry.telemetry import Telemetry
from covey.testing.asgi import ask, scope_of

Make = Callable[..., Application]
Log = Callable[[], list[dict[str, Any]]]


def counted(telemetry: Telemetry) -> dict[tuple[str, ...], float]:
    return dict(telemetry.metrics.counter("http_requests_total", "", ("method", "endpoint", "status")).series())


def seconds(telemetry: Telemetry) -> Histogram:
    return telemetry.metrics.histogram("http_request_duration_seconds", "", ("method", "endpoint"))


def active(telemetry: Telemetry) -> float:
    (gauge,) = [metric for metric in telemetry.metrics.all() if metric.name == "active_connections"]
    assert not isinstance(gauge, Counter | Histogram)
    return gauge.series()[()]


def users() -> APIRouter:
    inner = APIRouter(prefix="/users")

    @inner.get("/{user_id}")
    async def get(user_id: str, token: str = "") -> str:
        return user_id

    @inner.get("/{user_id}/orders/{order_id:path}")
    async def order(user_id: str, order_id: str) -> str:
        return order_id

    @inner.post("")
    async def post() -> None:
        raise RuntimeError("crash")

    outer = APIRouter(prefix="/api/v1")
    outer.include_router(inner)
    return outer


async def test_however_many_urls_are_asked_for_a_route_is_one_series(make: Make, telemetry: Telemetry) -> None:
    app = make(users())

    for number in range(1_000):
        await ask(app, "GET", f"/api/v1/users/{number}")
        await ask(app, "GET", f"/nowhere/{number}")

    assert counted(telemetry) == {
        ("GET", "/api/v1/users/{user_id}", "200"): 1_000,
        ("GET", "unmatched", "404"): 1_000,
    }


async def test_the_label_is_the_template_with_every_prefix_and_converter_named_plainly(
    make: Make, telemetry: Telemetry
) -> None:
    await ask(make(users()), "GET", "/api/v1/users/7/orders/a/b/c")

    assert list(counted(telemetry)) == [("GET", "/api/v1/users/{user_id}/orders/{order_id}", "200")]


async def test_methods_that_nobody_knows_are_one_label(make: Make, telemetry: Telemetry) -> None:
    app = make(users())

    for number in range(100):
        await ask(app, f"X{number}", "/api/v1/users/1")

    assert counted(telemetry) == {("OTHER", "/api/v1/users/{user_id}", "405"): 100}


async def test_mounted_applications_are_labelled_by_where_they_are_mounted(make: Make, telemetry: Telemetry) -> None:
    async def file(request: Request) -> JSONResponse:
        return JSONResponse({})

    api = APIRouter()
    api.routes.append(Mount("/static", routes=[Route("/{name}", file)]))

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        await JSONResponse({})(scope, receive, send)

    api.routes.append(Mount("/other", app=asgi))
    app = make(api)

    for number in range(10):
        await ask(app, "GET", f"/static/{number}")
        await ask(app, "GET", f"/other/{number}")

    assert counted(telemetry) == {("GET", "/static/{name}", "200"): 10, ("GET", "/other/{path}", "200"): 10}


async def test_a_request_that_crashes_is_counted_once_as_500(make: Make, telemetry: Telemetry, log: Log) -> None:
    await ask(make(users()), "POST", "/api/v1/users")

    assert counted(telemetry) == {("POST", "/api/v1/users", "500"): 1}
    assert seconds(telemetry).count(("POST", "/api/v1/users")) == 1
    assert [line["status"] for line in log() if line["event"] == "request"] == [500]
    (span,) = telemetry.tracer.recent
    assert span.error == "RuntimeError"
    assert active(telemetry) == 0


async def test_a_500_that_was_returned_and_not_raised_fails_its_span_too(make: Make, telemetry: Telemetry) -> None:
    api = APIRouter()

    @api.get("/x")
    async def x() -> JSONResponse:
        return JSONResponse({}, 503)

    await ask(make(api), "GET", "/x")
    telemetry.flush()

    assert telemetry.tracer.recent[0].error == "503"


async def test_what_the_caller_did_wrong_does_not_fail_the_span(make: Make, telemetry: Telemetry) -> None:
    api = APIRouter()

    @api.get("/x")
    async def x() -> None:
        raise HTTPException(404)

    await ask(make(api), "GET", "/x")
    telemetry.flush()

    assert telemetry.tracer.recent[0].error is None


async def test_a_client_that_leaves_is_counted_and_fails_nothing(make: Make, telemetry: Telemetry, log: Log) -> None:
    async def receive() -> Any:
        return arriving.pop(0)

    async def send(message: Any) -> None:
        raise AssertionError("nobody is there")

    arriving = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

    await make(users())(scope_of("POST", "/api/v1/users", {"content-length": "100"}), receive, send)

    assert counted(telemetry) == {("POST", "unmatched", "499"): 1}
    assert [line["event"] for line in log()] == ["request"]
    assert active(telemetry) == 0


async def test_a_cancelled_request_is_counted(make: Make, telemetry: Telemetry) -> None:
    api = APIRouter()
    begun = asyncio.Event()

    @api.get("/wait")
    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    request = asyncio.create_task(ask(make(api), "GET", "/wait"))
    await begun.wait()
    assert active(telemetry) == 1

    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request

    assert counted(telemetry) == {("GET", "/wait", "499"): 1}
    assert active(telemetry) == 0


async def test_the_duration_ends_with_the_last_byte_and_not_with_the_head(make: Make, telemetry: Telemetry) -> None:
    api = APIRouter()

    async def parts() -> Any:
        yield b"one"
        await asyncio.sleep(0.5)  # longer than the first request of an application takes
        yield b"two"

    @api.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(parts())

    await ask(make(api), "GET", "/stream")

    total = seconds(telemetry).series()["GET", "/stream"][1]
    assert total >= 0.5


async def test_the_duration_does_not_hold_what_runs_after_the_answer(make: Make, telemetry: Telemetry) -> None:
    api = APIRouter()

    async def afterwards() -> None:
        await asyncio.sleep(0.1)

    @api.get("/x")
    async def x(tasks: BackgroundTasks) -> None:
        tasks.add_task(afterwards)

    await ask(make(api), "GET", "/x")

    assert seconds(telemetry).series()["GET", "/x"][1] < 0.1


async def test_an_access_line_says_what_was_asked_and_nothing_personal(make: Make, log: Log) -> None:
    await ask(
        make(users()),
        "GET",
        "/api/v1/users/ann@example.org",
        query="token=hunter2",
        headers={"authorization": "Bearer hunter2", "cookie": "session=hunter2", "x-forwarded-for": "203.0.113.7"},
    )

    (line,) = log()
    assert line.pop("timestamp") and line.pop("duration_ms") > 0
    assert len(line.pop("trace_id")) == 32 == len(line.pop("correlation_id"))
    assert len(line.pop("span_id")) == 16
    assert line == {
        "level": "info",
        "event": "request",
        "service": "test",
        "method": "GET",
        "path": "/api/v1/users/[e-mail]",
        "route": "/api/v1/users/{user_id}",
        "status": 200,
    }


async def test_the_span_follows_the_semantic_conventions_and_holds_nothing_personal(
    make: Make, telemetry: Telemetry
) -> None:
    await ask(make(users()), "GET", "/api/v1/users/ann@example.org", query="token=hunter2")
    telemetry.flush()

    (span,) = telemetry.tracer.recent
    assert (span.name, span.kind) == ("GET /api/v1/users/{user_id}", "server")
    assert span.attributes == {
        "http.request.method": "GET",
        "http.route": "/api/v1/users/{user_id}",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": "/api/v1/users/[e-mail]",
    }


async def test_span_log_line_and_answer_share_their_ids(make: Make, telemetry: Telemetry, log: Log) -> None:
    answer = await ask(make(users()), "GET", "/api/v1/users/1", headers={"X-Correlation-ID": "abc"})

    (line,) = log()
    (span,) = telemetry.tracer.recent
    assert answer.headers["x-correlation-id"] == line["correlation_id"] == "abc"
    assert (line["trace_id"], line["span_id"]) == (f"{span.trace_id:032x}", f"{span.span_id:016x}")


async def test_probes_are_counted_and_stay_out_of_log_and_traces(make: Make, telemetry: Telemetry, log: Log) -> None:
    app = make()
    for path in ("/health", "/ready", "/metrics"):
        assert (await ask(app, "GET", path)).status == 200

    assert not log() and not telemetry.tracer.recent
    assert len(counted(telemetry)) == 3


async def test_a_probe_that_says_no_is_logged(make: Make, readiness: Any, log: Log) -> None:
    readiness.drain()

    answer = await ask(make(), "GET", "/ready")

    assert answer.status == 503
    assert answer.json() == {"ready": False, "checks": {"service": "draining"}}
    assert answer.headers["retry-after"] == "1"
    assert [line["path"] for line in log()] == ["/ready"]


async def test_metrics_are_exposed_in_prometheus_format(make: Make) -> None:
    app = make(users())
    await ask(app, "GET", "/api/v1/users/1")

    answer = await ask(app, "GET", "/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = answer.body.decode()
    assert 'http_requests_total{endpoint="/api/v1/users/{user_id}",method="GET",status="200"} 1.0' in text
    assert 'http_request_duration_seconds_count{endpoint="/api/v1/users/{user_id}",method="GET"} 1.0' in text
    assert "active_connections 1.0" in text, "the scrape itself"
