"""Triggering: what a message becomes, and that no broker is told before the node has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.eventlog import EventLog
from agent.mqtt.holding import AGAIN_MAX, HELD_BYTES_MAX, HELD_FEW, HELD_MAX
from agent.mqtt.listening import session_of
from agent.mqtt.triggering import COUNT_S, Triggering
from protocol.effects import Tell, TriggerKept, TriggerPutOff, WatchTopics
from protocol.events import Event, TopicWatched, TriggerFiltered, TriggerHeard, TriggerRefused
from protocol.ids import JobId, PeerId
from protocol.listening import TopicWatch
from protocol.question import Question
from protocol.refusals import Refusals
from protocol.trigger import MqttTrigger

LOOK = JobId("look")


@dataclass
class Message:
    payload: bytes = b'{"state": "ON", "id": 7}'
    topic: str = "home/porch/motion"
    broker: str = "home"
    qos: int = 1
    retain: bool = False
    dup: bool = False
    packet_id: int = 3
    correlation: bytes | None = None
    response_topic: str = ""
    content_type: str = ""
    left_out_bytes: int = 0
    properties: dict[str, str] = field(default_factory=dict)
    acks: int = 0

    def ack(self) -> None:
        self.acks += 1

    def user_property(self, name: str) -> str:
        return self.properties.get(name, "")


class Desk:
    """One watch, and what was posted, put off and subscribed to."""

    def __init__(self, **mqtt: Any) -> None:
        self.posted: list[Event] = []
        self.waiting: list[tuple[float, Callable[[], None]]] = []
        self.subscribed: list[Sequence[TopicWatch]] = []
        self.renewed: list[tuple[str, str]] = []
        self.triggering = Triggering(
            self.posted.append,
            lambda after_s, call: self.waiting.append((after_s, call)),
            self.subscribed.append,
            lambda broker, session: self.renewed.append((broker, session)),
            root="shoal/lab",
        )
        mqtt.setdefault("topic", "home/+/motion")
        self.watch = TopicWatch(LOOK, "default", "look", MqttTrigger(broker="home", **mqtt))
        self.triggering.carry_out(WatchTopics((self.watch,)))

    def hear(self, message: Message) -> Event | None:
        """What the node is told of it."""
        before = len(self.posted)
        self.triggering.heard(self.watch, message)
        return self.posted[-1] if len(self.posted) > before else None

    def heard(self, message: Message) -> TriggerHeard:
        event = self.hear(message)
        assert isinstance(event, TriggerHeard), event
        assert message.acks == 0
        return event

    def refused(self, message: Message) -> str:
        event = self.hear(message)
        assert isinstance(event, TriggerRefused), event
        assert message.acks == 1
        return event.reason


# ---- what it becomes ----------------------------------------------------------------------------


def test_a_message_is_told_as_it_came() -> None:
    event = Desk().heard(Message(dup=True, response_topic="answers"))
    assert event.template == LOOK and event.message.topic == "home/porch/motion"
    assert event.message.payload == b'{"state": "ON", "id": 7}'
    delivery = f"home/{session_of(LOOK)}/3"
    assert (event.key, event.delivery, event.repeated) == ("", delivery, True)
    assert (event.message.reply, event.message.correlation) == ("answers", b"")


@pytest.mark.parametrize(
    ("message", "key"),
    [
        (Message(properties={"id": "m1"}, correlation=b"c"), "m1"),
        (Message(correlation=b"c"), "c"),
        (Message(), "7"),
        (Message(cbor2.dumps({"id": "x", "t": 21.5})), "x"),
    ],
)
def test_a_key_is_the_messages_own_else_what_is_found_in_it(message: Message, key: str) -> None:
    assert Desk(keyed=True, key="id").heard(message).key == key


def test_where_it_brings_its_own_id_its_payload_may_hold_anything() -> None:
    message = Message(b"\xff\xfe", properties={"id": "m1"})
    assert Desk(keyed=True, key="id").heard(message).key == "m1"


def test_an_id_counts_where_none_is_asked_for() -> None:
    assert Desk().heard(Message(properties={"id": "m1"})).key == "m1"
    assert Desk().heard(Message(b"\0" * 20, correlation=b"\xff")).key.startswith("sha256:")


@pytest.mark.parametrize("payload", [b"", b"\0", b"\xff", b"{", b"x" * 16384])
def test_without_expressions_a_payload_may_hold_anything(payload: bytes) -> None:
    assert Desk().heard(Message(payload)).message.payload == payload


@pytest.mark.parametrize(
    ("when", "payload", "meant"),
    [
        ("state == 'ON'", b'{"state": "ON"}', True),
        ("state == 'ON'", b'{"state": "OFF"}', False),
        ("@ == 'ON'", b"ON", True),
        ("t > `20`", cbor2.dumps({"t": 21.5}), True),
        ("t > `30`", b'{"t": "31"}', False),
        ("@ > `30`", b"warm", False),
        ("t > '30'", cbor2.dumps({"t": 31}), False),
        ("to_number(t) > `30`", b'{"t": "31"}', True),
        ("nothing", b"{}", False),
    ],
)
def test_only_what_when_wants_is_told(when: str, payload: bytes, meant: bool) -> None:
    desk, message = Desk(when=when), Message(payload)
    assert (desk.hear(message) is not None) == meant
    assert message.acks == (0 if meant else 1)
    assert desk.triggering.counters["filtered"] == (0 if meant else 1)


@pytest.mark.parametrize(
    ("mqtt", "message", "says"),
    [
        ({}, Message(retain=True), "kept it from earlier"),
        ({}, Message(b"x" * (1 << 20)), "over 16384 bytes"),
        ({"bytes_max": 3}, Message(b"four"), "over 3 bytes"),
        ({}, Message(b"", left_out_bytes=3 << 20), "over 16384 bytes"),
        ({"when": "a", "bytes_max": 3}, Message(b"", left_out_bytes=4), "over 3 bytes"),
        ({"keyed": True}, Message(), "brings no id"),
        ({"keyed": True, "key": "nothing"}, Message(), "Dedup.Key finds none"),
        ({"keyed": True, "key": "id"}, Message(b""), "Dedup.Key finds none"),
        ({"keyed": True, "key": "id"}, Message(b"{"), "invalid JSON"),
        ({"when": "a"}, Message(b'{"a": 1'), "invalid JSON"),
        ({"when": "a"}, Message(b"\xff\xff"), "neither JSON nor CBOR"),
        ({"when": "abs(state)"}, Message(), "When: "),
        ({}, Message(topic="home/" + "x" * 1020 + "/motion"), "over 1024 characters"),
    ],
)
def test_what_runs_nothing_is_refused_and_the_broker_told(
    mqtt: dict[str, Any], message: Message, says: str
) -> None:
    desk = Desk(**mqtt)
    assert says in desk.refused(message)
    assert desk.triggering.counters["refused"] == 1


def test_a_refusal_that_quotes_the_message_can_be_told_of() -> None:
    """JSON may hold half of a surrogate pair, which no log nor store takes."""
    reason = Desk(when="sum(readings) > `5`").refused(Message(b'{"readings": "\\ud800\\n"}'))
    (tell,) = Refusals(PeerId("me")).add(LOOK, "look", reason, 0.0)
    assert isinstance(tell, Tell)
    log = EventLog()
    assert "\\ud800" in log.append(tell, 1).text
    assert len(log.take_unsaved()) == 1
    assert reason.isprintable()


def test_what_the_broker_kept_may_be_asked_for_and_is_the_same_whenever_it_comes() -> None:
    """A broker of MQTT 3.1.1 sends it with each connection, and each broker to each device."""
    keys = {Desk(retained=True).heard(Message(retain=True, packet_id=n)).key for n in range(3)}
    others = {
        Desk(retained=True).heard(message).key
        for message in (
            Message(retain=True, topic="home/attic/motion"),
            Message(b"x", retain=True),
            Message(b"yhome/porch/motion", retain=True),
        )
    }
    assert len(keys) == 1 and len(others) == 3 and "" not in keys | others
    assert not keys & others
    assert Desk(retained=True).heard(Message()).key == "", "of one that was sent just now"
    assert Desk(retained=True).heard(Message(retain=True, correlation=b"c")).key == "c"


@pytest.mark.parametrize("topic", ["shoal/lab/event", "shoal/lab/job/j/result/0", "shoal/lab"])
def test_the_shoals_own_topics_run_nothing(topic: str) -> None:
    """Each run is told of there, and would run the next."""
    desk, message = Desk(topic="#"), Message(topic=topic)
    assert desk.hear(message) is None and message.acks == 1
    assert "the shoal's own" in Desk(topic="shoal/#").refused(Message(topic=topic))
    assert Desk(topic="#").heard(Message(topic="shoal/label"))


@pytest.mark.parametrize("topic", ["shoal/lab/trigger/look", "shoal/lab/trigger/+", "#"])
def test_the_topic_that_has_its_name_runs_it(topic: str) -> None:
    """Nothing of the shoal's own is told there: it is a person's, or a button's."""
    desk = Desk(topic=topic)
    assert desk.heard(Message(topic="shoal/lab/trigger/look", payload=b"PRESS"))
    assert desk.hear(Message(topic="shoal/lab/trigger/peek", payload=b"PRESS")) is None


