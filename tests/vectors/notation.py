"""Notation: messages and records as the JSON of a vector file, and back.

A struct is an object in the order of its fields, byte strings are hex digits, the rest is JSON's
own. Which text is hex and which object is a struct, the type says (here msgspec's, else wire.cddl).
"""

from __future__ import annotations

import msgspec
from msgspec import inspect


def to_fields(value: object) -> object:
    match value:
        case msgspec.Struct():
            return {name: to_fields(getattr(value, name)) for name in value.__struct_fields__}
        case bytes():
            return value.hex()
        case tuple():
            return [to_fields(item) for item in value]
        case dict():
            return {key: to_fields(item) for key, item in value.items()}
        case bool() | str() | None:
            return value
        case int():
            return int(value)  # an enum's member as its number
        case _:
            raise TypeError(f"{type(value)} has no notation")


def from_fields(kind: type[msgspec.Struct], fields: object) -> msgspec.Struct:
    return _build(inspect.type_info(kind), fields)  # type: ignore[no-any-return]


def _build(info: object, value: object) -> object:
    match info:
        case inspect.StructType(cls, fields):
            assert isinstance(value, dict)
            return cls(**{field.name: _build(field.type, value[field.name]) for field in fields})
        case inspect.BytesType():
            assert isinstance(value, str)
            return bytes.fromhex(value)
        case inspect.VarTupleType(item):
            assert isinstance(value, list)
            return tuple(_build(item, each) for each in value)
        case inspect.TupleType(items):
            assert isinstance(value, list)
            return tuple(_build(item, each) for item, each in zip(items, value, strict=True))
        case inspect.UnionType(types):
            some = [each for each in types if not isinstance(each, inspect.NoneType)]
            assert len(some) == 1, "a union of more than one type and null has no notation"
            return None if value is None else _build(some[0], value)
        case _:
            return value
