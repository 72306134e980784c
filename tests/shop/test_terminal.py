"""What the demo writes, on a terminal and into a pipe."""

from __future__ import annotations

from io import StringIO

import pytest

from shop.terminal import Terminal


class FakeTty(StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def written(stream: StringIO) -> str:
    terminal = Terminal(stream)
    terminal.heading("Orders")
    terminal.meanwhile("settling")
    terminal.result("all is well", good=True)
    terminal.result("not at all", good=False)
    return stream.getvalue()


def test_a_pipe_gets_plain_lines_and_nothing_that_moves() -> None:
    assert written(StringIO()) == "\nOrders\n  ✓ all is well\n  ✗ not at all\n"


def test_a_terminal_gets_colours_and_a_line_that_is_wiped_out_by_the_next() -> None:
    text = written(FakeTty())

    assert "\x1b[32m✓\x1b[0m" in text
    assert "settling\x1b[0m\r\x1b[K" in text


def test_what_does_not_fit_goes_on_below_where_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = FakeTty()
    terminal = Terminal(stream)

    terminal.result("an order      out of stock, for many are wanted", good=False, indent=14)
    terminal.beside("  12 ms  ", "a text that is longer than the rest of the line", at=9)

    assert stream.getvalue().splitlines() == [
        "  ✗ an order      out of stock, for",
        "                  many are wanted",
        "  12 ms  a text that is longer than the",
        "         rest of the line",
    ]


def test_a_pipe_gets_lines_of_any_length() -> None:
    stream = StringIO()

    Terminal(stream).result("long " * 100, good=True, indent=50)

    assert len(stream.getvalue().splitlines()) == 1
