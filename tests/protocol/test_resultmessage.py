"""Results and lines as messages: what stands in them in each form, and what is cut."""

from __future__ import annotations

import json

import pytest

from protocol.ids import JobId, PeerId, Revision
from protocol.outbox import Message
from protocol.publisher import MqttPublisher
from protocol.records import Fence, Result, Verdict
from protocol.resultmessage import (
    OUTPUT_BYTES_MAX,
    clearing_message,
    line_payload,
    result_message,
)
from protocol.wire import loads


def result(verdict: Verdict = Verdict.SUCCESS, code: int = 0) -> Result:
    return Result(
        job=JobId("j" * 32), revision=Revision("r"), slot=2, fence=Fence(1, PeerId("c"), 1),
        executor=PeerId("p"), verdict=verdict, exit_code=code, reason="why", started_ms=1,
        ended_ms=3, duration_ms=2, stdout_tail=b"", stderr_tail=b"",
    )  # fmt: skip


def message(form: str, stdout: bytes, total: int = 0, **about: int) -> Message:
    publisher = MqttPublisher(broker="home", format=form)
    return result_message(publisher, result(**about), "e", "n", "t", stdout, total, 60)  # type: ignore[arg-type]


def test_json_says_whose_result_it_is_and_how_it_ended() -> None:
    made = message("json", b"21.5 \xc2\xb0C\n", 9)
    assert json.loads(made.payload) == {
        "id": "e", "job": "j" * 32, "name": "n", "slot": 2, "peer": "p", "execution": "e",
        "outcome": "success", "exit_code": 0, "reason": "why", "started_ms": 1, "ended_ms": 3,
        "duration_ms": 2, "stdout": "21.5 °C\n", "stdout_bytes": 9, "truncated": False,
        "archive": "",
    }  # fmt: skip
    assert (made.id, made.content_type, made.expiry_s) == ("e", "application/json", 60)
    assert (made.qos, made.retain) == (1, True)
    assert made.properties == (("id", "e"), ("outcome", "success"))


def test_cbor_has_the_bytes_as_they_were_and_json_replaces_what_is_no_text() -> None:
    body = loads(message("cbor", b"\xff\x00").payload)
    assert isinstance(body, dict) and body["stdout"] == b"\xff\x00"
    assert json.loads(message("json", b"\xff\x00").payload)["stdout"] == "\ufffd\x00"


def test_raw_is_the_output_alone() -> None:
    made = message("raw", b"\xff\x00")
    assert made.payload == b"\xff\x00" and made.content_type == ""


@pytest.mark.parametrize("form", ["json", "cbor", "raw"])
def test_what_is_too_long_is_cut_and_says_so(form: str) -> None:
    made = message(form, bytes(OUTPUT_BYTES_MAX + 1), 200_000)
    assert ("truncated", "true") in made.properties
    if form == "raw":
        assert len(made.payload) == OUTPUT_BYTES_MAX
    else:
        body = json.loads(made.payload) if form == "json" else loads(made.payload)
        assert body["truncated"] is True and body["stdout_bytes"] == 200_000
        assert len(body["stdout"]) == OUTPUT_BYTES_MAX


def test_who_gave_no_exit_code_has_none() -> None:
    body = json.loads(message("json", b"", verdict=Verdict.FAULT, code=-1).payload)
    assert (body["outcome"], body["exit_code"]) == ("fault", None)


def test_a_retained_one_is_taken_back_by_an_empty_one() -> None:
    made = clearing_message("home", JobId("j"), "e", "t")
    assert (made.payload, made.retain, made.id, made.topic) == (b"", True, "e:clear", "t")


def test_a_line_is_itself_or_stands_in_a_body() -> None:
    assert line_payload("raw", {"id": "x"}, b"\xff") == b"\xff"
    assert json.loads(line_payload("json", {"id": "x"}, b"a")) == {"id": "x", "line": "a"}
    assert loads(line_payload("cbor", {"id": "x"}, b"\xff")) == {"id": "x", "line": b"\xff"}
