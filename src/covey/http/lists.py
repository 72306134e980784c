"""The parameters of a route that lists: see `covey.database.pagination`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from covey.database.pagination import MOST

Cursor = Annotated[
    str | None,
    Query(max_length=2_000, description="Where the page begins: `next` of the page before. 400 for any other."),
]
"""The parameter that says where a page begins."""

Limit = Annotated[int, Query(ge=1, le=MOST, description="How many entries a page has.")]
"""The parameter that says how long a page is. Its default is the route's."""
