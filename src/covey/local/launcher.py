"""Start a process that is on record before it runs: note who it is, take on an identity, become the command.

Run by path as `python -I -S launcher.py <plan as JSON> <command> …`, so it imports the standard library only. It
writes the record itself, with its own pid, which the command keeps: however suddenly the supervisor dies,
nothing runs that is not written down. It is also where the child is single-threaded, which a new user
namespace requires.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

ORPHANED = 70
"""Exit status when the supervisor died before the record stood: nobody would find the process, so it does not run."""
REFUSED = 71
"""Exit status when the system does not grant the identity."""
UNREACHABLE = 72
"""Exit status of a check when the identity cannot reach one of the paths."""

_CLONE_NEWUSER = 0x10000000


def birth(pid: int) -> str | None:
    """Return what tells this process from any other that ever had its pid; None when it is not running.

    Linux: the id of the boot and the clock tick of the start. Elsewhere: the start as `ps` prints it. A process
    that has ended and waits to be reaped is not running.
    """
    if sys.platform == "linux":
        return _birth_from_proc(pid)
    shown = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split(maxsplit=1)
    return shown[1].strip() if len(shown) == 2 and not shown[0].startswith("Z") else None


def _birth_from_proc(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the name before it may itself hold brackets and spaces
    return None if state in "ZX" else f"{boot}:{fields[18]}"


def become(identity: str) -> None:
    """Take on an identity: "" stays as it is, "namespace" is uid 1000 of a new user namespace, "uid:gid" switches.

    Raises OSError when the system refuses.
    """
    if identity == "namespace":
        _enter_user_namespace()
    elif identity:
        uid, gid = map(int, identity.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)


def _enter_user_namespace() -> None:
    import ctypes  # costs 10 ms that only this identity pays

    uid, gid = os.geteuid(), os.getegid()
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "no new user namespace")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"1000 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"1000 {gid} 1")


def never_interrupt() -> None:
    """Have this process, once woken, wait until a CPU is free or who runs there has had its turn. Linux; else nothing.

    An engine that is asked would otherwise run at once, in place of the service that asks: on a machine whose CPUs are
    all busy that costs a switch and back for nearly every statement (decision 0016).
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def write_atomically(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file so that a reader, or the next start after a crash, sees the old text or the new one."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
        file.write(text)
    scratch.replace(path)


def main(plan: dict[str, Any], command: list[str]) -> int:
    """Carry out a plan; returns only when there is nothing to run or the identity is refused."""
    if record := plan.get("record"):
        noted = {**plan["note"], "pid": os.getpid(), "birth": birth(os.getpid()), "command": command}
        write_atomically(Path(record), json.dumps(noted))
        if os.getppid() != plan["parent"]:
            return ORPHANED
    try:
        become(plan.get("identity", ""))
    except OSError as error:
        print(f"cannot run as {plan['identity']!r}: {error}", file=sys.stderr)  # noqa: T201 - the log is stderr
        return REFUSED
    if not all(os.access(path, os.R_OK | os.X_OK) for path in plan.get("reach", [])):
        return UNREACHABLE
    if plan.get("patient"):
        never_interrupt()
    if command:
        os.execv(command[0], command)
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1]), sys.argv[2:]))
