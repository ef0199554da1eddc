"""events: one union of values, in the past tense."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from protocol import events
from protocol.events import Booted, Event, ShutdownRequested, TaskEnded, TaskFound

DEFINED = [
    value
    for value in vars(events).values()
    if dataclasses.is_dataclass(value) and getattr(value, "__module__", "") == events.__name__
]


def test_every_event_is_in_the_union() -> None:
    assert [kind for kind in DEFINED if kind not in get_args(Event)] == [TaskFound]


@pytest.mark.parametrize("kind", get_args(Event))
def test_an_event_is_a_value_in_the_past_tense(kind: type) -> None:
    assert kind.__name__.endswith(("ed", "Heard", "Began"))
    assert "__slots__" in vars(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_what_need_not_be_said_has_a_default() -> None:
    assert Booted() == Booted(found=())
    assert ShutdownRequested().back_in_s == 0.0
    names = [field.name for field in dataclasses.fields(TaskEnded)]
    assert names[:2] == ["execution", "exit_code"]
