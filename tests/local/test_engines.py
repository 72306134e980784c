"""The embedded engines, for real: they start fast, keep their data, and leave nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import nats
import pytest
from valkey.asyncio import Valkey

from covey.database.administration import ensure_database
from covey.local import launcher
from covey.local.engines.embedded import Engines, start_all
from covey.local.launcher import birth
from covey.local.processes import read_records
from covey.local.state import AlreadyRunning, records_of


async def test_all_three_accept_work_within_a_second_of_a_warm_start(tmp_path: Path) -> None:
    await (await start_all(tmp_path)).stop()  # the template is made, the data folder is copied

    took = [await _started_and_used(tmp_path)]
    while took[-1] >= 1 and len(took) < 4:  # other work on the machine makes it slower, never quicker
        took.append(await _started_and_used(tmp_path))

    assert min(took) < 1


async def _started_and_used(folder: Path) -> float:
    began = time.monotonic()
    engines = await start_all(folder)
    took = time.monotonic() - began
    try:
        await _write(engines.postgres_url, engines.nats_url, engines.valkey_url)
    finally:
        await engines.stop()
    return took


async def test_data_and_addresses_survive_a_stop(tmp_path: Path) -> None:
    engines = await start_all(tmp_path)
    before = engines.postgres_url, engines.nats_url, engines.valkey_url
    await _write(*before)
    await engines.stop()

    engines = await start_all(tmp_path)

    try:
        assert (engines.postgres_url, engines.nats_url, engines.valkey_url) == before
        assert await _read(*before) == (1, 1, b"kept")
    finally:
        await engines.stop()


async def test_engines_killed_without_notice_keep_what_they_acknowledged_and_start_again(tmp_path: Path) -> None:
    engines = await start_all(tmp_path)
    await _write(engines.postgres_url, engines.nats_url, engines.valkey_url)
    for engine in (engines.postgres, engines.nats, engines.valkey):
        engine.process.kill()
    await engines.stop()

    engines = await start_all(tmp_path)

    try:
        assert await _read(engines.postgres_url, engines.nats_url, engines.valkey_url) == (1, 1, b"kept")
    finally:
        await engines.stop()


async def test_stopping_leaves_no_process_and_no_record(tmp_path: Path) -> None:
    engines = await start_all(tmp_path)
    pids = [record.pid for record in read_records(records_of(tmp_path))]

    await engines.stop()

    assert len(pids) == 3
    assert [birth(pid) for pid in pids] == [None, None, None]
    assert read_records(records_of(tmp_path)) == []


async def test_a_second_start_in_the_same_folder_says_who_is_there(tmp_path: Path) -> None:
    engines = await start_all(tmp_path)

    try:
        with pytest.raises(AlreadyRunning, match=r"already up \(pid \d+"):
            await start_all(tmp_path)
    finally:
        await engines.stop()


async def test_folders_that_start_at_once_get_engines_of_their_own(tmp_path: Path) -> None:
    systems = await asyncio.gather(*(start_all(tmp_path / name) for name in ("one", "two")))

    try:
        assert len({urls for s in systems for urls in (s.postgres_url, s.nats_url, s.valkey_url)}) == 6
    finally:
        await asyncio.gather(*(system.stop() for system in systems))


async def test_a_port_that_somebody_else_took_meanwhile_is_exchanged(tmp_path: Path) -> None:
    engines = await start_all(tmp_path)
    before = engines.valkey_url
    await engines.stop()

    with socket.create_server(("127.0.0.1", urlsplit(before).port or 0)):
        engines = await start_all(tmp_path)

    try:
        assert engines.valkey_url != before
        async with Valkey.from_url(engines.valkey_url) as valkey:
            assert await valkey.ping()
    finally:
        await engines.stop()


async def test_a_lock_file_whose_pid_went_to_another_program_is_no_obstacle(
    tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    engines = await start_all(tmp_path)
    lock = tmp_path / "postgres/cluster/data/postmaster.pid"
    left_behind = lock.read_text()
    await engines.stop()
    lock.write_text(left_behind.replace(left_behind.split("\n")[0], str(stranger.pid), 1))

    engines = await start_all(tmp_path)

    await engines.stop()
    assert stranger.poll() is None


def test_processes_that_need_the_first_template_at_once_all_get_one(tmp_path: Path) -> None:
    script = "import asyncio, sys; from pathlib import Path; from covey.local.engines.embedded import start_all\n"
    script += "async def main(): await (await start_all(Path(sys.argv[1]))).stop()\nasyncio.run(main())"
    environment = {**os.environ, "COVEY_CACHE": str(tmp_path / "cache")}

    started = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / name)], env=environment) for name in ("a", "b")
    ]

    assert [process.wait(30) for process in started] == [0, 0]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_process_whose_supervisor_died_before_it_was_on_record_does_not_run(tmp_path: Path) -> None:
    plan = {"record": str(tmp_path / "x.json"), "note": {}, "parent": 1}
    command = [sys.executable, "-I", "-S", launcher.__file__, json.dumps(plan), "/bin/echo", "it runs"]

    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (result.returncode, result.stdout) == (launcher.ORPHANED, "")


async def test_a_role_cannot_connect_to_the_database_of_another(local_engines: Engines) -> None:
    order = await ensure_database(local_engines.postgres_url, "shop_order", "order's")
    payment = await ensure_database(local_engines.postgres_url, "shop_payment", "payment's")

    await (await asyncpg.connect(order)).close()
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for database"):
        await asyncpg.connect(order, database="shop_payment")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(payment, password="order's")


async def test_an_administrator_who_is_no_superuser_makes_databases_too(local_engines: Engines) -> None:
    admin = await asyncpg.connect(local_engines.postgres_url)
    await admin.execute("CREATE ROLE managed LOGIN CREATEDB CREATEROLE PASSWORD 'secret'")
    await admin.close()
    managed = local_engines.postgres_url.replace(urlsplit(local_engines.postgres_url).netloc, "managed:secret@{}")
    managed = managed.format(urlsplit(local_engines.postgres_url).netloc.rpartition("@")[2])

    one = await ensure_database(managed, "managed_one", "one's")
    await ensure_database(managed, "managed_two", "two's")

    connection = await asyncpg.connect(one)
    await connection.execute("CREATE TABLE mine (x int)")
    await connection.close()
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for database"):
        await asyncpg.connect(one, database="managed_two")


async def _write(postgres_url: str, nats_url: str, valkey_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("CREATE TABLE IF NOT EXISTS t (x int); INSERT INTO t VALUES (1)")
    await connection.close()
    broker = await nats.connect(nats_url)
    await broker.jetstream().add_stream(name="s", subjects=["s.>"])
    await broker.jetstream().publish("s.a", b"kept")
    await broker.close()
    async with Valkey.from_url(valkey_url) as valkey:
        await valkey.set("key", "kept")
        await valkey.execute_command("WAITAOF", 1, 0, 5_000)  # it promises the disk within a second, not at once


async def _read(postgres_url: str, nats_url: str, valkey_url: str) -> tuple[int, int, bytes]:
    connection = await asyncpg.connect(postgres_url)
    rows = await connection.fetchval("SELECT count(*) FROM t")
    await connection.close()
    broker = await nats.connect(nats_url)
    messages = (await broker.jetstream().stream_info("s")).state.messages
    await broker.close()
    async with Valkey.from_url(valkey_url) as valkey:
        value = await valkey.get("key")
    return rows, messages, value
