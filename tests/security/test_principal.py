"""Whom a token belongs to, and that nobody makes or changes one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey.errors import DefinitionError, Unauthenticated
from covey.security.principal import DevelopmentTokens, InvalidToken, Nobody, Principal

KEY = "0123456789abcdef"


@pytest.fixture
def tokens() -> DevelopmentTokens:
    return DevelopmentTokens(KEY)


async def test_a_token_tells_whose_it_is_and_what_they_may_be(tokens: DevelopmentTokens) -> None:
    token = tokens.mint("user:0199f2c0-7b1e", "staff", "orders:read")

    assert await tokens.verify(token) == Principal("user:0199f2c0-7b1e", frozenset({"staff", "orders:read"}))
    assert await DevelopmentTokens(KEY).verify(token) == await tokens.verify(token)


@pytest.mark.parametrize("place", range(0, 60, 3))
async def test_a_token_that_was_changed_anywhere_is_none(tokens: DevelopmentTokens, place: int) -> None:
    token = tokens.mint("user:7", "staff")
    place %= len(token)
    other = "B" if token[place] == "A" else "A"

    with pytest.raises(InvalidToken):
        await tokens.verify(token[:place] + other + token[place + 1 :])


async def test_a_token_with_something_put_into_it_is_none(tokens: DevelopmentTokens) -> None:
    token = tokens.mint("user:7", "staff")

    with pytest.raises(InvalidToken):
        await tokens.verify(token[:20] + "!!!!" + token[20:])


async def test_a_token_of_another_system_is_none(tokens: DevelopmentTokens) -> None:
    with pytest.raises(InvalidToken):
        await tokens.verify(DevelopmentTokens("fedcba9876543210").mint("user:7", "staff"))


@given(st.text(max_size=200))
async def test_whatever_is_sent_for_a_token_is_refused_and_breaks_nothing(text: str) -> None:
    for token in (text, "covey-dev." + text):
        with pytest.raises(InvalidToken):
            await DevelopmentTokens(KEY).verify(token)


@pytest.mark.parametrize(
    "sent", ["", "covey-dev.", "covey-dev.AAAA", "covey-dev." + "A" * 5_000, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0."]
)
async def test_what_is_no_token_is_refused(tokens: DevelopmentTokens, sent: str) -> None:
    with pytest.raises(Unauthenticated):
        await tokens.verify(sent)


@pytest.mark.parametrize("subject", ["", "anna", "user:", "User:7", "user:a b", "user:7\n", "user:" + "7" * 101])
def test_what_can_be_nobody_gets_no_token(tokens: DevelopmentTokens, subject: str) -> None:
    with pytest.raises(DefinitionError):
        tokens.mint(subject)


def test_a_key_that_is_easily_guessed_is_refused() -> None:
    with pytest.raises(DefinitionError):
        DevelopmentTokens("short")


async def test_without_a_key_no_token_is_valid(tokens: DevelopmentTokens) -> None:
    with pytest.raises(InvalidToken):
        await Nobody().verify(tokens.mint("user:7"))
