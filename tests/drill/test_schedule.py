"""The schedule of a drill: the same for the same seed, as many faults as were promised, and calm at the end."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from covey.testing.drill.faults import Kill, KillRelay, Own, Pause, kind, lane, lasts
from covey.testing.drill.schedule import (
    KILLS_APART_SECONDS,
    LONG_PAUSE_SECONDS,
    OWN_A_MINUTE,
    SHORT_PAUSE_SECONDS,
    OwnKind,
    Targets,
    draw,
)

NAMES = st.lists(st.from_regex(r"[a-z]{3,8}", fullmatch=True), min_size=1, max_size=6, unique=True)
SEEDS = st.integers(0, 2**32)
SECONDS = st.floats(6, 300)
LEASE_SECONDS = 5.0

few = settings(max_examples=25, deadline=None)
"""Ten minutes are long, and 25 of them are four hours."""

SHOP = Targets(
    services={name: [name, f"{name}-2"] for name in ("order", "inventory", "payment")},
    relays=["order", "inventory", "payment"],
    engines=["postgres", "nats", "valkey"],
    broker="nats",
    processes=["provider"],
    own=[OwnKind(name=f"provider {what}", shortest_seconds=2, longest_seconds=9) for what in ("slow", "silent")],
)


@st.composite
def targets(draw_from: st.DrawFn) -> Targets:
    names = draw_from(NAMES)
    replicas = draw_from(st.integers(1, 3))
    kinds = [OwnKind(name=f"{name} is slow", shortest_seconds=1, longest_seconds=9) for name in names[:2]]
    engines = draw_from(st.sampled_from([[], ["postgres"], ["postgres", "nats", "valkey"]]))
    return Targets(
        services={name: [f"{name}-{number}" for number in range(replicas)] for name in names},
        relays=names[: draw_from(st.integers(0, len(names)))],
        engines=engines,
        broker="nats" if "nats" in engines else None,
        processes=draw_from(st.sampled_from([[], ["provider"]])),
        own=draw_from(st.sampled_from([[], kinds])),
    )


@few
@given(seed=SEEDS, seconds=SECONDS, there=targets())
def test_the_same_seed_makes_the_same_schedule(seed: int, seconds: float, there: Targets) -> None:
    assert draw(seed, seconds, there) == draw(seed, seconds, there)


@few
@given(seed=SEEDS, there=targets())
def test_another_seed_makes_another_schedule(seed: int, there: Targets) -> None:
    assert draw(seed, 60, there).faults != draw(seed + 1, 60, there).faults


@few
@given(seed=SEEDS, seconds=SECONDS, there=targets())
def test_the_last_part_is_free_of_faults_and_the_others_are_in_order(seed: int, seconds: float, there: Targets) -> None:
    schedule = draw(seed, seconds, there)

    assert 0 < schedule.calm_from < seconds
    assert all(fault.at >= 0 and fault.at + lasts(fault) <= schedule.calm_from for fault in schedule.faults)
    assert all(one.at <= other.at for one, other in pairwise(schedule.faults))


@few
@given(seed=SEEDS, seconds=SECONDS, there=targets())
def test_only_what_is_there_is_hit(seed: int, seconds: float, there: Targets) -> None:
    relays = {f"{what} of {name}" for what in ("messages", "relay") for name in there.relays}
    units = {*there.deck(), *relays, *(kind.name for kind in there.own)}

    assert {lane(fault) for fault in draw(seed, seconds, there).faults} <= units


@few
@given(seed=SEEDS, seconds=SECONDS, there=targets())
def test_what_stands_still_is_not_stopped_again_and_own_faults_never_meet(
    seed: int, seconds: float, there: Targets
) -> None:
    faults = draw(seed, seconds, there).faults

    one_at_a_time = defaultdict(list)
    for fault in faults:
        if isinstance(fault, Pause | Own):
            one_at_a_time[fault.unit if isinstance(fault, Pause) else "own"].append(fault)
    for group in one_at_a_time.values():
        assert all(one.at + lasts(one) <= other.at for one, other in pairwise(group))


@few
@given(seed=SEEDS, seconds=SECONDS, there=targets())
def test_every_drill_kills_a_relay_and_stops_the_broker_and_what_is_beside_the_services(
    seed: int, seconds: float, there: Targets
) -> None:
    faults = draw(seed, seconds, there).faults

    paused = {fault.unit for fault in faults if isinstance(fault, Pause)}
    assert paused >= {*there.processes, *([there.broker] if there.broker else [])}
    assert any(isinstance(fault, KillRelay) for fault in faults) == bool(there.relays)


@few
@given(seed=SEEDS)
def test_a_minute_has_each_kind_of_fault(seed: int) -> None:
    there = replace(SHOP, own=[replace(SHOP.own[0], name=f"provider {number}") for number in range(OWN_A_MINUTE)])

    kinds = {kind(fault) for fault in draw(seed, 60, there).faults}

    assert kinds == {"kills", "kills of relays", "pauses", "duplicates", *(one.name for one in there.own)}


@few
@given(seed=SEEDS)
def test_ten_minutes_of_the_shop_have_150_kills_of_whom_there_is_time_to_come_back(seed: int) -> None:
    schedule = draw(seed, 600, SHOP)

    kills = [fault for fault in schedule.faults if isinstance(fault, Kill)]
    assert schedule.kills > len(kills) >= 150
    last: dict[str, float] = {}
    for kill in kills:
        assert kill.at - last.get(kill.unit, -KILLS_APART_SECONDS) >= KILLS_APART_SECONDS
        last[kill.unit] = kill.at


@few
@given(seed=SEEDS)
def test_every_process_has_its_turn_and_engines_more_rarely(seed: int) -> None:
    kills = Counter(fault.unit for fault in draw(seed, 600, SHOP).faults if isinstance(fault, Kill))

    replicas = [kills[unit] for units in SHOP.services.values() for unit in units]
    others = [kills[unit] for unit in (*SHOP.engines, *SHOP.processes)]
    assert min(others) > 0
    assert min(replicas) > max(others)


@few
@given(seed=SEEDS)
def test_pauses_are_shorter_and_longer_than_a_lease(seed: int) -> None:
    seconds = [fault.seconds for fault in draw(seed, 600, SHOP).faults if isinstance(fault, Pause)]

    assert any(one > LEASE_SECONDS for one in seconds)
    assert any(one < LEASE_SECONDS for one in seconds)
    assert SHORT_PAUSE_SECONDS[1] < LEASE_SECONDS < LONG_PAUSE_SECONDS[0]


@few
@given(seed=SEEDS)
def test_faults_overlap(seed: int) -> None:
    faults = draw(seed, 600, SHOP).faults

    assert any(one.at + lasts(one) > other.at for one, other in pairwise(faults))


@few
@given(seed=SEEDS, own=st.booleans())
def test_one_kind_of_fault_leaves_the_others_as_they_are(seed: int, own: bool) -> None:
    there = replace(SHOP, own=SHOP.own * own)

    def without_own(some: Targets) -> list[object]:
        return [fault for fault in draw(seed, 120, some).faults if not isinstance(fault, Own)]

    assert without_own(there) == without_own(SHOP)
