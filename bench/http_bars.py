"""What does the core cost a request? Asks `bench.http_overhead`, in processes of its own, and takes its ratios."""

from __future__ import annotations

import asyncio
import json
import sys
from statistics import median

from bench.laboratory import Laboratory
from bench.results import Answer, Figure
from bench.rounds import spread


async def answer(laboratory: Laboratory) -> Answer:
    """Measure GET and POST; the worse of the two counts."""
    command = [sys.executable, "-m", "bench.http_overhead", "--json"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"bench.http_overhead ended with {process.returncode}")
    taken: dict[str, dict[str, list[float]]] = json.loads(output)
    told = Answer(title="HTTP")
    told.text = [
        "| | " + " | ".join(next(iter(taken.values()))) + " |",
        "|---|" + "---|" * len(next(iter(taken.values()))),
    ]
    told.text += [
        f"| {kind} | " + " | ".join(spread(values, 2) for values in row.values()) + " |" for kind, row in taken.items()
    ]
    for bar, ratio in (("http_to_bare", "covey / bare"), ("http_to_assembled", "covey / assembled")):
        told.figures.append(Figure(bar=bar, values=min((row[ratio] for row in taken.values()), key=median)))
    return told
