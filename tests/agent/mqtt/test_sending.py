"""Sending to a broker that ends connections over some messages: all others arrive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from agent.mqtt.bridge import NO_ROOM, published
from agent.mqtt.message import Outgoing
from agent.mqtt.refusal import ENDS, ENDS_TOPIC, HELD
from agent.mqtt.session import RETRY_FIRST_S, Session
from agent.mqtt.suspects import (
    LOSSES_MAX,
    OTHERS_S,
    OUTLIVED_S,
    REFUSED_FIRST_S,
    STEADY_S,
    TOPIC_MAX,
)
from protocol.clock import NEVER, Now
from protocol.effects import Effect, Publish
from protocol.events import BrokerChanged
from protocol.ids import JobId
from protocol.outbox import Message, Outbox
from tests.agent.mqtt.fragile import Broker, session_at

MINUTE_S = 60.0


def is_poison(message: Outgoing) -> bool:
    return message.topic.startswith("poison")


@dataclass
class Results:
    """An outbox, carried out at a session as the bridge does."""

    outbox: Outbox = field(default_factory=Outbox)
    session: Session | None = None
    added: dict[str, float] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    family: str = ""  # of all of them

    def now(self) -> Now:
        return Now(trio.current_time(), trio.current_time())

    def add(self, name: str, answer: bool = False, payload: bytes = b"x") -> None:
        self.added[name] = trio.current_time()
        job = JobId(name.ljust(32, "-"))
        self.outbox.add(Message(name, "home", job, name, payload, answer=answer))
        self.carry_out(self.outbox.due(self.now()))

    def changed(self, connected: bool) -> None:
        self.carry_out(self.outbox.on_broker(BrokerChanged("home", connected), self.now()))

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Publish):
                self._publish(effect)

    def _publish(self, effect: Publish) -> None:
        def done(problem: str) -> None:
            event = published(effect, problem)
            if event.refused:
                self.refused.append(effect.id)
            self.carry_out(self.outbox.on_published(event, self.now()))

        message = Outgoing(effect.topic, effect.payload, effect.qos, family=self.family)
        assert self.session is not None
        if not self.session.publish(message, done):
            trio.lowlevel.current_trio_token().run_sync_soon(done, NO_ROOM)

    async def run(self) -> None:
        while True:
            due = self.outbox.deadline
            await trio.sleep(min(1.0, due - trio.current_time()) if due < NEVER else 1.0)
            self.carry_out(self.outbox.on_deadline(self.now()))


@pytest.mark.parametrize("acknowledges", [False, True], ids=["lost", "acknowledged"])
@pytest.mark.parametrize("count", [1, 5, 12])
async def test_however_many_results_end_the_connection_all_others_arrive_soon(
    count: int,
    acknowledges: bool,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    nursery: trio.Nursery,
) -> None:
    """For three hours, with one result a minute beside them. One that is acknowledged as the
    connection ends is taken for delivered, until it is known what that means."""
    broker, results = Broker(is_poison, "" if acknowledges else None), Results()
    results.session = session_at(broker, monkeypatch, results.changed)
    for number in range(count):
        results.add(f"poison-{number}")
    nursery.start_soon(results.session.run)
    nursery.start_soon(results.run)
    for number in range(3 * 60):
        results.add(f"good-{number}")
        await trio.sleep(MINUTE_S)
    took = {message.topic: at for at, message in broker.took}
    good = [name for name in results.added if name.startswith("good")]
    assert [name for name in good if name not in took] == []
    waited = sorted(took[name] - results.added[name] for name in good)
    assert waited[len(good) * 9 // 10] < 1.0
    assert waited[-1] < (count + 2) * (STEADY_S + OTHERS_S), "also of those that went with them"
    left = {message.id for message in results.outbox.messages.values()}
    assert set(results.refused) == left, "each is told of"
    assert acknowledges or left == results.added.keys() - good
    # Three times together, and then each alone, ever more seldom.
    assert len(broker.connections) <= LOSSES_MAX * (1 + count // 6) + count * 8
    assert [count for count in broker.together[::-1][: len(left)] if count > 1] == []


@pytest.mark.parametrize("count", [1, 12, 300])
async def test_results_that_are_too_large_keep_no_smaller_one_of_their_family_from_the_broker(
    count: int, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    """Three are found out one by one, and then it is known how large is too large."""
    broker, results = Broker(is_poison), Results(family="job/+/result")
    results.session = session_at(broker, monkeypatch, results.changed)
    for number in range(count):
        results.add(f"poison-{number}", payload=b"x" * 1000)
    nursery.start_soon(results.session.run)
    nursery.start_soon(results.run)
    for number in range(60):
        results.add(f"good-{number}", payload=b"x" * (1 + number % 7))
        await trio.sleep(MINUTE_S)
    took = {message.topic: at for at, message in broker.took}
    good = [name for name in results.added if name.startswith("good")]
    assert [name for name in good if name not in took] == []
    assert not [name for name in results.refused if name.startswith("good")]
    waited = sorted(took[name] - results.added[name] for name in good)
    assert waited[len(good) * 9 // 10] < 2 * OUTLIVED_S
    assert waited[-1] < 2 * (LOSSES_MAX + TOPIC_MAX) * (STEADY_S + OTHERS_S)
    assert len(broker.connections) < 30
    assert set(results.refused) == results.added.keys() - good, "each is told of"


async def test_an_answer_that_ends_connections_is_dropped(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    broker, results = Broker(is_poison), Results()
    results.session = session_at(broker, monkeypatch, results.changed)
    results.add("poison", answer=True)
    nursery.start_soon(results.session.run)
    nursery.start_soon(results.run)
    await trio.sleep(2 * MINUTE_S)
    assert results.refused == ["poison"] and not results.outbox.messages
    assert len(broker.connections) == LOSSES_MAX + 2


class Publishing:
    """Messages, and what became of each."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.ends: dict[str, list[str]] = {}

    def publish(self, topic: str, payload: bytes = b"x", qos: int = 1) -> str:
        """What is said by the end of the next two seconds; "no room" where it was not taken."""
        ends: list[str] = self.ends.setdefault(topic, [])
        ends.clear()
        return "" if self.session.publish(Outgoing(topic, payload, qos), ends.append) else NO_ROOM

    async def said(self, topic: str) -> str:
        while not self.ends[topic]:  # noqa: ASYNC110 - no event: the clock is a test's
            await trio.sleep(0.01)
        return self.ends[topic][0]

    async def connected(self) -> None:
        while not self.session.connected:  # noqa: ASYNC110 - no event: the clock is a test's
            await trio.sleep(0.01)

    async def lost(self, *topics: str, times: int = LOSSES_MAX) -> None:
        for number in range(times):
            await self.connected()
            for topic in topics:
                assert self.publish(topic, b"%d" % number) == ""
            for topic in topics:
                await self.said(topic)
            while self.session.connected:  # noqa: ASYNC110 - no event: the clock is a test's
                await trio.sleep(0.001)
        await self.connected()


