"""Lua that runs inside the server, atomically: sent once, then called by its hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A script. It must take every key that it touches as one of its keys."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())

    @classmethod
    def beside(cls, module: str, name: str) -> Script:
        """Read the file `name` in the package of a module: `Script.beside(__name__, "take.lua")`."""
        return cls((files(module.rpartition(".")[0]) / name).read_text())
