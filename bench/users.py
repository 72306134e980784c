"""What does everything cost one route? `GET /api/v1/users/{id}` with all on, to bare FastAPI and the assembled stack.

The route and the model of the user service (`UserView`), the user from memory: what is measured is what stands around
it. covey: limits per principal counted in Valkey, a token that is verified, metrics, a span, a line of the access log,
correlation id, deadline, load shedding, as a service has them. The assembled stack: asgi-correlation-id, Prometheus
instrumentator, OpenTelemetry instrumentation, a JSON access log by structlog, slowapi per address with its default,
the memory of the process; it asks for no token. Bare FastAPI does nothing of this. Application on core 0, load on core
1, 64 connections, spans sent to a live collector, logs written to files.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.http_overhead import collector, rate, server
from bench.laboratory import Laboratory
from bench.results import Answer, Figure
from bench.rounds import Measurements, interleaved, ratios, table
from bench.users_apps import KEY, USER
from covey.security.principal import DevelopmentTokens

SUBJECTS = ("bare", "covey", "covey-local", "assembled")
ROUNDS = 7
SECONDS = 3.0


async def answer(laboratory: Laboratory) -> Answer:
    """Measure them, interleaved."""
    taken = await asyncio.to_thread(_measured, laboratory.folder / "users", laboratory.valkey_url)
    told = Answer(title="A user, with all on")
    told.text = [
        f"GET, {ROUNDS} rounds of {SECONDS:g} s. `covey-local` counts limits in its process, as slowapi does here.",
        "",
        table(taken, "bare", "requests/s"),
        "",
        table(taken, "assembled", "requests/s"),
    ]
    told.figures = [
        Figure(bar="users_to_bare", values=ratios(taken, "covey", "bare")),
        Figure(bar="users_to_assembled", values=ratios(taken, "covey", "assembled")),
    ]
    return told


def _measured(folder: Path, valkey_url: str) -> Measurements:
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        ports = dict(_started(stack, folder, valkey_url))
        return interleaved({name: partial(rate, port, _request(), SECONDS) for name, port in ports.items()}, ROUNDS)


def _started(stack: contextlib.ExitStack, folder: Path, valkey_url: str) -> Iterator[tuple[str, int]]:
    endpoint = stack.enter_context(collector())
    for name in SUBJECTS:
        yield name, stack.enter_context(server(name, endpoint, folder, "bench.users_apps", {"VALKEY_URL": valkey_url}))


def _request() -> bytes:
    """Return the bytes of the request, the same for all: whose user it is, with their token."""
    token = DevelopmentTokens(KEY).mint(f"user:{USER.id}")
    head = f"Host: 127.0.0.1\r\nAccept: */*\r\nUser-Agent: bench\r\nAuthorization: Bearer {token}\r\n"
    return f"GET /api/v1/users/{USER.id} HTTP/1.1\r\n{head}\r\n".encode()
