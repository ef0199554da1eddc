"""Payloads as values: what a JMESPath expression sees of a message.

JSON, CBOR (RFC 8949), or text, which counts as a string: many a switch says no more than `ON`.
It comes from anybody who may publish: CBOR is looked through before its decoder sees it.
"""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

import cbor2

DEPTH_MAX: Final = 32
ITEMS_MAX: Final = 8192
_TOO_MUCH_JSON: Final = f"JSON of more than {ITEMS_MAX} items, or deeper than {DEPTH_MAX}"
_BREAK: Final = 0xFF
_NOTHING: Final = 0  # an indefinite length has no count


class PayloadError(Exception):
    """No value can be made of it; a sentence."""


def value_of(payload: bytes, content_type: str = "") -> Any:
    """The value; `content_type` of MQTT 5 says which form is meant, where there is one.

    Raises PayloadError.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/cbor" or kind.endswith("+cbor"):
        return _cbor(payload)
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return _cbor(payload)
    meant = kind == "application/json" or kind.endswith("+json")
    if meant or text.lstrip()[:1] in ("{", "[", '"'):
        return _json(text)
    try:
        return _json(text)
    except PayloadError:
        return text


def _json(text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise PayloadError(_TOO_MUCH_JSON) from None
    except ValueError as error:  # also a number of more digits than Python reads
        raise PayloadError(f"invalid JSON: {error}") from None
    opened = text.count("[") + text.count("{")
    if opened > DEPTH_MAX or opened + text.count(",") + text.count(":") >= ITEMS_MAX:
        _count(value)  # those in texts do not count
    return value


def _count(value: Any) -> None:
    """Raises PayloadError for what holds too much, or is nested too deep."""
    level, items, depth = [value], 1, 0
    while level and items <= ITEMS_MAX and depth <= DEPTH_MAX:
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += each.values()
                items += len(each)  # its names
            elif isinstance(each, list):
                inner += each
        items += len(inner)
        level, depth = inner, depth + 1
    if items > ITEMS_MAX or depth > DEPTH_MAX:
        raise PayloadError(_TOO_MUCH_JSON)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _cbor(payload: bytes) -> Any:
    """Without tags: they make cycles, regular expressions and large numbers of a few bytes."""
    try:
        end = _scan(payload, 0, 0, [0])
    except IndexError:
        raise PayloadError("invalid CBOR: it ends in the middle") from None
    if end != len(payload):
        raise PayloadError("neither JSON nor CBOR: something follows the end of the CBOR")
    try:
        return cbor2.loads(payload)
    except Exception as error:  # a key that is a list, text that is no UTF-8
        raise PayloadError(f"invalid CBOR: {error}") from None


def _scan(data: bytes, at: int, depth: int, items: list[int]) -> int:
    """Where the item at `at` ends. Raises IndexError where the data does so before."""
    items[0] += 1
    if depth > DEPTH_MAX or items[0] > ITEMS_MAX:
        raise PayloadError(f"CBOR of more than {ITEMS_MAX} items, or deeper than {DEPTH_MAX}")
    major, low = data[at] >> 5, data[at] & 31
    at += 1
    if 28 <= low <= 30 or major == 6 or (low == 31 and major not in (2, 3, 4, 5)):
        raise PayloadError("neither JSON nor CBOR without tags")
    if major == 7:
        at += 0 if low < 24 else 1 << (low - 24)
        return _within(data, at)
    argument, at = (_NOTHING, at) if low == 31 else _argument(data, at, low)
    if major in (0, 1):
        return at
    if low == 31:
        while data[at] != _BREAK:
            for _ in range(2 if major == 5 else 1):
                at = _scan(data, at, depth + 1, items)
        return at + 1
    if major in (2, 3):
        return _within(data, at + argument)
    if argument > ITEMS_MAX:
        raise PayloadError(f"CBOR of more than {ITEMS_MAX} items")
    for _ in range(argument * (2 if major == 5 else 1)):
        at = _scan(data, at, depth + 1, items)
    return at


def _argument(data: bytes, at: int, low: int) -> tuple[int, int]:
    if low < 24:
        return low, at
    end = _within(data, at + (1 << (low - 24)))
    return int.from_bytes(data[at:end], "big"), end


def _within(data: bytes, end: int) -> int:
    if end > len(data):
        raise IndexError
    return end
