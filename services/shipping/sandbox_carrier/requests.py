"""What can be asked of the carrier, as it comes over the wire."""

from __future__ import annotations

import hashlib
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class Operation(StrEnum):
    """What a carrier does with a parcel before it moves, and what it says of one."""

    BOOK = "book"
    CANCEL = "cancel"
    TRACK = "track"


class Kind(StrEnum):
    """Which way a parcel goes: to the customer, or back."""

    SHIPMENT = "shipment"
    RETURN = "return"


class Request(BaseModel):
    """A parcel of an order. `reference` is the sender's name for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    reference: str = Field(min_length=1, max_length=64)
    order: str = Field(min_length=1, max_length=64)
    kind: Kind = Field(strict=False)
    pieces: int = Field(ge=1)

    def fingerprint(self, operation: Operation) -> str:
        """Return what tells this request from another one under the same key."""
        return hashlib.sha256(f"{operation}\n{self.model_dump_json()}".encode()).hexdigest()
