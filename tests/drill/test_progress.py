"""What a drill says while it runs: one line that moves on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

from covey.testing.clock import FakeClock
from covey.testing.drill.faults import Kill
from covey.testing.drill.progress import Progress, status
from covey.testing.drill.record import Record, Strike
from covey.testing.drill.schedule import Schedule

KILL = Kill(at=3, unit="order")
SCHEDULE = Schedule(seed=1, seconds=60, calm_from=50, faults=(KILL, Kill(at=9, unit="order")))


class Screen(StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


async def shown_for_half_a_minute(stream: StringIO, clock: FakeClock) -> str:
    record, progress = Record(clock), Progress(stream)
    for _ in range(30):
        progress.show(record, SCHEDULE)
        await clock.advance(timedelta(seconds=1))
    progress.say("healed")
    return stream.getvalue()


async def test_a_terminal_has_one_line_that_moves(fake_clock: FakeClock) -> None:
    shown = await shown_for_half_a_minute(Screen(), fake_clock)

    assert shown.count("\r\x1b[K") == 30
    assert shown.count("\n") == 1
    assert shown.endswith("\r\x1b[Khealed\n")


async def test_elsewhere_there_is_a_plain_line_every_ten_seconds(fake_clock: FakeClock) -> None:
    shown = await shown_for_half_a_minute(StringIO(), fake_clock)

    assert [line.split("  ")[0] for line in shown.splitlines()] == [
        "0:00 of 1:00", "0:10 of 1:00", "0:20 of 1:00", "healed",
    ]  # fmt: skip


async def test_the_line_says_how_far_load_and_faults_have_come_and_fits_a_terminal(fake_clock: FakeClock) -> None:
    record = Record(fake_clock)
    record.strikes.append(Strike(fault=KILL, at=3, until=3, hit=True))
    record.accepted(0.1)
    await fake_clock.advance(timedelta(seconds=12))

    assert status(record, SCHEDULE) == "0:12 of 1:00  1 accepted, 0 completed  1 of 2 faults, 1 kills"
    await fake_clock.advance(timedelta(seconds=50))
    assert status(record, SCHEDULE).startswith("settling 0:02  ")
