"""Payloads: JSON, CBOR, text, and what is none of them."""

from __future__ import annotations

import json

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.mqtt.payload import ITEMS_MAX, PayloadError, value_of

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("payload", "value"),
    [
        (b'{"state": "ON"}', {"state": "ON"}),
        (b"21.5", 21.5),
        (b"ON", "ON"),
        (b"", ""),
        (b"on the way", "on the way"),
        ("grüß".encode(), "grüß"),
        (b"true", True),
        (b"\xa1ctempx", None),
        (b"\xa1\x61t\xf9\x4d\x60", {"t": 21.5}),
        (b"\xbf\x61t\x18\x2a\xff", {"t": 42}),
        (b"\x9f\x81\x01\xff", [[1]]),
    ],
)
def test_what_a_payload_is(payload: bytes, value: object) -> None:
    if value is None:
        with pytest.raises(PayloadError):
            value_of(payload)
    else:
        assert value_of(payload) == value


@given(PLAIN)
def test_cbor_is_read_as_it_was_written(value: object) -> None:
    assert value_of(cbor2.dumps(value), "application/cbor") == value


@given(st.binary(max_size=200), st.sampled_from(["", "application/json", "application/cbor"]))
def test_whatever_comes_is_a_value_or_a_sentence(payload: bytes, content_type: str) -> None:
    try:
        value_of(payload, content_type)
    except PayloadError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b'{"state": "ON"', "invalid JSON"),
        (b"[1, NaN]", "NaN is no number"),
        (b"[" * 30_000, "or deeper than"),
        (b"[" + b"9" * 9_000 + b"]", "invalid JSON"),
        (b"\xff\xff", "neither JSON nor CBOR"),
        (b"\x81" * 100, "deeper than 32"),
        (b"\xa1\xd8", "CBOR"),
        (b"\xd9\xd9\xf7\x80", "without tags"),
        (b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff", "more than 8192 items"),
        (b"\xa2\x61a", "ends in the middle"),
        (b"\x80\xff", "follows the end"),
    ],
)
def test_what_cannot_be_read_is_said(payload: bytes, says: str) -> None:
    with pytest.raises(PayloadError, match=says):
        value_of(payload)


def test_what_is_said_to_be_json_is_no_text() -> None:
    with pytest.raises(PayloadError, match="invalid JSON"):
        value_of(b"ON", "application/json; charset=utf-8")


@pytest.mark.parametrize(
    "text",
    ["[" + "1," * ITEMS_MAX + "1]", "[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900],
)
def test_json_is_bounded_as_cbor_is(text: str) -> None:
    with pytest.raises(PayloadError, match=f"more than {ITEMS_MAX} items, or deeper than"):
        value_of(text.encode())


def test_commas_in_a_text_are_no_items() -> None:
    assert value_of(json.dumps({"csv": "1," * 9000}).encode()) == {"csv": "1," * 9000}
    assert len(value_of(("[" + "1," * (ITEMS_MAX - 2) + "1]").encode())) == ITEMS_MAX - 1
