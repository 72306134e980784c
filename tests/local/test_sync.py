"""What the broker confirms is on the disk, unless a system says otherwise (H5)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from covey.local.engines.embedded import STREAMS, EngineOptions, start_all, start_engines
from covey.local.engines.nats import NatsServer
from covey.local.state import open_state
from covey.local.system import System
from covey.valkey.client import Valkey


def sync_interval(folder: Path) -> str:
    """Return what the configuration of the one server under this folder says."""
    (file,) = folder.rglob("server.conf")
    configuration = json.loads(file.read_text())
    return str(configuration["jetstream"]["sync_interval"])


def test_a_server_that_is_told_nothing_syncs_before_it_acknowledges(tmp_path: Path) -> None:
    NatsServer(tmp_path, 4222, "secret").prepare()

    assert sync_interval(tmp_path) == "always"


def test_so_does_that_of_a_system_whose_file_says_nothing() -> None:
    system = System.model_validate({"system": {"name": "a"}, "services": {"b": {}}})

    assert system.engines.nats.sync_interval == EngineOptions().nats_sync_interval == "always"
    assert system.engines.streams.appendfsync == EngineOptions().streams_appendfsync == "always"


async def test_what_a_system_says_is_what_the_server_that_runs_was_given(tmp_path: Path) -> None:
    engines = await start_all(tmp_path, EngineOptions(nats_sync_interval="10s"))
    await engines.stop()

    assert sync_interval(tmp_path) == "10s"


@pytest.mark.parametrize(
    ("options", "appendfsync"),
    [(EngineOptions(), "always"), (EngineOptions(streams_appendfsync="everysec"), "everysec")],
    ids=["told nothing", "told otherwise"],
)
async def test_a_broker_on_valkey_syncs_before_it_confirms_unless_it_was_told_otherwise(
    tmp_path: Path, options: EngineOptions, appendfsync: str
) -> None:
    state = await open_state(tmp_path)
    engines = await start_engines(state, [STREAMS], options)
    async with Valkey.open(engines[STREAMS].url) as valkey:
        settings = await valkey.call("CONFIG", "GET", "append*", "maxmemory-policy")
    await state.close()

    told = {name: settings[name.encode()].decode() for name in ("appendonly", "appendfsync", "maxmemory-policy")}
    assert told == {"appendonly": "yes", "appendfsync": appendfsync, "maxmemory-policy": "noeviction"}
