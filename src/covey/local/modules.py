"""The modules of several services in one process: each service's folder on the path, and no name that means two things.

In processes of their own two services may each have a module `clients`, or one that hides an installed one. In one
process the second would be given the module of the first, and nobody would notice. So an import of such a name fails.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType


def share_path(folders: Iterable[Path]) -> None:
    """Have these folders on the path, before all but the current one, and no module in them hide another."""
    own = list(dict.fromkeys(str(folder) for folder in folders))
    others = [entry for entry in sys.path[1:] if os.path.realpath(entry) not in own]
    sys.path[1:] = [*own, *others]
    sys.meta_path.insert(0, _Unambiguous(own))


class _Unambiguous(MetaPathFinder):
    """Finds nothing, and refuses names under which a folder of a service and another place have different modules."""

    def __init__(self, folders: Sequence[str]) -> None:
        self._folders = folders

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is None and (places := self._places(fullname)) and len(places) > 1:
            raise ImportError(
                f"{' and '.join(places)} both are a module {fullname!r}, and services in one process share their"
                f" modules: move it into the package of the service, or rename it",
                name=fullname,
            )
        return None

    def _places(self, name: str) -> list[str]:
        """Return where different modules of that name are, if a folder of a service has one."""
        own = dict.fromkeys(filter(None, (_place(name, [folder]) for folder in self._folders)))
        if not own:
            return []
        elsewhere = _place(name, [entry for entry in sys.path if os.path.realpath(entry) not in self._folders])
        return list(own | dict.fromkeys(filter(None, [elsewhere])))


def _place(name: str, path: list[str]) -> str | None:
    """Return the file of a module that has one: folders of the same name without `__init__.py` make one package."""
    spec = PathFinder.find_spec(name, path)
    return os.path.realpath(spec.origin) if spec is not None and spec.origin is not None else None
