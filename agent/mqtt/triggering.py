"""Triggering: what a broker brings, made into events for the node; and what becomes of it there.

It knows what is to be heard (WatchTopics), keeps each message until the node has it on disk, and
only then lets the broker forget it. A node that is built anew is told of all that it had not kept:
the connection stands, and the broker would not send it again.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, Protocol

from agent.mqtt.commanding import topic_of
from agent.mqtt.expressions import ExpressionError, is_true, name_of, search
from agent.mqtt.holding import Held, Holding, Line, Source
from agent.mqtt.listening import session_of
from agent.mqtt.payload import PayloadError, value_of
from agent.printable import clean
from protocol.bounds import TOPIC_CHARS_MAX
from protocol.effects import TriggerKept, TriggerPutOff, WatchTopics
from protocol.events import (
    Commanded,
    Event,
    TopicWatched,
    TriggerFiltered,
    TriggerHeard,
    TriggerRefused,
)
from protocol.ids import JobId
from protocol.listening import RUN_OF, TopicWatch, word_of
from protocol.question import Question, whole_key
from protocol.records import Heard
from protocol.trigger import key_of, matches

ID: Final = "id"  # the user property of MQTT 5 that says which message it is
NO_ROOM: Final = "no room for it just now, and no broker keeps what is sent at QoS 0"
OWN_TOPIC: Final = "a topic of the shoal's own: those tell of its run, and would run the next"
FILTERED: Final = ""  # for no reason that anybody need know: it is not meant
COUNT_S: Final = 5.0  # the node is told how many those were so often: a topic may be busy
_log = logging.getLogger("shoal.mqtt")


class Incoming(Protocol):
    """A message as a connection brings it (agent.mqtt.message)."""

    @property
    def broker(self) -> str: ...
    @property
    def topic(self) -> str: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def qos(self) -> int: ...
    @property
    def retain(self) -> bool: ...
    @property
    def dup(self) -> bool: ...
    @property
    def packet_id(self) -> int: ...
    @property
    def correlation(self) -> bytes | None: ...
    @property
    def response_topic(self) -> str: ...
    @property
    def content_type(self) -> str: ...
    @property
    def left_out_bytes(self) -> int: ...
    @property
    def ack(self) -> Callable[[], None]: ...
    def user_property(self, name: str) -> str: ...


class Unfit(Exception):
    """The message runs nothing: a sentence, empty where it is not meant. Whoever has sent it
    is told so, if that is `now`, and not what the broker has kept from some earlier day."""

    def __init__(self, reason: str, now: bool = True) -> None:
        super().__init__(reason)
        self.now = now


class Triggering:
    """All triggers of this device. `post` hands an event to the node; `later` calls after so many
    seconds; `subscribe` has just these watches heard, each message coming to `heard` with its own;
    `renew` has a broker's session connect anew, with which all comes that was not acknowledged.
    """

    def __init__(
        self,
        post: Callable[[Event], None],
        later: Callable[[float, Callable[[], None]], None],
        subscribe: Callable[[Sequence[TopicWatch]], None],
        renew: Callable[[str, str], None],
        root: str,
    ) -> None:
        self._post = post
        self._later = later
        self._subscribe = subscribe
        self._renew = renew
        self._root = root  # of the shoal's own topics
        self._holding = Holding()
        # Of lines: one is told of again after a while, or as soon as there may be room.
        self._later_again: dict[Line, None] = {}
        self._soon_again: dict[Line, None] = {}
        # Sessions of what was let go of, and whether it was asked to come again.
        self._let_go: dict[Source, bool] = {}
        # Packets' numbers of what was let go of as it came first: the node never heard of those.
        self._unheard: dict[tuple[Source, JobId], set[int]] = {}
        self._begun: dict[Source, int] = {}  # how many were sent for the first time
        self._watches: dict[JobId, TopicWatch] = {}
        self._filtered: dict[JobId, int] = {}  # since the node was told
        self._handle = 0
        self.counters = {"heard": 0, "filtered": 0, "refused": 0, "kept": 0, "put_off": 0}

    @property
    def watches(self) -> tuple[TopicWatch, ...]:
        return tuple(self._watches.values())

    # ---- from the node -----------------------------------------------------------------------

    def carry_out(self, effect: WatchTopics | TriggerKept | TriggerPutOff) -> None:
        match effect:
            case WatchTopics():
                self._watches = {watch.template: watch for watch in effect.watches}
                for of in [of for of in self._unheard if of[1] not in self._watches]:
                    del self._unheard[of]
                self._subscribe(effect.watches)
            case TriggerKept():
                held = self._holding.pop(effect.handle)
                if held is not None:
                    self.counters["kept"] += 1
                    held.ack()
                    self._go_on(held)
            case TriggerPutOff():
                self._put_off(effect)

    def _put_off(self, effect: TriggerPutOff) -> None:
        """It goes back to its line; a node that was built anew may put it off once more."""
        self.counters["put_off"] += 1
        held = self._holding.get(effect.handle)
        if held is not None and not held.event.delivery:
            self._holding.pop(effect.handle)
            self._refuse(held.event.template, NO_ROOM)
            self._renew_where_few(held.source)
        elif held is not None:
            self._holding.put_off(held)
            self._wait(held.line, effect.again_s)

    def _wait(self, line: Line, again_s: float) -> None:
        """One timer a line, as long as anything waits in it."""
        if line not in self._later_again and self._holding.waits(line):
            self._later_again[line] = None
            self._later(again_s, partial(self._again, line, again_s))

    def _again(self, line: Line, again_s: float) -> None:
        self._later_again.pop(line, None)
        self._tell_front(line)
        self._wait(line, again_s)

    def _go_on(self, held: Held) -> None:
        """One was kept, so that there may be room for more."""
        if self._holding.waits(held.line) and held.line not in self._soon_again:
            self._soon_again[held.line] = None
            self._later(0.0, partial(self._at_once, held.line))
        self._renew_where_few(held.source)

    def _renew_where_few(self, source: Source) -> None:
        """Less of a session is held now, so that what it let go of may have room."""
        if self._let_go.get(source) is False and self._holding.few(source):
            self._let_go[source] = True
            self._renew(*source)  # it connects anew, which `gone` hears of

    def _at_once(self, line: Line) -> None:
        self._soon_again.pop(line, None)
        self._tell_front(line)

    def _tell_front(self, line: Line) -> None:
        for event in self._holding.front(line):
            self._post(event)

    def rebuilt(self) -> Iterable[Event]:
        """What a node that was built anew is to hear first: all that it may not have kept, but for
        what it is told of in its turn."""
        return self._holding.told()

    def gone(self, broker: str, session: str) -> None:
        """A connection to a broker has ended, and what it brought will come again with the next:
        the packets' numbers are another connection's by then."""
        self._holding.leave((broker, session))
        self._let_go.pop((broker, session), None)
        for watch in self._watches.values():
            if watch.mqtt.broker == broker and session_of(watch.template) == session:
                self._post(TopicWatched(watch.template, f"broker {broker} is not connected"))

    def granted(self, watch: TopicWatch, problem: str) -> None:
        """The broker has taken a subscription, or says why not."""
        self._post(TopicWatched(watch.template, problem))

    # ---- from a broker -----------------------------------------------------------------------

    def heard(self, watch: TopicWatch, message: Incoming) -> None:
        """A message that came for a watch. Whatever it holds, it ends in an event or a count, or
        comes again."""
        source = (message.broker, session_of(watch.template))
        if message.qos and not message.dup:
            self._begun[source] = self._begun.get(source, 0) + 1
        if message.qos and self._lets_go(source):
            if not message.dup:
                self._unheard.setdefault((source, watch.template), set()).add(message.packet_id)
            return
        self.counters["heard"] += 1
        try:
            event = self._event(watch, message)
        except Unfit as unfit:
            reason = clean(str(unfit))  # it may quote the message
            if not reason:
                self.counters["filtered"] += 1
                self._count(watch.template)
            elif message.response_topic and unfit.now:
                self.counters["refused"] += 1
                self._take(self._refusal(watch, message, reason), message)
                return
            else:
                self._refuse(watch.template, reason)
            message.ack()
            return
        if not self._holding.room(source):  # and no broker keeps it
            self._refuse(watch.template, NO_ROOM)
            return
        self._take(event, message)

    def _lets_go(self, source: Source) -> bool:
        """Whether there is no room for what its connection brings. One that was let go of is the
        broker's still, which sends it to the next connection alone, as all that comes behind it
        on this one: so they stay in their order."""
        if source not in self._let_go:
            if self._holding.room(source):
                return False
            self._let_go[source] = False
            text = "%s of broker %s: %d messages wait for the disk; the rest is to come again"
            _log.warning(text, *reversed(source), self._holding.count(source))
        return True

    def _take(self, event: TriggerHeard | TriggerRefused, message: Incoming) -> None:
        source = (message.broker, session_of(event.template))
        if self._holding.room(source):
            held = Held(event, message.ack, source, len(message.payload))
            self._holding.add(held, message.dup)
        self._post(event)

    def _refusal(self, watch: TopicWatch, message: Incoming, reason: str) -> TriggerRefused:
        """Of one that asks: it is acknowledged once its answer is on disk."""
        self._handle += 1
        heard = _heard(message)
        question = Question(watch.mqtt.broker, heard.reply, heard.correlation)
        key = _own_key(message) or whole_key(heard)
        delivery = _delivery(watch, message)
        return TriggerRefused(watch.template, reason, self._handle, question, key, delivery)

    def _count(self, template: JobId) -> None:
        """Of what When does not want the node hears the number alone, now and then."""
        waiting = bool(self._filtered)
        self._filtered[template] = self._filtered.get(template, 0) + 1
        if not waiting:
            self._later(COUNT_S, self._tell_filtered)

    def _tell_filtered(self) -> None:
        filtered, self._filtered = self._filtered, {}
        for template, count in filtered.items():
            self._post(TriggerFiltered(template, count))

    def _refuse(self, template: JobId, reason: str) -> None:
        self.counters["refused"] += 1
        self._post(TriggerRefused(template, reason))

    def _event(self, watch: TopicWatch, message: Incoming) -> TriggerHeard:
        """Raises Unfit."""
        mqtt, payload = watch.mqtt, message.payload
        if not matches(mqtt.topic, message.topic):  # of another subscription (MQTT 3.1.1)
            raise Unfit(FILTERED)
        if message.topic == self._root or message.topic.startswith(f"{self._root}/"):
            self._check_own(watch, message.topic)
        if message.user_property(RUN_OF) == word_of(watch.namespace, watch.name):
            raise Unfit("a result of one of its own runs")
        if message.retain and not mqtt.retained:
            raise Unfit("the broker has kept it from earlier (Retained)", now=False)
        if len(payload) + message.left_out_bytes > mqtt.bytes_max:
            raise Unfit(f"a payload over {mqtt.bytes_max} bytes (BytesMax)")
        if len(message.topic) > TOPIC_CHARS_MAX:
            raise Unfit(f"a topic over {TOPIC_CHARS_MAX} characters")
        key = _own_key(message)
        if mqtt.when or (mqtt.keyed and mqtt.key and not key):
            key = _evaluated(watch, message, key)
        if mqtt.keyed and not key:
            raise Unfit("it brings no id (user property or correlation data)")
        if message.retain and not key:
            key = _kept_key(message)
        self._handle += 1
        heard, delivery = _heard(message), _delivery(watch, message)
        drawn = "" if key else secrets.token_hex(16)
        return TriggerHeard(
            self._handle,
            watch.template,
            heard,
            key,
            delivery,
            self._repeated(watch, message),
            drawn,
            self._begun.get((message.broker, session_of(watch.template)), 0),
        )

    def _repeated(self, watch: TopicWatch, message: Incoming) -> bool:
        """Whether the node may have heard of it before."""
        source = (message.broker, session_of(watch.template))
        unheard = self._unheard.get((source, watch.template), set())
        let_go = message.packet_id in unheard
        unheard.discard(message.packet_id)
        return message.dup and not let_go

    def _check_own(self, watch: TopicWatch, topic: str) -> None:
        """Of the shoal's own topics a template hears the one with its name (protocol.commands): on
        that only others publish. Raises Unfit."""
        presses = topic_of(self._root, Commanded.TEMPLATE, "")
        if topic == presses + word_of(watch.namespace, watch.name):
            return
        # Neither is another's press what it is meant for, nor what a wide filter happens to cover.
        aside = topic.startswith(presses) or watch.mqtt.topic[0] in "+#"
        raise Unfit(FILTERED if aside else OWN_TOPIC)


def _heard(message: Incoming) -> Heard:
    """As it came: the node says what of it is too long."""
    correlation = (message.correlation or b"") if message.response_topic else b""
    return Heard(message.topic, message.payload, message.response_topic, correlation)


def _delivery(watch: TopicWatch, message: Incoming) -> str:
    """Of one that the broker keeps until it is acknowledged."""
    source = f"{message.broker}/{session_of(watch.template)}"
    return f"{source}/{message.packet_id}" if message.qos else ""


def _own_key(message: Incoming) -> str:
    """What the message calls itself: the user property `id`, else its correlation data."""
    if name := message.user_property(ID):
        return key_of(name)
    return key_of(message.correlation) if message.correlation else ""


def _kept_key(message: Incoming) -> str:
    """Of what a broker retains: it comes with many a connection, and to each new device."""
    topic = message.topic.encode()
    return f"retained:{hashlib.sha256(topic + bytes(1) + message.payload).hexdigest()}"


def _evaluated(watch: TopicWatch, message: Incoming, key: str) -> str:
    """Its key, by Dedup.Key where it brings none. Raises Unfit for what When does not want."""
    mqtt = watch.mqtt
    try:
        value = value_of(message.payload, message.content_type)
    except PayloadError as error:
        raise Unfit(str(error)) from None
    if mqtt.when and not is_true(_searched("When", mqtt.when, value)):
        raise Unfit(FILTERED)
    if key or not (mqtt.keyed and mqtt.key):
        return key
    found = _searched("Dedup.Key", mqtt.key, value, name=True)
    if not found:
        raise Unfit("it brings no id, and Dedup.Key finds none")
    return key_of(str(found))


def _searched(field: str, text: str, value: object, name: bool = False) -> object:
    try:
        found: object = search(text, value)
        return name_of(found) if name else found
    except ExpressionError as error:
        raise Unfit(f"{field}: {error}") from None
