"""What Schemathesis does as every client does: a key that names a request is made anew for each."""

from __future__ import annotations

import re
from typing import Any

import schemathesis

from covey.ids import new_id

_KEY = re.compile(r'("?)[A-Za-z0-9._~:/+=-]{1,255}\1')


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Make a key that is one a new one, for the first request that had it has claimed it. Others stay as they are."""
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and _KEY.fullmatch(key):
        case.headers["Idempotency-Key"] = str(new_id())
