"""Packets: what they hold, and that whatever comes is read in no time or acknowledged."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.mqtt.packet import HEAD_BYTES, Head, Packet, UnreadableError, read

QOS_1 = 0x32


def body(topic: bytes, properties: bytes, payload: bytes, packet_id: int = 7) -> bytes:
    return (
        len(topic).to_bytes(2, "big") + topic + packet_id.to_bytes(2, "big") + properties + payload
    )


def taken(data: bytes, v5: bool = True, command: int = QOS_1) -> Packet:
    return read(command, data, len(data), v5)


def test_it_holds_what_another_client_wrote() -> None:
    written = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    written.PayloadFormatIndicator = 1
    written.MessageExpiryInterval = 60
    written.UserProperty = [("id", "x\ufeffy"), ("a", "b")]
    written.CorrelationData = b"\0c"
    written.ResponseTopic = "answers"
    written.ContentType = "application/json"
    written.SubscriptionIdentifier = [1, 268_435_455]
    packed = bytes(written.pack())  # type: ignore[no-untyped-call]
    assert taken(body("ä/b".encode(), packed, b"{}"), command=0x3B) == Packet(
        topic="ä/b",
        payload=b"{}",
        qos=1,
        retain=True,
        dup=True,
        packet_id=7,
        identifiers=(1, 268_435_455),
        user_properties=(("id", "x\ufeffy"), ("a", "b")),
        correlation=b"\0c",
        response_topic="answers",
        content_type="application/json",
    )


def test_without_acknowledgement_there_is_no_number() -> None:
    packet = read(0x30, b"\0\1ahello", 8, False)
    assert (packet.topic, packet.payload, packet.qos, packet.packet_id) == ("a", b"hello", 0, 0)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (body(b"\xff", b"\0", b""), "no UTF-8"),
        (body(b"a\0", b"\0", b""), "a zero"),
        (body(b"", b"\0", b""), "no topic"),
        (body(b"a", b"\x05\x26\0\1a\0", b""), "ends in the middle|longer than"),
        (body(b"a", b"\x02\x7f\0", b""), "property 127"),
        (body(b"a", b"\xff\xff\xff\xff\1", b""), "more than four bytes"),
        (body(b"a", b"\xff\xff\x7f", b"x" * 4_000_000), "properties of 2097151 bytes"),
        (body(b"a", b"\x09\x03\0\1\xff", b"longer than that"), "longer than|no UTF-8"),
    ],
)
def test_what_is_none_is_acknowledged(data: bytes, says: str) -> None:
    with pytest.raises(UnreadableError, match=says) as caught:
        taken(data)
    assert caught.value.packet_id == 7


def head_of(data: bytes) -> bytes:
    head = Head()
    for at in range(0, len(data), 1_000_000):
        head += data[at : at + 1_000_000]
    assert len(head) == HEAD_BYTES
    return bytes(head)


def test_of_a_long_one_all_but_the_payload_is_known() -> None:
    data = body(b"t" * 65_535, b"", b"x" * 3_000_000)
    packet = read(QOS_1, head_of(data), len(data), False)
    assert (len(packet.topic), packet.packet_id, packet.payload) == (65_535, 7, b"")
    assert packet.left_out_bytes == 3_000_000
    data = body(b"a", b"\x05\x08\0\2re", b"x" * 3_000_000)
    packet = read(QOS_1, head_of(data), len(data), True)
    assert (packet.topic, packet.response_topic, packet.left_out_bytes) == ("a", "re", 3_000_000)


def test_a_long_one_whose_properties_are_cut_off_is_acknowledged() -> None:
    many = b"\x26\0\0\0\0" * 13_000
    length = bytes([len(many) & 127 | 128, len(many) >> 7 & 127 | 128, len(many) >> 14])
    data = body(b"t" * 5_000, length + many, b"x" * 3_000_000)
    with pytest.raises(UnreadableError, match=f"a packet of {len(data)} bytes") as caught:
        read(QOS_1, head_of(data), len(data), True)
    assert caught.value.packet_id == 7


def test_many_properties_take_no_time() -> None:
    """Paho copies all that is behind a property with each: seconds for one message."""
    many = b"\x26\0\0\0\0" * 13_000
    length = bytes([len(many) & 127 | 128, len(many) >> 7 & 127 | 128, len(many) >> 14])
    began = time.process_time()
    assert len(taken(body(b"a", length + many, b"x" * 2_000_000)).user_properties) == 13_000
    assert time.process_time() - began < 1


@given(st.binary(max_size=80), st.booleans(), st.sampled_from([0x30, 0x32, 0x3D]))
def test_whatever_comes_is_a_packet_or_none(data: bytes, v5: bool, command: int) -> None:
    try:
        assert taken(data, v5, command).topic
    except UnreadableError as error:
        assert str(error)


def test_its_size_is_what_is_kept_of_it() -> None:
    assert Packet("ab", b"xyz", 1, False, False, 1).size_bytes == 5
    whole = Packet(
        "ab", b"", 1, False, False, 1, (), (("k", "v"), ("id", "7")), b"cc", "r", "t/p", 1 << 20
    )
    assert whole.size_bytes == 2 + 5 + 2 + 1 + 3
