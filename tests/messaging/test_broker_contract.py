"""The brokers that covey brings keep the contract that it exports."""

from __future__ import annotations

from collections.abc import AsyncIterator

import nats
import pytest

from covey.local.engines.embedded import Engines
from covey.messaging.brokers.memory import MemoryBroker, MemoryLogs
from covey.messaging.brokers.nats import NatsBroker
from covey.messaging.brokers.valkey import ValkeyBroker
from covey.testing.broker_contract import BrokerContract, Delete, DropBefore
from covey.valkey.client import Valkey


class TestMemoryBroker(BrokerContract):
    """In one process."""

    @pytest.fixture
    def logs(self) -> MemoryLogs:
        return MemoryLogs()

    @pytest.fixture
    def broker(self, logs: MemoryLogs) -> MemoryBroker:
        return MemoryBroker(logs)

    @pytest.fixture
    def drop_before(self, logs: MemoryLogs) -> DropBefore:
        async def drop(stream: str, sequence: int) -> None:
            logs.drop(stream, sequence)

        return drop

    @pytest.fixture
    def delete(self, logs: MemoryLogs) -> Delete:
        async def delete(stream: str) -> None:
            logs.delete(stream)

        return delete


class TestNatsBroker(BrokerContract):
    """On a real server."""

    @pytest.fixture
    def broker(self, nats_broker: NatsBroker) -> NatsBroker:
        return nats_broker

    @pytest.fixture
    async def drop_before(self, covey_engines: Engines, system_name: str) -> AsyncIterator[DropBefore]:
        client = await nats.connect(covey_engines.nats_url)

        async def drop(stream: str, sequence: int) -> None:
            await client.jetstream().purge_stream(f"{system_name}-{stream}", seq=sequence)

        yield drop
        await client.close()

    @pytest.fixture
    async def delete(self, covey_engines: Engines, system_name: str) -> AsyncIterator[Delete]:
        client = await nats.connect(covey_engines.nats_url)

        async def delete(stream: str) -> None:
            await client.jetstream().delete_stream(f"{system_name}-{stream}")

        yield delete
        await client.close()


class TestValkeyBroker(BrokerContract):
    """On a real server."""

    @pytest.fixture
    async def broker(self, covey_engines: Engines, system_name: str) -> AsyncIterator[ValkeyBroker]:
        broker = await ValkeyBroker.open(covey_engines.valkey_url, system_name)
        yield broker
        await broker.close()

    @pytest.fixture
    async def drop_before(self, covey_engines: Engines, system_name: str) -> AsyncIterator[DropBefore]:
        async with Valkey.open(covey_engines.valkey_url) as valkey:

            async def drop(stream: str, sequence: int) -> None:
                await valkey.call("XTRIM", f"{{{system_name}:{stream}}}:log", "MINID", f"0-{sequence}")

            yield drop

    @pytest.fixture
    async def delete(self, covey_engines: Engines, system_name: str) -> AsyncIterator[Delete]:
        async with Valkey.open(covey_engines.valkey_url) as valkey:

            async def delete(stream: str) -> None:
                await valkey.call("DEL", f"{{{system_name}:{stream}}}:log")

            yield delete
