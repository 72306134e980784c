"""Which statements need no transaction around them: reads that lock nothing and change nothing.

In READ COMMITTED each statement sees what is committed when it begins, so such a read sees the same without `BEGIN`
and `COMMIT`, which cost twice what it costs itself. What is not surely one is none: only a `SELECT` from a table, in
which no function is called but those that are known here. What a view does cannot be seen from here, so none may have
an effect of its own, and neither may operators, casts, a function that is read like a column (`account.note`), and one
of your own that is called like one of PostgreSQL's.
"""

from __future__ import annotations

import re
from functools import lru_cache

# With these the next pattern cannot tell where a text or a comment ends: a backslash, which may be before a quote,
# texts in dollars, and comments in comments.
_UNCLEAR = re.compile(r"\\|\$(?!\d)|/\*(?:(?!\*/).)*/\*", re.DOTALL)

# Texts, comments, and names in double quotes, which stay: one of them may be a function's.
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|--[^\n\r]*|/\*.*?\*/", re.DOTALL)

_READ = re.compile(r"\s*SELECT\b.*\bFROM\b", re.IGNORECASE | re.DOTALL)

# FOR locks, INTO makes a table, a sample may be a function's; the rest are now(), which is the transaction's.
_MORE_THAN_A_READ = re.compile(
    r";|\b(?:FOR|INTO|TABLESAMPLE|CURRENT_DATE|CURRENT_TIME|CURRENT_TIMESTAMP|LOCALTIME|LOCALTIMESTAMP)\b",
    re.IGNORECASE,
)
_CALL = re.compile(r"(\.\s*)?(\"|[^\W\d][\w$]*)\s*\(")
_KNOWN = re.compile(
    # words that may stand before a bracket and cannot name a function: as `next` and `over` can
    r"all|and|any|array|as|between|case|cast|distinct|else|end|except|exists|extract|fetch|from|group|having|in"
    r"|intersect|lateral|limit|not|offset|on|or|order|row|select|some|then|union|using|values|when|where"
    # and functions that only compute
    r"|abs|array_agg|array_length|avg|btrim|cardinality|ceil|char_length|coalesce|concat|count|dense_rank|encode|floor"
    r"|generate_series|greatest|json_agg|json_array_length|json_build_array|json_build_object|jsonb_agg"
    r"|jsonb_array_elements|jsonb_array_length|jsonb_build_array|jsonb_build_object|lag|lead|least|left|length|lower"
    r"|ltrim|max|min|nullif|num_nonnulls|num_nulls|position|rank|replace|right|round|row_number|rtrim|starts_with"
    r"|string_agg|strpos|substring|sum|to_char|to_json|to_jsonb|trim|unnest|upper",
    re.IGNORECASE,
)


@lru_cache(maxsize=4096)  # the texts of a program's statements, looked at once each
def is_plain_read(sql: str) -> bool:
    """Tell whether a statement does the same without a transaction of its own."""
    if _UNCLEAR.search(sql):
        return False
    bare = _QUOTED.sub(lambda quoted: quoted[0] if quoted[0].startswith('"') else " ", sql)
    if not bare.isascii() or not _READ.match(bare) or _MORE_THAN_A_READ.search(bare):
        return False  # not ASCII: of other letters PostgreSQL makes names that Python would end earlier
    return all(not call[1] and _KNOWN.fullmatch(call[2]) for call in _CALL.finditer(bare))
