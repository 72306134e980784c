"""Run the mail sink: `python -m mail_sink --port 9025 --smtp-port 2525 --book mail.book`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import uvicorn

from mail_sink.api import application


def main() -> None:
    """Serve until SIGTERM or Ctrl-C. SMTP is listened to before HTTP, so who can ask for mails can also send some."""
    parser = argparse.ArgumentParser(prog="mail_sink", description="A mail server that delivers to a book.")
    data = os.environ.get("COVEY_DATA")
    book = Path(data) / "mail.book" if data else None
    parser.add_argument("--host", default=os.environ.get("HOST", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "9025")), help="of its HTTP interface")
    parser.add_argument("--smtp-port", type=int, default=int(os.environ.get("SMTP_PORT", "2525")))
    parser.add_argument("--book", type=Path, default=book, required=book is None, help="where the mails are kept")
    parser.add_argument("--slow", type=float, default=1.0, metavar="SECONDS", help="how long a slow answer takes")
    args = parser.parse_args()
    args.book.parent.mkdir(parents=True, exist_ok=True)
    uvicorn.run(
        application(args.book, args.smtp_port, host=args.host, slow_seconds=args.slow),
        host=args.host,
        port=args.port,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
