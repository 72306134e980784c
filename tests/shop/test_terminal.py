"""What the demo writes, on a terminal and into a pipe."""

from __future__ import annotations

from io import StringIO

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
