"""The system file: what it may say, and what a reader of a wrong one is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from covey.errors import ConfigurationError
from covey.local.system import find_root, read_system

WriteFiles = Callable[[dict[str, str]], Path]


def test_the_shops_own_system_file_is_good() -> None:
    system = read_system(Path(__file__).parents[2])

    assert system.name == "shop"
    assert list(system.services) == ["order", "inventory", "payment", "shipping", "user", "notification"]
    assert system.module("order") == "order_service"
    assert list(system.processes) == ["sandbox-provider", "sandbox-carrier", "mail-sink"]


def test_what_is_not_said_has_a_default(system_root: Path) -> None:
    system = read_system(system_root)

    assert system.folder("alpha") == system_root / "services/alpha"
    assert system.services["alpha"].replicas == 1
    assert system.engines.nats.sync_interval == "always"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("[system\n", "is not TOML: .*line 1", id="not TOML"),
        pytest.param("", "line 1: system: it is missing", id="empty"),
        pytest.param('[system]\nname = "a"\n', "line 1: services: it is missing", id="no services"),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\nreplica = 2\n',
            r"line 4: services\.alpha\.replica: there is no such key, did you mean 'replicas'\?",
            id="a misspelt key",
        ),
        pytest.param(
            '[system]\nname = "a"\n[service.alpha]\n',
            r"line 3: service: there is no such key, did you mean 'services'\?",
            id="a misspelt table",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\nreplicas = "two"\n',
            r"line 4: services\.alpha\.replicas: Input should be a valid integer",
            id="a wrong type",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\nreplicas = 0\n',
            r"line 4: services\.alpha\.replicas: Input should be greater than or equal to 1",
            id="no replica",
        ),
        pytest.param(
            '[system]\nname = "My Shop"\n[services.alpha]\n',
            r"line 2: system\.name: .* lower-case letters, digits and single hyphens",
            id="a name that cannot be a name",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.Alpha]\n',
            r"line 3: services\.Alpha: .* lower-case letters, digits and single hyphens",
            id="a service that cannot be named so",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.gamma]\n',
            r"line 3: services\.gamma: there is no package gamma_service in .*services/gamma",
            id="a service that is not there",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\n[processes.alpha]\ncommand = "true"\n',
            "'alpha' is both a service and a process: rename one",
            id="a name used twice",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\n[processes.nats]\ncommand = "true"\n',
            "'nats' is the name of an engine: choose another",
            id="a reserved name",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\n[demo]\nmodule = "shop/tour.py"\n',
            r"line 5: demo\.module: it must be the name of a module as it is imported, such as shop\.tour",
            id="a demo that is no module",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\n[demo]\nmodule = "shop.tour"\n',
            r"line 5: demo\.module: `python -m shop\.tour` would find nothing: there is neither .*shop/tour\.py nor",
            id="a demo that is not there",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\n[demo]\n',
            r"line 4: demo\.module: it is missing",
            id="a demo without a module",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\n[demo]\nmodul = "shop.tour"\n',
            r"line 5: demo\.modul: there is no such key, did you mean 'module'\?",
            id="a demo with a misspelt key",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.services]\n',
            "'services' is the name of all of them together: choose another",
            id="the name of the process of all",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\n[services.alpha-2]\n',
            "'alpha-2' ends as the name of a replica does: choose another",
            id="a name that a replica has",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\n[processes.p]\n',
            r"line 4: processes\.p\.command: it is missing",
            id="a process without a command",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\n[processes.p]\ncommand = " "\n',
            r"line 5: processes\.p\.command: it is empty",
            id="a command that is empty",
        ),
        pytest.param(
            "[system]\nname = 'a'\n[services.alpha]\n[processes.p]\ncommand = 'sh -c \"oops'\n",
            r"line 5: processes\.p\.command: it cannot be split into words .*No closing quotation",
            id="a quote that is not closed",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\n[drill]\nmodul = "a.drill"\n',
            r"line 5: drill\.modul: there is no such key, did you mean 'module'\?",
            id="a misspelt key of drills",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\n[drill]\nmodule = "a/drill.py"\n',
            r"line 5: drill\.module: it must be the name of a module as it is imported, such as shop\.tour",
            id="a drill that is no module",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\n[drill]\nmodule = "alpha.drill"\n',
            r"line 5: drill\.module: there is no module alpha\.drill in ",
            id="a drill that is not there",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\nenv = { A = "{processes.q.url}" }\n',
            r"line 4: services\.alpha\.env\.A: \{processes\.q\.url\} names nothing: there is none in processes",
            id="a reference to nothing",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\n[services.alpha.env]\nA = "{port}"\n',
            r"line 5: services\.alpha\.env\.A: \{port\} is no reference: write",
            id="no reference",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\nenv = { A = "{processes.p.imap}" }\n'
            '[processes.p]\ncommand = "true"\nports = ["smtp"]\n',
            r"line 4: services\.alpha\.env\.A: \{processes\.p\.imap\} names nothing: .* url, smtp in processes\.p",
            id="a port that is not there",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\nenv = { A = "{services.alpha.smtp}" }\n',
            r"line 4: services\.alpha\.env\.A: \{services\.alpha\.smtp\} names nothing: .* url, grpc in services",
            id="a port of a service",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\n[processes.p]\ncommand = "true"\nports = "smtp"\n',
            r"line 6: processes\.p\.ports: it must be a list",
            id="ports that are no list",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\n[processes.p]\ncommand = "true"\nports = ["SMTP"]\n',
            r"line 6: processes\.p\.ports\.0: it must begin with a letter and have only lower-case letters and digits",
            id="a port that cannot be named so",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\n[processes.p]\ncommand = "true"\nports = ["a", "a"]\n',
            r"line 6: processes\.p\.ports: two ports have one name",
            id="two ports of one name",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\n[processes.p]\ncommand = "true"\nports = ["url"]\n',
            r"line 6: processes\.p\.ports: 'url' is the address of PORT: choose another name",
            id="a port that is taken for the address",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\nenv = { PORTS = [1] }\n',
            r"line 4: services\.alpha\.env\.PORTS: it must be a text: write it in quotes",
            id="a variable that is no text",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\n[services.alpha.env.deep]\nA = "x"\n',
            r"line 4: services\.alpha\.env\.deep: it must be a text: write it in quotes",
            id="a table of variables in another",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\nenv = "A=x"\n',
            r"line 4: services\.alpha\.env: it must be a table",
            id="variables that are no table",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\nenv = { "A=B" = "x" }\n',
            r"line 4: services\.alpha\.env\.A=B: a variable's name has letters, digits and underscores",
            id="a variable that cannot be named so",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\nenv = { A = "x\\u0000y" }\n',
            r"line 4: services\.alpha\.env\.A: no variable can hold a zero byte",
            id="a value that no process can be told",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\n[services.beta]\npath = "services/../services/alpha/"\n',
            r"line 5: services\.beta: its folder is that of services\.alpha, /.*/services/alpha, and so would be",
            id="two services in one folder",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\n[engines.nats]\nsync_interval = "2"\n',
            r"line 5: engines\.nats\.sync_interval: .*always, or a span such as 500ms, 10s, 2m",
            id="a span without a unit",
        ),
        pytest.param(
            '[system]\nname = "a"\n[services.alpha]\n[engines.redis]\nx = 1\n',
            r"line 4: engines\.redis: there is no such key: known are nats, streams",
            id="an engine that is not there",
        ),
    ],
)
def test_a_wrong_file_is_explained_by_line_and_key(system_root: Path, text: str, told: str) -> None:
    (system_root / "covey.toml").write_text(text)

    with pytest.raises(ConfigurationError, match=told):
        read_system(system_root)


def test_a_file_that_is_no_text_is_not_toml(system_root: Path) -> None:
    (system_root / "covey.toml").write_bytes(b'[system]\nname = "\xff"\n')

    with pytest.raises(ConfigurationError, match=r"covey\.toml is not TOML"):
        read_system(system_root)


def test_several_mistakes_are_told_at_once(system_root: Path) -> None:
    (system_root / "covey.toml").write_text('[system]\nname = "A"\nnmae = "b"\n[services.alpha]\n')

    with pytest.raises(ConfigurationError) as caught:
        read_system(system_root)

    assert len(str(caught.value).splitlines()) == 3


def test_the_system_is_found_from_any_folder_inside_it(system_root: Path) -> None:
    assert find_root(system_root / "services/alpha") == system_root


def test_outside_of_any_system_one_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no covey\.toml in"):
        find_root(tmp_path)
