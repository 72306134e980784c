"""Whom a service calls is seen: in its metrics, and by the staff at `/internal/resilience`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import pytest

from covey.errors import DefinitionError, Unavailable
from covey.grpc.client import GrpcClient, GrpcClientOptions
from covey.http.client import HttpClient, HttpClientOptions
from covey.local.ports import free_port
from covey.messaging.brokers.memory import MemoryBroker
from covey.resilience.circuit_breaker import BreakerOptions
from covey.resilience.policy import PolicyOptions
from covey.resilience.retry import RetryOptions
from covey.service import Parts, Running, Service
from covey.settings import ServiceSettings
from covey.testing.asgi import Answer, ask
from covey.testing.tokens import KEY, bearer

POLICY = PolicyOptions(
    breaker=BreakerOptions(minimum=3), retry=RetryOptions(base=timedelta(milliseconds=1), cap=timedelta(milliseconds=2))
)


@asynccontextmanager
async def calling(
    database_url: str, broker: MemoryBroker, *targets: str
) -> AsyncIterator[tuple[Running, list[HttpClient]]]:
    """A service that calls these over HTTP, and `user` over gRPC; nobody is there."""
    clients: list[HttpClient] = []

    @asynccontextmanager
    async def compose(settings: ServiceSettings) -> AsyncIterator[Parts]:
        async with AsyncExitStack() as stack:
            address = f"127.0.0.1:{free_port()}"
            for target in targets:
                options = HttpClientOptions(policy=POLICY)
                client = HttpClient.open(target, f"http://{address}", options, caller="shop")
                clients.append(await stack.enter_async_context(client))
            user = await stack.enter_async_context(GrpcClient.open("user", address, GrpcClientOptions(policy=POLICY)))
            yield Parts(clients=[*clients, user])

    settings = ServiceSettings(database_url=database_url, nats_url="nats://unused", development_key=KEY)
    async with Service("shop", compose).running(settings, broker) as running:
        yield running, clients


async def asked(running: Running, *roles: str) -> Answer:
    return await ask(running.app, "GET", "/internal/resilience", headers=bearer("staff:test", *roles))


async def test_each_target_is_told_of_with_its_circuit_its_budget_and_its_calls(
    database_url: str, memory_broker: MemoryBroker
) -> None:
    async with calling(database_url, memory_broker, "carrier", "bank") as (running, (carrier, _)):
        for _ in range(2):
            with pytest.raises(Unavailable):
                await carrier.send("GET", "/")

        bank, seen, user = (await asked(running, "staff")).json()["targets"]
        metrics = (await ask(running.app, "GET", "/metrics")).body.decode()

    assert (bank["target"], bank["circuit"]["state"]) == ("bank", "closed")
    assert user["target"] == "user"
    assert seen["circuit"] == {"state": "open", "opened": 1}
    assert seen["retries"]["made"] == 2
    assert seen["bulkhead"] == {"under_way": 0, "waiting": 0}
    assert (seen["outcomes"]["failed"], seen["outcomes"]["circuit_open"]) == (3, 1)
    assert 'client_circuit_state{target="carrier"} 2.0' in metrics
    assert 'client_circuit_state{target="bank"} 0.0' in metrics
    assert 'client_attempts_total{outcome="failed",target="carrier"} 3.0' in metrics
    assert 'client_retries_total{target="carrier"} 2.0' in metrics
    assert 'client_retry_budget{target="user"} 10.0' in metrics


async def test_it_is_for_the_staff_alone(database_url: str, memory_broker: MemoryBroker) -> None:
    async with calling(database_url, memory_broker) as (running, _):
        nobody = await ask(running.app, "GET", "/internal/resilience")
        found = [nobody.status, *[(await asked(running, role)).status for role in ("service", "internal", "staff")]]

    assert found == [401, 403, 200, 200]


async def test_one_target_has_one_policy(database_url: str, memory_broker: MemoryBroker) -> None:
    with pytest.raises(DefinitionError, match="each target has one client"):
        async with calling(database_url, memory_broker, "carrier", "carrier"):
            pass
