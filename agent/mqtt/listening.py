"""Listening: the subscriptions that triggers need, held while the node wants them.

Each is in a session that the broker keeps while this device is away: what is not heard then comes
later. A broker stops sending to a session where some twenty messages were not acknowledged, so
templates have sessions of their own, up to a bound on connections; their names are for good. With
eight templates two share a session in three cases of five, and one that is held up holds up both.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from agent.mqtt.broker import Brokers
from agent.mqtt.message import Incoming
from agent.mqtt.remembered import Remembered
from agent.mqtt.session import Subscription
from protocol.ids import JobId
from protocol.listening import TopicWatch

SESSION: Final = "triggers"
SESSIONS_MAX: Final = 32  # at one broker; each is a connection with its thread
_log = logging.getLogger("shoal.mqtt")


def session_of(template: JobId) -> str:
    """The session in which its messages are heard, the same in each life; some share one."""
    return f"{SESSION}-{zlib.crc32(template.encode()) % SESSIONS_MAX:02}"


def _place(watch: TopicWatch) -> str:
    """A subscription at its broker: session and filter."""
    return f"{session_of(watch.template)}/{watch.mqtt.topic}"


class Listening:
    """`heard` is told of each message with the watch that it came for, `granted` of what the broker
    says to the subscription."""

    def __init__(
        self,
        brokers: Brokers,
        heard: Callable[[TopicWatch, Incoming], None],
        granted: Callable[[TopicWatch, str], None],
        remembered: Remembered,
    ) -> None:
        self._brokers = brokers
        self._heard = heard
        self._granted = granted
        self._remembered = remembered
        self._held: dict[JobId, tuple[TopicWatch, Subscription]] = {}

    def hear(self, watches: Sequence[TopicWatch]) -> None:
        """Just these; one that stays is left alone, and one that changes is subscribed to before
        the earlier one ends, so that nothing is missed in between. A broker of MQTT 3.1.1 may send
        what comes then once for each of two topics that overlap (3.3.5), which no client can tell
        from two messages; Mosquitto (2.0.11) does where `allow_duplicate_messages` says so.

        What else the broker has in the session, also of an earlier life, ends."""
        wanted = {watch.template: watch for watch in watches}
        over = {t: held for t, held in self._held.items() if wanted.get(t) != held[0]}
        self._held = {t: held for t, held in self._held.items() if t not in over}
        self._remembered.add((watch.mqtt.broker, _place(watch)) for watch in watches)
        for template, watch in wanted.items():
            if template not in self._held and (made := self._subscribe(watch, template in over)):
                self._held[template] = (watch, made)
        for _, subscription in over.values():
            subscription.close()
        for broker in self._brokers:
            held = [each for each, _ in self._held.values() if each.mqtt.broker == broker.name]
            heard = [_place(each) for each in held]
            for place in self._remembered.of(broker.name):
                if place not in heard:
                    session, _, topic = place.partition("/")
                    left = partial(self._remembered.remove, broker.name, place)
                    broker.unsubscribe(topic, session, left)

    def _subscribe(self, watch: TopicWatch, changed: bool) -> Subscription | None:
        """One that has changed may want what is retained, which it did not before."""
        broker = self._brokers.named(watch.mqtt.broker)
        if broker is None:  # its label went with it, and soon the node will want this no more
            return None
        try:
            handler = partial(self._heard, watch)
            told, session = partial(self._granted, watch), session_of(watch.template)
            retained = changed and watch.mqtt.retained
            return broker.subscribe(
                watch.mqtt.topic, watch.mqtt.qos, handler, session, told, retained=retained
            )
        except ValueError as error:
            _log.warning("the trigger of %s: %s", watch.name, error)
            self._granted(watch, str(error))
            return None

    def states(self) -> list[tuple[TopicWatch, str]]:
        """What the brokers have said so far, for a node that is built anew: empty is granted."""
        held = [
            (watch, made) for watch, made in self._held.values() if made.granted or made.problem
        ]
        return [(watch, made.problem) for watch, made in held]

    def heard_at(self, broker: str) -> list[str]:
        """The topics that are heard there."""
        held = [each for each in self._held.values() if each[0].mqtt.broker == broker]
        return sorted({watch.mqtt.topic for watch, subscription in held if subscription.granted})
