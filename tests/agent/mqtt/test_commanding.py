"""Commanding: what is heard where, and that the node is told of it as it came."""

from __future__ import annotations

from typing import Any

from agent.mqtt.broker import check_filter
from agent.mqtt.commanding import PAYLOAD_BYTES_MAX, Commanding, topic_of
from protocol.events import Commanded, CommandHeard, Event
from tests.agent.mqtt.standingbroker import StandingBroker, StandingBrokers


def commanding(*allow: str) -> tuple[StandingBroker, list[Event]]:
    broker, said = StandingBroker(), list[Event]()
    brokers: Any = StandingBrokers([broker])
    Commanding(brokers, allow, said.append)
    return broker, said


def test_nothing_is_heard_of_what_the_owner_does_not_list() -> None:
    assert not commanding()[0].subscriptions
    daemons = commanding("daemon/pump")[0].subscriptions
    assert list(daemons) == ["shoal/lab/daemon/+/set", "shoal/lab/daemon/+/+/set"]
    both = commanding("daemon/*", "template/tidy")[0].subscriptions
    assert list(both)[2:] == ["shoal/lab/trigger/+", "shoal/lab/trigger/+/+"]
    for topic_filter in both:
        check_filter(topic_filter)


def test_the_node_hears_whose_it_is_and_what_it_says() -> None:
    broker, said = commanding("daemon/*", "template/*")
    for word, words in (("pump", "+"), ("lab/pump", "+/+")):
        topic = topic_of("shoal/lab", Commanded.DAEMON, word)
        assert broker.say(topic, b"OFF", topic_of("shoal/lab", Commanded.DAEMON, words))
        assert said.pop() == CommandHeard("home", Commanded.DAEMON, word, b"OFF")
    assert broker.say("shoal/lab/trigger/tidy", b"PRESS", "shoal/lab/trigger/+", retain=True)
    assert said.pop() == CommandHeard("home", Commanded.TEMPLATE, "tidy", b"PRESS", True)


def test_of_a_long_payload_the_beginning_is_enough() -> None:
    broker, said = commanding("daemon/*")
    broker.say("shoal/lab/daemon/pump/set", b"x" * 100_000, "shoal/lab/daemon/+/set")
    (event,) = said
    assert isinstance(event, CommandHeard) and len(event.payload) == PAYLOAD_BYTES_MAX
