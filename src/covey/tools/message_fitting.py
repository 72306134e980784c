"""Whether messages that one service sends can be read by another: two AsyncAPI documents compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from covey.tools.asyncapi import KIND
from covey.tools.fitting import Side, misfits

Action = Literal["send", "receive"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """One message that a service sends or receives, on the stream of the service that it belongs to."""

    service: str
    action: Action
    kind: str
    message: str
    stream: str
    payload: Side

    @property
    def expects(self) -> bool:
        """Tell whether it relies on another: who reads an event, and who sends a command."""
        return (self.kind, self.action) in (("event", "receive"), ("command", "send"))

    @property
    def meets(self) -> bool:
        """Tell whether another relies on it: who publishes an event, and who handles a command."""
        return (self.kind, self.action) in (("event", "send"), ("command", "receive"))


def uses(service: str, document: Mapping[str, Any]) -> Iterator[Use]:
    """Yield every message that a service's document has."""
    whole = Side(document, dict(document))
    for operation in document["operations"].values():
        for reference in operation["messages"]:
            found = whole.at(reference).schema
            yield Use(
                service=service,
                action=operation["action"],
                kind=found[KIND],
                message=found["name"],
                stream=whole.at(operation["channel"]).schema["address"],
                payload=Side(found["payload"], dict(document)),
            )


def message_misfits(consumer: Use, provider: Use) -> Iterable[str]:
    """Return every way in which what is sent is not what is read."""
    if consumer.kind == "event":
        return misfits(provider.payload, consumer.payload)
    return misfits(consumer.payload, provider.payload)
