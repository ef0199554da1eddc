"""Listening at a real Mosquitto: each watch its own messages, however many of another wait."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import trio

from agent.mqtt.broker import Brokers
from agent.mqtt.listening import SESSIONS_MAX, Listening, session_of
from agent.mqtt.message import Incoming, Outgoing
from agent.mqtt.remembered import Remembered
from agent.mqtt.settings import BrokerSettings
from protocol.effects import Tell
from protocol.ids import JobId
from protocol.listening import TopicWatch
from protocol.trigger import MqttTrigger
from tests.agent.mqtt.test_broker import PEER, publish, until
from tests.mosquitto import Mosquitto


def watch(template: str, topic: str) -> TopicWatch:
    return TopicWatch(JobId(template), "default", template, MqttTrigger(broker="home", topic=topic))


LOOK, PEEK = watch("look", "in/look"), watch("peek", "in/peek")


class Ears:
    """What was heard, and what the broker said to the subscriptions."""

    def __init__(self, brokers: Brokers, root: Path) -> None:
        self.heard: list[tuple[str, Incoming]] = []
        self.granted: list[tuple[str, str]] = []
        self.listening = Listening(
            brokers,
            lambda watch, message: self.heard.append((watch.name, message)),
            lambda watch, problem: self.granted.append((watch.name, problem)),
            Remembered(root / "heard.json"),
        )

    def names(self) -> list[str]:
        return [name for name, _ in self.heard]


@asynccontextmanager
async def listening(
    root: Path, settings: BrokerSettings, told: list[Tell] | None = None
) -> AsyncIterator[tuple[Ears, Brokers]]:
    tell = [].append if told is None else told.append
    brokers = Brokers({"home": settings}, PEER, "shoal/lab", tell, Random(1))
    ears = Ears(brokers, root)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(brokers.run)
        yield ears, brokers
        nursery.cancel_scope.cancel()


def test_a_template_has_the_same_session_for_good() -> None:
    names = {session_of(JobId(f"{number:032}")) for number in range(2000)}
    assert len(names) == SESSIONS_MAX
    assert session_of(LOOK.template) != session_of(PEEK.template)


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_messages_of_one_that_are_not_taken_hold_up_no_other(
    tmp_path: Path, version: str
) -> None:
    """A broker stops at so many without an acknowledgement: Mosquitto at 20."""
    with Mosquitto() as mosquitto:
        async with listening(tmp_path, BrokerSettings(mosquitto.url, version)) as (ears, brokers):
            ears.listening.hear([LOOK, PEEK])
            await until(lambda: sorted(ears.granted) == [("look", ""), ("peek", "")])
            assert ears.listening.heard_at("home") == ["in/look", "in/peek"]
            broker = brokers.named("home")
            assert broker is not None
            for number in range(100):
                await publish(broker, Outgoing("in/look", b"%d" % number))
            await until(lambda: ears.names().count("look") >= 20)
            await publish(broker, Outgoing("in/peek", b"now"))
            await until(lambda: "peek" in ears.names(), "it comes past those that wait")
            for _, message in ears.heard:
                message.ack()
            await until(lambda: ears.names().count("look") > 20, "and those go on")


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_session_that_is_renewed_hears_again_what_was_not_acknowledged(
    tmp_path: Path, version: str
) -> None:
    """In its order, and with no word of trouble."""
    told: list[Tell] = []
    with Mosquitto() as mosquitto:
        settings = BrokerSettings(mosquitto.url, version)
        async with listening(tmp_path, settings, told) as (ears, brokers):
            ears.listening.hear([LOOK])
            await until(lambda: ears.granted == [("look", "")])
            broker = brokers.named("home")
            assert broker is not None
            for number in range(60):
                await publish(broker, Outgoing("in/look", b"%d" % number))
            await until(lambda: len(ears.heard) >= 20)
            for _, message in ears.heard[:10]:
                message.ack()
            await until(lambda: len(ears.heard) >= 30)
            seen: list[tuple[str, str, bool]] = []
            brokers.watch_sessions(lambda *change: seen.append(change))
            before = len(ears.heard)
            broker.renew(session_of(LOOK.template))
            await until(lambda: len(ears.heard) > before)

            def rest() -> list[tuple[bytes, bool]]:
                new = [message for _, message in ears.heard[before:]]
                for message in new:
                    message.ack()
                return [(message.payload, message.dup) for message in new]

            wanted = [b"%d" % number for number in range(10, 60)]
            await until(lambda: [payload for payload, _ in rest()][-50:] == wanted)
            known = {message.payload for _, message in ears.heard[:before]}
            assert [payload for payload, dup in rest() if payload in known and not dup] == []
            session = session_of(LOOK.template)
            assert seen == [("home", session, False), ("home", session, True)]
            assert broker.trouble is None and [tell.kind for tell in told] == ["mqtt.connected"]


def changed(each: TopicWatch, **mqtt: Any) -> TopicWatch:
    return replace(each, mqtt=msgspec.structs.replace(each.mqtt, **mqtt))


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_template_that_changes_misses_nothing_and_hears_nothing_twice(
    tmp_path: Path, version: str
) -> None:
    """Its subscription stands all the while, and all after a change is for what it is then."""
    with Mosquitto() as mosquitto:
        async with listening(tmp_path, BrokerSettings(mosquitto.url, version)) as (ears, brokers):
            ears.listening.hear([LOOK, PEEK])
            await until(lambda: len(ears.granted) == 2)
            broker = brokers.named("home")
            assert broker is not None
            ended = 0

            def end(_: str) -> None:
                nonlocal ended
                ended += 1

            for number in range(300):
                message = Outgoing("in/look", b"%d" % number)
                await until(lambda m=message: broker.publish(m, end))  # type: ignore[misc]
                ears.listening.hear([PEEK, changed(LOOK, debounce_s=number)])
                for _, heard in ears.heard:
                    heard.ack()
            await until(lambda: ended == 300)
            ears.listening.hear([PEEK, changed(LOOK, when="last")])
            await publish(broker, Outgoing("in/look", b"300"))

            def all_heard() -> bool:
                for _, heard in ears.heard:
                    heard.ack()
                return len(ears.heard) >= 301

            await until(all_heard)
            assert [each.payload for _, each in ears.heard] == [b"%d" % n for n in range(301)]
            assert "Received UNSUBSCRIBE" not in mosquitto.log()
            last = (changed(LOOK, when="last"), "")
            await until(lambda: last in ears.listening.states())
            assert broker.counters()["unmatched"] == 0


async def test_a_template_that_changes_hears_by_what_it_says_then(tmp_path: Path) -> None:
    with Mosquitto() as mosquitto:
        async with listening(tmp_path, BrokerSettings(mosquitto.url)) as (ears, brokers):
            broker = brokers.named("home")
            assert broker is not None
            await until(lambda: broker.connected)
            await publish(broker, Outgoing("in/look", b"kept", retain=True))
            kept = [(b"kept", 1, True)]

            async def hear(each: TopicWatch, *topics: str) -> list[tuple[bytes, int, bool]]:
                """What comes: payload, QoS, and whether it was retained."""
                before = mosquitto.log().count("Sending SUBACK")
                ears.listening.hear([each])
                await until(lambda: mosquitto.log().count("Sending SUBACK") > before)
                for topic in (*topics, each.mqtt.topic):
                    await publish(broker, Outgoing(topic, topic.encode()))
                last = each.mqtt.topic.encode()
                await until(lambda: any(m.payload == last for _, m in ears.heard))
                heard, ears.heard[:] = list(ears.heard), []
                for _, message in heard:
                    message.ack()
                return [(m.payload, m.qos, m.retain) for _, m in heard]

            assert await hear(LOOK) == [*kept, (b"in/look", 1, False)]
            assert await hear(changed(LOOK, debounce_s=5)) == [(b"in/look", 1, False)]
            assert await hear(changed(LOOK, retained=True)) == [*kept, (b"in/look", 1, False)]
            assert await hear(changed(LOOK, qos=0)) == [(b"in/look", 0, False)]
            door = changed(LOOK, topic="in/door")
            assert await hear(door, "in/look") == [(b"in/door", 1, False)]
            assert ears.listening.heard_at("home") == ["in/door"]


async def test_at_mosquitto_no_message_comes_twice_as_a_topic_changes_to_one_that_overlaps(
    tmp_path: Path,
) -> None:
    """With MQTT 3.1.1 a broker may, and nothing in a message says for which topic it came."""
    with Mosquitto() as mosquitto:
        async with listening(tmp_path, BrokerSettings(mosquitto.url, "3.1.1")) as (ears, brokers):
            broker = brokers.named("home")
            assert broker is not None
            ears.listening.hear([changed(LOOK, topic="in/+")])
            await until(lambda: bool(ears.granted))
            for number in range(300):
                message = Outgoing("in/look", b"%d" % number)
                await until(lambda m=message: broker.publish(m, lambda _: None))  # type: ignore[misc]
                ears.listening.hear([changed(LOOK, topic="in/+" if number % 2 else "in/#")])
                for _, heard in ears.heard:
                    heard.ack()
            await publish(broker, Outgoing("in/look", b"last"))

            def all_heard() -> bool:
                for _, heard in ears.heard:
                    heard.ack()
                return any(heard.payload == b"last" for _, heard in ears.heard)

            await until(all_heard)
            payloads = [heard.payload for _, heard in ears.heard]
            assert payloads == [*(b"%d" % number for number in range(300)), b"last"]


async def test_what_is_retained_comes_also_where_that_was_asked_for_while_away(
    tmp_path: Path,
) -> None:
    """And once: what the topic holds is no news with each connection."""
    with Mosquitto() as mosquitto:
        async with listening(tmp_path, BrokerSettings(mosquitto.url)) as (ears, brokers):
            broker = brokers.named("home")
            assert broker is not None
            await until(lambda: broker.connected)
            ears.listening.hear([PEEK])
            await publish(broker, Outgoing("in/look", b"kept", retain=True))
            ears.listening.hear([LOOK, PEEK])
            await until(lambda: ears.names() == ["look"])
            ears.heard.pop()[1].ack()

            async def away(*watches: TopicWatch) -> None:
                ears.granted.clear()
                mosquitto.stop()
                ears.listening.hear(watches)
                mosquitto.start()
                await until(lambda: len(ears.granted) == len(watches))

            both = changed(LOOK, retained=True), PEEK
            await away(*both)
            await until(lambda: ears.names() == ["look"])
            ears.heard.pop()[1].ack()
            await away(*both)
            await publish(broker, Outgoing("in/look", b"news"))
            await until(lambda: bool(ears.heard))
            assert [each.payload for _, each in ears.heard] == [b"news"]


async def test_one_that_is_wanted_no_more_is_heard_no_more(tmp_path: Path) -> None:
    with Mosquitto() as mosquitto:
        async with listening(tmp_path, BrokerSettings(mosquitto.url)) as (ears, brokers):
            ears.listening.hear([LOOK, PEEK])
            await until(lambda: len(ears.granted) == 2)
            assert [each for each, _ in ears.listening.states()] == [LOOK, PEEK]
            ears.listening.hear([PEEK])
            await until(lambda: "Received UNSUBSCRIBE" in mosquitto.log())
            assert ears.listening.heard_at("home") == ["in/peek"]
            broker = brokers.named("home")
            assert broker is not None
            await publish(broker, Outgoing("in/look", b"1"))
            await publish(broker, Outgoing("in/peek", b"2"))
            await until(lambda: ears.names() == ["peek"])
