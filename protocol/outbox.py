"""The outbox: messages that are to reach a broker, each at least once and under one id.

A message is a row, saved together with what it tells of, and deleted once the broker has
acknowledged it; both outlive kill -9 and power cuts, and what is published twice is the same twice.
Of one job one result is on its way at a time, so that they arrive in order whatever is lost. None
is ever dropped: a device whose outbox is full takes no more work that would add to it. But for
answers that the broker refuses: whoever may ask chose their topics, and could fill it with them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from protocol.clock import NEVER, Now
from protocol.config import OutboxConfig
from protocol.effects import Bucket, Effect, Publish, Save, Tell
from protocol.errors import RemoteProtocolError
from protocol.events import BrokerChanged, MessagePublished
from protocol.ids import JobId
from protocol.unread import Unread
from protocol.wire import dumps, loads

BUCKET: Final[Bucket] = "outbox"
ROW_BYTES_MAX: Final = 1024 * 1024
Row = tuple[Bucket, str, bytes | None]
Line = tuple[str, JobId, bool]  # broker, job, whether answers: what stands in one line


class Message(msgspec.Struct, frozen=True, array_like=True):
    """One message as its row holds it."""

    id: str
    broker: str
    job: JobId
    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    content_type: str = ""
    expiry_s: int = 0
    properties: tuple[tuple[str, str], ...] = ()
    correlation: bytes = b""
    answer: bool = False  # to whoever has asked, who chose the topic: not kept if that is refused


@dataclass(slots=True)
class Outbox:
    """All messages of this device that no broker has acknowledged yet."""

    config: OutboxConfig = field(default_factory=OutboxConfig)
    messages: dict[int, Message] = field(default_factory=dict)  # by number, in order
    size_bytes: int = 0  # of their payloads
    _lines: dict[Line, deque[int]] = field(default_factory=dict)
    _connected: dict[str, None] = field(default_factory=dict)
    _sent: dict[int, str] = field(default_factory=dict)  # under way, and to which broker
    _held: dict[Line, tuple[float, int]] = field(default_factory=dict)  # until when; how often so
    _looked: float = 0.0  # when `due` last was
    _given_up: int = 0  # answers, in this life
    _next: int = 1

    def restore(self, disk: Mapping[Bucket, Mapping[str, bytes]]) -> list[Unread]:
        """Rebuild from disk; returns the rows that could not be read."""
        unreadable: list[Unread] = []
        rows = disk.get(BUCKET, {})
        for key in sorted(rows):
            try:
                message = msgspec.convert(loads(rows[key], ROW_BYTES_MAX), Message)
                self._put(int(key), message)
            except (RemoteProtocolError, ValueError) as error:
                unreadable.append(Unread(BUCKET, key, str(error)))
        return unreadable

    # ---- messages in -------------------------------------------------------------------------

    def add(self, message: Message) -> Row:
        """Take one up; it is published by the first `due` after its row is to be saved."""
        number = self._next
        self._put(number, message)
        return (BUCKET, _key(number), dumps(msgspec.to_builtins(message, builtin_types=(bytes,))))

    def _put(self, number: int, message: Message) -> None:
        self._next = max(self._next, number + 1)
        self.messages[number] = message
        self.size_bytes += len(message.payload)
        self._lines.setdefault(_line(message), deque()).append(number)

    @property
    def full(self) -> str:
        """Why no more work may be taken whose results go through it; empty while there is room."""
        count, config = len(self.messages), self.config
        if count < config.messages_max and self.size_bytes < config.bytes_max:
            return ""
        waiting = dict.fromkeys(message.broker for message in self.messages.values())
        return f"{count} results wait for broker {', '.join(waiting)}, as many as are kept"

    # ---- messages out ------------------------------------------------------------------------

    def due(self, now: Now) -> list[Effect]:
        """Publish what can go: the first of each job, as many together as a broker takes. Answers
        are counted apart: where the broker takes none of them, results go all the same."""
        self._looked = now.mono
        effects: list[Effect] = []
        for broker in self._connected:
            for answers in (False, True):
                for number in self._next_ones(broker, answers, now):
                    self._sent[number] = broker
                    effects.append(self._publish(number))
        return effects

    def _next_ones(self, broker: str, answers: bool, now: Now) -> list[int]:
        config = self.config
        room = config.answers_in_flight_max if answers else config.in_flight_max
        for number, to in self._sent.items():
            room -= to == broker and self.messages[number].answer == answers
        ready: list[int] = []
        for line, numbers in self._lines.items():
            if len(ready) >= room:
                break
            until, _ = self._held.get(line, (0.0, 0))
            meant = (line[0], line[2]) == (broker, answers)
            if meant and numbers[0] not in self._sent and until <= now.mono:
                ready.append(numbers[0])
        return ready

    def _publish(self, number: int) -> Publish:
        message = self.messages[number]
        return Publish(
            broker=message.broker,
            key=_key(number),
            id=message.id,
            topic=message.topic,
            payload=message.payload,
            qos=message.qos,
            retain=message.retain,
            content_type=message.content_type,
            expiry_s=message.expiry_s,
            properties=message.properties,
            correlation=message.correlation,
            answer=message.answer,
        )

    # ---- what became of them -----------------------------------------------------------------

    def on_published(self, event: MessagePublished, now: Now) -> list[Effect]:
        """The broker has it, or refused it, or nobody knows. Stale ones are normal."""
        number = int(event.key)
        message = self.messages.get(number)
        if message is None or message.id != event.id:
            return []
        self._sent.pop(number, None)
        if message.answer and event.refused:
            told = self._give_up(message, event.problem)
            return [*self._delete(number, event.key), *told, *self.due(now)]
        if event.problem:
            return [*self._hold(message, event, now), *self.due(now)]
        # Lost in a power cut, it is published once more, under the same id.
        return [*self._delete(number, event.key), *self.due(now)]

    def _delete(self, number: int, key: str) -> list[Effect]:
        message = self.messages[number]
        line = _line(message)
        self._held.pop(line, None)
        del self.messages[number]
        self.size_bytes -= len(message.payload)
        self._lines[line].remove(number)
        if not self._lines[line]:
            del self._lines[line]
        return [Save(((BUCKET, key, None),), lazy=True)]

    def _give_up(self, message: Message, problem: str) -> list[Effect]:
        """Told of the first, tenth, hundredth … time."""
        self._given_up += 1
        if str(self._given_up).strip("0") != "1":
            return []
        text = (
            f"broker {message.broker} does not take the answer for {message.topic}: {problem}; it "
            f"is dropped ({self._given_up} so far)"
        )
        return [Tell("mqtt.unanswered", text, message.job, fields={"broker": message.broker})]

    def _hold(self, message: Message, event: MessagePublished, now: Now) -> list[Effect]:
        """Not now: soon where the connection broke, in a while where others are to go first, and
        ever more seldom where it was refused."""
        line = _line(message)
        _, times = self._held.get(line, (0.0, 0))
        if not event.refused:
            wait_s = self.config.held_s if event.waits else self.config.again_s
            self._held[line] = (now.mono + wait_s, times)
            return []
        wait_s = min(self.config.refused_first_s * 2 ** min(times, 16), self.config.refused_max_s)
        self._held[line] = (now.mono + wait_s, times + 1)
        if times:
            return []
        text = (
            f"broker {message.broker} does not take the result for {message.topic}: "
            f"{event.problem}; it is kept and tried again"
        )
        return [Tell("mqtt.refused", text, message.job, fields={"broker": message.broker})]

    def on_broker(self, event: BrokerChanged, now: Now) -> list[Effect]:
        """Its connection came about or is gone; then nobody knows what of it arrived."""
        lost = [number for number, broker in self._sent.items() if broker == event.broker]
        for number in lost:
            del self._sent[number]
        if not event.connected:
            self._connected.pop(event.broker, None)
            return []
        self._connected[event.broker] = None
        for line in [line for line, (_, times) in self._held.items() if line[0] == event.broker]:
            if not self._held[line][1]:  # what was refused is no sooner allowed by that
                del self._held[line]
        return self.due(now)

    @property
    def deadline(self) -> float:
        """When something that was held back may be tried again. What could be already waits for an
        acknowledgement, and for no time."""
        times = [
            until
            for line, (until, _) in self._held.items()
            if until > self._looked and line[0] in self._connected and line in self._lines
            and self._lines[line][0] not in self._sent
        ]  # fmt: skip
        return min(times, default=NEVER)

    def on_deadline(self, now: Now) -> list[Effect]:
        return self.due(now) if self.deadline <= now.mono else []

    def waiting(self, broker: str) -> int:
        """How many wait for it."""
        return sum(len(numbers) for line, numbers in self._lines.items() if line[0] == broker)


def _line(message: Message) -> Line:
    return (message.broker, message.job, message.answer)


def _key(number: int) -> str:
    """So that keys sort as their numbers do."""
    return f"{number:016d}"