def test_the_results_of_its_own_runs_run_nothing() -> None:
    """The broker may have two names here."""
    desk = Desk()
    assert "its own runs" in desk.refused(Message(properties={"template": "look"}))
    assert desk.heard(Message(properties={"template": "peek"}))
    desk.watch = replace(desk.watch, namespace="kitchen")
    assert desk.heard(Message(properties={"template": "look"}))
    assert "its own runs" in desk.refused(Message(properties={"template": "kitchen/look"}))


def test_the_message_of_another_subscription_is_not_meant() -> None:
    desk, message = Desk(), Message(topic="home/porch/door")
    assert desk.hear(message) is None and message.acks == 1


def test_where_an_answer_is_to_go_is_told_as_it_came() -> None:
    """The node says what of it is too long; without a topic there is no question."""
    event = Desk(keyed=True).heard(Message(response_topic="x" * 1025, correlation=b"x" * 300))
    assert event.message.reply == "x" * 1025 and event.message.correlation == b"x" * 300
    assert event.key.startswith("sha256:")
    assert Desk().heard(Message(correlation=b"c")).message.correlation == b""


def test_a_refused_message_that_asks_is_acknowledged_once_its_answer_is_kept() -> None:
    desk = Desk(bytes_max=3)
    message = Message(b"four", response_topic="answers", correlation=b"c", dup=True)
    event = desk.hear(message)
    assert isinstance(event, TriggerRefused) and "BytesMax" in event.reason
    assert event.question == Question("home", "answers", b"c") and message.acks == 0
    assert desk.triggering.rebuilt() == [event]
    other = desk.hear(Message(b"four", response_topic="answers", correlation=b"c"))
    assert isinstance(other, TriggerRefused) and other.key == event.key
    desk.triggering.carry_out(TriggerKept(event.handle))
    assert message.acks == 1


