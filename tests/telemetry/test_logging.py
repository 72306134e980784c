from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from covey.context import Context, Trace, use
from covey.telemetry.logging import LogPipeline
from covey.telemetry.telemetry import Telemetry, TelemetryOptions


class Output:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, lines: bytes) -> None:
        self.written.append(lines)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in b"".join(self.written).splitlines()]


@pytest.fixture
def output() -> Output:
    return Output()


@pytest.fixture
def telemetry(output: Output) -> Iterator[Telemetry]:
    with Telemetry.open(TelemetryOptions(service="order", write=output.write)) as opened:
        yield opened


def only_line(telemetry: Telemetry, output: Output) -> dict[str, Any]:
    telemetry.flush()
    (line,) = output.lines()
    return line


def test_a_line_says_when_what_where_and_for_which_request(telemetry: Telemetry, output: Output) -> None:
    with use(Context("from-the-caller", Trace(0xA, 0xB))):
        structlog.get_logger().info("order placed", order_id="42", amount=3)

    line = only_line(telemetry, output)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "event": "order placed",
        "service": "order",
        "correlation_id": "from-the-caller",
        "trace_id": f"{0xA:032x}",
        "span_id": f"{0xB:016x}",
        "order_id": "42",
        "amount": 3,
    }


def test_a_line_outside_of_any_request_has_no_ids(telemetry: Telemetry, output: Output) -> None:
    structlog.get_logger().info("started")

    assert "trace_id" not in only_line(telemetry, output)


def test_a_logger_with_a_name_says_so(telemetry: Telemetry, output: Output) -> None:
    structlog.get_logger("covey.relay").info("published")

    assert only_line(telemetry, output)["logger"] == "covey.relay"


def test_a_field_cannot_pose_as_what_every_line_has(telemetry: Telemetry, output: Output) -> None:
    with use(Context("the-real-one", Trace(1, 2))):
        structlog.get_logger().info("x", correlation_id="forged", service="forged", level="forged", timestamp="forged")

    line = only_line(telemetry, output)
    assert (line["correlation_id"], line["service"], line["level"]) == ("the-real-one", "order", "info")
    assert line["timestamp"] != "forged"


def test_one_call_is_one_line_whatever_it_says(telemetry: Telemetry, output: Output) -> None:
    structlog.get_logger().info("two\nlines", value='"}\n{"level":"critical"', escape="\x1b[31m", surrogate="\ud800")

    telemetry.flush()
    (line,) = output.lines()
    assert line["event"] == "two\nlines"
    assert b"\x1b" not in b"".join(output.written)


def test_secrets_do_not_reach_the_log(telemetry: Telemetry, output: Output) -> None:
    log = structlog.get_logger()

    log.info("connected to postgresql://order:hunter2@db/order", password="hunter2", nested={"api_key": "hunter2"})
    log.info("login", who="ann@hunter2.example", header="Bearer hunter2hunter2")
    logging.getLogger("library").warning("using %s", {"token": "hunter2"})
    try:
        raise ConnectionError("nats://covey:hunter2@127.0.0.1 refused")
    except ConnectionError:
        log.exception("cannot connect")

    telemetry.flush()
    assert len(output.lines()) == 4
    assert b"hunter2" not in b"".join(output.written)


def test_an_exception_is_logged_as_structure_with_its_cause(telemetry: Telemetry, output: Output) -> None:
    try:
        try:
            raise KeyError("sku")
        except KeyError as error:
            raise ValueError("no such product") from error
    except ValueError:
        structlog.get_logger().exception("refused", order_id="1")

    line = only_line(telemetry, output)
    assert line["level"] == "error"
    assert line["exception"]["type"] == "ValueError"
    assert line["exception"]["cause"]["type"] == "KeyError"
    assert "test_logging.py" in line["exception"]["frames"][0]