@pytest.fixture
def publishing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Broker], Publishing]:
    return lambda broker: Publishing(session_at(broker, monkeypatch, lambda _: None))


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_topic_whose_messages_are_acknowledged_as_the_connection_ends_is_refused(
    qos: int,
    publishing: Callable[[Broker], Publishing],
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    """Debian's Mosquitto with MQTT 3.1.1: of what its access list denies it says nothing."""
    broker = Broker(lambda message: message.topic == "denied", says="")
    it = publishing(broker)
    nursery.start_soon(it.session.run)
    await it.lost("denied")
    assert it.publish("denied", qos=qos) == "" and await it.said("denied") == HELD
    await trio.sleep(STEADY_S)
    count = len(broker.connections)
    assert it.publish("denied", qos=qos) == "" and await it.said("denied") == ENDS_TOPIC
    await it.connected()
    assert it.publish("denied", b"another", qos) == "" and await it.said("denied") == ENDS_TOPIC
    assert it.publish("other") == "" and await it.said("other") == ""
    await trio.sleep(REFUSED_FIRST_S)
    assert len(broker.connections) == count + 1
    broker.ends = lambda _: False
    assert it.publish("denied") == "" and await it.said("denied") == ""
    assert it.publish("denied") == "" and it.session.room > 0, "no longer alone"


async def test_after_an_end_over_what_was_refused_it_connects_again_soon_each_time(
    publishing: Callable[[Broker], Publishing], autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """The broker is there: as Debian's Mosquitto, which ends the connection over what it denies."""
    broker = Broker(lambda message: message.topic != "good", says="not authorized")
    it = publishing(broker)
    nursery.start_soon(it.session.run)
    for number in range(4 * LOSSES_MAX):
        await it.connected()
        assert it.publish(f"denied/{number}") == "" and it.publish("good") == ""
        assert await it.said(f"denied/{number}") == "not authorized"
        assert await it.said("good") == "the connection was lost"
        await trio.sleep(0.01)
    await it.connected()
    pauses = [after - before for before, after in pairwise(broker.connections)]
    assert max(pauses) < 2 * RETRY_FIRST_S
    assert it.publish("good") == "" and it.session.room > 0, "it is not suspected either"


async def test_one_that_the_connection_ends_over_as_it_is_sent_is_known_as_well(
    publishing: Callable[[Broker], Publishing], autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    broker = Broker(is_poison)
    broker.at_once = True
    it = publishing(broker)
    nursery.start_soon(it.session.run)
    for _ in range(LOSSES_MAX):
        await it.connected()
        assert it.publish("poison") == NO_ROOM
        await trio.sleep(0.01)
    await it.connected()
    assert it.publish("poison") == "" and await it.said("poison") == HELD


async def test_one_that_goes_alone_waits_for_those_on_their_way_and_lets_others_go_after_it(
    publishing: Callable[[Broker], Publishing], autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    broker = Broker(lambda message: message.topic == "poison")
    it = publishing(broker)
    nursery.start_soon(it.session.run)
    for _ in range(LOSSES_MAX):
        await it.connected()
        assert it.publish("poison") == "" and it.publish("behind") == ""
        assert await it.said("poison") == await it.said("behind") == "the connection was lost"
        await trio.sleep(0.01)
    await it.connected()
    await trio.sleep(STEADY_S)
    assert it.publish("other") == "" and it.publish("behind") == "" and it.session.room == 0
    assert it.publish("more") == NO_ROOM
    before = trio.current_time()
    assert await it.said("behind") == "", "it was none"
    assert trio.current_time() - before >= 2 * OUTLIVED_S, "and the connection has outlived it"
    assert [message.topic for _, message in broker.took] == ["other", "behind"]
    assert it.publish("poison") == "" and await it.said("poison") == HELD
    assert it.publish("more") == "" and await it.said("more") == ""
    await trio.sleep(STEADY_S)
    assert it.publish("poison") == "" and await it.said("poison") == ENDS
    assert broker.together[-1] == 1
    before = trio.current_time()
    await it.connected()
    assert trio.current_time() - before < 2 * RETRY_FIRST_S, "that was a good connection"


async def test_what_is_raised_by_who_hears_of_an_end_ends_nothing(
    publishing: Callable[[Broker], Publishing],
    autojump_clock: MockClock,
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of one that is held, one that ends the connection alone, one refused, one that goes alone."""
    broker, heard = Broker(lambda message: message.topic == "poison"), list[str]()
    it = publishing(broker)

    def raises(problem: str) -> None:
        heard.append(problem)
        raise RuntimeError("of whoever hears it")

    async def said(topic: str) -> str:
        count = len(heard)
        assert it.session.publish(Outgoing(topic, b"x"), raises)
        while len(heard) == count:  # noqa: ASYNC110 - no event: the clock is a test's
            await trio.sleep(0.01)
        await it.connected()
        return heard[-1]

    nursery.start_soon(it.session.run)
    await it.lost("poison")
    assert await said("poison") == HELD
    await trio.sleep(STEADY_S)
    assert await said("poison") == ENDS == await said("poison")
    await trio.sleep(REFUSED_FIRST_S)
    broker.ends = lambda _: False
    count = len(broker.connections)
    assert await said("poison") == "" == await said("good")
    assert len(broker.connections) == count
    assert caplog.text.count("RuntimeError: of whoever hears it") == len(heard)


async def test_what_waits_to_go_alone_as_the_session_ends_is_lost_and_blamed_for_nothing(
    publishing: Callable[[Broker], Publishing], autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    broker = Broker(lambda message: message.topic in ("poison", "ends"))
    it = publishing(broker)
    nursery.start_soon(it.session.run)
    for _ in range(LOSSES_MAX):
        await it.connected()
        assert it.publish("poison") == "" and await it.said("poison") == "the connection was lost"
        await trio.sleep(0.01)
    await it.connected()
    await trio.sleep(STEADY_S)
    broker.ends = lambda message: message.topic == "ends"
    assert it.publish("ends") == "" and it.publish("poison") == ""
    assert await it.said("poison") == "the connection was lost"
    await trio.sleep(2 * STEADY_S)
    assert it.publish("poison") == "" and await it.said("poison") == ""
    it.session.renew()
    await trio.sleep(0.01)
    assert it.publish("poison") == "" and it.session.room > 0
