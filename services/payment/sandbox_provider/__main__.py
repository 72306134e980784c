"""Run the sandbox provider: `python -m sandbox_provider --port 9100 --book provider.book`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import uvicorn

from sandbox_provider.api import Delays, application


def main() -> None:
    """Serve until SIGTERM or Ctrl-C; whoever waits for a silent answer is cut off after a second."""
    description = "A payment provider that misbehaves on demand."
    parser = argparse.ArgumentParser(prog="sandbox_provider", description=description)
    data = os.environ.get("COVEY_DATA")
    book = Path(data) / "provider.book" if data else None
    parser.add_argument("--host", default=os.environ.get("HOST", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "9100")))
    parser.add_argument("--book", type=Path, default=book, required=book is None, help="where the money is booked")
    parser.add_argument("--slow", type=float, default=Delays.slow, metavar="SECONDS", help="how long tok_slow takes")
    parser.add_argument("--late", type=float, default=Delays.late, metavar="SECONDS", help="when tok_late is booked")
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
