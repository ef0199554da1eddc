"""Listening at a real Mosquitto: what is not wanted any more ends, in whichever life it began."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
import trio

from agent.mqtt import session
from agent.mqtt.broker import Broker, Brokers
from agent.mqtt.listening import Listening, session_of
from agent.mqtt.message import Incoming, Outgoing
from agent.mqtt.remembered import Remembered
from agent.mqtt.settings import BrokerSettings
from protocol.ids import JobId
from protocol.listening import TopicWatch
from protocol.trigger import MqttTrigger
from tests.agent.whole import open_directory, until
from tests.mosquitto import Mosquitto


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "RETRY_FIRST_S", 0.05)


@pytest.fixture
def root() -> Iterator[Path]:
    made = open_directory()
    yield made
    shutil.rmtree(made)


def watch(topic: str) -> TopicWatch:
    return TopicWatch(JobId(topic), "default", topic, MqttTrigger(broker="home", topic=topic))


class Life:
    """One of an agent's."""

    def __init__(self, broker: Broker, listening: Listening, heard: list[str]) -> None:
        self.broker = broker
        self.listening = listening
        self.heard = heard

    def hear(self, *topics: str) -> None:
        self.listening.hear([watch(topic) for topic in topics])

    async def hears(self, *topics: str) -> None:
        await until(lambda: self.listening.heard_at("home") == list(topics))

    async def publish(self, topic: str) -> None:
        ends: list[str] = []
        await until(lambda: self.broker.publish(Outgoing(topic, b"x"), ends.append))
        await until(lambda: ends == [""])


@asynccontextmanager
async def life(root: Path, mosquitto: Mosquitto, version: str = "5") -> AsyncIterator[Life]:
    settings = {"home": BrokerSettings(mosquitto.url, version)}
    brokers = Brokers(settings, "a-peer-of-a-test", "shoal/x", lambda tell: None, Random(1))
    heard: list[str] = []

    def take(_: TopicWatch, message: Incoming) -> None:
        heard.append(message.topic)
        message.ack()

    broker = brokers.named("home")
    assert broker is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(brokers.run)
        await until(lambda: broker.connected or mosquitto.process is None)
        yield Life(
            broker,
            Listening(brokers, take, lambda *_: None, Remembered(root / "heard.json")),
            heard,
        )
        nursery.cancel_scope.cancel()


def ended(mosquitto: Mosquitto) -> int:
    return mosquitto.log().count("Sending UNSUBACK")


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_what_an_earlier_life_heard_ends_with_what_this_one_wants(
    root: Path, version: str
) -> None:
    with Mosquitto() as mosquitto:
        async with life(root, mosquitto, version) as it:
            it.hear("a", "b")
            await it.hears("a", "b")
        async with life(root, mosquitto, version) as it:
            it.hear("a")
            await until(lambda: ended(mosquitto) == 1)
            await it.publish("b")
            await it.publish("a")
            await until(lambda: it.heard == ["a"])
            assert it.broker.counters()["unmatched"] == 0
            assert Remembered(root / "heard.json").of("home") == (f"{session_of(JobId('a'))}/a",)


async def test_where_nothing_is_wanted_any_more_it_connects_once_to_say_so(root: Path) -> None:
    """Else a broker of 3.1.1 keeps messages that run when the template is listed in a year."""
    with Mosquitto() as mosquitto:
        async with life(root, mosquitto) as it:
            it.hear("a")
            await it.hears("a")
        async with life(root, mosquitto) as it:
            it.hear()
            await until(lambda: Remembered(root / "heard.json").of("home") == ())
            await it.publish("a")
        async with life(root, mosquitto) as it:
            it.hear()
            it.hear("a")
            await it.hears("a")
            await it.publish("a")
            await until(lambda: it.heard)
            assert it.heard == ["a"], "what came meanwhile was nobody's"


async def test_what_is_given_up_while_the_broker_is_away_ends_when_it_is_back(root: Path) -> None:
    with Mosquitto() as mosquitto:
        async with life(root, mosquitto) as it:
            it.hear("a", "b")
            await it.hears("a", "b")
            mosquitto.stop()
            await until(lambda: not it.broker.connected)
            it.hear("b")
            it.hear()
            it.hear("b")
            mosquitto.start()
            await until(lambda: ended(mosquitto) == 1)
            await it.publish("a")
            await it.publish("b")
            await until(lambda: it.heard == ["b"])
            assert it.broker.counters()["unmatched"] == 0


def test_a_file_that_cannot_be_read_or_written_ends_nothing(tmp_path: Path) -> None:
    for data in (b"\xff", b"[]", b'{"home": 3}', b'{"home": [1, "a"]}'):
        (tmp_path / "heard.json").write_bytes(data)
        remembered = Remembered(tmp_path / "heard.json")
        remembered.add([("home", "b")])
        assert "b" in remembered.of("home")
        assert "b" in Remembered(tmp_path / "heard.json").of("home")
    nowhere = Remembered(tmp_path / "none" / "heard.json")
    nowhere.add([("home", "b")])
    nowhere.remove("home", "b")
    nowhere.remove("other", "b")
    assert nowhere.of("home") == ()
