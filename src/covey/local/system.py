"""The system file `covey.toml`: which services make up the system, where they live and how many of each run.

    [system]
    name = "shop"                       # prefix of its streams and databases
    broker = "nats"                     # or "valkey": what carries its messages

    [services.order]                    # started as `python -m order_service`
    path = "services/order"             # default: services/<name>
    replicas = 1
    env = { GREETING = "hello" }        # on top of the addresses that covey gives

    [processes.sandbox-provider]        # any other process that the system needs
    command = "python -m sandbox_provider"
    path = "services/payment"           # where its code is

    [engines.nats]
    sync_interval = "always"            # what JetStream acknowledges is on the disk

    [engines.streams]                   # the Valkey of broker = "valkey", beside the one for caches and limits
    appendfsync = "always"              # what it confirms is on the disk

    [processes.mail-sink]               # one that speaks more than HTTP
    command = "python -m mail_sink"
    path = "services/notification"
    ports = ["smtp"]                    # told as SMTP_PORT

    [demo]
    module = "shop.tour"                # what `covey demo` runs, in the folder of this file

    [drill]
    module = "shop.drill"               # who uses the system in a drill, and who audits it

In a value of `env`, `{processes.sandbox-provider.url}` and `{services.order.url}` stand for addresses, and
`{processes.mail-sink.smtp}` and `{services.user.grpc}` for the host and port of a further one.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from covey.errors import ConfigurationError
from covey.local.engines.embedded import EVERY, NAMES, STREAMS
from covey.local.mistakes import explain, line_of

FILE = "covey.toml"
REFERENCE = re.compile(r"\{(services|processes)\.([^.{}]+)\.([^.{}]+)\}")
_BRACES = re.compile(r"\{[^{}]*\}")
_REPLICA = re.compile(r"-[0-9]+$")
ONE_PROCESS = "services"
"""The name of the process that runs all services, where one does."""
SERVICE_PORTS = ("grpc",)
"""The further ports of every service: told as GRPC_PORT, whether or not it listens there."""
_RESERVED = {**dict.fromkeys(EVERY, "an engine"), ONE_PROCESS: "all of them together"}

_SHARED = "its folder is that of services.{}, {}, and so would be its migrations and contracts: give each its own"

_NAME = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
_SPAN = r"^(always|[0-9]+(ms|s|m))$"
_PORT = r"^[a-z][a-z0-9]*$"
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
_NO_ZERO = r"^[^\x00]*$"
_MODULE = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"
_IN_WORDS = {
    _NAME: "it must begin with a letter and have only lower-case letters, digits and single hyphens",
    _PORT: "it must begin with a letter and have only lower-case letters and digits",
    _SPAN: "it must be always, or a span such as 500ms, 10s, 2m",
    _VARIABLE: "a variable's name has letters, digits and underscores, and does not begin with a digit",
    _NO_ZERO: "no variable can hold a zero byte",
    _MODULE: "it must be the name of a module as it is imported, such as shop.tour",
}

Name = Annotated[str, StringConstraints(pattern=_NAME, max_length=40)]
Environment = dict[
    Annotated[str, StringConstraints(pattern=_VARIABLE)], Annotated[str, StringConstraints(pattern=_NO_ZERO)]
]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _System(_Entry):
    name: Name
    broker: Literal["nats", "valkey"] = "nats"


class ServiceEntry(_Entry):
    """A service of the system. `path` is relative to the system file."""

    path: str | None = None
    replicas: Annotated[int, Field(ge=1, le=32)] = 1
    env: Environment = {}


class ProcessEntry(_Entry):
    """A process that is no covey service: told `HOST` and `PORT`, and up when it accepts connections there.

    Each of `ports`, if one does not do, is told as `<NAME>_PORT`; it should listen there before it does at `PORT`.
    `COVEY_DATA` names a folder of its own that outlives it, which it makes if it needs one.
    """

    command: Annotated[str, StringConstraints(min_length=1)]
    path: str = "."
    ports: list[Annotated[str, StringConstraints(pattern=_PORT, max_length=40)]] = []
    env: Environment = {}

    @field_validator("ports")
    @classmethod
    def _distinct(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("two ports have one name")
        if "url" in value:
            raise ValueError("'url' is the address of PORT: choose another name")
        return value


class NatsEntry(_Entry):
    """How the embedded NATS server runs."""

    sync_interval: Annotated[str, StringConstraints(pattern=_SPAN)] = "always"


class StreamsEntry(_Entry):
    """How the embedded Valkey server runs that is a broker. With "everysec" readers are asked after each start of it
    whether they accept that history may be lost.
    """

    appendfsync: Literal["always", "everysec"] = "always"


class _Engines(_Entry):
    nats: NatsEntry = NatsEntry()
    streams: StreamsEntry = StreamsEntry()


class DemoEntry(_Entry):
    """What shows the system off. `module` is run as `python -m`, in the folder of the system file."""

    module: Annotated[str, StringConstraints(pattern=_MODULE)]


class DrillEntry(_Entry):
    """Who uses the system in a drill, and audits it: a module in the folder of the system file."""

    module: Annotated[str, StringConstraints(pattern=_MODULE)]


class System(_Entry):
    """A whole system file. `root` is the folder in which it stands."""

    root: Path = Field(default=Path(), exclude=True)
    system: _System
    services: dict[Name, ServiceEntry]
    processes: dict[Name, ProcessEntry] = {}
    engines: _Engines = _Engines()
    demo: DemoEntry | None = None
    drill: DrillEntry | None = None

    @property
    def name(self) -> str:
        """Return the name of the system."""
        return self.system.name

    @property
    def engine_names(self) -> tuple[str, ...]:
        """Return the engines that it needs: one of them is its broker."""
        return NAMES if self.system.broker == "nats" else tuple(STREAMS if name == "nats" else name for name in NAMES)

    def folder(self, name: str) -> Path:
        """Return the folder that holds the code of a service or process."""
        if name in self.processes:
            return (self.root / self.processes[name].path).resolve()
        return (self.root / (self.services[name].path or f"services/{name}")).resolve()

    def module(self, service: str) -> str:
        """Return what is run for a service: `python -m order_service`."""
        return f"{service.replace('-', '_')}_service"

    def code(self, name: str) -> list[Path]:
        """Return the files and folders whose change concerns a service or process."""
        folder = self.folder(name)
        if name in self.services:
            return [path for path in (folder / self.module(name), folder / "migrations") if path.exists()]
        words = self.processes[name].command.split()
        module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
        found = [path for path in (folder / module, folder / f"{module}.py") if module and path.exists()]
        return found or [folder]

    def environments(self) -> Mapping[str, Environment]:
        """Return the `env` of each service and process."""
        entries: list[Mapping[str, ServiceEntry | ProcessEntry]] = [self.services, self.processes]
        return {name: entry.env for part in entries for name, entry in part.items()}

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> System:
        for name in self.services.keys() & self.processes.keys():
            raise ValueError(f"{name!r} is both a service and a process: rename one")
        for name in filter(_REPLICA.search, (*self.services, *self.processes)):
            raise ValueError(f"{name!r} ends as the name of a replica does: choose another")
        for name in _RESERVED.keys() & (self.services.keys() | self.processes.keys()):
            raise ValueError(f"{name!r} is the name of {_RESERVED[name]}: choose another")
        return self


def find_root(start: Path) -> Path:
    """Return the folder with the system file, `start` or the nearest above it. Raises ConfigurationError."""
    for folder in (start, *start.parents):
        if (folder / FILE).is_file():
            return folder
    raise ConfigurationError(f"there is no {FILE} in {start} or above it: change to the folder of a system")


def read_system(root: Path) -> System:
    """Read and check the system file of a folder.

    Raises ConfigurationError with a line for each mistake: where it is, what is wrong, what to do.
    """
    file = root / FILE
    try:
        text = file.read_text()
        system = System.model_validate({**tomllib.loads(text), "root": root.resolve()})
    except FileNotFoundError:
        raise ConfigurationError(f"there is no {file}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is not TOML: {error}") from None
    except ValidationError as error:
        raise _wrong(file, [explain(text, detail, _model_at, _IN_WORDS) for detail in error.errors()]) from None
    if problems := [f"line {line_of(text, where)}: {problem}" for where, problem in _problems(system)]:
        raise _wrong(file, problems)
    return system


def _wrong(file: Path, mistakes: list[str]) -> ConfigurationError:
    return ConfigurationError(f"{file} does not describe a system:\n" + "\n".join(f"  {one}" for one in mistakes))


def _model_at(table: tuple[str, ...]) -> type[BaseModel]:
    """Return what may stand in a table: its keys are suggested to who misspelt one."""
    match table:
        case ("services", _):
            return ServiceEntry
        case ("processes", _):
            return ProcessEntry
        case ("engines", "streams"):
            return StreamsEntry
        case ("engines", _):
            return NatsEntry
        case ("engines",):
            return _Engines
        case ("system",):
            return _System
        case ("demo",):
            return DemoEntry
        case ("drill",):
            return DrillEntry
        case _:
            return System


def _problems(system: System) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what the files around and the references inside the system file do not bear out."""
    for service in system.services:
        if not (system.folder(service) / system.module(service)).is_dir():
            folder = system.folder(service)
            yield ("services", service), f"services.{service}: there is no package {system.module(service)} in {folder}"
        elif not (system.folder(service) / system.module(service) / "__main__.py").is_file():
            yield ("services", service), _not_to_be_run(system, service)
    for service, other in _sharing_a_folder(system):
        yield ("services", service, "path"), f"services.{service}: {_SHARED.format(other, system.folder(service))}"
    for process, entry in system.processes.items():
        if not system.folder(process).is_dir():
            yield ("processes", process, "path"), f"processes.{process}: there is no folder {system.folder(process)}"
        if problem := _no_command(entry.command):
            yield ("processes", process, "command"), f"processes.{process}.command: {problem}"
    for name, environment in system.environments().items():
        part = "services" if name in system.services else "processes"
        for variable, value in environment.items():
            if problem := _wrong_reference(system, value):
                yield (part, name, "env", variable), f"{part}.{name}.env.{variable}: {problem}"
    if system.demo is not None and (problem := _no_demo(system.root, system.demo.module)):
        yield ("demo", "module"), f"demo.module: {problem}"
    if system.drill is not None and not _module_exists(system.root, system.drill.module):
        yield ("drill", "module"), f"drill.module: there is no module {system.drill.module} in {system.root}"


