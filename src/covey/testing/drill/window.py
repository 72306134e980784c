"""Makes the broker forget sooner which messages it has stored, as an operator may: a drill is over before two minutes.

Without it no duplicate of a drill would ever reach an inbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import nats
from nats.errors import Error
from nats.js.errors import NotFoundError

from covey.errors import BrokerUnavailable

_ANSWER_SECONDS = 2.0


async def narrow(url: str, streams: Iterable[str], seconds: float) -> list[str]:
    """Set the duplicate window of these streams and return those that there are. Raises BrokerUnavailable."""
    found = []
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):  # nats-py would go on asking a server that is away
            client = await nats.connect(url, allow_reconnect=False, error_cb=_not_told)
            try:
                jetstream = client.jetstream()
                for stream in streams:
                    try:
                        config = (await jetstream.stream_info(stream)).config
                    except NotFoundError:
                        continue
                    config.duplicate_window = seconds
                    await jetstream.update_stream(config)
                    found.append(stream)
            finally:
                await client.close()
    except (Error, OSError, TimeoutError) as error:
        raise BrokerUnavailable(f"the streams' windows cannot be set: {type(error).__name__}: {error}") from error
    return found


async def _not_told(_: Exception) -> None:
    """Say nothing of a lost connection: in a drill it is no news."""
