"""An envelope as message headers and back: CloudEvents 1.0 in binary content mode.

Source: https://github.com/cloudevents/spec, the NATS binding 1.0.3 (attributes are headers `ce-…`, the data is the
payload) and its rule for values: what is not printable ASCII, a space, `"` and `%` are percent-encoded UTF-8.

The key travels once, as `ce-subject`: the CloudEvents subject is the thing, within the source, that a message is
about, and that thing is what orders our messages. Kind and stream are the broker's own addressing
(a NATS subject, a Kafka topic), so they are given and taken here beside the headers, not repeated in them.

An envelope's own headers keep their names, so that `traceparent` is where other tools look for it. A name that a
header may not have, or that would be taken for one of ours (`ce-…`, `nats-…`), is percent-encoded as far as needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from urllib.parse import quote, unquote
from uuid import UUID

from covey.errors import Invalid, Unreadable
from covey.message import Envelope, Kind

_PLAIN_VALUE = re.compile(r"[!#$&-~]*")
_SAFE_IN_VALUE = "!#$&'()*+,/:;<=>?@[\\]^`{|}"
_SAFE_IN_NAME = "!#$&'*+^`|"
_RESERVED = ("ce-", "nats-")
_EMPTY_NAME = "%"


def to_headers(envelope: Envelope) -> dict[str, str]:
    """Return the headers that carry all of the envelope but kind, stream and body.

    Names are HTTP tokens and values printable ASCII, whatever the envelope holds. Raises Invalid for text that
    has no UTF-8 form (a lone surrogate), which no JSON body or database row can hold either.
    """
    try:
        headers = {
            "ce-specversion": "1.0",
            "ce-id": str(envelope.id),
            "ce-type": _encoded(envelope.type),
            "ce-source": _encoded(envelope.source),
            "ce-subject": _encoded(envelope.key),
            "ce-time": envelope.time.isoformat(),
        }
        for name, value in envelope.headers.items():
            headers[_encoded_name(name)] = _encoded(value)
    except UnicodeEncodeError as error:
        raise Invalid(f"message {envelope.id} holds text that is not Unicode: {error}") from None
    return headers


def from_headers(headers: Mapping[str, str], body: bytes, kind: Kind, stream: str) -> Envelope:
    """Return the envelope that these headers carry. Foreign attributes (`ce-…`) and headers keep their names.

    A message without `ce-subject` comes from elsewhere and asks for no order: its own id is its key.
    Raises Unreadable, with a reason for people, when an attribute that we need is absent or malformed.
    """
    rest = {name: value for name, value in headers.items() if not name.startswith("Nats-")}
    try:
        identity = UUID(rest.pop("ce-id"))
        attributes = [rest.pop(f"ce-{name}") for name in ("type", "source", "time")]
        key = rest.pop("ce-subject", str(identity))
        rest.pop("ce-specversion", None)
        return Envelope(
            id=identity,
            type=_decoded(attributes[0]),
            key=_decoded(key),
            source=_decoded(attributes[1]),
            time=_instant(attributes[2]),
            body=body,
            kind=kind,
            stream=stream,
            headers={_decoded_name(name): _decoded(value) for name, value in rest.items()},
        )
    except KeyError as missing:
        raise Unreadable(f"the header {missing} is absent") from None
    except ValueError as error:
        raise Unreadable(f"a header is malformed: {error}") from None


def _encoded(value: str) -> str:
    return value if _PLAIN_VALUE.fullmatch(value) else quote(value, safe=_SAFE_IN_VALUE)


def _decoded(value: str) -> str:
    return unquote(value, errors="strict") if "%" in value else value


@lru_cache(maxsize=256)
def _encoded_name(name: str) -> str:
    encoded = quote(name, safe=_SAFE_IN_NAME)
    if encoded.lower().startswith(_RESERVED):
        return f"%{ord(encoded[0]):02X}{encoded[1:]}"
    return encoded or _EMPTY_NAME


@lru_cache(maxsize=256)
def _decoded_name(name: str) -> str:
    return "" if name == _EMPTY_NAME else _decoded(name)


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"the time {text!r} has no offset from UTC")
    return instant
