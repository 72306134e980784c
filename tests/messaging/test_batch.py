"""What has become of a batch: who is left to the workers, and who waits behind a hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from covey.clock import SystemClock
from covey.ids import new_id
from covey.message import Envelope
from covey.messaging.batch import Batch
from covey.messaging.delivery import Delivery, received_delivery
from covey.work.unit_of_work import Work


def delivery(key: str) -> Delivery:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    envelope = Envelope(id=new_id(), type="shop.noted.v1", key=key, source="shop", time=at, body=b"{}")
    return received_delivery(envelope, 1, False, None)


def test_behind_holds_is_what_is_held_and_what_follows_it_and_not_what_was_handled_before() -> None:
    early, held, behind, other = (delivery(key) for key in ("a", "a", "a", "b"))
    batch = Batch(Work(None, "shop", SystemClock()), [early, held, behind, other])
    batch.handled.append(early)

    batch.hold(held, "working", timedelta(seconds=1), 0)

    assert batch.behind_holds() == [held, behind]