def test_what_the_broker_had_kept_asks_nothing() -> None:
    message = Message(retain=True, response_topic="answers")
    event = Desk().hear(message)
    assert isinstance(event, TriggerRefused) and event.question is None and message.acks == 1


def test_text_that_is_compared_with_a_number_is_not_meant_and_asks_nothing() -> None:
    """No answer goes to it, and no refusal is told of."""
    desk = Desk(when="t > `30`", keyed=True, key="id")
    message = Message(b'{"t": "31", "id": 1}', response_topic="answers")
    assert desk.hear(message) is None and message.acks == 1
    ((after_s, tell),) = desk.waiting
    tell()
    assert after_s == COUNT_S and desk.posted == [TriggerFiltered(LOOK, 1)]
    assert desk.triggering.counters == {
        "heard": 1, "filtered": 1, "refused": 0, "kept": 0, "put_off": 0,
    }  # fmt: skip
    assert desk.heard(Message(b'{"t": 31, "id": 2}')).key == "2"


def test_what_is_not_meant_is_counted_now_and_then() -> None:
    desk = Desk(when="state == 'OFF'")
    for _ in range(3):
        assert desk.hear(Message()) is None
    ((after_s, tell),) = desk.waiting
    tell()
    assert after_s == COUNT_S and desk.posted == [TriggerFiltered(LOOK, 3)]
    desk.hear(Message())
    assert len(desk.waiting) == 2


