"""The guardian outlives the supervisor by a moment: when the supervisor is gone, it ends what that left behind.

It waits for the end of its standard input, a pipe of which the supervisor holds the other end; the kernel closes it
however the supervisor ends. It has inherited the lock of the state folder, so that no new start begins before it
is done. When the folder was replaced it ends nothing: what is on record there is somebody else's.

This works on every Unix, where a parent-death signal is Linux's alone and follows threads, not processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

from covey.local.processes import end_recorded

_GRACE_SECONDS = 5.0


def start(records: Path, lock: IO[str]) -> subprocess.Popen[bytes]:
    """Start the guardian of those records; it holds the open file `lock` until it ends.

    Closing its `stdin` makes it end whatever is still on record, then itself.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, str(records), str(lock.fileno()), lock.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(lock.fileno(),),
        start_new_session=True,
    )


def holds(lock: int, path: Path) -> bool:
    """Tell whether the open file `lock` is still what stands at that path."""
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def main(records: Path, lock: int, path: Path) -> None:
    """Wait for the supervisor's end, then end what it left behind."""
    sys.stdin.buffer.read()
    if holds(lock, path):
        end_recorded(records, _GRACE_SECONDS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
