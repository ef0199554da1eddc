"""Suspects: what connections ended under goes alone, and only what ends one alone is refused."""

from __future__ import annotations

from agent.mqtt.client import IN_FLIGHT_MAX
from agent.mqtt.message import Outgoing
from agent.mqtt.refusal import ENDS, ENDS_LARGE, ENDS_TOPIC, HELD
from agent.mqtt.suspects import (
    KNOWN_MAX,
    LOSSES_MAX,
    OTHERS_S,
    OUTLIVED_0_S,
    OUTLIVED_S,
    REFUSED_FIRST_S,
    REFUSED_MAX_S,
    STEADY_S,
    TOPIC_MAX,
    Suspects,
)
from protocol.config import OutboxConfig


def message(topic: str, payload: bytes = b"x", qos: int = 1) -> Outgoing:
    return Outgoing(topic, payload, qos)


A, B, C = message("a"), message("b"), message("c")


class Connections:
    """A second between each thing that happens."""

    def __init__(self) -> None:
        self.suspects = Suspects()
        self.now = 0.0

    def ends(self, *unacknowledged: Outgoing, acknowledged: tuple[Outgoing, ...] = ()) -> None:
        """A connection, from its beginning to its end, by the broker."""
        self.suspects.connected(self.now)
        sent = [self.suspects.sent(each, self.now) for each in (*acknowledged, *unacknowledged)]
        for each in sent[: len(acknowledged)]:
            self.suspects.acknowledged(each, self.now)
        for each, made in zip(unacknowledged, sent[len(acknowledged) :], strict=True):
            if not each.qos:
                self.suspects.left(made, self.now)
        self.suspects.disconnected(self.now, by_broker=True)
        self.now += 1.0

    def stands(self) -> None:
        self.suspects.connected(self.now)
        self.now += STEADY_S

    def outlives(self, outgoing: Outgoing) -> None:
        sent = self.suspects.sent(outgoing, self.now)
        self.suspects.acknowledged(sent, self.now)
        self.now += OUTLIVED_S
        self.suspects.sent(C, self.now)

    def held(self, outgoing: Outgoing) -> str:
        return self.suspects.refusal(outgoing, self.now)


def test_what_three_connections_ended_under_waits_until_one_stands_and_goes_alone() -> None:
    it = Connections()
    for _ in range(LOSSES_MAX):
        assert it.held(A) == "" and not it.suspects.alone(A)
        it.ends(A, B)
    it.suspects.connected(it.now)
    assert it.held(A) == it.held(B) == HELD and it.held(C) == ""
    assert it.suspects.alone(A) and not it.suspects.alone(C)
    it.now += STEADY_S
    assert it.held(A) == "" and it.suspects.alone(A)
    it.suspects.outlived(A)
    it.suspects.tried(it.now)
    assert it.held(A) == "" and not it.suspects.alone(A), "it was none"
    assert it.held(B) == HELD, "the others are let go"
    it.now += OTHERS_S
    assert it.held(B) == ""
    assert it.suspects.convict(B, False, it.now) == ENDS == it.held(B)


def test_one_that_a_connection_has_outlived_is_none_of_them() -> None:
    it = Connections()
    for turn in range(2 * LOSSES_MAX):
        if turn % LOSSES_MAX == LOSSES_MAX - 1:
            it.suspects.connected(it.now)
            it.outlives(A)
        it.ends(A)
    assert not it.suspects.alone(A)


def test_those_before_the_last_that_was_acknowledged_are_not_blamed() -> None:
    it = Connections()
    for _ in range(LOSSES_MAX):
        it.ends(B, acknowledged=(A, C))
    assert not it.suspects.alone(A) and not it.suspects.alone(C) and it.suspects.alone(B)


