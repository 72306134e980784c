"""The crash test: an order of each outcome is run once for every call it makes, and killed there.

    python -m tests.crash                        # every point: takes long
    python -m tests.crash --list                 # only say which points there are
    python -m tests.crash --one-per-seam         # what `make test` runs
    python -m tests.crash declined payment       # the points whose names contain all of these words
    python -m tests.crash --shard 2/8            # the second of eight parts, for machines or for patience

The points are what one undisturbed order of each outcome does on the wire, recorded at the start of each run: see
tests/crash/README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.points import one_per_seam, seams_missing, shard_of, sharded
from tests.crash.report import listing, table
from tests.crash.run import RECORDINGS, chosen, prepared
from tests.harness.outcomes import OUTCOMES_WITH_EVERY_SEAM


def main() -> int:
    """Run what the arguments ask for; 0 only if every kill was survived."""
    parser = argparse.ArgumentParser(
        prog="tests.crash", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="only points whose names contain all of these words")
    parser.add_argument("--list", action="store_true", help="list the points and end")
    parser.add_argument("--one-per-seam", action="store_true", help="one point of each seam")
    parser.add_argument(
        "--shard", type=shard_of, default=(1, 1), metavar="K/N", help="the K-th of N parts of the points"
    )
    parser.add_argument("--cold", action="store_true", help="restart with a new Python each time, not with a copy")
    parser.add_argument("--lanes", type=int, default=4, metavar="N", help="how many shops beside each other")
    folder = Path(tempfile.mkdtemp(prefix="covey-crash-"))
    status = asyncio.run(_run(parser.parse_args(), folder))
    if status == 0:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        _say(f"logs, databases and the provider's books are kept in {folder}")
    return status


async def _run(arguments: argparse.Namespace, folder: Path) -> int:
    began = time.monotonic()
    async with prepared(folder, _say) as run:
        every = await run.record(arguments.lanes, recordings=RECORDINGS)
        if missing := seams_missing(every, [one.name for one in OUTCOMES_WITH_EVERY_SEAM]):
            _say(f"FAILED  `make test` kills at none of these seams: {', '.join(missing)}")
            return 1
        points = sharded(chosen(every, arguments.words), *arguments.shard)
        if arguments.list:
            _say("\n".join([*listing(points), "", f"{len(points)} points"]))
            return 0
        points = one_per_seam(points) if arguments.one_per_seam else points
        _say(f"{len(points)} points, recorded in {time.monotonic() - began:.0f} s")
        results = await run.strike_all(points, arguments.lanes, cold=arguments.cold)
    _say("\n".join(["", *table(results), *(f"FAILED  {one}" for one in results.failures)]))
    _say(f"{len(results.strikes)} kills, {len(results.failures)} failures, {time.monotonic() - began:.0f} s")
    return 1 if results.failures or len(results.strikes) < len(points) else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
