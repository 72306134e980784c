"""Services share no code, so each declares the messages that it reads. What one sends, the other must understand."""

from __future__ import annotations

import inspect
from types import ModuleType

import inventory_service.messages
import order_service.messages
import payment_service.messages
import pytest
import shipping_service.messages
from order_service.domain import Line, Money, OrderId, ProductId, UserId, Wanted

from covey.ids import new_id
from covey.message import Message

ORDER, SAGA, MUG, USER = OrderId(new_id()), new_id(), ProductId(new_id()), UserId(new_id())
PRICE = Money(1_250, "EUR")

SENT_BY_ORDER: list[Message] = [
    order_service.messages.ReserveStock(saga_id=SAGA, order_id=ORDER, lines=(Wanted(MUG, 2),)),
    order_service.messages.ReleaseStock(saga_id=SAGA, order_id=ORDER),
    order_service.messages.AuthorizePayment(saga_id=SAGA, order_id=ORDER, amount=PRICE, token="tok_ok"),
    order_service.messages.CapturePayment(saga_id=SAGA, order_id=ORDER),
    order_service.messages.VoidAuthorization(saga_id=SAGA, order_id=ORDER),
    order_service.messages.ShipOrder(saga_id=SAGA, order_id=ORDER, user_id=USER, lines=(Wanted(MUG, 2),)),
    order_service.messages.ReceiveReturn(saga_id=SAGA, order_id=ORDER, lines=(Wanted(MUG, 1),)),
    order_service.messages.CancelReturn(saga_id=SAGA, order_id=ORDER),
    order_service.messages.RefundPayment(saga_id=SAGA, order_id=ORDER, amount=PRICE),
    order_service.messages.Restock(saga_id=SAGA, order_id=ORDER, lines=(Wanted(MUG, 1),)),
    order_service.messages.OrderPlaced(
        order_id=ORDER, user_id=USER, lines=(Line(MUG, 2, PRICE),), total=Money(2_500, "EUR")
    ),
    order_service.messages.OrderConfirmed(order_id=ORDER, user_id=USER, total=PRICE),
]

SENT_BY_INVENTORY: list[Message] = [
    inventory_service.messages.ProductChanged(
        product_id=inventory_service.domain.ProductId(MUG),
        name="Mug",
        price=inventory_service.domain.Money(1_250, "EUR"),
        version=3,
    ),
]


SENT_BY_SHIPPING: list[Message] = [
    shipping_service.messages.ShipmentChanged(
        order_id=shipping_service.domain.OrderId(ORDER),
        shipment_id=shipping_service.domain.ShipmentId(new_id()),
        status="booked",
        tracking_number="SC1",
        version=1,
    ),
]


def readers(message: Message, sender: ModuleType) -> list[type[Message]]:
    """The models of other services for this type of message."""
    everybody = {
        order_service.messages,
        inventory_service.messages,
        payment_service.messages,
        shipping_service.messages,
    }
    return [
        model
        for module in everybody - {sender}
        for _, model in inspect.getmembers(module, inspect.isclass)
        if issubclass(model, Message) and model.message_type == message.message_type
    ]


@pytest.mark.parametrize(
    ("message", "sender"),
    [(message, order_service.messages) for message in SENT_BY_ORDER]
    + [(message, inventory_service.messages) for message in SENT_BY_INVENTORY]
    + [(message, shipping_service.messages) for message in SENT_BY_SHIPPING],
    ids=lambda value: value.message_type if isinstance(value, Message) else "",
)
def test_what_is_sent_is_understood_by_who_reads_it(message: Message, sender: ModuleType) -> None:
    for model in readers(message, sender):
        understood = model.model_validate_json(message.model_dump_json())

        for name in model.model_fields:
            assert str(getattr(understood, name)) == str(getattr(message, name)).replace("Wanted", "Line")


def test_every_command_of_the_sagas_has_somebody_who_carries_it_out() -> None:
    commands = [message for message in SENT_BY_ORDER if message.key_field == "saga_id"]

    assert len(commands) == 10
    assert all(len(readers(command, order_service.messages)) == 1 for command in commands)
