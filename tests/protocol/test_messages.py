"""messages: their numbers, what may overtake a save, and what no peer may say."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given

from protocol.errors import RemoteProtocolError
from protocol.messages import (
    OVERTAKING,
    Accepted,
    Ack,
    Award,
    Bid,
    Facts,
    Hello,
    JobSync,
    JobSyncAck,
    LogRequest,
    Message,
    Ping,
    Refusal,
    ResultAck,
    ResultOffer,
)
from protocol.wire import FRAME_BYTES_MAX, decode_as, decode_message, dumps, encode_message
from tests.protocol.strategies import message_frames

JOB = "2" * 32
FENCE = [1, "a", 1]


def test_a_ping_is_three_bytes() -> None:
    """It is sent most often of all: a kind below 24 and a small number take one byte each."""
    assert encode_message(Ping(7)) == b"\x82\x01\x07"
    assert decode_message(b"\x82\x02\x07") == Ack(7)


@given(message_frames())
def test_messages_are_values(message: Message) -> None:
    assert hash(message) == hash(msgspec.structs.replace(message))
    with pytest.raises(AttributeError):
        setattr(message, message.__struct_fields__[0], None)


def test_nothing_that_claims_to_be_durable_overtakes_a_save() -> None:
    promises = (Accepted, ResultAck, JobSync, JobSyncAck, ResultOffer, Award)
    assert not [kind for kind in promises if kind in OVERTAKING]
    assert all(kind in get_args(Message) for kind in OVERTAKING)


def test_fields_at_the_end_may_be_absent_or_more() -> None:
    assert decode_message(dumps([32, 1, "busy"])) == Refusal(1, "busy", True)
    assert decode_message(dumps([32, 1, "busy", False, "later", {}])) == Refusal(1, "busy", False)
    assert decode_message(dumps([31, 1, 0, 1, 0, []])) == Bid(1, 0, 1, 0, Facts())
    with pytest.raises(RemoteProtocolError):
        decode_message(dumps([32, 1]))


@pytest.mark.parametrize(
    "fields",
    [
        [1, -1],
        [1, True],
        [1, None],
        [1, "7"],
        [1, 2**63],
        [1, [7]],
        [3, 7, ""],
        [3, 7, "p" * 65],
        [4, 7, "p", 1],  # an integer is no boolean
        [5, "not a list"],
        [5, [1]],
        [11, 0, [b"h" * 65]],
        [12, 0, [-1], []],
        [12, 0, [], [["key"]]],
        [12, 0, [], [["key", b"h", 0]]],
        [22, [["short", b"h"]]],
        [31, 1, 1001, 1, 0, []],
        [31, 1, 1, 10_001, 0, []],
        [31, 1, 1, 1, 0, [-2]],
        [31, 1, 1, 1, 0, [0, 0, 0, 0, 0, 0, 0, 101]],
        [32, 1, "r" * 1001],
        [33, 1, [], b"", b"", ["p"] * 65],
        [34, JOB, 2**48, FENCE],
        [34, JOB, 0, [1, "a", -1]],
        [34, JOB, 0, {"term": 1}],
        [50, 1, "x" * 65, 1],
    ],
)
def test_a_message_with_a_field_out_of_range_is_refused(fields: list[object]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_message(dumps(fields))


def test_the_needs_of_a_job_are_never_negative() -> None:
    """They become Resources, which assert it."""
    good = [30, 1, JOB, JOB, "default", "a", 1, ["process", 1, 1, 0, 0], 500]
    assert decode_message(dumps(good)) is not None
    for at in range(1, 5):
        needs = ["process", 1, 1, 0, 0]
        needs[at] = -1
        with pytest.raises(RemoteProtocolError):
            decode_message(dumps([*good[:7], needs, 500]))


def test_a_log_is_asked_for_by_an_execution_that_could_be() -> None:
    """The id becomes a path."""
    assert decode_as(dumps([122, JOB, "stdout", 0, -1, False]), LogRequest).tail == -1
    for execution in ("../../etc/passwd", "", JOB + "/", "/" + JOB[1:]):
        with pytest.raises(RemoteProtocolError):
            decode_as(dumps([122, execution, "stdout", 0, -1, False]), LogRequest)


def test_a_hello_has_bounds() -> None:
    with pytest.raises(RemoteProtocolError):
        decode_as(dumps([100, b"", bytes(65), "0"]), Hello)
    with pytest.raises(RemoteProtocolError):
        decode_as(dumps([100, bytes(FRAME_BYTES_MAX), b"", "0"]), Hello)