@pytest.mark.parametrize("given", ["instance", "tuple", "true"])
def test_exc_info_may_be_given_in_every_way_that_structlog_knows(
    given: str, telemetry: Telemetry, output: Output
) -> None:
    try:
        raise ValueError
    except ValueError as error:
        exc_info = {"instance": error, "tuple": sys.exc_info(), "true": True}[given]
        structlog.get_logger().warning("odd", exc_info=exc_info)

    assert only_line(telemetry, output)["exception"]["type"] == "ValueError"


def test_what_changes_after_the_call_does_not_change_the_line(telemetry: Telemetry, output: Output) -> None:
    items = ["first"]

    structlog.get_logger().info("x", items=items)
    items.append("second")

    assert only_line(telemetry, output)["items"] == ["first"]


def test_libraries_that_use_the_standard_library_are_heard(telemetry: Telemetry, output: Output) -> None:
    with use(Context("from-the-caller", Trace(1, 2))):
        logging.getLogger("asyncpg").warning("slow: %d ms", 12)

    line = only_line(telemetry, output)
    assert (line["event"], line["logger"], line["level"]) == ("slow: 12 ms", "asyncpg", "warning")
    assert line["correlation_id"] == "from-the-caller"


def test_a_call_with_arguments_that_do_not_fit_harms_nobody(telemetry: Telemetry, output: Output) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    with pytest.raises(RuntimeError):
        str(Broken())
    structlog.get_logger().info("broken", value=Broken(), nested=[{1: Broken()}])
    record = logging.LogRecord("library", logging.WARNING, __file__, 1, "%d of %d", ("one",), None)
    (ours,) = [handler for handler in logging.getLogger().handlers if type(handler).__module__.startswith("covey")]
    ours.emit(record)
    structlog.get_logger().info("fine")

    telemetry.flush()
    assert [line["event"] for line in output.lines()] == ["broken", "%d of %d", "fine"]


def test_lines_below_the_level_cost_nothing_and_are_not_written(output: Output) -> None:
    with Telemetry.open(TelemetryOptions(service="order", write=output.write, log_level="WARNING")):
        structlog.get_logger().info("quiet")
        logging.getLogger("x").info("quiet")
        structlog.get_logger().warning("loud")

    assert [line["event"] for line in output.lines()] == ["loud"]


def test_closing_writes_what_waits_and_gives_both_libraries_back(output: Output) -> None:
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level

    with Telemetry.open(TelemetryOptions(service="order", write=output.write)):
        structlog.get_logger().info("last words")

    assert [line["event"] for line in output.lines()] == ["last words"]
    assert (logging.getLogger().handlers, logging.getLogger().level) == (handlers, level)
    assert not structlog.is_configured()


def test_a_logger_made_before_telemetry_was_opened_works_in_each_that_follows() -> None:
    log = structlog.get_logger()
    first, second = Output(), Output()

    with Telemetry.open(TelemetryOptions(service="first", write=first.write)):
        log.info("one")
    with Telemetry.open(TelemetryOptions(service="second", write=second.write)):
        log.info("two")

    assert [line["event"] for line in first.lines()] == ["one"]
    assert [(line["event"], line["service"]) for line in second.lines()] == [("two", "second")]


def test_lost_lines_show_in_the_metrics() -> None:
    def full(lines: bytes) -> None:
        raise OSError("no space left on device")

    with Telemetry.open(TelemetryOptions(service="order", write=full)) as telemetry:
        structlog.get_logger().info("x")
        telemetry.flush()
        (lost,) = [metric for metric in telemetry.metrics.all() if metric.name == "covey_log_lines_dropped_total"]

        assert dict(lost.series()) == {(): 1}


@pytest.mark.parametrize(
    "ending", ["raise RuntimeError('password=hunter2')", "sys.exit(3)", "pass", "threading.Thread(target=end).start()"]
)
def test_a_process_that_ends_by_itself_loses_no_line(ending: str) -> None:
    program = f"""
        import sys, threading, structlog
        from covey.telemetry.telemetry import Telemetry, TelemetryOptions

        def end():
            structlog.get_logger().info("from a thread")

        with Telemetry.open(TelemetryOptions(service="order")):
            for number in range(1000):
                structlog.get_logger().info("line", number=number)
            {ending}
    """

    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True)

    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line["number"] for line in lines if line["event"] == "line"] == list(range(1000))


