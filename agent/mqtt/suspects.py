"""Suspects: messages under which connections to a broker ended, and which of them it was.

A broker may end the connection over one message, each time that it is sent: one over its bound, of
which MQTT 3.1.1 cannot say that there is one, or one to a topic that its access list denies (as
Debian's Mosquitto does, which with 3.1.1 acknowledges it before that). What was on its way as three
connections ended is held until a connection has stood for as long as good ones do, and then goes
alone: all else has gone by then, no pause grows longer over it, and it is seen whether it was that.
If so it is refused for a while, that doubles each time; and after three such messages, or one
that was acknowledged, so is all that is published on their topic.

No clock and no connection here: agent.mqtt.sending has these.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import Final, TypeVar

from agent.mqtt.message import Outgoing
from agent.mqtt.refusal import ENDS, ENDS_TOPIC, HELD

LOSSES_MAX: Final = 3  # of connections under one message; twice is a bad day
STEADY_S: Final = 30.0  # a connection that lasted so long was a good one: the pauses begin anew
OUTLIVED_S: Final = 1.0  # an end over a message comes with its acknowledgement, or in place of it
OUTLIVED_0_S: Final = 5.0  # at QoS 0 nobody says when the broker has come to it: it may be slow
OTHERS_S: Final = 5.0  # between two that go alone: the others are let go for so long
REFUSED_FIRST_S: Final = 600.0  # as what an access list denies (agent.mqtt.session): both are
REFUSED_MAX_S: Final = 3600.0  # mended by a person
TOPIC_MAX: Final = 3  # messages in a row; fewer may be too large, each for itself
KNOWN_MAX: Final = 256  # of either; 20 at most are on their way to a broker

T = TypeVar("T")
Subject = str | int  # a topic, or a message by its hash: what is sent again is the same


@dataclass(eq=False, slots=True)
class Sent:
    """A message on its way, or just behind it."""

    one: int
    topic: str  # or what stands for it (Outgoing.kin)
    qos: int
    over_at: float | None = None  # when it was acknowledged, or left (at QoS 0)


class Suspects:
    """Of one session, over all its connections."""

    def __init__(self) -> None:
        self._sent: dict[Sent, None] = {}  # on this connection, which may end over them yet
        self._said_why = False  # the last that the broker said to one is why it does not take it
        self._began = self._others_until = 0.0
        self._losses: dict[Subject, int] = {}
        # Those that a connection ended over, and topics of some: until when; how often.
        self._convicted: dict[Subject, tuple[float, int]] = {}

    def connected(self, now: float) -> None:
        self._began = now

    # ---- before it is sent -------------------------------------------------------------------

    def refusal(self, message: Outgoing, now: float) -> str:
        """Why it may not go now; empty where it may."""
        if not self._losses:
            return ""
        for subject, why in ((hash(message), ENDS), (message.kin, ENDS_TOPIC)):
            if self._convicted.get(subject, (0.0, 0))[0] > now:
                return why
        stands = now - self._began >= STEADY_S and now >= self._others_until
        return "" if stands or not self.alone(message) else HELD

    def alone(self, message: Outgoing) -> bool:
        """Whether nothing else may be on its way with it."""
        subjects = (hash(message), message.kin) if self._losses else ()
        return any(self._losses.get(subject, 0) >= LOSSES_MAX for subject in subjects)

    # ---- on its way --------------------------------------------------------------------------

    def sent(self, message: Outgoing, now: float) -> Sent:
        self._forget_outlived(now)
        made = Sent(hash(message), message.kin, message.qos)
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
                self._outlived(each.one, each.topic)

    def refused(self, sent: Sent, said: bool) -> None:
        """The broker `said` why, or it never left: no end is over what is not known."""
        self._sent.pop(sent, None)
        self._said_why = self._said_why or said

    def _forget_outlived(self, now: float) -> None:
        for each in list(takewhile(lambda each: _is_outlived(each, now), self._sent)):
            del self._sent[each]
            self._outlived(each.one, each.topic)

    def outlived(self, message: Outgoing) -> None:
        """It went alone, and ends no connections; so not all on its topic do."""
        self._outlived(hash(message), message.kin)

    def _outlived(self, one: int, topic: str) -> None:
        for subject in (one, topic) if self._losses else ():
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
        subjects: list[Subject] = [each.one for each in blamed]
        for subject in dict.fromkeys([*subjects, *(each.topic for each in blamed)]):
            _keep(self._losses, subject, self._losses.pop(subject, 0) + 1)
        return False

    def tried(self, now: float) -> None:
        """One went alone; now it is the others' turn."""
        self._others_until = now + OTHERS_S

    def convict(self, message: Outgoing, acknowledged: bool, now: float) -> str:
        """It went alone, and the connection ended: what to say to who sent it."""
        for subject in (hash(message), message.kin):  # which is all that is known by now
            _keep(self._losses, subject, max(self._losses.pop(subject, 0), LOSSES_MAX))
        self._refuse(hash(message), 1, now)
        self._refuse(message.kin, 1 if acknowledged else TOPIC_MAX, now)
        return ENDS_TOPIC if acknowledged else ENDS

    def _refuse(self, subject: Subject, from_times: int, now: float) -> None:
        times = self._convicted.pop(subject, (0.0, 0))[1] + 1
        wait_s = min(REFUSED_FIRST_S * 2 ** max(times - from_times, 0), REFUSED_MAX_S)
        _keep(self._convicted, subject, (now + wait_s if times >= from_times else 0.0, times))


def _is_outlived(sent: Sent, now: float) -> bool:
    """Whether the connection would have ended over it by now."""
    wait_s = OUTLIVED_S if sent.qos else OUTLIVED_0_S
    return sent.over_at is not None and now - sent.over_at >= wait_s


def _keep(known: dict[Subject, T], subject: Subject, what: T) -> None:
    """The oldest go where there are too many; their counts begin anew."""
    known[subject] = what
    if len(known) > KNOWN_MAX:
        del known[next(iter(known))]
