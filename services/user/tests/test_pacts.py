"""What others have agreed with user, held against the real service. Theirs are the files, and what they read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from user_service import storage, use_cases
from user_service.domain import Preferences, Profile, User, UserId

from covey.testing.grpc_pacts import pool_of, verify
from covey.testing.tokens import bearer
from covey.tools.proto import READ, compiled
from covey.work.unit_of_work import Transactions

CONSUMERS = sorted(file.parents[2] for file in Path(__file__).parents[2].glob("*/contracts/pacts/*-user.json"))


def test_order_is_one_of_them() -> None:
    assert "order" in [consumer.name for consumer in CONSUMERS]


@pytest.mark.parametrize("consumer", CONSUMERS, ids=lambda folder: folder.name)
async def test_user_keeps_what_was_agreed(consumer: Path, address: str, transactions: Transactions) -> None:
    async def somebody(said: Mapping[str, Any]) -> None:
        user = User(UserId(UUID(said["id"])), Profile("Grace", f"{said['id']}@example.org"), Preferences(), 1)
        async with transactions.begin() as work:
            await storage.add(work, user)

    async def somebody_gone(said: Mapping[str, Any]) -> None:
        await somebody(said)
        async with transactions.begin() as work:
            await use_cases.close_account(work, UserId(UUID(said["id"])))

    async def nobody(said: Mapping[str, Any]) -> None:
        """A fresh database knows nobody."""

    await verify(
        "user",
        consumer / f"contracts/pacts/{consumer.name}-user.json",
        address,
        {"a user": somebody, "nobody": nobody, "a user whose account is closed": somebody_gone},
        pool_of(compiled(consumer / READ)),
        {name.lower(): value for name, value in bearer(f"service:{consumer.name}", "service").items()},
    )
