"""What an event loop has to complain of."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet() -> Iterator[None]:
    """Fail when the loop complains in the block, as of an exception that nobody has fetched."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, complaint: complaints.append(complaint))
    yield
    gc.collect()  # what nobody fetched is told of when its future goes
    assert not complaints, complaints