def _sharing_a_folder(system: System) -> Iterator[tuple[str, str]]:
    """Yield each service whose folder is that of one before it, with that one."""
    owners: dict[Path, str] = {}
    for service in system.services:
        owner = owners.setdefault(system.folder(service), service)
        if owner != service:
            yield service, owner


def _module_exists(root: Path, module: str) -> bool:
    """Look for its file: to import it is another matter."""
    path = root.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _not_to_be_run(system: System, service: str) -> str:
    module = system.module(service)
    return (
        f"services.{service}: there is no __main__.py in {system.folder(service) / module}, and `python -m {module}`"
        f" runs it: two lines do, `from {module}.main import service` and `service.run()`"
    )


def _no_demo(root: Path, module: str) -> str | None:
    file = root.joinpath(*module.split("."))
    if file.with_suffix(".py").is_file() or (file / "__main__.py").is_file():
        return None
    return f"`python -m {module}` would find nothing: there is neither {file}.py nor {file / '__main__.py'}"


def _no_command(written: str) -> str | None:
    try:
        return None if shlex.split(written) else "it is empty: write what is to be run"
    except ValueError as error:
        return f"it cannot be split into words as a shell would: {error}"


def _wrong_reference(system: System, value: str) -> str | None:
    for written in _BRACES.findall(value):
        match = REFERENCE.fullmatch(written)
        known: Mapping[str, object] = getattr(system, match[1]) if match else {}
        if match is None:
            return f"{written} is no reference: write {{services.<name>.url}} or {{processes.<name>.url}}"
        if match[2] not in known:
            return f"{written} names nothing: there is {', '.join(sorted(known)) or 'none'} in {match[1]}"
        if match[3] not in (ports := ("url", *getattr(known[match[2]], "ports", SERVICE_PORTS))):
            return f"{written} names nothing: there is {', '.join(ports)} in {match[1]}.{match[2]}"
    return None
