"""Tests of points: in parts they are all there, each once."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from tests.crash.points import Point, seams_missing, shard_of, sharded

_POINTS = [
    Point("confirmed", service, "relay", "relay marks", number, "before")
    for service in ("order", "payment")
    for number in range(1, 51)
]


def test_every_point_is_in_one_part() -> None:
    parts = [sharded(_POINTS, number, 8) for number in range(1, 9)]

    assert all(parts)
    assert sorted(map(str, (point for part in parts for point in part))) == sorted(map(str, _POINTS))


def test_a_point_stays_in_its_part_when_another_is_not_recorded() -> None:
    assert sharded(_POINTS[1:], 1, 8) == [point for point in sharded(_POINTS, 1, 8) if point != _POINTS[0]]


@pytest.mark.parametrize("text", ["0/8", "9/8", "1", "1/0", "a/b", "-1/8", ""])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="no part such as 2/8"):
        shard_of(text)


def test_a_part_is_read() -> None:
    assert shard_of("2/8") == (2, 8)


def test_a_seam_that_only_other_outcomes_have_is_missing() -> None:
    relay, timer = [
        Point(outcome, "order", "any", call, 1, "before")
        for outcome, call in (("confirmed", "relay marks"), ("silent", "saga timer"))
    ]

    assert seams_missing([relay, timer], ["confirmed"]) == ["saga timer"]
    assert seams_missing([relay, timer], ["confirmed", "silent"]) == []
