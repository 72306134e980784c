from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from covey.context import Context, Trace, active, current, new_context, use
from covey.telemetry.tracing import Span, Tracer


def recorded(tracer: Tracer) -> dict[str, Span]:
    return {span.name: span for span in tracer.recent}


def test_spans_nest_as_their_blocks_do() -> None:
    tracer = Tracer()
    request = new_context()

    with use(request), tracer.span("transaction", "client"):
        inside = current().trace
        with tracer.span("publish", "producer"):
            pass

    outer, inner = recorded(tracer)["transaction"], recorded(tracer)["publish"]
    assert outer.trace_id == inner.trace_id == request.trace.trace_id
    assert outer.parent_id == request.trace.span_id
    assert outer.span_id == inside.span_id
    assert inner.parent_id == outer.span_id
    assert outer.start_ns <= inner.start_ns <= inner.end_ns <= outer.end_ns


def test_what_was_current_is_current_again_after_a_span() -> None:
    tracer = Tracer()
    request = Context("given-by-the-caller", Trace(1, 2))

    with use(request):
        with pytest.raises(RuntimeError), tracer.span("work"):
            raise RuntimeError
        assert active() is request

    assert active() is None


def test_a_span_keeps_correlation_id_and_deadline_for_what_it_calls() -> None:
    request = Context("given-by-the-caller", Trace(1, 2), principal="ann")

    with use(request), Tracer().span("work"):
        assert (current().correlation_id, current().principal) == ("given-by-the-caller", "ann")


def test_a_span_outside_of_everything_is_a_root() -> None:
    tracer = Tracer()

    with tracer.span("tick"):
        pass

    assert recorded(tracer)["tick"].parent_id == 0


def test_an_exception_marks_its_span_by_type_and_never_by_its_text() -> None:
    tracer = Tracer()

    with pytest.raises(ValueError), tracer.span("work"):
        raise ValueError("password=hunter2")

    assert recorded(tracer)["work"].error == "ValueError"
    assert "hunter2" not in repr(tracer.recent)


def test_cancellation_is_no_failure() -> None:
    tracer = Tracer()

    with pytest.raises(asyncio.CancelledError), tracer.span("work"):
        raise asyncio.CancelledError

    assert recorded(tracer)["work"].error is None


def test_a_block_can_add_what_it_learns_and_fail_without_raising() -> None:
    tracer = Tracer()

    with tracer.span("handle", "consumer", {"messaging.system": "nats"}) as span:
        span.set("covey.attempt", 3)
        span.fail("dead")

    handled = recorded(tracer)["handle"]
    assert handled.attributes == {"messaging.system": "nats", "covey.attempt": 3}
    assert handled.error == "dead"


def test_a_trace_that_the_caller_did_not_sample_is_not_recorded() -> None:
    tracer = Tracer()

    with use(new_context(traceparent=f"00-{1:032x}-{2:016x}-00")), tracer.span("work"):
        pass

    assert not tracer.recent


def test_without_a_collector_only_the_last_spans_are_kept() -> None:
    tracer = Tracer(keep=10)

    for number in range(25):
        with tracer.span(f"span {number}"):
            pass

    assert [span.name for span in tracer.recent] == [f"span {number}" for number in range(15, 25)]


COPY = """
import os
from covey.context import new_trace_id
if os.fork():
    os.wait()
print(new_trace_id(), flush=True)
"""


def test_a_copy_of_a_process_draws_other_ids_than_its_original() -> None:
    printed = subprocess.run([sys.executable, "-c", COPY], check=True, capture_output=True, text=True).stdout.split()

    assert len(set(printed)) == 2
