"""Suspects: messages under which connections to a broker ended, and which of them it was.

A broker may end the connection over one message, each time that it is sent: one over its bound, of
which MQTT 3.1.1 cannot say that there is one, or one to a topic that its access list denies (as
Debian's Mosquitto does, which with 3.1.1 acknowledges it before that). What was on its way as three
connections ended is held until a connection has stood for as long as good ones do, and then goes
alone: all else has gone by then, no pause grows longer over it, and it is seen whether it was that.
If so it is refused for a while, that doubles each time; and after three such messages so is all on
their topic that is as large, for it may be that which the broker minds: smaller ones go. After one
that was acknowledged it is the whole topic, whatever the size.

No clock and no connection here: agent.mqtt.sending has these.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from agent.mqtt.message import Outgoing
from agent.mqtt.refusal import ENDS, ENDS_LARGE, ENDS_TOPIC, HELD

LOSSES_MAX: Final = 3  # of connections under one message; twice is a bad day
STEADY_S: Final = 30.0  # a connection that lasted so long was a good one: the pauses begin anew
OUTLIVED_S: Final = 1.0  # an end over a message comes with its acknowledgement, or in place of it
OUTLIVED_0_S: Final = 5.0  # at QoS 0 nobody says when the broker has come to it: it may be slow
OTHERS_S: Final = 5.0  # between two that go alone: the others are let go for so long
REFUSED_FIRST_S: Final = 600.0  # as what an access list denies (agent.mqtt.session): both are
REFUSED_MAX_S: Final = 3600.0  # mended by a person
TOPIC_MAX: Final = 3  # messages in a row; fewer may be too large, each for itself
# Of either: an outbox is full with 2,000 messages, 20 more are on their way to a broker, and each
# may have a topic of its own.
KNOWN_MAX: Final = 4096

Subject = str | int  # a topic, or a message by its hash: what is sent again is the same


@dataclass(eq=False, slots=True)
class Sent:
    """A message on its way, or just behind it."""

    one: int
    topic: str  # or what stands for it (Outgoing.kin)
    qos: int
    size_bytes: int
    over_at: float | None = None  # when it was acknowledged, or left (at QoS 0)


@dataclass(slots=True)
class Losses:
    """Of connections, under one message or those on one topic."""

    count: int = 0
    blamed_bytes: int = 0  # the largest of them
    taken_bytes: int = -1  # the largest that a connection has outlived meanwhile; -1: none

    def blame(self, size_bytes: int) -> None:
        """One of what was taken before is blamed for something else than its size."""
        self.blamed_bytes = max(self.blamed_bytes, size_bytes)
        if size_bytes <= self.taken_bytes:
            self.taken_bytes = -1


@dataclass(slots=True)
class Conviction:
    """Of a message that a connection ended over, or of what is as large on the topic of some."""

    least_bytes: int  # of these; 0 where it is not their size
    times: int = 0
    until: float = 0.0


class Suspects:
    """Of one session, over all its connections."""

    def __init__(self) -> None:
        self._sent: dict[Sent, None] = {}  # on this connection, which may end over them yet
        self._said_why = False  # the last that the broker said to one is why it does not take it
        self._began = self._others_until = 0.0
        self._losses: dict[Subject, Losses] = {}
        self._convicted: dict[Subject, Conviction] = {}

    def connected(self, now: float) -> None:
        self._began = now

    # ---- before it is sent -------------------------------------------------------------------

    def refusal(self, message: Outgoing, now: float) -> str:
        """Why it may not go now; empty where it may."""
        if not self._losses:
            return ""
        if self._is_convicted(hash(message), message, now):
            return ENDS
        if self._is_convicted(message.kin, message, now):
            return self._why(message.kin)
        stands = now - self._began >= STEADY_S and now >= self._others_until
        return "" if stands or not self.alone(message) else HELD

    def _is_convicted(self, subject: Subject, message: Outgoing, now: float) -> bool:
        found = self._convicted.get(subject)
        return found is not None and found.until > now and message.size_bytes >= found.least_bytes

    def _why(self, topic: str) -> str:
        """It is the size alone, where smaller ones are taken."""
        if not self._convicted[topic].least_bytes:
            return ENDS_TOPIC
        return ENDS if self._lost(topic).taken_bytes >= 0 else ENDS_LARGE

    def alone(self, message: Outgoing) -> bool:
        """Whether nothing else may be on its way with it."""
        if not self._losses:
            return False
        topic = self._lost(message.kin)
        by_topic = topic.count >= LOSSES_MAX and message.size_bytes > topic.taken_bytes
        return by_topic or self._lost(hash(message)).count >= LOSSES_MAX

    def _lost(self, subject: Subject) -> Losses:
        return self._losses.get(subject, _NONE)

    # ---- on its way --------------------------------------------------------------------------

    def sent(self, message: Outgoing, now: float) -> Sent:
        self._forget_outlived(now)
        made = Sent(hash(message), message.kin, message.qos, message.size_bytes)
        self._sent[made] = None
        return made

    def left(self, sent: Sent, now: float) -> None:
        """At QoS 0; nobody acknowledges it."""
        sent.over_at = now

    def acknowledged(self, sent: Sent, now: float) -> None:
        """The connection has outlived those before it: a broker takes them in their order."""
        if sent not in self._sent:
            return
        sent.over_at, self._said_why = now, False
        for each in list(takewhile(lambda each: each is not sent, self._sent)):
            if each.over_at is not None:
                del self._sent[each]
                self._outlived(each.one, each.topic, each.size_bytes)

    def refused(self, sent: Sent, said: bool) -> None:
        """The broker `said` why, or it never left: no end is over what is not known."""
        self._sent.pop(sent, None)
        self._said_why = self._said_why or said

    def _forget_outlived(self, now: float) -> None:
        for each in list(takewhile(lambda each: _is_outlived(each, now), self._sent)):
            del self._sent[each]
            self._outlived(each.one, each.topic, each.size_bytes)

    def outlived(self, message: Outgoing) -> None:
        """It went alone, and ends no connections; so what is no larger on its topic does not."""
        self._outlived(hash(message), message.kin, message.size_bytes)

    def _outlived(self, one: int, topic: str, size_bytes: int) -> None:
        if not self._losses:
            return
        self._clear(one)
        lost, convicted = self._lost(topic), self._convicted.get(topic)
        least = lost.blamed_bytes if convicted is None else convicted.least_bytes
        if size_bytes >= least:
            self._clear(topic)
        elif topic in self._losses:
            lost.taken_bytes = max(lost.taken_bytes, size_bytes)

    def _clear(self, subject: Subject) -> None:
        self._losses.pop(subject, None)
        self._convicted.pop(subject, None)

    # ---- as the connection ends --------------------------------------------------------------

    def disconnected(self, now: float, by_broker: bool) -> bool:
        """`by_broker`: perhaps over one of them; else it was this device, or the broker said that
        it was something else. Whether it was over one that it had just refused."""
        self._forget_outlived(now)
        sent, said_why = list(self._sent), self._said_why
        self._sent, self._said_why = {}, False
        if not by_broker or said_why:
            return by_broker
        unsure = [each for each in sent if each.over_at is None or not each.qos]
        blamed = unsure or [each for each in sent[-1:] if not _is_outlived(each, now)]
        # Of QoS 0 there may be thousands, none of which is sent again: their topics are known.
        largest: dict[Subject, int] = {each.one: each.size_bytes for each in blamed if each.qos}
        for each in blamed:
            largest[each.topic] = max(largest.get(each.topic, 0), each.size_bytes)
        for subject, size_bytes in largest.items():
            self._lose(subject, size_bytes).count += 1
        return False

    def tried(self, now: float) -> None:
        """One went alone; now it is the others' turn."""
        self._others_until = now + OTHERS_S

    def convict(self, message: Outgoing, acknowledged: bool, now: float) -> str:
        """It went alone, and the connection ended: what to say to who sent it."""
        size_bytes = message.size_bytes
        self._refuse(hash(message), size_bytes, 1, 0, now)
        if acknowledged:
            self._refuse(message.kin, size_bytes, 1, 0, now)
            return ENDS_TOPIC
        self._refuse(message.kin, size_bytes, TOPIC_MAX, size_bytes, now)
        return ENDS

    def _refuse(
        self, subject: Subject, size_bytes: int, from_times: int, least_bytes: int, now: float
    ) -> None:
        lost = self._lose(subject, size_bytes)
        lost.count = max(lost.count, LOSSES_MAX)  # which is all that is known by now
        found = self._convicted.pop(subject, None) or Conviction(least_bytes)
        found.least_bytes = min(found.least_bytes, least_bytes)
        found.times += 1
        if found.times >= from_times:
            wait_s = min(REFUSED_FIRST_S * 2 ** min(found.times - from_times, 16), REFUSED_MAX_S)
            found.until = now + wait_s
        self._convicted[subject] = found

    def _lose(self, subject: Subject, size_bytes: int) -> Losses:
        """The oldest go where there are too many, first of those that may have been no reason."""
        lost = self._losses.pop(subject, None) or Losses()
        lost.blame(size_bytes)
        self._losses[subject] = lost
        if len(self._losses) > KNOWN_MAX:
            unsure = (each for each in self._losses if each not in self._convicted)
            oldest = next(unsure)
            self._clear(oldest if oldest != subject else next(iter(self._losses)))
        return lost


_NONE: Final = Losses()  # of what no connection ended under


def _is_outlived(sent: Sent, now: float) -> bool:
    """Whether the connection would have ended over it by now."""
    wait_s = OUTLIVED_S if sent.qos else OUTLIVED_0_S
    return sent.over_at is not None and now - sent.over_at >= wait_s