def test_what_the_broker_says_to_a_subscription_is_told_and_that_it_is_gone() -> None:
    desk = Desk()
    desk.triggering.granted(desk.watch, "")
    desk.triggering.granted(desk.watch, "not authorized")
    desk.triggering.gone("other", session_of(LOOK))
    desk.triggering.gone("home", session_of(LOOK))
    assert desk.posted == [
        TopicWatched(LOOK),
        TopicWatched(LOOK, "not authorized"),
        TopicWatched(LOOK, "broker home is not connected"),
    ]


@given(st.binary(max_size=300), st.sampled_from(["", "application/json", "application/cbor"]))
def test_whatever_comes_ends_in_an_event_or_an_acknowledgement(
    payload: bytes, content_type: str
) -> None:
    desk = Desk(keyed=True, key="id || @", when="@ != `0`")
    message = Message(payload, content_type=content_type)
    event = desk.hear(message)
    assert isinstance(event, TriggerHeard) == (message.acks == 0)


# ---- what becomes of it -------------------------------------------------------------------------


def test_the_broker_is_told_when_it_is_kept_and_once() -> None:
    desk, message = Desk(), Message()
    event = desk.heard(message)
    for _ in range(2):
        desk.triggering.carry_out(TriggerKept(event.handle))
        assert message.acks == 1
    desk.triggering.carry_out(TriggerKept(999))


def test_what_is_put_off_is_told_again_and_still_the_brokers() -> None:
    desk, message = Desk(), Message()
    event = desk.heard(message)
    desk.triggering.carry_out(TriggerPutOff(event.handle, 2.5))
    ((after_s, again),) = desk.waiting
    again()
    assert after_s == 2.5 and desk.posted == [event, event] and message.acks == 0
    desk.triggering.carry_out(TriggerKept(event.handle))
    again()
    assert desk.posted == [event, event]


def test_a_node_that_is_built_anew_hears_of_what_it_has_not_kept() -> None:
    desk = Desk()
    first, second = desk.heard(Message()), desk.heard(Message(packet_id=4))
    desk.triggering.carry_out(TriggerKept(first.handle))
    assert desk.triggering.rebuilt() == [second]
    assert first.drawn and second.drawn and first.drawn != second.drawn


def test_one_that_is_put_off_twice_is_told_again_once() -> None:
    """A node that was built anew puts it off as well."""
    desk = Desk()
    event = desk.heard(Message())
    for _ in range(2):
        desk.triggering.carry_out(TriggerPutOff(event.handle, 1.0))
    ((_, again),) = desk.waiting
    again()
    assert desk.posted == [event, event]
    desk.triggering.carry_out(TriggerPutOff(event.handle, 1.0))
    assert len(desk.waiting) == 2


