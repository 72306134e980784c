"""What servers and clients of gRPC agree on: keep-alive and limits, for both from one place. Imports no gRPC.

A client that pings more often than its server allows is sent away with GOAWAY `too_many_pings`, and a server allows, by
default, one ping in five minutes and none without calls (gRFC A8, A9). So what both sides do is told by one object.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from covey.errors import DefinitionError

Settings = list[tuple[str, int | str]]

MAX_METADATA_BYTES = 16 * 1024
"""What the metadata of a call may have, error details among it, on both sides."""


@dataclass(frozen=True, kw_only=True)
class KeepAlive:
    """Both sides ping `every` so often on a connection, idle or not, and give it up when `patience` passes in silence.

    A server bears pings that are `tolerated` apart, so services may choose their `every` freely above that.
    """

    every: timedelta = timedelta(seconds=30)
    patience: timedelta = timedelta(seconds=10)
    tolerated: timedelta = timedelta(seconds=5)

    def __post_init__(self) -> None:
        if not timedelta() < self.tolerated < self.every or self.patience <= timedelta():
            raise DefinitionError(f"keep-alive cannot be like this, the server would close on the client: {self}")

    def of_client(self) -> Settings:
        """Return the arguments of a channel."""
        return [*self._pings(), ("grpc.http2.max_pings_without_data", 0)]

    def of_server(self) -> Settings:
        """Return the arguments of a server that bears such clients, and notices those that are gone."""
        return [*self._pings(), ("grpc.http2.min_ping_interval_without_data_ms", _ms(self.tolerated))]

    def _pings(self) -> Settings:
        return [
            ("grpc.keepalive_time_ms", _ms(self.every)),
            ("grpc.keepalive_timeout_ms", _ms(self.patience)),
            ("grpc.keepalive_permit_without_calls", 1),
        ]


DEFAULT = KeepAlive()


@dataclass(frozen=True, kw_only=True)
class GrpcOptions:
    """What a call to a service may be. `deadline` is that of a call whose caller names none."""

    max_message_bytes: int = 1024 * 1024
    deadline: timedelta = timedelta(seconds=10)
    keep_alive: KeepAlive = DEFAULT


def limits(max_message_bytes: int) -> Settings:
    """Return the arguments that bound messages and metadata, those that are sent too."""
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ]


def _ms(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)
