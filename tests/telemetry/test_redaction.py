from __future__ import annotations

import time
from uuid import UUID

import pytest

from covey.telemetry.exceptions import describe
from covey.telemetry.redaction import REDACTED, redact, redact_text

CANARY = "c4n4ryValue"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://order:{CANARY}@db.internal:5432/order",
        f"connection to postgresql://order:p@{CANARY}@db:5432/order failed",
        f"nats://covey:{CANARY}@127.0.0.1:4222,nats://covey:{CANARY}@127.0.0.1:4223",
        f"valkey://:{CANARY}@127.0.0.1:6379",
        f"host=db user=order password={CANARY} dbname=order",
        f"password='{CANARY} with spaces' host=db",
        f'{{"password": "{CANARY}"}}',
        f"{{'api_key': '{CANARY}'}}",
        f"client_secret: {CANARY}",
        f"Authorization: Bearer {CANARY}",
        f"authorization=Basic {CANARY}==",
        f"Set-Cookie: session={CANARY}; Path=/",
        f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.{CANARY}",
        f"/reset?token={CANARY}&x=1",
        f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----",
        f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY}",
        f"mail to {CANARY}@example.org bounced",
        f"/users/{CANARY}%40example.org",
        f"{CANARY}+tag@sub.example.co.uk",
    ],
)
def test_what_looks_like_a_secret_or_an_address_does_not_survive(text: str) -> None:
    assert CANARY not in redact_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "order placed",
        "/api/v1/orders/0199f2c0-7b1e-7cc2-a5b1-0d7c3ad6c111",
        "GET /api/v1/users/{user_id}",
        "no answer within 1 s: 10:32:07",
        "postgresql://order@db.internal/order is away",
        'duplicate key value violates unique constraint "orders_pkey"',
        "the basic rules; the bearer of news",
    ],
)
def test_harmless_text_is_left_alone(text: str) -> None:
    assert redact_text(text) == text


@pytest.mark.parametrize(
    "key", ["password", "PASSWORD", "db_password", "secret", "client_secret", "token", "access_token", "Authorization",
            "cookie", "api_key", "x-api-key", "apikey", "private_key", "credentials", "dsn"],
)  # fmt: skip
def test_a_value_under_a_key_that_names_a_secret_is_replaced_whole(key: str) -> None:
    assert redact({"outer": {key: CANARY}}) == {"outer": {key: REDACTED}}
    assert redact({key: {"nested": [CANARY]}}) == {key: REDACTED}


def test_every_kind_of_value_can_be_redacted() -> None:
    class Secretive:
        def __str__(self) -> str:
            return f"Secretive(password={CANARY})"

    value = {
        "id": UUID(int=1),
        "list": [f"Bearer {CANARY}", {"token": CANARY}],
        "tuple": (1, 2.5, None, True),
        "object": Secretive(),
        3: "number as key",
    }

    redacted = redact(value)

    assert CANARY not in repr(redacted)
    assert redacted["tuple"] == [1, 2.5, None, True]
    assert redacted["id"] == str(UUID(int=1))


def test_depth_and_length_are_bounded() -> None:
    deep: dict[str, object] = {}
    for _ in range(10_000):
        deep = {"x": deep}

    assert "[too deep]" in repr(redact(deep))
    assert len(redact_text("a" * 1_000_000)) < 20_000


@pytest.mark.parametrize(
    "text",
    ["a" * 16_000 + "@", "://" + "a" * 16_000, "password=" + "'" * 16_000, "@" * 16_000, "a@" * 8_000, "eyJ" * 5_000,
     "a.a@" + "a." * 8_000, "Bearer " + "-" * 16_000, "secret:" * 2_000, "-----BEGIN " * 1_400, "%40" * 5_000],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_hostile_text_costs_no_more_than_linear_time(text: str) -> None:
    begun = time.perf_counter()

    redact_text(text)

    assert time.perf_counter() - begun < 0.5


def test_an_exception_is_described_without_its_secrets() -> None:
    try:
        try:
            raise ConnectionError(f"postgresql://order:{CANARY}@db/order refused")
        except ConnectionError as error:
            raise RuntimeError("cannot open the pool") from error
    except RuntimeError as error:
        described = describe(error)

    assert CANARY not in repr(described)
    assert described["type"] == "RuntimeError"
    assert described["cause"]["type"] == "ConnectionError"
    assert "test_redaction.py" in described["frames"][-1]


def test_an_exception_that_shows_rows_or_inputs_is_described_without_them() -> None:
    from pydantic import BaseModel, ValidationError

    class Card(BaseModel):
        number: int

    class UniqueViolation(Exception):
        def __str__(self) -> str:
            return f"duplicate key value violates a constraint\nDETAIL:  Key (name)=({CANARY}) already exists."

    with pytest.raises(ValidationError) as invalid:
        Card.model_validate({"number": CANARY})

    assert CANARY not in repr(describe(invalid.value))
    assert "number" in describe(invalid.value)["message"], "which field it was is what we need to know"
    assert CANARY not in repr(describe(UniqueViolation()))
    assert "duplicate key value" in describe(UniqueViolation())["message"]


def test_the_members_of_a_group_are_described() -> None:
    described = describe(ExceptionGroup("two went wrong", [ValueError("a"), KeyError("b")]))

    assert [member["type"] for member in described["group"]] == ["ValueError", "KeyError"]


def test_an_exception_whose_text_cannot_be_had_is_described_all_the_same() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe(Broken())["type"] == "Broken"
