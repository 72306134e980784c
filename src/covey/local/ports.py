"""Ports of 127.0.0.1 for processes that are started a moment later."""

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
    """Return a port that nobody listens on just now, at random and not one of `taken`."""
    while True:
        port = _RANGE[secrets.randbelow(len(_RANGE))]
        if port not in taken and is_free(port):
            return port
