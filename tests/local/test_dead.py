"""What `covey dead` shows and what an editor makes of a body; the rest is in `tests/messaging/test_dead_command.py`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from covey.errors import ConfigurationError
from covey.ids import new_id
from covey.local.dead import edited, page, table
from covey.messaging.dead_letters import DeadLetter, Entry, Whole

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
LETTER = DeadLetter(
    key="cart 7",
    position=1,
    reason="cannot do 0",
    attempts=1,
    since=NOON,
    expires=None,
    id=new_id(),
    type="shop.added.v1",
    kind="event",
    source="shop",
    stream="shop",
    time=NOON,
    received_at=NOON,
    behind=1,
)


def whole(letter: DeadLetter, *history: Entry) -> Whole:
    return Whole(letter, {}, b'{"n": 1}', list(history))


def test_one_is_counted_as_one() -> None:
    one = page(whole(LETTER), "shop")
    several = page(whole(replace(LETTER, attempts=5, behind=2)), "shop")

    assert "tried    1 time, dead" in one
    assert "behind   1 message of its key" in one
    assert "tried    5 times, dead" in several
    assert "behind   2 messages of its key" in several


def test_a_terminal_obeys_no_type_of_a_message_of_somebody_else() -> None:
    assert "\x1b" not in table([replace(LETTER, type="feed.\x1b[2J.v1")])


def test_each_line_of_the_history_says_what_there_is_to_say_and_ends_there() -> None:
    shown = page(
        whole(
            LETTER,
            Entry("parked", "cannot do 0", None, NOON),
            Entry("edited", None, b'{"n":\x1b0}', NOON),
            Entry("replayed", None, None, NOON),
        ),
        "shop",
    )

    history = shown.partition("history\n")[2].splitlines()[:3]
    assert [line.removeprefix(f"  {NOON}  ") for line in history] == [
        "parked  cannot do 0",
        'edited  it was {"n":\\x1b0}',
        "replayed",
    ]


@pytest.mark.parametrize("editor", ["true", "echo >>", ": >", "echo >"])
def test_a_body_that_was_left_as_it_is_or_emptied_is_not_changed(editor: str) -> None:
    assert edited(b'{"n": 1}', {"EDITOR": editor}) is None


def test_a_body_is_changed_without_the_line_that_an_editor_ends_it_with() -> None:
    assert edited(b'{"n": 0}', {"EDITOR": "printf '{\"n\": 1}\\n' >"}) == b'{"n": 1}'


def test_an_editor_that_fails_is_named() -> None:
    with pytest.raises(ConfigurationError, match="the editor 'false' ended with status 1: nothing was changed"):
        edited(b"{}", {"EDITOR": "false"})
