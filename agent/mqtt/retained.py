"""Retained: what this device keeps at brokers, and takes away again once it is wanted no more.

Who is asked says what is wanted, and this brings brokers to it. Each topic has a row on disk before
the first message leaves, and until the broker has taken the empty one that clears it: so nothing is
left there when what it tells of is gone, or the option that had it told, over restarts and kills.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from agent.mqtt.broker import Broker, Brokers
from agent.mqtt.message import Incoming, Outgoing
from agent.mqtt.refusal import HELD, LOST
from agent.mqtt.session import Subscription
from agent.storesql import RowWrite, StoreFailed

BUCKET: Final = "retained"
TOPICS_MAX: Final = 2_000  # at one broker; 256 daemons are 512 of them
SPARE: Final = 8  # of what may be on its way: results and lines come first
LOOK_S: Final = 5.0
REFUSED_S: Final = 600.0  # as a broker itself is not asked again meanwhile (agent.mqtt.broker)
STOOD_BYTES_MAX: Final = 256 * 1024
CORRECT_S: Final = 30.0  # between two corrections of one topic: somebody may disagree for good
_log = logging.getLogger("shoal.mqtt")

Save = Callable[[Sequence[RowWrite]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Kept:
    """A message as it is to stand at a broker. `note` is remembered with its topic. One that is
    `guarded` is put right where somebody else has put another in its place, or taken it away."""

    payload: bytes
    content_type: str = ""
    note: bytes = b""
    guarded: bool = False


@dataclass(slots=True)
class Book:
    """One broker: what is wanted there, and what may stand there of ours."""

    asked: bool = False  # whether anybody has said by now what is wanted
    rows: dict[str, bytes] = field(default_factory=dict)  # notes by topic
    wanted: dict[str, Kept] = field(default_factory=dict)
    others: frozenset[str] = frozenset()  # topics that are another device's by now
    sent: dict[str, bytes] = field(default_factory=dict)  # that it has acknowledged
    cleared: dict[str, None] = field(default_factory=dict)
    under_way: dict[str, None] = field(default_factory=dict)
    refused: dict[str, float] = field(default_factory=dict)  # until when, loop time
    corrected: dict[str, float] = field(default_factory=dict)  # when last
    guards: dict[str, Subscription] = field(default_factory=dict)
    stood: dict[str, bytes] = field(default_factory=dict)  # another's, as this was subscribed to

    def due(self, now: float) -> list[tuple[str, Kept | None]]:
        """Topics whose message is to go out, those that are to be cleared first."""
        if not self.asked:  # a new life does not know at once what of the last one is to go
            return []
        free = [topic for topic in self.rows if topic not in self.under_way]
        free = [topic for topic in free if self.refused.get(topic, now) <= now]
        gone = [
            (topic, None)
            for topic in free
            if topic not in self.wanted and topic not in self.others and topic not in self.cleared
        ]
        there = [(topic, self.wanted[topic]) for topic in free if topic in self.wanted]
        return [*gone, *(each for each in there if self.sent.get(each[0]) != each[1].payload)]

    def changes(self) -> dict[str, bytes | None]:
        """What the disk has to hear before anything further goes out: topics that are new, with
        their notes, and those of which nothing of ours is left."""
        new = {t: kept.note for t, kept in self.wanted.items() if self.rows.get(t) != kept.note}
        over = [
            topic
            for topic in self.rows
            if topic not in self.wanted and (topic in self.cleared or topic in self.others)
        ]
        return {**new, **dict.fromkeys(over)}


class Retained:
    """`rows` are those of the disk; `save` returns once its rows are there (StoreFailed)."""

    def __init__(self, brokers: Brokers, rows: Mapping[str, bytes], save: Save) -> None:
        self._brokers = brokers
        self._save = save
        self._changed = trio.Event()
        self._books: dict[str, Book] = {}
        self._adopted: dict[tuple[str, str], None] = {}  # rows that the disk has to hear of yet
        for key in sorted(rows):
            broker, _, topic = key.partition(" ")
            self._book(broker).rows[topic] = rows[key]

    def _book(self, broker: str) -> Book:
        return self._books.setdefault(broker, Book())

    # ---- what is wanted ----------------------------------------------------------------------

    def want(self, broker: str, messages: Mapping[str, Kept], others: Iterable[str] = ()) -> None:
        """Just these are to stand there. Topics that are `others` are let go of as they are, all
        else that ever was ours is cleared."""
        book = self._book(broker)
        if len(messages) > TOPICS_MAX:
            _log.warning("broker %s: %d topics are too many to keep", broker, len(messages))
        wanted = dict(list(messages.items())[:TOPICS_MAX])
        left = frozenset(others) - wanted.keys()
        if (wanted, left) != (book.wanted, book.others) or not book.asked:
            book.wanted, book.others, book.asked = wanted, left, True
            for topic in wanted:
                book.cleared.pop(topic, None)
            self._guard(broker, book)
            self._changed.set()

    def clear(self, broker: str, topics: Iterable[str]) -> None:
        """Somebody else's, who will not do it any more; nor will another that told of it, too."""
        book, topics = self._book(broker), list(topics)
        book.others = book.others.difference(topics)
        for topic in topics:
            if topic not in book.wanted and len(book.rows) < 2 * TOPICS_MAX:
                book.cleared.pop(topic, None)
                book.rows.setdefault(topic, b"")
                self._adopted[broker, topic] = None
        self._changed.set()

    def note(self, broker: str, topic: str) -> bytes:
        """What is remembered of a topic; empty where that is nothing."""
        return self._book(broker).rows.get(topic, b"")

    def stood(self, broker: str, topic: str) -> bytes:
        """What somebody else had there when this device began to guard a topic that it notes
        things of; empty where that was nothing, or is not known yet."""
        return self._book(broker).stood.get(topic, b"")

    def standing(self, broker: str) -> dict[str, bytes]:
        """What the broker has acknowledged, by topic."""
        return dict(self._book(broker).sent)

    # ---- what happens there ------------------------------------------------------------------

    def connected(self, broker: str) -> None:
        """It may have forgotten all of it meanwhile."""
        self._book(broker).sent.clear()
        self._changed.set()

    def again(self, broker: str, beginning: str) -> None:
        """Somebody who was not there asks for what stands on topics that begin so."""
        sent = self._book(broker).sent
        for topic in [topic for topic in sent if topic.startswith(beginning)]:
            del sent[topic]
        self._changed.set()

    def _guard(self, name: str, book: Book) -> None:
        broker = self._brokers.named(name)
        for topic in [topic for topic in book.guards if topic not in book.wanted]:
            book.guards.pop(topic).close()
            book.stood.pop(topic, None)
        for topic, kept in book.wanted.items():
            if kept.guarded and topic not in book.guards and broker is not None:
                handler = partial(self._heard, book)
                book.guards[topic] = broker.subscribe(topic, 0, handler)

    def _heard(self, book: Book, message: Incoming) -> None:
        """Ours comes back as well; another's is put right, though not in a race with its author."""
        message.ack()
        topic, now = message.topic, trio.current_time()
        kept = book.wanted.get(topic)
        whole = not message.left_out_bytes  # else its payload is empty, and says nothing
        if kept is None or (whole and message.payload == kept.payload):
            return
        if message.retain and kept.note and whole and len(message.payload) <= STOOD_BYTES_MAX:
            book.stood[topic] = message.payload
        if topic in book.under_way:
            return
        if book.sent.get(topic) == kept.payload:
            del book.sent[topic]
            last = book.corrected.pop(topic, now - CORRECT_S)
            book.refused[topic] = book.corrected[topic] = max(now, last + CORRECT_S)
            self._changed.set()

    # ---- bringing it about -------------------------------------------------------------------

    async def run(self) -> None:
        while True:
            with trio.move_on_after(LOOK_S):
                await self._changed.wait()
            self._changed = trio.Event()
            try:
                await self._journal()
            except StoreFailed as error:  # the driver tells of it, and has the store opened again
                _log.debug("retained: %s", error)
                await trio.sleep(LOOK_S)
                self._changed.set()
                continue
            for name, book in self._books.items():
                broker = self._brokers.named(name)
                if broker is not None and broker.connected:
                    self._publish(broker, book)

    async def _journal(self) -> None:
        changes = {name: book.changes() for name, book in self._books.items()}
        writes: list[RowWrite] = [
            (BUCKET, f"{name} {topic}", note)
            for name, changed in changes.items()
            for topic, note in changed.items()
        ]
        adopted = list(self._adopted)
        writes += [(BUCKET, f"{name} {topic}", b"") for name, topic in adopted]
        if not writes:
            return
        await self._save(writes)
        for each in adopted:
            self._adopted.pop(each, None)
        for name, changed in changes.items():
            book = self._books[name]
            for topic, note in changed.items():
                if note is not None:
                    book.rows[topic] = note
                    continue
                for known in (book.rows, book.cleared, book.sent, book.refused, book.corrected):
                    known.pop(topic, None)

    def _publish(self, broker: Broker, book: Book) -> None:
        for topic, kept in book.due(trio.current_time()):
            if not broker.has_room(SPARE):
                return
            if kept is not None and book.rows[topic] != kept.note:
                continue  # it became another while the disk was written
            payload = kept.payload if kept is not None else b""
            kind = kept.content_type if kept is not None else ""
            message = Outgoing(topic, payload, retain=True, content_type=kind)
            book.under_way[topic] = None
            if not broker.publish(message, partial(self._done, book, topic, payload)):
                del book.under_way[topic]
                return

    def _done(self, book: Book, topic: str, payload: bytes, problem: str) -> None:
        book.under_way.pop(topic, None)
        if problem:
            if problem != LOST:
                wait_s = LOOK_S if problem == HELD else REFUSED_S
                book.refused[topic] = trio.current_time() + wait_s
        elif payload:
            book.refused.pop(topic, None)
            book.sent[topic] = payload
        elif topic not in book.wanted:
            book.cleared[topic] = None
        self._changed.set()
