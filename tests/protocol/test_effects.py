"""effects: one union of values, and the tables that a save may write to."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import get_args

import pytest

from protocol import effects
from protocol.effects import BUCKETS, Bucket, Effect, Reply, Save, StopTask, Tell, one_save
from protocol.ids import ExecutionId

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


def test_no_bucket_has_two_owners() -> None:
    """One would find the other's rows, and call them unreadable or its own."""
    root = Path(__file__).parents[2]
    owners: dict[str, list[str]] = {}
    for path in sorted([*root.glob("protocol/**/*.py"), *root.glob("agent/**/*.py")]):
        for name in re.findall(r"^BUCKET: .* = \"([a-z]+)\"$", path.read_text(), re.MULTILINE):
            owners.setdefault(name, []).append(str(path.relative_to(root)))
    assert len(owners) > 4 and owners.keys() <= {*BUCKETS, "bucket"}
    assert [each for each in owners.values() if len(each) > 1] == []


def test_a_save_of_nothing_deletes() -> None:
    (row,) = Save((("meta", "key", None),)).rows
    assert row == ("meta", "key", None)


def test_two_effects_do_not_share_what_they_carry() -> None:
    assert Reply(1).value is not Reply(1).value
    assert Tell("a.b", "c").fields is not Tell("a.b", "c").fields


ONE, TWO, THREE = (("meta", key, key.encode()) for key in ("one", "two", "three"))
STOP = StopTask(ExecutionId("e"), "")


def test_one_event_is_one_save_before_all_that_waits_for_any() -> None:
    tell = Tell("kind", "text")
    effects: list[Effect] = [tell, Save((ONE,)), STOP, Save((TWO,)), tell]
    assert one_save(effects) == [tell, Save((ONE, TWO)), STOP, tell]


def test_lazy_rows_go_along_in_their_order() -> None:
    effects: list[Effect] = [Save((ONE,), lazy=True), STOP, Save((TWO,)), Save((THREE,), lazy=True)]
    assert one_save(effects) == [Save((ONE, TWO, THREE)), STOP]


@pytest.mark.parametrize(
    "effects",
    [[], [STOP], [STOP, Save((ONE,)), STOP], [Save((ONE,), lazy=True), Save((TWO,), lazy=True)]],
)
def test_what_has_no_second_save_stays_as_it_is(effects: list[Effect]) -> None:
    assert one_save(effects) == effects