def test_with_its_connection_a_message_is_gone() -> None:
    """It comes again with the next one, under a handle of its own."""
    desk, message = Desk(), Message()
    event = desk.heard(message)
    desk.heard(Message(broker="other"))
    desk.triggering.gone("home", "triggers-of-another")
    assert len(list(desk.triggering.rebuilt())) == 2
    desk.triggering.gone("home", session_of(LOOK))
    desk.triggering.carry_out(TriggerKept(event.handle))
    assert message.acks == 0 and len(list(desk.triggering.rebuilt())) == 1


def test_the_node_hears_what_a_broker_says_to_a_subscription_and_that_it_is_gone() -> None:
    desk = Desk()
    desk.triggering.granted(desk.watch, "not authorized")
    desk.triggering.granted(desk.watch, "")
    desk.triggering.gone("other", session_of(LOOK))
    desk.triggering.gone("home", "triggers-of-another")
    assert desk.posted == [TopicWatched(LOOK, "not authorized"), TopicWatched(LOOK)]
    desk.triggering.gone("home", session_of(LOOK))
    assert desk.posted[2:] == [TopicWatched(LOOK, "broker home is not connected")]


def test_messages_that_the_broker_does_not_keep_are_held_until_the_node_has_them() -> None:
    desk = Desk()
    event = desk.heard(Message(qos=0))
    desk.triggering.gone("home", session_of(LOOK))
    assert event.delivery == "" and desk.triggering.rebuilt() == [event]
    desk.triggering.carry_out(TriggerKept(event.handle))
    assert desk.triggering.rebuilt() == []


def test_one_that_no_broker_keeps_and_there_is_no_room_for_is_refused_and_told_of() -> None:
    desk = Desk()
    event = desk.heard(Message(qos=0))
    desk.triggering.carry_out(TriggerPutOff(event.handle, 1.0))
    assert desk.waiting == [] and desk.triggering.rebuilt() == []
    refusal = desk.posted[-1]
    assert isinstance(refusal, TriggerRefused) and refusal.template == LOOK
    assert "no room" in refusal.reason and "QoS 0" in refusal.reason
    assert desk.triggering.counters["refused"] == 1


def test_no_more_are_held_than_a_broker_would_have_under_way() -> None:
    desk = Desk()
    for number in range(HELD_MAX):
        desk.heard(Message(packet_id=number + 1))
    late = Message(packet_id=60_000)
    assert desk.hear(late) is None and late.acks == 0
    assert isinstance(desk.hear(Message(qos=0)), TriggerRefused)


def test_what_there_is_no_room_for_comes_again_with_what_is_behind_it_once_there_is() -> None:
    desk = Desk()
    events = [desk.heard(Message(packet_id=number + 1)) for number in range(HELD_MAX)]
    assert desk.hear(Message(packet_id=2000)) is None
    for event in events[: HELD_MAX - HELD_FEW - 1]:
        desk.triggering.carry_out(TriggerKept(event.handle))
    unmeant = Message(b"{", packet_id=2001)
    assert desk.hear(unmeant) is None and unmeant.acks == 0, "one behind it would be before it"
    assert desk.renewed == [] and desk.triggering.counters["heard"] == HELD_MAX
    for event in events[HELD_MAX - HELD_FEW - 1 :][:9]:
        desk.triggering.carry_out(TriggerKept(event.handle))
    assert desk.renewed == [("home", session_of(LOOK))], "asked for once"
    assert desk.hear(Message(packet_id=2002)) is None
    desk.triggering.gone("home", session_of(LOOK))
    assert desk.heard(Message(packet_id=2000, dup=True)).delivery.endswith("/2000")
    assert len(desk.triggering.rebuilt()) == 1 and len(desk.renewed) == 1