def test_an_abandoned_pipeline_is_flushed_at_exit() -> None:
    program = """
        import structlog
        from covey.telemetry.telemetry import Telemetry, TelemetryOptions
        opened = Telemetry.open(TelemetryOptions(service="order"))
        opened.__enter__()
        structlog.get_logger().info("last words")
        raise RuntimeError
    """

    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True)

    assert json.loads(ended.stdout)["event"] == "last words"


def test_on_a_terminal_a_line_is_for_people_and_cannot_drive_it(output: Output) -> None:
    with Telemetry.open(TelemetryOptions(service="order", write=output.write, pretty=True)):
        try:
            raise ValueError("wrong\x1b[2J")
        except ValueError:
            structlog.get_logger().exception("order \x1b[31mrefused\nforged line", order_id="42", reason="x\ny")

    text = b"".join(output.written).decode()
    assert "order \\x1b[31mrefused\\nforged line" in text
    assert "42" in text and "x\\ny" in text
    assert "\x1b[2J" not in text
    assert "\n  ValueError: wrong\\x1b[2J" in text


class TestSeveralServicesInOneProcess:
    async def test_each_have_the_lines_that_are_said_in_their_tasks_and_in_what_those_start(self) -> None:
        outputs = {name: Output() for name in ("order", "payment")}
        both_open = asyncio.Barrier(2)

        def say(where: str) -> None:
            structlog.get_logger("own").info(f"{where} by structlog")
            logging.getLogger("library").info(f"{where} by logging")

        async def serve(name: str) -> None:
            with Telemetry.open(TelemetryOptions(service=name, write=outputs[name].write)):
                await both_open.wait()
                say("task")
                await asyncio.create_task(asyncio.to_thread(say, "thread"))
                await both_open.wait()

        async with asyncio.TaskGroup() as tasks:
            for name in outputs:
                tasks.create_task(serve(name))

        for name, output in outputs.items():
            assert {line["service"] for line in output.lines()} == {name}
            assert sorted(line["event"] for line in output.lines()) == [
                f"{where} by {how}" for where in ("task", "thread") for how in ("logging", "structlog")
            ]

    def test_have_levels_of_their_own(self) -> None:
        quiet, loud = Output(), Output()

        def say() -> None:
            for level in ("debug", "info", "error"):
                getattr(structlog.get_logger(), level)(f"structlog {level}")
                getattr(logging.getLogger("x"), level)(f"logging {level}")

        with Telemetry.open(TelemetryOptions(service="loud", write=loud.write, log_level="DEBUG")):
            with Telemetry.open(TelemetryOptions(service="quiet", write=quiet.write, log_level="ERROR")):
                say()
            say()

        assert [line["event"] for line in quiet.lines()] == ["structlog error", "logging error"]
        assert len(loud.lines()) == 6

    def test_leave_what_is_said_in_no_task_of_theirs_to_the_one_that_was_first(self) -> None:
        first, second = Output(), Output()

        with (
            Telemetry.open(TelemetryOptions(service="first", write=first.write)),
            Telemetry.open(TelemetryOptions(service="second", write=second.write)),
        ):
            thread = threading.Thread(target=logging.getLogger("x").warning, args=("of a library",))
            thread.start()
            thread.join()
            structlog.get_logger().info("of the second")

        assert [line["event"] for line in first.lines()] == ["of a library"]
        assert [line["event"] for line in second.lines()] == ["of the second"]

    def test_may_end_in_any_order_and_the_last_gives_the_globals_back(self) -> None:
        root = logging.getLogger()
        before, pipelines = (root.level, list(root.handlers)), [LogPipeline("a", Output().write) for _ in range(2)]

        for pipeline in pipelines:
            pipeline.open("DEBUG")
        pipelines[0].close()
        assert structlog.is_configured()
        assert len(root.handlers) == len(before[1]) + 1
        pipelines[1].close()

        assert not structlog.is_configured()
        assert (root.level, root.handlers) == before
