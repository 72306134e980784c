"""Structured logs: `structlog.get_logger().info("order placed", order_id=…)` becomes one JSON line on stdout.

A call only queues what was said; a thread formats and writes about every 50 ms, at close and at exit. Each line
has timestamp, level, event, service and, inside a request or message, correlation_id, trace_id and span_id.
What libraries log through the standard library takes the same way.

The configurations of structlog and of the root logger are those libraries' own globals, so that several pipelines, of
several services in one process, share one: it hands each line to the pipeline of the task that says it.
`LogPipeline.open` sets it, the last `close` gives it back.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, NoReturn, Self

import structlog

from covey import context
from covey.telemetry.background import Background
from covey.telemetry.exceptions import describe
from covey.telemetry.redaction import redact_items, redact_text
from covey.telemetry.rendering import Line, json_line, pretty_line

_LEVELS = {"exception": "error", "warn": "warning", "fatal": "critical"}
_NUMBERS = logging.getLevelNamesMapping()
_NO_FIELDS: Mapping[str, Any] = {}

_own: ContextVar[LogPipeline | None] = ContextVar("covey_log_pipeline", default=None)

Render = Callable[[Any], Line | None]
"""Makes a line of what was queued, when the thread comes to it; None writes nothing."""


class LogPipeline:
    """Takes lines from any thread and writes them in order from its own. At most 65,536 wait; more are dropped."""

    def __init__(self, service: str, write: Callable[[bytes], object], *, pretty: bool = False) -> None:
        self._service = service
        self._write = write
        self._render = pretty_line if pretty else json_line
        self._renders: list[Render] = [lambda said: self.line(*said)]
        self._background: Background[tuple[Any, ...]] = Background(
            "covey-logs", self._write_lines, interval=0.05, batch=256, limit=65_536
        )
        self.flush = self._background.flush
        self._own_before: LogPipeline | None = None
        self.level = logging.NOTSET
        """What is below it, as a number of the standard library, is not written."""

    @property
    def dropped(self) -> int:
        """Return how many lines were lost, because writing failed or could not keep up."""
        return self._background.dropped

    def open(self, level: str = "INFO") -> None:
        """Make this the destination of what is said in this task and in those that it starts from now on.

        And of what is said where no pipeline was opened, such as in a thread of a library, unless another was first.
        """
        self.level = _NUMBERS[level.upper()]
        _Switch.of_the_process().join(self)
        self._own_before = _own.get()
        _own.set(self)
        self._background.start()

    def close(self) -> None:
        """Be no destination any more, and write everything that waits."""
        _Switch.of_the_process().leave(self)
        if _own.get() is self:  # by its value, for it may be closed in another context than it was opened in
            _own.set(self._own_before)
        self._background.close()

    def log(
        self, level: str, event: str, fields: Mapping[str, Any] = _NO_FIELDS, error: BaseException | None = None
    ) -> None:
        """Queue one line about the current context. `fields` are redacted and copied, `error` is described, now."""
        said = redact_items(fields)
        if error is not None:
            said["exception"] = describe(error)
        self._background.put((0, (time.time_ns(), level, redact_text(event), context.active(), said)))

    def channel(self, render: Render) -> Callable[[Any], None]:
        """Return a function that queues its argument, of which the thread has `render` make a line.

        For what is told so often that nothing but a plain tuple may be left behind on its path.
        """
        number, put = len(self._renders), self._background.put
        self._renders.append(render)
        return lambda said: put((number, said))

    def line(
        self, at_ns: int, level: str, event: str, about: context.Context | None, fields: Mapping[str, Any]
    ) -> Line:
        """Return a line; `event` and `fields` must be redacted already and cannot replace what every line has."""
        line: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(at_ns / 1e9, UTC),
            "level": level,
            "event": event,
            "service": self._service,
        }
        if about is not None:
            line["correlation_id"] = about.correlation_id
            line["trace_id"] = f"{about.trace.trace_id:032x}"
            line["span_id"] = f"{about.trace.span_id:016x}"
        whole = {**line, **fields}
        return whole if len(whole) == len(line) + len(fields) else {**whole, **line}

    def _write_lines(self, entries: list[tuple[Any, ...]]) -> None:
        self._write(b"".join([self._rendered(number, said) for number, said in entries]))

    def _rendered(self, number: int, said: Any) -> bytes:
        try:
            line = self._renders[number](said)
            return b"" if line is None else self._render(line)
        except Exception as error:  # one unwritable value must not take its neighbours with it
            return self._render({"level": "error", "event": "unwritable log line", "error": type(error).__name__})


class _Switch(logging.Handler):
    """Hands each line to the pipeline of the task that says it, or else to the one that was opened first.

    It is where structlog and the standard library's root logger send everything: one for the process, as these are.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pipelines: tuple[LogPipeline, ...] = ()
        self._root_level = logging.NOTSET

    @classmethod
    def of_the_process(cls) -> Self:
        """Return the one that is in place, or a new one that `join` puts there."""
        return next((known for known in logging.getLogger().handlers if isinstance(known, cls)), None) or cls()

    def join(self, pipeline: LogPipeline) -> None:
        root = logging.getLogger()
        if not self._pipelines:
            self._root_level = root.level
            root.addHandler(self)
        self._share((*self._pipelines, pipeline))

    def leave(self, pipeline: LogPipeline) -> None:
        if pipeline in self._pipelines:
            self._share(tuple(other for other in self._pipelines if other is not pipeline))

    def emit(self, record: logging.LogRecord) -> None:
        pipeline = self._pipeline(record.levelno)
        if pipeline is None:
            return
        error = record.exc_info[1] if record.exc_info else None
        try:
            event = record.getMessage()
        except Exception:  # arguments that do not fit; the standard library would print and go on, too
            event = str(record.msg)
        pipeline.log(record.levelname.lower(), event, {"logger": record.name}, error)

    def _share(self, pipelines: tuple[LogPipeline, ...]) -> None:
        self._pipelines = pipelines
        root = logging.getLogger()
        if not pipelines:
            root.removeHandler(self)
            root.setLevel(self._root_level)
            structlog.reset_defaults()
            return
        lowest = min(pipeline.level for pipeline in pipelines)
        root.setLevel(lowest)
        structlog.configure(
            processors=[self._capture],
            wrapper_class=structlog.make_filtering_bound_logger(lowest),
            logger_factory=lambda *names: names[0] if names else None,
            cache_logger_on_first_use=False,
        )

    def _pipeline(self, level: int) -> LogPipeline | None:
        """Return who writes a line of that level, None when nobody does."""
        own, pipelines = _own.get(), self._pipelines
        pipeline = own if own in pipelines else next(iter(pipelines), None)
        return pipeline if pipeline is not None and level >= pipeline.level else None

    def _capture(self, logger: str | None, method: str, fields: MutableMapping[str, Any]) -> NoReturn:
        level = _LEVELS.get(method, method)
        pipeline = self._pipeline(_NUMBERS.get(level.upper(), logging.CRITICAL))
        if pipeline is not None:
            if logger is not None:
                fields["logger"] = logger
            event, error = str(fields.pop("event", "")), _error(fields.pop("exc_info", None))
            pipeline.log(level, event, fields, error)
        raise structlog.DropEvent


def _error(exc_info: Any) -> BaseException | None:
    """Return the exception that `exc_info` means: itself, a tuple as of sys.exc_info, or True for the present one."""
    if exc_info is True:
        return sys.exc_info()[1]
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    return error if isinstance(error, BaseException) else None
