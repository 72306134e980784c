"""Starts processes of services in a fraction of the time that Python takes to import them.

Run as `python -m tests.harness.nursery order_service.main mail_sink.api …`: it imports all of these once and forks a
copy for every start that it is asked for. A copy is a process like any other, and dies like any other; importing
connects to nothing (a rule of the house), so the copy does what `python -m order_service` does, and finds loaded what
that would load. With `cold` a new Python does it.

One nursery for all, not one for each: nearly all that a service imports is the same for every service, so to import six
takes hardly longer, and fills hardly more memory, than to import one.

Orders come as lines of JSON, on standard input, what happens goes as lines of JSON to standard output:

    {"start": 1, "package": "order_service", "environment": {…}, "log": "…", "cold": false}
    →  {"started": 1, "pid": 4711}
    →  {"ended": 4711, "status": -9}

When its input ends, however suddenly, it kills all its children and ends.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

_LOADED_AT_START = ("covey.messaging.brokers.nats", "uvicorn.protocols.http.httptools_impl", "uvicorn.lifespan.off")


def main(modules: list[str]) -> None:
    """Import the modules, then start copies until the input ends."""
    for name in (*modules, *_LOADED_AT_START):
        import_module(name)
    gc.freeze()
    children: set[int] = set()

    def reap(*_: object) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                children.discard(ended[0])
                _say({"ended": ended[0], "status": os.waitstatus_to_exitcode(ended[1])})

    signal.signal(signal.SIGCHLD, reap)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _say({"ready": modules})
    for line in sys.stdin:
        order = json.loads(line)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        pid = os.fork()
        if pid == 0:
            _become(order)
        children.add(pid)
        _say({"started": order["start"], "pid": pid})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for pid in list(children):
        os.kill(pid, signal.SIGKILL)


def _become(order: dict[str, Any]) -> None:
    """Run the package in this copy; never returns."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        os.environ.clear()
        os.environ.update(order["environment"])
        _redirect(Path(order["log"]))
        if order["cold"]:
            os.execv(sys.executable, [sys.executable, "-m", order["package"]])
        sys.argv = [order["package"]]
        runpy.run_module(order["package"], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        status = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _redirect(log: Path) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)


def _say(message: dict[str, Any]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
