"""The tour as a newcomer has it: real processes, real engines, real kills; by itself, and with somebody at the keys."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from covey.local.processes import read_records
from covey.local.state import records_of
from shop.terminal import Terminal
from shop.tour.__main__ import tour
from shop.tour.program import ACTS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
_SECONDS = 90


class Newcomer:
    """Somebody at a terminal of 80 columns, in which the tour runs."""

    def __init__(self, state: Path) -> None:
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
        self._read = ""
        environment = {name: value for name, value in os.environ.items() if name not in ("EXIT", "COLUMNS")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "shop.tour", "--state", str(state)],
            cwd=ROOT,
            env={**environment, "TERM": "xterm", "NO_COLOR": "1"},
            preexec_fn=lambda: os.login_tty(theirs),
            pass_fds=(theirs,),
        )
        os.close(theirs)
        os.set_blocking(self._ours, False)

    def sees(self, text: str) -> str:
        """Wait until that is shown; return what was shown up to there, and forget it."""
        deadline = time.monotonic() + _SECONDS
        while text not in self._read:
            assert time.monotonic() < deadline, f"{text!r} is not shown, but:\n{self._read}"
            self._hear()
            time.sleep(0.02)
        seen, _, self._read = self._read.partition(text)
        return seen + text

    def presses(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    def ends(self) -> int:
        """Wait until the tour has ended, and return its exit status."""
        deadline = time.monotonic() + _SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end:\n{self._read}"
            self._hear()  # or it waits for somebody to read what it writes
            time.sleep(0.02)
        return self.process.wait()

    def leaves(self) -> None:
        """Close the terminal, whatever the tour does."""
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def _hear(self) -> None:
        try:
            self._read += os.read(self._ours, 65_536).decode(errors="replace")
        except OSError:  # nothing to read, or nobody there any more
            return


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    """Somebody for whom the tour has just started."""
    somebody = Newcomer(tmp_path / "state")
    yield somebody
    somebody.leaves()


def nothing_runs(state: Path) -> bool:
    return not any(record.running() for record in read_records(records_of(state)))


async def test_the_tour_runs_through_by_itself_and_all_is_as_it_should_be(tmp_path: Path) -> None:
    stream = StringIO()

    status = await tour(Terminal(stream), attended=False, state=tmp_path / "state")

    told = stream.getvalue()
    assert status == 0, told
    assert told.count("✓ invariants: ") == len(ACTS) + 1
    assert "✗" not in told
    assert "left out" not in told
    assert "Everything is as it should be" in told
    assert nothing_runs(tmp_path / "state")


def test_a_newcomer_goes_on_with_enter_kills_by_hand_and_quits(newcomer: Newcomer, tmp_path: Path) -> None:
    newcomer.sees("⏎ place them")
    newcomer.presses("\r")
    newcomer.sees("✓ all is well")
    pid = re.findall(r"kill -9 (\d+)", newcomer.sees("⏎ kill payment"))[-1]
    os.kill(int(pid), signal.SIGKILL)
    newcomer.sees("it was done by hand")
    newcomer.sees("✓ 8 messages wait for payment")
    newcomer.sees("⏎ start payment")
    newcomer.presses("\r")
    newcomer.sees("✓ 8 of 8 orders are confirmed")
    newcomer.sees("⏎ publish a message")
    newcomer.presses("s")
    newcomer.sees("left out")
    newcomer.sees("⏎ place orders, and kill PostgreSQL")
    newcomer.presses("q")
    newcomer.sees("stopped")

    assert newcomer.ends() == 0
    assert nothing_runs(tmp_path / "state")


def test_ctrl_c_in_the_middle_of_an_act_stops_everything_and_leaves_nothing(newcomer: Newcomer, tmp_path: Path) -> None:
    newcomer.sees("⏎ place them")
    newcomer.presses("s")
    newcomer.sees("⏎ kill payment")
    newcomer.presses("\r")
    newcomer.sees("⏎ start payment")

    newcomer.presses("\x03")

    newcomer.sees("stopped")
    assert newcomer.ends() == 0
    assert nothing_runs(tmp_path / "state")


def test_what_is_interrupted_without_a_terminal_has_not_passed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shop.tour", "--state", str(tmp_path / "state")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # opened as a pipe
        for line in process.stdout:
            if line.startswith(f"1/{len(ACTS)}  "):
                process.terminate()

        assert process.wait(_SECONDS) == 130
    assert nothing_runs(tmp_path / "state")
