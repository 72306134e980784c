"""Ports of 127.0.0.1 for processes that are started a moment later, and again when they have died.

A port belongs to a system also while nobody listens on it. So it is set aside: the UDP port of the same number, which
nobody here makes use of, is bound for as long as the system is up. Whoever looks for a free port passes it by.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Collection

# Below the ports that systems lend to outgoing connections (from 32768 on Linux; RFC 6335 section 6 has them begin at
# 49152): one that the system chose can be lent to somebody else before the process that it is for listens.
_RANGE = range(20_000, 32_000)


def is_free(port: int) -> bool:
    """Tell whether nobody listens on a port just now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port(taken: Collection[int] = ()) -> int:
    """Return a port that nobody listens on just now nor has set aside, at random and not one of `taken`."""
    port, aside = reserve_port(taken)
    aside.close()
    return port


def reserve_port(taken: Collection[int] = ()) -> tuple[int, socket.socket]:
    """Set such a port aside; return it with what keeps it from others until it is closed, or this process ends."""
    while True:
        port = _RANGE[secrets.randbelow(len(_RANGE))]
        if port not in taken and is_free(port) and (aside := set_aside(port)):
            return port, aside


def set_aside(port: int) -> socket.socket | None:
    """Keep a port from being chosen by others until what is returned is closed; None when somebody else has it."""
    aside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        aside.bind(("127.0.0.1", port))
    except OSError:
        aside.close()
        return None
    return aside
