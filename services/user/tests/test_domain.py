"""Accounts and their versions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from user_service.domain import Closed, Preferences, Profile, User, UserId
from user_service.messages import user_changed

from covey.errors import Invalid
from covey.ids import new_id

ADA = User(UserId(new_id()), Profile("Ada", "ada@example.org", "+4915112345678", 36))


def test_a_change_is_the_next_version_and_leaves_the_rest_as_it_was() -> None:
    profile, preferences = replace(ADA.profile, name="Ada L."), Preferences(order_mail=False, locale="de")

    changed = ADA.with_profile(profile).with_preferences(preferences)

    assert changed == User(ADA.id, profile, preferences, version=3)


@pytest.mark.parametrize("name", ["", "   ", "x" * 101])
def test_a_name_is_not_blank_and_not_endless(name: str) -> None:
    with pytest.raises(Invalid, match="1 to 100 characters"):
        Profile(name, "ada@example.org")


def test_who_says_nothing_gets_mail_about_orders_and_no_advertising() -> None:
    assert (ADA.preferences.order_mail, ADA.preferences.marketing_mail) == (True, False)


def test_a_closed_account_is_a_newer_version_without_anything_personal() -> None:
    closed = ADA.closed()

    event = user_changed(closed)

    assert closed == Closed(ADA.id, version=2)
    assert event.model_dump() == {
        "user_id": ADA.id,
        "version": 2,
        "closed": True,
        "email": None,
        "name": None,
        "locale": None,
        "wants_order_mail": False,
        "wants_marketing_mail": False,
    }


def test_the_event_tells_the_whole_state_that_others_need_and_no_more() -> None:
    told = user_changed(replace(ADA, preferences=Preferences(marketing_mail=True, locale="de-AT"))).model_dump()

    assert told == {
        "user_id": ADA.id,
        "version": 1,
        "closed": False,
        "email": "ada@example.org",
        "name": "Ada",
        "locale": "de-AT",
        "wants_order_mail": True,
        "wants_marketing_mail": True,
    }
