"""What may not run in a `Work`: statements whose effect outlives the transaction, or which end it.

Nobody resets a pooled connection (see covey.database.pool), so a setting, a lock or a listener would stay for whoever
borrows it next. The text of a statement is looked at once, when it first runs. This catches mistakes, not malice: what
a function in the database does cannot be seen from here, so no such function may change its session either.
"""

from __future__ import annotations

import re
from functools import lru_cache

from covey.errors import DefinitionError

_OUTLIVES = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(?:"
    r"SET\s+(?!LOCAL\b|CONSTRAINTS\b|TRANSACTION\b)|RESET\b|DISCARD\b|LOAD\b|(?:UN)?LISTEN\b|PREPARE\b|DEALLOCATE\b"
    r"|DO\b"  # what it does is hidden in a text
    r"|DECLARE\b.*\bWITH\s+HOLD\b"
    r"|CREATE\s+(?:OR\s+REPLACE\s+)?(?:GLOBAL\s+|LOCAL\s+)?TEMP(?!.*\bON\s+COMMIT\s+DROP\b)"
    r"|BEGIN\b|START\b|COMMIT\b|END\b|ABORT\b|ROLLBACK\b(?!\s+(?:WORK\s+|TRANSACTION\s+)?TO\b))"
    r"|.*(?:\bpg_(?:try_)?advisory_lock(?:_shared)?\"?\s*\(|\bUPDATE\s+(?:pg_catalog\.)?pg_settings\b"
    r"|(?<!\bINSERT\s)(?<!\bMERGE\s)\bINTO\s+(?:GLOBAL\s+|LOCAL\s+)?TEMP(?:ORARY)?\s)",
    re.IGNORECASE | re.DOTALL,
)
# Texts, names, function bodies and comments: a semicolon in these separates no statements.
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"[^"]*"|(?P<tag>\$(?!\d)\w*\$).*?(?P=tag)|--[^\n]*|/\*.*?\*/""", re.DOTALL)

_SET_CONFIG = re.compile(r"\bset_config\"?\s*\(", re.IGNORECASE)
_PART = re.compile(r"'(?:[^']|'')*'|[(),]")
_LOCAL = re.compile(r"\s*true\s*", re.IGNORECASE)


def refuse_lasting(sql: str) -> None:
    """Raise DefinitionError for a statement that outlives its transaction or ends it."""
    if _is_lasting(sql):
        raise DefinitionError(
            f"a statement that outlives its transaction or ends it is not allowed in a Work: {sql.strip()[:80]!r};"
            " use SET LOCAL, set_config(…, true), pg_advisory_xact_lock and the like, and a function in place of DO"
        )


@lru_cache(maxsize=4096)  # the texts of a program's statements, looked at once each
def _is_lasting(sql: str) -> bool:
    statements = [sql, *_QUOTED.sub(" ", sql).split(";")[1:]]  # several at once run in the same round trip
    return any(_OUTLIVES.match(statement) for statement in statements) or not all(
        _LOCAL.fullmatch(_last_argument(sql, call.end())) for call in _SET_CONFIG.finditer(sql)
    )


def _last_argument(sql: str, start: int) -> str:
    """Return the last argument of a call whose first begins at `start`, whatever is nested in the others."""
    depth, begin = 1, start
    for part in _PART.finditer(sql, start):
        depth += {"(": 1, ")": -1}.get(part[0], 0)
        if depth == 0:
            return sql[begin : part.start()]
        if depth == 1 and part[0] == ",":
            begin = part.end()
    return ""
