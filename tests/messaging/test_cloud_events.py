from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey.errors import Invalid, Unreadable
from covey.message import Envelope
from covey.messaging.cloud_events import from_headers, to_headers
from covey.testing.broker_contract import event

offsets = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))  # as RFC 3339 has it
envelopes = st.builds(
    Envelope,
    id=st.uuids(),
    type=st.text(),
    key=st.text(),
    source=st.text(),
    time=st.datetimes(timezones=offsets | st.just(UTC)),
    body=st.binary(),
    kind=st.sampled_from(["event", "command", "reply"]),
    stream=st.text(),
    headers=st.dictionaries(st.text() | st.sampled_from(["ce-id", "Ce-Id", "ce-", "nats-x", "NATS-X", "%"]), st.text()),
)


@given(envelopes)
def test_any_envelope_becomes_headers_and_back(envelope: Envelope) -> None:
    headers = to_headers(envelope)

    assert from_headers(headers, envelope.body, envelope.kind, envelope.stream) == envelope


@given(envelopes)
def test_headers_are_tokens_and_printable_ascii_without_blanks(envelope: Envelope) -> None:
    for name, value in to_headers(envelope).items():
        assert re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name)
        assert re.fullmatch(r"[!-~]*", value)


def test_the_headers_are_those_of_a_cloud_event() -> None:
    envelope = Envelope(
        id=event().id,
        type="order.placed.v1",
        key="order 7",
        source="order",
        time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        body=b"{}",
        headers={"traceparent": "00-1-2-01"},
    )

    assert to_headers(envelope) == {
        "ce-specversion": "1.0",
        "ce-id": str(envelope.id),
        "ce-type": "order.placed.v1",
        "ce-source": "order",
        "ce-subject": "order%207",
        "ce-time": "2026-01-02T03:04:05+00:00",
        "traceparent": "00-1-2-01",
    }


@pytest.mark.parametrize("name", ["ce-id", "CE-ID", "ce-whatever", "nats-msg-id", "Nats-Expected-Stream"])
def test_a_header_never_passes_for_an_attribute_or_an_instruction_to_the_server(name: str) -> None:
    envelope = event()
    envelope.headers[name] = "mine"

    assert to_headers(envelope).get(name, "") in ("", str(envelope.id))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"ce-id": None}, "ce-id"),
        ({"ce-type": None}, "ce-type"),
        ({"ce-source": None}, "ce-source"),
        ({"ce-time": None}, "ce-time"),
        ({"ce-id": "17"}, "UUID"),
        ({"ce-time": "yesterday"}, "yesterday"),
        ({"ce-time": "2026-01-02T03:04:05"}, "offset"),
        ({"ce-subject": "%ff"}, "utf-8"),
        ({"%ff": "x"}, "utf-8"),
    ],
)
def test_a_malformed_message_is_unreadable_and_says_why(wrong: dict[str, str | None], reason: str) -> None:
    headers = {name: value for name, value in {**to_headers(event()), **wrong}.items() if value is not None}

    with pytest.raises(Unreadable, match=reason):
        from_headers(headers, b"", "event", "order")


def test_a_message_from_elsewhere_without_a_subject_has_a_key_of_its_own() -> None:
    headers = to_headers(event())
    del headers["ce-subject"]

    assert from_headers(headers, b"", "event", "order").key == headers["ce-id"]


def test_foreign_attributes_are_kept_and_those_of_the_server_are_not() -> None:
    headers = to_headers(event()) | {"ce-dataschema": "urn:x", "Nats-Batch-Id": "1"}

    found = from_headers(headers, b"", "event", "order").headers

    assert found["ce-dataschema"] == "urn:x"
    assert "Nats-Batch-Id" not in found


def test_text_that_has_no_utf_8_form_is_refused() -> None:
    envelope = event(key="\ud800")

    with pytest.raises(Invalid):
        to_headers(envelope)
