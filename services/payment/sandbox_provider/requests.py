"""What can be asked of the provider, as it comes over the wire."""

from __future__ import annotations

import hashlib
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class Operation(StrEnum):
    """The four things that a provider does with money."""

    AUTHORIZE = "authorize"
    CAPTURE = "capture"
    VOID = "void"
    REFUND = "refund"


class Request(BaseModel):
    """A request, its idempotency key with it. `amount` is in minor units; to void needs neither amount nor currency."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    reference: str = Field(min_length=1, max_length=64)
    amount: int = Field(default=0, ge=0)
    currency: str = Field(default="", max_length=3)
    token: str = Field(default="", max_length=64)

    def fingerprint(self, operation: Operation) -> str:
        """Return what tells this request from another one under the same key."""
        return hashlib.sha256(f"{operation}\n{self.model_dump_json()}".encode()).hexdigest()
