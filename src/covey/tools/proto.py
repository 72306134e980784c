"""The Python of protobuf contracts: `python -m covey.tools.proto` writes it, with `--check` it says where it differs.

A service has what it publishes in `contracts/proto`, and the parts of others' contracts that it reads in
`contracts/reads`. Both become modules of its own package, in `generated`, which are checked in. It needs grpcio-tools
and mypy-protobuf, which no running service does.

A part that is read has its descriptors to itself. In the pool that all share, two services in one process which read
different parts of one contract would each declare its messages, and the second would fail to be imported.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from covey.errors import ConfigurationError, CoveyError
from covey.local.system import System, find_root, read_system
from covey.tools.export import FOLDER

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

PUBLISHED = f"{FOLDER}/proto"
READ = f"{FOLDER}/reads"
GENERATED = "generated"

_SHARED_POOL = "_descriptor_pool.Default().AddSerializedFile("
_OWN_POOL = "_descriptor_pool.DescriptorPool().AddSerializedFile("


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A folder with `.proto` files of a service, in `folder`, whose package is `module`."""

    root: Path
    folder: Path
    module: str

    @property
    def is_read(self) -> bool:
        """Tell whether it is a part of another's contract."""
        return self.root == self.folder / READ


def trees(system: System) -> list[Tree]:
    """Return every such folder of a system."""
    found = [
        Tree(root=system.folder(name) / part, folder=system.folder(name), module=system.module(name))
        for name in system.services
        for part in (PUBLISHED, READ)
    ]
    return [tree for tree in found if tree.root.is_dir()]


def generate(tree: Tree) -> dict[Path, bytes]:
    """Return what is to be in the files under `generated`. Raises ConfigurationError with what protoc complains of."""
    with TemporaryDirectory() as folder:
        _protoc(tree, Path(folder))
        made = {file: file.read_bytes() for file in sorted(Path(folder).rglob("*.py*"))}
        written = {tree.folder / file.relative_to(folder): _finished(tree, content) for file, content in made.items()}
    packages = {parent for file in written for parent in _packages(tree, file)}
    return {**written, **{package / "__init__.py": b"" for package in packages}}


def compiled(root: Path) -> FileDescriptorSet:
    """Return what the `.proto` files of a folder say, each after what it imports. Raises ConfigurationError."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    with TemporaryDirectory() as folder:
        found = Path(folder) / "all"
        _run_protoc(root, f"--proto_path={root}", "--include_imports", f"--descriptor_set_out={found}")
        return FileDescriptorSet.FromString(found.read_bytes())


def drifted(system: System) -> list[Path]:
    """Return the files that are not what the contracts say, among them those that nothing makes any more."""
    wanted = {file: content for tree in trees(system) for file, content in generate(tree).items()}
    folders = [system.folder(name) / system.module(name) / GENERATED for name in system.services]
    present = {file for folder in folders for file in folder.rglob("*.py*") if "__pycache__" not in file.parts}
    return sorted(
        {file for file, content in wanted.items() if not file.is_file() or file.read_bytes() != content}
        | (present - wanted.keys())
    )


def write(system: System) -> None:
    """Write all of them anew, and remove what nothing makes any more."""
    for tree in trees(system):
        for file, content in generate(tree).items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    for file in drifted(system):
        file.unlink()


def _protoc(tree: Tree, into: Path) -> None:
    _run_protoc(
        tree.root,
        f"--proto_path={tree.module}/{GENERATED}={tree.root}",
        *(f"--{plugin}_out={into}" for plugin in ("python", "grpc_python", "mypy")),
        f"--mypy_grpc_out=only_async:{into}",
    )


def _run_protoc(root: Path, *options: str) -> None:
    files = sorted(str(file) for file in root.rglob("*.proto"))
    beside = Path(sys.executable).parent  # where the plugins are that protoc looks for on the PATH
    done = subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *options, *files],
        env={**os.environ, "PATH": f"{beside}{os.pathsep}{os.environ.get('PATH', '')}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ConfigurationError(f"{root} cannot be compiled:\n{done.stderr.strip()}")


def _finished(tree: Tree, content: bytes) -> bytes:
    return content.replace(_SHARED_POOL.encode(), _OWN_POOL.encode()) if tree.is_read else content


def _packages(tree: Tree, file: Path) -> Iterator[Path]:
    top = tree.folder / tree.module
    return (parent for parent in file.parents if top in parent.parents)


def main() -> None:
    """Write the files, or with `--check` name those that differ and exit with status 1."""
    parser = argparse.ArgumentParser(prog="covey.tools.proto", description="Write the Python of protobuf contracts.")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 when a file differs")
    given = parser.parse_args()
    try:
        system = read_system(find_root(Path.cwd()))
        if not given.check:
            write(system)
        elif differing := drifted(system):
            sys.exit("\n".join(f"{os.path.relpath(file)} is not what its contract says" for file in differing))
    except CoveyError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