def test_room_that_refusals_make_has_what_was_let_go_of_come_again() -> None:
    """What no broker keeps is refused as it is put off, and may be all that was held."""
    desk = Desk()
    events = [desk.heard(Message(qos=0, packet_id=0)) for _ in range(HELD_MAX)]
    assert desk.hear(Message(packet_id=7)) is None
    for event in events:
        desk.triggering.carry_out(TriggerPutOff(event.handle, 1.0))
    assert desk.renewed == [("home", session_of(LOOK))], "asked for once"
    desk.triggering.gone("home", session_of(LOOK))
    assert desk.heard(Message(packet_id=7, dup=True)).delivery.endswith("/7")


def test_what_a_session_holds_takes_no_room_of_anothers() -> None:
    desk = Desk()
    other = TopicWatch(JobId("peek"), "default", "peek", MqttTrigger(broker="home", topic="#"))
    assert session_of(other.template) != session_of(LOOK)
    for number in range(HELD_MAX + 1):
        desk.hear(Message(packet_id=number + 1))
    for qos in (1, 0):
        desk.triggering.heard(other, Message(qos=qos))
        event = desk.posted[-1]
        assert isinstance(event, TriggerHeard) and event.template == "peek"
    desk.triggering.heard(desk.watch, Message(broker="other"))
    assert len(list(desk.triggering.rebuilt())) == HELD_MAX + 3


def test_a_session_holds_so_many_bytes_and_no_more() -> None:
    desk = Desk()
    size = HELD_BYTES_MAX // 16
    desk.watch = replace(desk.watch, mqtt=MqttTrigger(broker="home", topic="#", bytes_max=size))
    events = [desk.heard(Message(b"x" * size, packet_id=number + 1)) for number in range(16)]
    late = Message(packet_id=60)
    assert desk.hear(late) is None and late.acks == 0
    for event in events:
        desk.triggering.carry_out(TriggerKept(event.handle))
    assert desk.renewed == [("home", session_of(LOOK))]


# ---- those that are put off -------------------------------------------------------------------


def put_off(desk: Desk, count: int, **fields: Any) -> list[TriggerHeard]:
    events = [desk.heard(Message(packet_id=at + 1, **fields)) for at in range(count)]
    for event in events:
        desk.triggering.carry_out(TriggerPutOff(event.handle, 1.0))
    desk.posted.clear()
    return events


def test_of_many_that_are_put_off_the_oldest_few_are_told_again() -> None:
    desk = Desk()
    events = put_off(desk, 100)
    ((_, again),) = desk.waiting
    again()
    assert desk.posted == events[:AGAIN_MAX] and len(desk.waiting) == 2
    for event in reversed(events[:AGAIN_MAX]):
        desk.triggering.carry_out(TriggerPutOff(event.handle, 1.0))
    desk.waiting[-1][1]()
    assert desk.posted[AGAIN_MAX:] == events[:AGAIN_MAX], "in their order"
    assert len(desk.waiting) == 3


def test_as_soon_as_one_is_kept_the_next_few_are_told() -> None:
    desk = Desk()
    events = put_off(desk, 100)
    desk.waiting.pop()[1]()
    desk.waiting.clear()
    for event in events[:AGAIN_MAX]:
        desk.triggering.carry_out(TriggerKept(event.handle))
    ((after_s, at_once),) = desk.waiting
    assert after_s == 0.0
    at_once()
    assert desk.posted == events[: 2 * AGAIN_MAX]


def test_what_the_node_has_taken_up_without_a_word_holds_up_none_behind_it() -> None:
    """It asks others first whether they know the run."""
    desk = Desk()
    events = put_off(desk, 2 * AGAIN_MAX)
    for _ in range(2):
        desk.waiting.pop()[1]()
    assert desk.posted == events and desk.waiting == []


def test_those_that_ask_wait_by_themselves() -> None:
    """Answers need room of their own, which a broker that is away may take for long."""
    desk = Desk()
    put_off(desk, 2 * AGAIN_MAX, response_topic="answers")
    desk.waiting.clear()
    event = desk.heard(Message(packet_id=99))
    desk.triggering.carry_out(TriggerPutOff(event.handle, 1.0))
    ((_, again),) = desk.waiting
    again()
    assert desk.posted == [event, event]