def test_one_that_is_acknowledged_as_the_connection_ends_is_blamed_where_none_is_behind_it() -> (
    None
):
    """As Debian's Mosquitto does with MQTT 3.1.1 for what its access list denies."""
    it = Connections()
    for number in range(LOSSES_MAX):
        it.ends(acknowledged=(B, message("denied", b"%d" % number)))
    assert not it.suspects.alone(B)
    assert it.suspects.alone(message("denied", b"new")), "by its topic"
    assert not it.suspects.alone(message("denied/not", b"0"))
    late = Connections()
    for _ in range(LOSSES_MAX):
        late.suspects.connected(late.now)
        late.suspects.acknowledged(late.suspects.sent(A, late.now), late.now)
        late.now += OUTLIVED_S
        late.suspects.disconnected(late.now, by_broker=True)
    assert not late.suspects.alone(A), "that was for another reason"


def test_at_qos_0_nobody_acknowledges_and_it_is_blamed_all_the_same() -> None:
    it = Connections()
    for number in range(LOSSES_MAX):
        it.ends(message("event", b"%d" % number, qos=0), acknowledged=(A,))
    assert it.suspects.alone(message("event", b"new", qos=0)) and not it.suspects.alone(A)
    it = Connections()
    for _ in range(LOSSES_MAX):
        it.suspects.connected(it.now)
        event = it.suspects.sent(message("event", qos=0), it.now)
        it.suspects.left(event, it.now)
        it.suspects.acknowledged(it.suspects.sent(A, it.now), it.now)
        it.suspects.sent(B, it.now)
        it.suspects.disconnected(it.now, by_broker=True)
    assert not it.suspects.alone(message("event", qos=0)), "what came behind it was acknowledged"


def test_however_many_lines_are_on_their_way_beside_one_it_is_found_out() -> None:
    it = Connections()
    for turn in range(LOSSES_MAX):
        it.ends(A, *(message("lines", b"%d.%d" % (turn, line), qos=0) for line in range(KNOWN_MAX)))
    assert it.suspects.alone(A) and it.suspects.alone(message("lines", b"new", qos=0))
    assert len(it.suspects._losses) == 3, "lines are known by their topic, since none is sent twice"


def test_messages_that_each_have_a_topic_of_their_own_are_known_by_their_family() -> None:
    it = Connections()

    def state(job: str) -> Outgoing:
        return Outgoing(f"job/{job}/state", b"x", 0, family="job/+/state")

    for number in range(LOSSES_MAX):
        it.ends(state(str(number)))
    assert it.suspects.alone(state("new")) and not it.suspects.alone(message("job/new/state"))


def test_an_end_of_our_own_or_after_a_word_why_is_over_nothing_else() -> None:
    it = Connections()
    for _ in range(LOSSES_MAX):
        it.suspects.connected(it.now)
        it.suspects.sent(A, it.now)
        it.suspects.disconnected(it.now, by_broker=False)
        it.suspects.connected(it.now)
        refused = it.suspects.sent(B, it.now)
        it.suspects.sent(A, it.now)
        it.suspects.refused(refused, said=True)
        it.suspects.disconnected(it.now, by_broker=True)
    assert not it.suspects.alone(A) and not it.suspects.alone(B)


def test_a_message_that_ended_a_connection_alone_is_refused_twice_as_long_each_time() -> None:
    it = Connections()
    for _ in range(LOSSES_MAX):
        it.ends(A)
    wait_s = REFUSED_FIRST_S
    for _ in range(6):
        assert it.suspects.convict(A, False, it.now) == ENDS
        it.suspects.connected(it.now)
        assert it.held(A) == ENDS
        it.now += wait_s - 0.1
        assert it.held(A) == ENDS
        it.now += 0.2
        assert it.held(A) == "" and it.suspects.alone(A), "it is tried, alone at once"
        wait_s = min(2 * wait_s, REFUSED_MAX_S)
    it.suspects.outlived(A)
    assert not it.suspects.alone(A), "the broker takes it by now"


