"""Topics: what a job asks for, what is the shoal's own, and what an owner's filters allow."""

from __future__ import annotations

import pytest

from protocol.publisher import MqttPublisher
from protocol.topics import asked_topic, is_jobs, is_shoals, topic_matches

ROOT = "shoal/home"


@pytest.mark.parametrize(
    ("topic", "asked"),
    [
        ("", ""),
        ("alarms/warm", "alarms/warm"),
        ("{Name}/{NAMESPACE}/x", "cam/lab/x"),
        ("{root}/job/{JOB}/{slot}/{Peer}", "{root}/job/{job}/{slot}/{peer}"),
    ],
)
def test_a_topic_is_filled_in_as_far_as_it_is_known(topic: str, asked: str) -> None:
    assert asked_topic(MqttPublisher(broker="home", topic=topic), "cam", "lab") == asked


@pytest.mark.parametrize(
    ("topic", "foreign"),
    [
        ("alarms/warm", False),
        ("shoal", False),
        ("shoal/other/peer/x/status", False),
        ("home/{slot}", False),
        ("shoal/home", True),
        ("shoal/home/peer/x/status", True),
        ("{root}/event", True),
        ("{root}/alarms", True),
        ("{root}/job/{job}/state", True),
        ("{root}/job/{job}/result/{slot}", False),
        ("{root}/job/{job}/log/{peer}", False),
        ("{root}/job/{job}/result", False),
        ("{root}/job/0123/result/0", True),
        ("shoal/{slot}/event", True),
        ("{peer}/{slot}/event", True),
        ("{slot}/x/event", False),
        ("x{slot}/{slot}/event", True),
    ],
)
def test_the_shoals_own_tree_is_nobodys_but_for_the_jobs_own(topic: str, foreign: bool) -> None:
    assert (is_shoals(topic, ROOT) and not is_jobs(topic, ROOT)) is foreign


@pytest.mark.parametrize(
    ("pattern", "topic", "allowed"),
    [
        ("#", "alarms/warm", True),
        ("alarms/#", "alarms/warm", True),
        ("alarms/+", "alarms/warm/x", False),
        ("alarms/+", "alarms/{slot}", True),
        ("alarms/0", "alarms/{slot}", False),
        ("alarms/{slot}", "alarms/{slot}", True),
        ("alarms/#", "{slot}/warm", False),
    ],
)
def test_a_filter_allows_all_that_a_topic_may_turn_out_to_be(
    pattern: str, topic: str, allowed: bool
) -> None:
    assert topic_matches(topic, pattern) is allowed