def test_a_node_that_is_built_anew_hears_in_its_turn_of_what_was_put_off() -> None:
    desk = Desk()
    events = put_off(desk, 3)
    told = desk.heard(Message(packet_id=9))
    assert desk.triggering.rebuilt() == [told]
    desk.waiting[0][1]()
    assert desk.posted == [told, *events]
    assert desk.triggering.rebuilt() == [*events, told], "it may have been lost on its way"


def test_what_was_put_off_goes_with_its_connection() -> None:
    desk = Desk()
    put_off(desk, 3)
    (other,) = put_off(desk, 1, broker="other")
    desk.triggering.gone("home", session_of(LOOK))
    desk.waiting[0][1]()
    assert other in desk.posted and desk.triggering.rebuilt() == [other]
    assert len([each for each in desk.posted if isinstance(each, TriggerHeard)]) == 1


def test_one_that_two_connections_have_brought_is_held_once_and_by_the_later() -> None:
    """The earlier one had read it, and it is handed on late: its broker hears no word of that."""
    desk = Desk()
    late, again = Message(), Message(dup=True)
    desk.triggering.gone("home", session_of(LOOK))
    first = desk.heard(late)
    desk.triggering.carry_out(TriggerPutOff(first.handle, 1.0))
    second = desk.heard(again)
    desk.triggering.carry_out(TriggerPutOff(second.handle, 1.0))
    desk.posted.clear()
    desk.waiting[0][1]()
    assert desk.posted == [second]
    desk.triggering.carry_out(TriggerKept(first.handle))
    desk.triggering.carry_out(TriggerKept(second.handle))
    assert (late.acks, again.acks) == (0, 1)


# ---- what a number means ------------------------------------------------------------------------


def test_messages_are_counted_as_they_are_sent_first_whatever_becomes_of_them() -> None:
    desk = Desk(when="state == 'ON'")
    assert desk.heard(Message()).number == 1
    for number in range(3):
        assert desk.hear(Message(b'{"state": "OFF"}', packet_id=number + 4)) is None
    assert isinstance(desk.hear(Message(b"{")), TriggerRefused)
    assert desk.heard(Message(dup=True)).number == 5, "this one was before"
    assert desk.heard(Message(qos=0)).number == 5
    assert desk.heard(Message(packet_id=9)).number == 6
    assert desk.heard(Message(broker="other")).number == 1


def test_what_was_let_go_of_is_none_that_the_node_has_heard() -> None:
    """Its number may be that of one that was, word for word the same, and is acknowledged."""
    desk = Desk()
    events = [desk.heard(Message(packet_id=number + 1)) for number in range(HELD_MAX)]
    desk.hear(Message(packet_id=600))
    desk.triggering.carry_out(TriggerKept(events[0].handle))
    desk.hear(Message(packet_id=1))
    assert desk.hear(Message(packet_id=2, dup=True)) is None
    desk.triggering.gone("home", session_of(LOOK))
    assert not desk.heard(Message(packet_id=1, dup=True)).repeated
    assert desk.heard(Message(packet_id=2, dup=True)).repeated
    desk.triggering.gone("home", session_of(LOOK))
    assert desk.heard(Message(packet_id=1, dup=True)).repeated
    desk.triggering.carry_out(WatchTopics(()))
    assert desk.heard(Message(packet_id=600, dup=True)).repeated, "nobody asks for it any more"


def test_what_is_to_be_heard_is_subscribed_to() -> None:
    desk = Desk()
    assert desk.subscribed == [(desk.watch,)] and desk.triggering.watches == (desk.watch,)
    desk.triggering.carry_out(WatchTopics(()))
    assert desk.subscribed[-1] == () and desk.triggering.watches == ()
