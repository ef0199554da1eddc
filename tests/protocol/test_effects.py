"""effects: one union of values, and the tables that a save may write to."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from protocol import effects
from protocol.effects import BUCKETS, Bucket, Effect, Reply, Save, Tell

DEFINED = [
    value
    for value in vars(effects).values()
    if dataclasses.is_dataclass(value) and getattr(value, "__module__", "") == effects.__name__
]


def test_every_effect_is_in_the_union() -> None:
    assert list(get_args(Effect)) == DEFINED


@pytest.mark.parametrize("kind", get_args(Effect))
def test_an_effect_is_a_value(kind: type) -> None:
    assert "__slots__" in vars(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_the_buckets_are_those_of_the_type() -> None:
    assert get_args(Bucket) == BUCKETS
    assert len(set(BUCKETS)) == len(BUCKETS)


def test_a_save_of_nothing_deletes() -> None:
    (row,) = Save((("meta", "key", None),)).rows
    assert row == ("meta", "key", None)


def test_two_effects_do_not_share_what_they_carry() -> None:
    assert Reply(1).value is not Reply(1).value
    assert Tell("a.b", "c").fields is not Tell("a.b", "c").fields
