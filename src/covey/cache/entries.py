"""What stands in Valkey under the key of something that is read.

An entry is its head and, if it is a value, JSON. The head has a fixed width: the shape of the value (8 hexadecimal
digits), the epoch since which it is true (16 digits), and one letter that says what it is:

    =  a value           -  there is none (a negative entry)
    ~  somebody loads    !  somebody is about to change it

The shape stands in the entry and not in its key, or a change that one version of a service makes would leave the values
of the other version, beside which it runs, as they were.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

from covey.errors import DefinitionError

V = TypeVar("V")

VALUE, NEGATIVE, LEASE, MARK = b"=", b"-", b"~", b"!"
ABSENT: Any = object()
"""In place of a value: there is none that could be believed."""

MARKED = b"0" * 24 + MARK
_SHAPE, _EPOCH, _HEAD = 8, 24, 25


class Entries(Generic[V]):
    """Writes and reads the entries of one type."""

    def __init__(self, type_: Any, version: int) -> None:
        self._adapter: TypeAdapter[V] = TypeAdapter(type_)
        self._validate = self._adapter.validator.validate_json
        self.shape = _shape(self._adapter, version)

    def value_in(self, entry: bytes | None, epoch: bytes) -> Any:
        """Return the value of an entry that is believed from this epoch on, None too, else ABSENT.

        ABSENT is whatever is no value, of an older epoch or another shape, or breaks a rule of the type.
        """
        if entry is None or entry[:_SHAPE] != self.shape or entry[_SHAPE:_EPOCH] < epoch:
            return ABSENT
        kind = entry[_EPOCH:_HEAD]
        if kind == VALUE:
            try:
                return self._validate(entry[_HEAD:], strict=True)
            except Exception:  # whatever a rule of the type raises, it is no value of it then
                return ABSENT
        return None if kind == NEGATIVE else ABSENT

    def entry_of(self, value: V, lease: bytes) -> bytes:
        """Return the entry of a value that was loaded under a lease: it is true since the epoch of the lease.

        Raises ValueError when the value is not of the type.
        """
        head = self.shape + lease[_SHAPE:_EPOCH]
        return head + (NEGATIVE if value is None else VALUE + self._adapter.dump_json(value, warnings="error"))


def kind_of(entry: bytes) -> bytes:
    """Return the letter that says what an entry is."""
    return entry[_EPOCH:_HEAD]


def _shape(adapter: TypeAdapter[Any], version: int) -> bytes:
    try:
        schema = adapter.json_schema()
    except PydanticInvalidForJsonSchema as error:
        raise DefinitionError(f"what is read cannot be cached, for not all of it is JSON: {error}") from error
    text = json.dumps([version, schema], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=_SHAPE // 2).hexdigest().encode()
