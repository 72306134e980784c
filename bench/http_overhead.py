"""What does the core cost a request? covey with everything on, against bare FastAPI and against the assembled stack.

Application on core 0, load and span collector on core 1, 64 connections, every answer checked to be a 2xx. Spans are
all sent to a live collector and the access log is written to a file, by covey and by the assembled stack alike.

    python -m bench.http_overhead --rounds 5 --seconds 3
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hmac
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from bench.http_apps import SECRET
from bench.load import pin
from bench.rounds import Measurements, interleaved, ratios, table
from covey.local.ports import free_port

ROOT = Path(__file__).parent.parent
SUBJECTS = ("bare", "covey", "assembled", "assembled-pure", "assembled-unsecured")
NOTHING: Mapping[str, str] = MappingProxyType({})
BODY = b'{"id": 7, "name": "Ann", "email": "ann@example.org"}'


def requests(token: str) -> dict[str, bytes]:
    """Return the bytes of the two requests, as a browser or another service would send them."""
    head = f"Host: 127.0.0.1\r\nAccept: */*\r\nUser-Agent: bench\r\nAuthorization: Bearer {token}\r\n"
    get = f"GET /api/v1/users/7 HTTP/1.1\r\n{head}\r\n".encode()
    post = f"POST /api/v1/users HTTP/1.1\r\n{head}Content-Type: application/json\r\n"
    return {"GET": get, "POST": f"{post}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY}


def rate(port: int, request: bytes, seconds: float) -> float:
    """Load a server for some seconds from a process of its own and return answers a second."""
    command = [sys.executable, "-m", "bench.load", str(port), request.hex(), "--seconds", str(seconds)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout)


@contextlib.contextmanager
def server(
    name: str, endpoint: str, folder: Path, module: str = "bench.http_apps", more: Mapping[str, str] = NOTHING
) -> Iterator[int]:
    """Run a subject of a module until the block ends, with this and `more` in its environment, and return its port."""
    port = free_port()
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **more}
    with (folder / f"{name}.log").open("wb") as output:
        command = [sys.executable, "-m", module, name, str(port)]
        process = subprocess.Popen(command, stdout=output, env=environment, cwd=ROOT)
        try:
            _wait_until_open(port, process)
            yield port
        finally:
            process.terminate()
            process.wait(20)


@contextlib.contextmanager
def collector() -> Iterator[str]:
    """Run a collector of spans in a process of its own, on the core of the load."""
    port = free_port()
    command = [sys.executable, "-m", "bench.http_overhead", "--collect", str(port)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        _wait_until_open(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def collect(port: int) -> None:
    """Take spans and forget them, for ever."""
    from covey.testing.collector import FakeCollector

    pin(1)
    with FakeCollector(port) as fake:
        while True:
            time.sleep(1)
            fake.bodies.clear()


def measure(subjects: list[str], rounds: int, seconds: float) -> dict[str, Measurements]:
    """Return for each kind of request what each subject made of it."""
    wanted = requests(_token())
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(collector())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = {name: stack.enter_context(server(name, endpoint, folder)) for name in subjects}
        return {
            kind: interleaved({name: partial(rate, ports[name], request, seconds) for name in subjects}, rounds)
            for kind, request in wanted.items()
        }


def main() -> None:
    """Measure and print; with --json, as one JSON object: of each round the ratios of covey to the others."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=3.0)
    arguments.add_argument("--subjects", default=",".join(SUBJECTS))
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--collect", type=int, metavar="PORT", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.collect:
        return collect(given.collect)
    taken = measure(given.subjects.split(","), given.rounds, given.seconds)
    if given.json:
        print(json.dumps({kind: _compared(one) for kind, one in taken.items()}))
    else:
        for kind, one in taken.items():
            print(f"\n### {kind}, requests a second, median [least..most] of {given.rounds} rounds\n")
            print(table(one, "bare", "requests/s"))
    return None


def _compared(taken: Measurements) -> dict[str, list[float]]:
    return {f"covey / {other}": ratios(taken, "covey", other) for other in taken if other != "covey"}


def _token() -> str:
    """Return a token that the assembled stack accepts (RFC 7519, HS256)."""
    claims = {"sub": "bench", "aud": "bench", "exp": int(time.time()) + 86_400}
    signed = f"{_base64(json.dumps({'alg': 'HS256', 'typ': 'JWT'}).encode())}.{_base64(json.dumps(claims).encode())}"
    return f"{signed}.{_base64(hmac.digest(SECRET.encode(), signed.encode(), 'sha256'))}"


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise SystemExit(f"the server on port {port} did not start; see what it printed above")


if __name__ == "__main__":
    main()
