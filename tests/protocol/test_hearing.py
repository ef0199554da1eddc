"""Hearing: who is deaf for long enough says so, and who hears for long enough no longer."""

from __future__ import annotations

import pytest

from protocol.clock import NEVER
from protocol.config import TriggersConfig
from protocol.hearing import DEAF_LABEL, TEMPLATES_MAX, Hearing, hears
from protocol.ids import JobId

LOOK, PEEK = JobId("l" * 32), JobId("p" * 32)


def hearing() -> Hearing:
    return Hearing(TriggersConfig(deaf_s=30.0))


def test_a_broker_that_is_away_for_a_moment_is_nobodys_business() -> None:
    ears = hearing()
    ears.on_broker("home", False, 0.0)
    ears.on_broker("home", True, 29.0)
    ears.on_deadline(60.0)
    assert ears.label() == {} and ears.deadline == NEVER


def test_it_is_told_after_half_a_minute_and_taken_back_after_another() -> None:
    ears = hearing()
    ears.on_broker("home", False, 0.0)
    ears.on_broker("home", False, 20.0)  # it is tried again and again
    assert ears.deadline == 30.0
    ears.on_deadline(30.0)
    assert ears.label() == {DEAF_LABEL: "home"} and ears.deadline == NEVER
    assert not hears(ears.label(), "home", LOOK) and hears(ears.label(), "hom", LOOK)
    ears.on_broker("home", True, 50.0)
    ears.on_broker("home", False, 70.0)
    ears.on_broker("home", True, 75.0)
    ears.on_deadline(104.0)
    assert ears.label() and ears.deadline == 105.0
    ears.on_deadline(105.0)
    assert ears.label() == {} and hears(ears.label(), "home", LOOK)


def test_a_topic_that_is_denied_is_one_templates_alone() -> None:
    ears = hearing()
    ears.on_topic(LOOK, "home", False, 0.0)
    ears.on_topic(PEEK, "home", True, 0.0)
    ears.on_deadline(30.0)
    assert not hears(ears.label(), "home", LOOK) and hears(ears.label(), "home", PEEK)
    ears.keep([PEEK])
    assert ears.label() == {}


@pytest.mark.parametrize("count", [TEMPLATES_MAX, TEMPLATES_MAX + 1, 5000])
def test_where_many_are_denied_the_broker_is_named(count: int) -> None:
    ears = hearing()
    templates = [JobId(f"{number:032}"[::-1]) for number in range(count)]
    for template in templates:
        ears.on_topic(template, "home", False, 0.0)
    ears.on_deadline(30.0)
    label = ears.label()
    assert len(label[DEAF_LABEL]) <= 256
    assert not any(hears(label, "home", template) for template in templates)
    assert hears(label, "home", LOOK) is (count <= TEMPLATES_MAX)


def test_a_broker_without_a_connection_stands_for_all_its_topics() -> None:
    ears = hearing()
    ears.on_broker("home", False, 0.0)
    ears.on_topic(LOOK, "home", False, 0.0)
    ears.on_deadline(30.0)
    assert ears.label() == {DEAF_LABEL: "home"}
