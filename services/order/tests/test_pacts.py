"""What order asks of user, through its real client: as agreed, and checked in for user to keep."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from order_service.clients import GrpcCustomers
from order_service.domain import UserId
from order_service.generated.user.v1 import user_pb2
from pact import Pact, match

from covey.testing.grpc_pacts import call, provider
from covey.testing.pacts import difference, exact_values
from covey.testing.tokens import token

PACTS = Path(__file__).parents[1] / "contracts/pacts"
GET_USER = "user.v1.UserService/GetUser"

ADA = "01990000-0000-7000-8000-000000000001"
NOBODY = "01990000-0000-7000-8000-000000000002"
GONE = "01990000-0000-7000-8000-000000000003"


def ask(pact: Pact, what: str, user_id: str, name: str | None) -> None:
    """Describe that order asks for a user, as itself; without a name there is none."""
    user = None if name is None else {"user": {"id": match.uuid(user_id), "name": match.str(name)}}
    call(
        pact,
        what,
        GET_USER,
        {"user_id": match.uuid(user_id)},
        user,
        status="NOT_FOUND" if user is None else "OK",
        metadata={"authorization": match.regex("Bearer x", regex="Bearer .+")},
    ).given(what, id=user_id)


EXAMPLES = [("a user", ADA, "Ada"), ("nobody", NOBODY, None), ("a user whose account is closed", GONE, None)]


@pytest.mark.parametrize(("what", "user_id", "name"), EXAMPLES)
async def test_the_client_asks_and_reads_as_agreed(what: str, user_id: str, name: str | None) -> None:
    pact = Pact("order", "user")
    ask(pact, what, user_id, name)

    async with (
        provider(pact, user_pb2.DESCRIPTOR.pool) as address,
        GrpcCustomers.open(address, token("service:order", "service")) as customers,
    ):
        assert await customers.name_of(UserId(UUID(user_id))) == name


def test_the_pact_is_what_is_checked_in() -> None:
    pact = Pact("order", "user")
    for what, user_id, name in EXAMPLES:
        ask(pact, what, user_id, name)

    assert difference(pact, PACTS) is None


def test_no_answer_must_be_one_to_the_letter() -> None:
    assert exact_values(PACTS / "order-user.json") == []
