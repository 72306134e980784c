"""Tokens for tests: a service that was given `KEY` as its `development_key` knows whom `bearer` names."""

from __future__ import annotations

from covey.security.principal import DevelopmentTokens

KEY = "a key for tests, and for nothing else"
"""What a service under test is given as its `development_key`."""


def token(subject: str, *roles: str) -> str:
    """Return a token of this subject, such as `user:0199…`, with these roles."""
    return DevelopmentTokens(KEY).mint(subject, *roles)


def bearer(subject: str, *roles: str) -> dict[str, str]:
    """Return the header of a request that this subject makes."""
    return {"Authorization": f"Bearer {token(subject, *roles)}"}
