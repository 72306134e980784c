"""Keeping secrets and personal data out of logs and spans (OWASP ASVS 5.0, 16.2.5).

Two nets: values under a key that names a secret are replaced whole, and every text is searched for what
looks like one: passwords in URLs and connection strings, Authorization values, JSON Web Tokens, private
keys, e-mail addresses. A net is no licence: log ids, not the things themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

REDACTED = "[redacted]"

_SECRET_WORD = r"passw(?:or)?d|passphrase|secret|token|authorization|cookie|api[-_]?key|private[-_]?key|credential"
_SECRET_KEY = re.compile(rf"(?:{_SECRET_WORD}|^dsn$|^pwd$)", re.IGNORECASE)
_MOST_DEPTH = 8
_MOST_TEXT = 16_384

# Every quantifier before a distinguishing character is bounded or possessive: long hostile text costs linear time.
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[^-]*+(?:-----END [A-Z ]{0,40}PRIVATE KEY-----)?"), REDACTED),
    (re.compile(r"(://[^\s:/@]{0,256}:)[^\s'\"<>]{1,512}@"), rf"\1{REDACTED}@"),
    (re.compile(r"\b(Bearer|Basic|Digest|Negotiate) +[\w.~+/=-]{8,}+", re.IGNORECASE), rf"\1 {REDACTED}"),
    (re.compile(r"\beyJ[\w-]{4,}+\.[\w-]*+(?:\.[\w-]*+){0,3}"), REDACTED),
    (
        re.compile(
            rf"((?:{_SECRET_WORD}|\bpwd)['\"]?\s{{0,4}}[=:]\s{{0,4}})"
            r"(?!\[redacted\])(?:'[^']*+'|\"[^\"]*+\"|[^\s'\",;&)}\]]++)",
            re.IGNORECASE,
        ),
        rf"\1{REDACTED}",
    ),
    (re.compile(r"(?<![\w.+-])(?<!://)[\w.+-]++(?:@|%40)[\w-]{1,64}(?:\.[\w-]{1,64}){1,8}"), "[e-mail]"),
)
# What a text must contain for a pattern to match: harmless text, such as the path of a request, stays cheap.
_WORDS = ("passw", "passphrase", "pwd", "secret", "token", "authorization", "cookie", "key", "credential")
_SCHEMES = ("bearer ", "basic ", "digest ", "negotiate ", "-----begin ")


def redact_text(text: str) -> str:
    """Return `text` without what looks like a secret or an e-mail address; at most 16,384 characters of it."""
    if len(text) > _MOST_TEXT:
        text = text[:_MOST_TEXT] + "…"
    if not _is_suspicious(text):
        return text
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def _is_suspicious(text: str) -> bool:
    if "@" in text or "%40" in text or "eyJ" in text:
        return True
    if " " not in text and "=" not in text and ":" not in text:
        return False
    lowered = text.lower()
    return any(word in lowered for word in _WORDS) or any(scheme in lowered for scheme in _SCHEMES)


def redact(value: Any, depth: int = 0) -> Any:
    """Return a copy of `value` that is safe to write: mappings and sequences to 8 levels, texts searched."""
    if isinstance(value, str):
        return redact_text(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if depth >= _MOST_DEPTH:
        return "[too deep]"
    if isinstance(value, Mapping):
        return redact_items(value, depth + 1)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redact(item, depth + 1) for item in value]
    return redact_text(text_of(value))


def text_of(value: object) -> str:
    """Return `str(value)`; it is somebody else's code, and what it raises must not reach who only logs."""
    try:
        return str(value)
    except Exception as error:
        return f"[{type(value).__name__} without text: {type(error).__name__}]"


def redact_items(items: Mapping[Any, Any], depth: int = 0) -> dict[str, Any]:
    """Return `items` with each value redacted, whole where its key names a secret."""
    redacted = {}
    for given, value in items.items():
        key = given if isinstance(given, str) else text_of(given)
        redacted[key] = REDACTED if value is not None and _names_a_secret(key) else redact(value, depth)
    return redacted


@lru_cache(maxsize=1024)
def _names_a_secret(key: str) -> bool:
    return _SECRET_KEY.search(key) is not None
