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


def test_a_prompt_stands_below_what_goes_on_and_both_are_wiped_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    stream = FakeTty()
    terminal = Terminal(stream)

    terminal.meanwhile("eight orders wait, and more", "⏎ start it")
    terminal.say("started")

    assert stream.getvalue() == (
        "\x1b[2m  … eight orders wait, and …\x1b[0m\n\x1b[1m  ⏎ start it\x1b[0m\r\x1b[A\x1b[Jstarted\n"
    )


def test_progress_is_a_line_for_a_pipe_but_not_for_every_change() -> None:
    stream = StringIO()
    terminal = Terminal(stream)

    for waiting in (8, 8, 7, 6):
        terminal.progress(f"{waiting} wait")

    assert stream.getvalue() == "  … 8 wait\n"


def test_a_result_is_wrapped_on_a_narrow_terminal_and_whole_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("NO_COLOR", "1")
    narrow, pipe = FakeTty(), StringIO()

    for stream in (narrow, pipe):
        Terminal(stream).result("postgres, nats, order are up", good=True)

    assert narrow.getvalue() == "  ✓ postgres, nats,\n    order are up\n"
    assert pipe.getvalue() == "  ✓ postgres, nats, order are up\n"


def test_no_word_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = FakeTty()
    terminal = Terminal(stream)

    terminal.beside("  ", "a read-only replica of services/notification/mail_sink", 2)
    terminal.meanwhile("payment-authorizations wait")

    assert stream.getvalue().splitlines() == [
        "  a read-only replica",
        "  of",
        "  services/notification/mail_sink",
        "  … …",
    ]


def test_a_terminal_that_can_do_nothing_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")

    assert "\x1b" not in written(FakeTty())


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
