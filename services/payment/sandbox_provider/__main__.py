"""Run the sandbox provider: `python -m sandbox_provider --port 9100 --book provider.book`."""

from __future__ import annotations

import argparse
from pathlib import Path

import uvicorn

from sandbox_provider.api import Delays, application


def main() -> None:
    """Serve until SIGTERM or Ctrl-C; whoever waits for a silent answer is cut off after a second."""
    description = "A payment provider that misbehaves on demand."
    parser = argparse.ArgumentParser(prog="sandbox_provider", description=description)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9100)
    parser.add_argument("--book", type=Path, required=True, help="the file that the money is booked in")
    parser.add_argument("--slow", type=float, default=Delays.slow, metavar="SECONDS", help="how long tok_slow takes")
    parser.add_argument("--late", type=float, default=Delays.late, metavar="SECONDS", help="when tok_late is booked")
    args = parser.parse_args()
    uvicorn.run(
        application(args.book, Delays(slow=args.slow, late=args.late)),
        host=args.host,
        port=args.port,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
