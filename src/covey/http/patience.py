"""How much is told of a body that breaks its model: nothing of what breaks it thousands of times.

pydantic notes every mistake before it raises, and FastAPI describes each one; describing costs ten times what
finding does. `body.check_values` bounds what there is to find.
"""

from __future__ import annotations

from typing import Any

from fastapi.dependencies.models import Dependant
from pydantic import ValidationError

from covey.errors import Invalid

MOST_MISTAKES = 5_000
"""Beyond so many a body is refused by their number alone."""


def limit(dependant: Dependant) -> None:
    """Have the bodies of a route, and of what it depends on, refused by Invalid when too much of them is wrong.

    For a dependant of one's own: what FastAPI makes of a route when an application includes its router.
    """
    for field in dependant.body_params:
        if not isinstance(field._type_adapter, _Limited):
            field._type_adapter = _Limited(field._type_adapter)  # type: ignore[assignment]  # it answers as one
    for inner in dependant.dependencies:
        limit(inner)


class _Limited:
    """A `TypeAdapter` that lets nobody ask for what would take too long to describe."""

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def validate_python(self, value: Any, **how: Any) -> Any:
        try:
            return self._adapter.validate_python(value, **how)
        except ValidationError as error:
            if error.error_count() <= MOST_MISTAKES:
                raise
            count = error.error_count()
        raise Invalid(f"{count} rules are broken, more than are told of: send less to learn which")
