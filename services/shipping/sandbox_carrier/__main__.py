"""Run the sandbox carrier: `python -m sandbox_carrier --port 9200 --book carrier.book`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import uvicorn

from sandbox_carrier.api import Delays, application


def main() -> None:
    """Serve until SIGTERM or Ctrl-C; whoever waits for a silent answer is cut off after a second."""
    parser = argparse.ArgumentParser(prog="sandbox_carrier", description="A carrier that misbehaves on demand.")
    data = os.environ.get("COVEY_DATA")
    book = Path(data) / "carrier.book" if data else None
    parser.add_argument("--host", default=os.environ.get("HOST", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "9200")))
    parser.add_argument("--book", type=Path, default=book, required=book is None, help="where parcels are booked")
    parser.add_argument("--slow", type=float, default=Delays.slow, metavar="SECONDS", help="how long `slow` takes")
    parser.add_argument("--late", type=float, default=Delays.late, metavar="SECONDS", help="when `late` is booked")
    args = parser.parse_args()
    args.book.parent.mkdir(parents=True, exist_ok=True)
    uvicorn.run(
        application(args.book, Delays(slow=args.slow, late=args.late)),
        host=args.host,
        port=args.port,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
