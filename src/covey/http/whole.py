"""Whole numbers in JSON: `2.0` is one, for JSON does not tell it from `2` (JSON Schema 2020-12, validation, 6.1.1).

quantity: Annotated[int, Field(strict=True, ge=1), WHOLE]      # 2 and 2.0, but neither 2.5 nor "2" nor true
"""

from __future__ import annotations

from typing import Any

from pydantic import BeforeValidator


def _written_out(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


WHOLE = BeforeValidator(_written_out)
"""What a strict integer of a body is marked with. Last: what stands behind it would not be in the schema."""
