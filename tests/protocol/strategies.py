"""Strategies: hypothesis values of everything that goes over the wire, within its bounds."""

from __future__ import annotations

from typing import get_args

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from protocol.messages import Message
from protocol.records import Record

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.text(max_size=30)
    | st.binary(max_size=30)
)
# As deep as the scan lets through: eight levels, the scalar within the last.
PLAIN: st.SearchStrategy[object] = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def message_frames() -> st.SearchStrategy[Message]:
    return st.sampled_from(get_args(Message)).flatmap(structs)


def records() -> st.SearchStrategy[msgspec.Struct]:
    return st.sampled_from(get_args(Record)).flatmap(structs)


def structs(kind: type[msgspec.Struct]) -> st.SearchStrategy[msgspec.Struct]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return st.builds(kind, **{field.name: _values(field.type) for field in info.fields})


def _values(info: object) -> st.SearchStrategy[object]:
    match info:
        case inspect.IntType():
            return st.integers(info.ge, info.le if info.lt is None else info.lt - 1)
        case inspect.BoolType():
            return st.booleans()
        case inspect.StrType(pattern=str() as pattern):
            return st.from_regex(pattern)
        case inspect.StrType():
            return st.text(min_size=info.min_length or 0, max_size=min(info.max_length or 40, 40))
        case inspect.BytesType():
            return st.binary(max_size=min(info.max_length or 40, 40))
        case inspect.VarTupleType():
            return st.lists(_values(info.item_type), max_size=3).map(tuple)
        case inspect.TupleType():
            return st.tuples(*(_values(item) for item in info.item_types))
        case inspect.DictType():
            return st.dictionaries(_values(info.key_type), _values(info.value_type), max_size=3)
        case inspect.UnionType():
            return st.one_of(*(_values(item) for item in info.types))
        case inspect.NoneType():
            return st.none()
        case inspect.StructType():
            return structs(info.cls)
        case _:
            raise TypeError(info)