def test_a_topic_is_refused_after_some_in_a_row_or_one_that_was_acknowledged() -> None:
    it = Connections()
    for number in range(TOPIC_MAX):
        other = message("a", b"%d" % number)
        assert it.suspects.refusal(other, it.now) in ("", HELD), "each may be too large for itself"
        it.suspects.convict(other, False, it.now)
    assert it.held(message("a", b"new")) == ENDS_LARGE
    assert it.held(message("a", b"")) == HELD, "it is smaller: its turn is to come"
    it.now += REFUSED_FIRST_S
    it.stands()
    assert it.held(message("a", b"new")) == ""
    it.suspects.outlived(message("a", b"new"))
    assert not it.suspects.alone(message("a", b"newer"))
    assert it.suspects.convict(B, True, it.now) == ENDS_TOPIC == it.held(message("b", b"new"))


def test_what_is_smaller_goes_where_others_on_the_topic_are_too_large() -> None:
    it = Connections()
    small, larger = message("a", b"small"), message("a", b"x" * 200)
    for number in range(TOPIC_MAX):
        it.ends(small, message("a", b"%d" % number * 300))
    it.stands()
    assert it.suspects.alone(small)
    it.suspects.outlived(small)
    assert not it.suspects.alone(message("a", b"tiny")), "that was not it"
    assert it.suspects.alone(larger), "that may be it"
    for number in range(TOPIC_MAX):
        it.suspects.convict(message("a", b"%d" % number * 300), False, it.now)
    assert it.held(message("a", b"x" * 300)) == ENDS, "those behind it need not wait for it"
    assert it.held(message("a", b"tiny")) == "" == it.held(larger)
    assert it.suspects.convict(larger, False, it.now) == ENDS == it.held(message("a", b"y" * 200))
    it.now += REFUSED_MAX_S
    it.suspects.outlived(message("a", b"x" * 300))
    assert not it.suspects.alone(message("a", b"x" * 301)), "the broker takes them by now"


def test_a_topic_that_is_denied_by_now_is_so_whatever_was_taken_there_before() -> None:
    it = Connections()
    large = message("a", b"x" * 200)
    it.ends(large)
    it.suspects.outlived(message("a", b"x" * 100))
    for number in range(LOSSES_MAX - 1):
        assert not it.suspects.alone(message("a", b"%d" % number))
        it.ends(message("a", b"%d" % number, qos=0))
    assert it.suspects.alone(message("a", b"new"))
    assert it.suspects.convict(message("a", b"new"), True, it.now) == ENDS_TOPIC
    assert it.held(message("a", b"")) == ENDS_TOPIC == it.held(large)


def test_all_that_an_outbox_holds_may_be_known_and_what_may_be_innocent_is_forgotten_first() -> (
    None
):
    it, count = Connections(), OutboxConfig().messages_max
    late = [message(f"late/{number}") for number in range(IN_FLIGHT_MAX)]
    for _ in range(LOSSES_MAX):
        it.ends(*late)
    assert 2 * (count + IN_FLIGHT_MAX) <= KNOWN_MAX, "by itself and by its topic"
    for number in range(count):
        it.suspects.convict(message(f"r{number}"), False, it.now)
    assert all(it.suspects.alone(each) for each in late)
    for number in range(count):
        it.ends(message(f"innocent/{number}"))
    assert all(it.suspects.alone(message(f"r{number}")) for number in range(count))
    assert not it.suspects.alone(late[0])


def test_what_is_remembered_has_a_bound() -> None:
    it = Connections()
    for number in range(KNOWN_MAX):
        it.ends(message(f"t{number}"))
    for number in range(KNOWN_MAX):
        it.suspects.convict(message(f"x{number}"), False, it.now)
    assert len(it.suspects._losses) == KNOWN_MAX
    assert it.suspects._convicted.keys() <= it.suspects._losses.keys()
    for number in range(10_000):
        sent = it.suspects.sent(message("e", b"%d" % number, qos=0), float(number))
        it.suspects.left(sent, float(number))
    assert len(it.suspects._sent) <= OUTLIVED_0_S + 1
