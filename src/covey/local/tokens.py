"""The development tokens of a system: signed with a key that lies with its other secrets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from covey.errors import ConfigurationError, DefinitionError
from covey.local.state import StateFolder, known_secret
from covey.security.principal import DevelopmentTokens

_NAME = "development tokens"


def development_key(folder: StateFolder) -> str:
    """Return the key of this system, made when it is first asked for."""
    return folder.secret(_NAME)


def token(state: Path, environment: Mapping[str, str], subject: str, roles: Iterable[str]) -> str:
    """Return a token for a subject, signed with DEVELOPMENT_KEY if that is set, else with the key of the system here.

    Raises ConfigurationError where there is no key, or no such subject or role can be.
    """
    key = environment.get("DEVELOPMENT_KEY") or known_secret(state, _NAME)
    if key is None:
        raise ConfigurationError("this system has no key for tokens yet: `covey up` makes one, or set DEVELOPMENT_KEY")
    try:
        return DevelopmentTokens(key).mint(subject, *roles)
    except DefinitionError as error:
        raise ConfigurationError(str(error)) from None
