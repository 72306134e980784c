"""A system is brought up whole, kept up, and stopped in order."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from signal import Signals
from urllib.request import urlopen

import asyncpg
import pytest

from covey.errors import ConfigurationError
from covey.local.engines.embedded import Engines
from covey.local.environment import environment_file
from covey.local.launcher import birth
from covey.local.processes import read_records
from covey.local.running import RunningSystem, UpOptions, running_system
from covey.local.state import AlreadyRunning, StateLost, log_of, records_of
from covey.local.status import read_status
from covey.local.unit import StartFailed, Unit, Waiting


@asynccontextmanager
async def up(root: Path, options: UpOptions) -> AsyncIterator[RunningSystem]:
    """A running system that is given up on, rather than waited for, when it hangs."""
    async with asyncio.timeout(50), running_system(root, options) as system:
        yield system


async def told(url: str) -> dict[str, str]:
    """Ask a stand-in what is in its environment."""

    def ask() -> dict[str, str]:
        with urlopen(f"{url}/environment", timeout=5) as answer:
            found: dict[str, str] = json.load(answer)
            return found

    return await asyncio.to_thread(ask)


async def test_a_system_comes_up_with_engines_databases_migrations_and_services(system_root: Path) -> None:
    async with up(system_root, UpOptions()) as system:
        alpha, helper = await told(system.url("alpha")), await told(system.url("helper"))
        connection = await asyncpg.connect(alpha["DATABASE_URL"])
        table = await connection.fetchval("SELECT to_regclass('thing') IS NOT NULL")
        await connection.close()

        assert set(system.units) == {"postgres", "nats", "valkey", "alpha", "beta", "helper"}
        assert alpha["PORT"] == system.url("alpha").rpartition(":")[2]
        assert alpha["PEER"] == system.url("helper")
        assert alpha["WIRE"] == f"tcp://127.0.0.1:{helper['WIRE_PORT']}"
        assert helper["WIRE_PORT"] != helper["PORT"]
        assert (alpha["COVEY_SYSTEM"], alpha["COVEY_REPLICA"]) == (system.system.name, "1")
        assert alpha["COVEY_SERVICE"] == "alpha"
        assert (alpha["NATS_URL"], alpha["VALKEY_URL"]) == (system.addresses.nats_url, system.addresses.valkey_url)
        assert table is True
        status = read_status(system_root / ".covey")
        assert status is not None
        assert status.healthy
        assert status.supervisor == os.getpid()


async def test_a_system_whose_broker_is_valkey_has_one_more_valkey_and_no_nats(system_root: Path) -> None:
    file = system_root / "covey.toml"
    file.write_text(file.read_text().replace("[services.alpha]", 'broker = "valkey"\n[services.alpha]'))
    async with up(system_root, UpOptions()) as system:
        alpha = await told(system.url("alpha"))

        assert set(system.units) == {"postgres", "streams", "valkey", "alpha", "beta", "helper"}
        assert (alpha["BROKER_URL"], alpha["VALKEY_URL"]) == (system.addresses.streams_url, system.addresses.valkey_url)
        assert alpha["BROKER_URL"] != alpha["VALKEY_URL"]
        assert "NATS_URL" not in alpha


async def test_a_broker_of_ones_own_replaces_the_embedded_valkey(
    system_root: Path, given: Mapping[str, str], local_engines: Engines
) -> None:
    file = system_root / "covey.toml"
    file.write_text(file.read_text().replace("[services.alpha]", 'broker = "valkey"\n[services.alpha]'))
    async with up(system_root, UpOptions(environment={**given, "BROKER_URL": local_engines.valkey_url})) as system:
        alpha = await told(system.url("alpha"))

    assert set(system.units) == {"alpha", "beta", "helper"}
    assert alpha["BROKER_URL"] == local_engines.valkey_url


def is_patient(pid: int) -> bool:
    """Tell whether a process interrupts nobody. Only Linux has such a policy; elsewhere none does."""
    return hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(pid) == os.SCHED_BATCH


async def test_only_services_interrupt_who_runs(system_root: Path) -> None:
    async with up(system_root, UpOptions()) as system:
        pids = {name: unit.pid for name, unit in system.units.items()}
        patient = {name for name, pid in pids.items() if pid and is_patient(pid)}

    assert None not in pids.values()
    assert patient == ({"postgres", "nats", "valkey", "helper"} if hasattr(os, "SCHED_BATCH") else set())


async def test_stopping_drains_services_first_and_leaves_nothing(system_root: Path, given: Mapping[str, str]) -> None:
    async with up(system_root, UpOptions(environment=given)):
        records = read_records(records_of(system_root / ".covey"))

    assert [record.name for record in records] == ["alpha", "beta", "helper"]
    assert not any(record.running() for record in records)
    assert read_records(records_of(system_root / ".covey")) == []
    assert log_of(system_root / ".covey", "alpha").read_text() == "serving\ndrained\n"


async def test_given_engines_replace_the_embedded_ones(
    system_root: Path, given: Mapping[str, str], local_engines: Engines
) -> None:
    async with up(system_root, UpOptions(environment=given)) as system:
        alpha = await told(system.url("alpha"))

    assert set(system.units) == {"alpha", "beta", "helper"}
    assert alpha["NATS_URL"] == local_engines.nats_url
    assert alpha["VALKEY_URL"] == local_engines.valkey_url
    assert alpha["DATABASE_URL"].endswith(f"/{system.system.name.replace('-', '_')}_alpha")
    assert "COVEY_POSTGRES_ADMIN_URL" not in alpha


async def test_a_service_that_is_killed_is_started_again_at_its_address(
    system_root: Path, given: Mapping[str, str]
) -> None:
    async with up(system_root, UpOptions(environment=given)) as system:
        before = system.units["alpha"].pid

        await system.units["alpha"].kill()
        await system.units["alpha"].up()

        assert system.units["alpha"].pid not in (before, None)
        assert system.units["alpha"].restarts == 1
        assert (await told(system.url("alpha")))["PORT"] == system.url("alpha").rpartition(":")[2]


async def test_what_is_held_stays_dead_until_it_is_released(system_root: Path, given: Mapping[str, str]) -> None:
    async with up(system_root, UpOptions(environment=given)) as system:
        alpha = system.units["alpha"]
        alpha.hold()

        await alpha.kill()
        status = read_status(system.state)
        assert status is not None
        (held,) = (unit for unit in status.units if unit.name == "alpha")
        assert (held.state, held.pid) == ("held", None)
        assert held.detail == "killed by SIGKILL; a tour or a test holds it down, and starts it again"
        alpha.release()
        await alpha.up()

        assert alpha.restarts == 1


async def test_a_service_is_scaled_up_and_down_while_it_runs(system_root: Path, given: Mapping[str, str]) -> None:
    async with up(system_root, UpOptions(environment=given)) as system:
        before = system.units["alpha"].pid

        await system.scale("alpha", 3)
        third = await told(system.url("alpha-3"))
        await system.scale("alpha", 2)

        assert (third["COVEY_REPLICA"], third["DATABASE_URL"]) == ("3", system.database_url("alpha"))
        assert [unit.name for unit in system.replicas("alpha")] == ["alpha", "alpha-2"]
        assert system.units["alpha"].pid == before
        assert len({system.url(name) for name in ("alpha", "alpha-2", "beta", "helper")}) == 4
        assert log_of(system.state, "alpha-3").read_text().endswith("drained\n")
        assert "alpha-3" not in {record.name for record in read_records(records_of(system.state))}
        status = read_status(system.state)
        assert status is not None
        assert [unit.name for unit in status.units] == ["helper", "alpha", "beta", "alpha-2"]


@pytest.mark.parametrize("engine", ["postgres", "nats", "valkey"])
async def test_an_engine_that_is_killed_comes_back_at_its_address(system_root: Path, engine: str) -> None:
    async with up(system_root, UpOptions()) as system:
        before = system.units[engine].url

        await system.units[engine].kill()
        await system.units[engine].up()

        assert system.units[engine].url == before


async def test_a_process_that_keeps_dying_is_tried_again_after_growing_pauses(
    system_root: Path, given: Mapping[str, str]
) -> None:
    pauses: list[float] = []

    def note(unit: Unit) -> None:
        if unit.name == "alpha" and isinstance(unit.state, Waiting):
            pauses.append(unit.state.pause_seconds)

    async with up(system_root, UpOptions(environment=given, announce=note)) as system:
        (system_root / "services/alpha/alpha_service/__main__.py").write_text("raise SystemExit(3)")
        await system.units["alpha"].kill()
        with pytest.raises(StartFailed, match="alpha does not start: ended with status 3"):
            await system.units["alpha"].up()

    assert pauses[0] == 0.0
    assert 0.1 <= pauses[1] <= 0.2 <= pauses[2] <= 0.4


async def test_what_dies_when_another_has_taken_the_state_folder_is_not_started_again(
    system_root: Path, given: Mapping[str, str]
) -> None:
    async with up(system_root, UpOptions(environment=given)) as system:
        system.state.rename(system_root / "away")
        (system_root / ".covey" / "logs").mkdir(parents=True)
        (system_root / ".covey" / "processes").mkdir()
        (system_root / ".covey" / "lock").touch()

        await system.units["alpha"].kill()
        with pytest.raises(StartFailed, match=r"alpha does not start: .*was removed or replaced"):
            await system.units["alpha"].up()
        with pytest.raises(StateLost):
            await system.until_lost()

    assert list((system_root / ".covey").glob("*/*")) == []


async def test_a_service_that_cannot_start_fails_the_start_with_its_last_words(
    system_root: Path, given: Mapping[str, str]
) -> None:
    (system_root / "services/beta/beta_service/__main__.py").write_text("raise SystemExit('no licence')")

    for _ in range(2):  # nor those of the attempts before it
        with pytest.raises(StartFailed) as failed:
            async with up(system_root, UpOptions(environment=given)):
                pass
        assert str(failed.value) == "beta does not start: ended with status 1; its log ends:\n  no licence"

    assert read_records(records_of(system_root / ".covey")) == []


async def test_a_service_that_is_left_out_finds_its_environment_in_a_file(
    system_root: Path, given: Mapping[str, str]
) -> None:
    async with up(system_root, UpOptions(environment=given, without=["alpha"])) as system:
        lines = environment_file(system_root / ".covey", "alpha").read_text().splitlines()

        assert "alpha" not in system.units
        assert dict(line.split("=", 1) for line in lines) == await system.told("alpha")
    assert not environment_file(system_root / ".covey", "alpha").exists()


async def test_replicas_have_ports_and_labels_of_their_own(system_root: Path, given: Mapping[str, str]) -> None:
    async with up(system_root, UpOptions(environment=given, replicas={"alpha": 2})) as system:
        first, second = [await told(unit.url) for unit in system.replicas("alpha")]

    assert first["PORT"] != second["PORT"]
    assert (first["COVEY_REPLICA"], second["COVEY_REPLICA"]) == ("1", "2")
    assert first["DATABASE_URL"] == second["DATABASE_URL"]


async def test_every_service_has_a_port_for_grpc_and_others_are_told_of_it(
    system_root: Path, given: Mapping[str, str]
) -> None:
    async with up(system_root, UpOptions(environment=given, replicas={"alpha": 2})) as system:
        first, second = [await told(unit.url) for unit in system.replicas("alpha")]
        beta = await told(system.url("beta"))

    assert beta["ALPHA"] == f"127.0.0.1:{first['GRPC_PORT']}"
    assert len({first["PORT"], first["GRPC_PORT"], second["PORT"], second["GRPC_PORT"], beta["GRPC_PORT"]}) == 5


async def test_scaling_one_leaves_the_ports_of_others_as_they_are(system_root: Path, given: Mapping[str, str]) -> None:
    """Also those on which somebody listens by now."""
    async with up(system_root, UpOptions(environment=given)) as system:
        before = await system.told("alpha")
        with socket.create_server(("127.0.0.1", int(before["GRPC_PORT"]))):
            await system.scale("beta", 2)

            assert await system.told("alpha") == before


async def test_a_process_can_be_told_something_else_to_put_a_proxy_in_between(
    system_root: Path, given: Mapping[str, str]
) -> None:
    async def through_proxy(name: str, told: Mapping[str, str]) -> Mapping[str, str]:
        return {**told, "NATS_URL": "nats://127.0.0.1:1"} if name == "beta" else told

    async with up(system_root, UpOptions(environment=given, adjust=through_proxy)) as system:
        alpha, beta = await told(system.url("alpha")), await told(system.url("beta"))

    assert beta["NATS_URL"] == "nats://127.0.0.1:1"
    assert alpha["NATS_URL"] == given["NATS_URL"]


async def test_a_system_that_is_up_is_not_brought_up_again(system_root: Path, given: Mapping[str, str]) -> None:
    async with up(system_root, UpOptions(environment=given)):
        with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}"):
            async with up(system_root, UpOptions(environment=given)):
                pass


async def test_a_service_that_does_not_drain_is_killed_in_the_end(system_root: Path, given: Mapping[str, str]) -> None:
    async with up(system_root, UpOptions(environment=given)) as system:
        pid = system.units["alpha"].pid
        assert pid is not None
        system.units["alpha"].signal(Signals.SIGSTOP)

        await system.units["alpha"].stop(grace_seconds=0.2)

        assert birth(pid) is None


async def test_a_command_that_does_not_exist_is_named(system_root: Path, given: Mapping[str, str]) -> None:
    file = system_root / "covey.toml"
    file.write_text(file.read_text().replace("python -m helper", "no-such-command"))

    with pytest.raises((ConfigurationError, StartFailed), match="there is no command 'no-such-command' on the PATH"):
        async with up(system_root, UpOptions(environment=given)):
            pass
