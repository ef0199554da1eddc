"""Extremes: the least and the most that each field of a message or record may hold."""

from __future__ import annotations

import msgspec
from msgspec import inspect

from protocol.ids import PeerId
from protocol.messages import Ping
from protocol.wire import dumps, encode_message
from tests.vectors import samples

INT_MAX = 2**63 - 1
TEXT = 'Ähre "1"\n\\ № 漢字 🐟 e\u0301 '  # bytes, UTF-16 units and characters differ in number
TEXT_CHARS_MAX = 80  # enough to tell characters from bytes, and the files stay readable

# A text of each pattern in use: the least and the most.
PATTERNS = {
    r"\A[A-Za-z0-9_-]{1,64}\Z": ("1", "z" * 64),
    r"\A[a-z2-7]{32}\Z": ("2" * 32, "z" * 32),
    r"\A[0-9a-f]{64}\Z": ("0" * 64, "f" * 64),
    r"\A([0-9a-f]{64})?\Z": ("", "f" * 64),
}
# Fields of bytes that are something inside: what stands there, and whether it may be empty.
INSIDE: dict[str, tuple[bytes, bool]] = {
    "Hello.certificate": (samples.SEALED_CERTIFICATE, False),
    "JoinAnswer.certificate": (samples.GUEST.certificate, True),
    "Rumours.records": (samples.SEALED_ADVERT, False),
    "SyncRecords.records": (samples.SEALED_SPEC, False),
    "JobSync.spec": (samples.SEALED_SPEC, True),
    "JobSync.control": (samples.SEALED_CONTROL, True),
    "SlotState.assignment": (samples.SEALED_ASSIGNMENT, True),
    "SlotState.acceptance": (samples.SEALED_ACCEPTANCE, True),
    "ResultReport.acceptance": (samples.SEALED_ACCEPTANCE, True),
    "Award.assignments": (samples.SEALED_ASSIGNMENT, False),
    "Award.spec": (samples.SEALED_SPEC, True),
    "Award.control": (samples.SEALED_CONTROL, True),
    "Renewal.assignment": (samples.SEALED_ASSIGNMENT, True),
    "ResultOffer.result": (samples.SEALED_RESULT, False),
    "ResultOffer.assignment": (samples.SEALED_ASSIGNMENT, True),
    "ControlRequest.control": (samples.SEALED_CONTROL, False),
    "Relayed.letter": (samples.SEALED_LETTER, False),
    "Relayed.certificate": (samples.SEALED_CERTIFICATE, True),
    "Letter.frame": (encode_message(Ping(9)), False),
    "JobReport.views": (dumps({"id": "", "naïve": [True, None, -1]}), False),
    "Spec.body": (samples.OPS.encode(), False),
    "Derived.source": (samples.SEALED_SCHEDULE, False),
    "Acceptance.result": (samples.SEALED_RESULT, True),
}


def least(kind: type[msgspec.Struct]) -> msgspec.Struct:
    """Every number, text and list at its smallest; what has a default too."""
    return _struct(kind, most=False)


def most(kind: type[msgspec.Struct]) -> msgspec.Struct:
    """Every number at its largest; lists of two; text that is not ASCII."""
    return _struct(kind, most=True)


def _struct(kind: type[msgspec.Struct], most: bool) -> msgspec.Struct:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    place = kind.__name__
    return kind(
        **{field.name: _value(field.type, f"{place}.{field.name}", most) for field in info.fields}
    )


def _value(info: object, place: str, most: bool) -> object:
    match info:
        case inspect.IntType():
            assert info.ge is not None, f"{place} has no lower bound"
            last = info.le if info.lt is None else info.lt - 1
            assert last is not None and last <= INT_MAX, f"{place} has no upper bound"
            return last if most else info.ge
        case inspect.BoolType():
            return most
        case inspect.StrType():
            return _text(info, place, most)
        case inspect.BytesType():
            return _bytes(info, place, most)
        case inspect.VarTupleType():
            return (_value(info.item_type, place, most),) * 2 if most else ()
        case inspect.TupleType():
            return tuple(_value(item, place, most) for item in info.item_types)
        case inspect.DictType():
            assert info.max_length is not None, f"{place} has no bound"
            return {"z": "", "ä": TEXT, "aa": "", "": "empty"} if most else {}
        case inspect.UnionType(types=(inspect.StructType(cls=inside), *_)):
            return _struct(inside, most) if most else None
        case inspect.UnionType(types=(inspect.StrType(pattern=str()) as inside, *_)):
            return _text(inside, place, most) if most else None
        case inspect.UnionType():
            return PeerId("z" * 64) if most else None
        case inspect.StructType():
            return _struct(info.cls, most)
        case _:
            raise TypeError(f"{place}: {info}")


def _text(info: inspect.StrType, place: str, most: bool) -> str:
    if info.pattern is not None:
        return PATTERNS[info.pattern][most]
    assert info.max_length is not None, f"{place} has no bound"
    if not most:
        return "x" * (info.min_length or 0)
    length = min(info.max_length, TEXT_CHARS_MAX)
    return (TEXT * (length // len(TEXT) + 1))[:length]


def _bytes(info: inspect.BytesType, place: str, most: bool) -> bytes:
    if place in INSIDE:
        inside, may_be_empty = INSIDE[place]
        return inside if most or not may_be_empty else b""
    if not most:
        return b""
    return bytes(range(256))[-min(info.max_length or 40, 40) :]


def edges(kind: type[msgspec.Struct]) -> list[tuple[int, object]]:
    """(field's index, value) on and just over each bound that the struct states, as plain values.

    Text is of characters of four bytes, where counting characters and counting bytes agree.
    """
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    found: list[tuple[int, object]] = []
    for index, field in enumerate(info.fields):
        match field.type:
            case inspect.IntType(ge=int() as low, le=int() as high):
                found += [(index, value) for value in (low - 1, low, high, high + 1)]
            case inspect.IntType(ge=int() as low, lt=int() as high):
                found += [(index, value) for value in (low - 1, low, high - 1, high)]
            case inspect.StrType(max_length=int() as length, min_length=shortest):
                found += [(index, "🐟" * length), (index, "🐟" * (length + 1))]
                found.append((index, "x" * max(0, (shortest or 0) - 1)))
            case inspect.StrType(pattern=str() as pattern):
                most = PATTERNS[pattern][1]
                found += [(index, text) for text in (most, most + "z", most + "\n", "", "..", "é")]
            case inspect.BytesType(max_length=int() as length) if (
                f"{kind.__name__}.{field.name}" not in INSIDE
            ):
                found += [(index, bytes(length)), (index, bytes(length + 1))]
            case inspect.VarTupleType(item_type=item, max_length=int() as length):
                value = _value(item, field.name, most=True)
                found += [(index, [value] * length), (index, [value] * (length + 1))]
            case inspect.DictType(max_length=int() as length):
                labels = {f"k{number:03}": "v" for number in range(length + 1)}
                found += [(index, labels), (index, dict(list(labels.items())[:length]))]
                found += [(index, {"🐟" * 256: "🐟" * 256}), (index, {"k": "🐟" * 257})]
                found.append((index, {"🐟" * 257: "v"}))
    return found
