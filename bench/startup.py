"""How long does it take to have something running: engines, the whole shop, one service?

Engines: a new folder, the template made. `covey up`: a copy of the shop in an empty folder, from the command to the
last service being ready, then again with what the first time left. Imports: fresh processes, bytecode compiled.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.laboratory import Laboratory
from bench.results import Answer, Figure
from bench.rounds import spread
from covey.local.engines.embedded import start_all

PROJECT = Path(__file__).parent.parent
SERVICES = ("order", "inventory", "payment", "shipping", "user", "notification")
ROUNDS = 5
UP_ROUNDS = 3
PATIENCE_SECONDS = 60


async def answer(laboratory: Laboratory) -> Answer:
    """Measure all three."""
    imports = {name: [_import_ms(f"{name}_service.main") for _ in range(ROUNDS)] for name in SERVICES}
    engines = [await _engines_s() for _ in range(ROUNDS)]
    ups = [await asyncio.to_thread(_up_s) for _ in range(UP_ROUNDS)]
    slowest = max(imports.values(), key=lambda values: sorted(values)[len(values) // 2])
    told = Answer(title="Start")
    told.text = [
        f"- engines from a template: {spread(engines, 2)} s ({ROUNDS} rounds)",
        f"- `covey up` from nothing: {spread([cold for cold, _ in ups], 1)} s;"
        f" warm: {spread([warm for _, warm in ups], 1)} s ({UP_ROUNDS} rounds)",
        *(f"- import of {name}_service.main: {spread(values)} ms" for name, values in imports.items()),
    ]
    told.figures = [
        Figure(bar="engines_s", values=engines),
        Figure(bar="up_from_nothing_s", values=[cold for cold, _ in ups]),
        Figure(bar="up_warm_s", values=[warm for _, warm in ups]),
        Figure(bar="import_ms", values=slowest),
    ]
    return told


def _import_ms(module: str) -> float:
    """Return how long a fresh process takes to import a service, the interpreter's own start left out."""
    code = f"import time; t = time.perf_counter(); import {module}; print((time.perf_counter() - t) * 1e3)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout)


async def _engines_s() -> float:
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        engines = await start_all(Path(folder) / "engines")
        spent = time.monotonic() - begun
        await engines.stop()
        return spent


def _up_s() -> tuple[float, float]:
    """Return the seconds of the first and of the second `covey up` of a copy of the shop."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "shop"
        project.mkdir()
        shutil.copy(PROJECT / "covey.toml", project)
        for part in ("services", "shop"):
            shutil.copytree(PROJECT / part, project / part)
        return _up_once(project), _up_once(project)


def _up_once(project: Path) -> float:
    """Return the seconds from the command to every unit being up, as `covey status` tells with its exit status."""
    covey = [sys.executable, "-m", "covey.cli"]
    environment = {**os.environ, "PYTHONPATH": ""}
    begun = time.monotonic()
    with (project / "up.log").open("ab") as output:
        up = subprocess.Popen([*covey, "up"], cwd=project, stdout=output, stderr=output, env=environment)
    try:
        while subprocess.run([*covey, "status"], cwd=project, capture_output=True, env=environment).returncode != 0:
            if up.poll() is not None or time.monotonic() - begun > PATIENCE_SECONDS:
                raise RuntimeError(f"covey up does not come up:\n{(project / 'up.log').read_text()[-2_000:]}")
            time.sleep(0.05)
        return time.monotonic() - begun
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(PATIENCE_SECONDS)
