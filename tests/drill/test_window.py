"""In a drill the broker soon forgets what it has stored, so that duplicates get as far as an inbox."""

from __future__ import annotations

import pytest

from covey.errors import BrokerUnavailable
from covey.local.engines.embedded import Engines
from covey.local.ports import free_port
from covey.messaging.brokers.nats import NatsBroker
from covey.testing.broker_contract import event
from covey.testing.drill.window import narrow
from covey.testing.eventually import eventually


async def test_a_message_that_comes_again_after_the_window_is_stored_again(
    nats_broker: NatsBroker, covey_engines: Engines, system_name: str
) -> None:
    message = event("a", stream="order")
    await nats_broker.ensure_stream("order")

    found = await narrow(covey_engines.nats_url, [f"{system_name}-order", f"{system_name}-nobody"], 0.2)
    await nats_broker.ensure_stream("order")  # a service that starts anew leaves it as it is

    assert found == [f"{system_name}-order"]

    async def stored_again() -> bool:
        await nats_broker.publish([message])
        return (await nats_broker.extent("order")).last > 1

    await eventually(stored_again)


async def test_a_broker_that_is_away_is_said_to_be() -> None:
    with pytest.raises(BrokerUnavailable, match="windows cannot be set"):
        await narrow(f"nats://127.0.0.1:{free_port()}", ["shop-order"], 1)
