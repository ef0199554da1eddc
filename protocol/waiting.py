"""Waiting: the messages that were heard here, are on disk, and have become no job yet.

Beside them, of messages without a key, which deliveries of a broker were taken: it sends one again
whose acknowledgement it has not seen, and that is no second message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, get_args

import msgspec

from protocol.clock import NEVER
from protocol.config import TriggersConfig
from protocol.effects import Bucket
from protocol.errors import RemoteProtocolError
from protocol.ids import JobId, PeerId
from protocol.messages import JobQuery
from protocol.records import Heard
from protocol.unread import Unread
from protocol.wire import dumps, load_row

Row = tuple[Bucket, str, bytes | None]
Kept = tuple[JobId, str, Heard, int, bool, str]
ROW_BYTES: Final = 512  # of one beside its payload
# After so many that its broker began to send in the same session a packet's number has come to mean
# another: there are 65,535, of which one half is before, as of serial numbers (RFC 1982).
# Debian 12's Mosquitto (2.0.11) begins thousands before it repeats the first.
FRESH: Final = 32_768
DIGEST_BYTES: Final = 16
SERIAL_BYTES: Final = 8
PLACE_BYTES: Final = 8


@dataclass(slots=True)
class Waiter:
    """One message, by the run that it is to become."""

    run: JobId
    template: JobId
    key: str
    message: Heard
    heard_ms: int  # wall
    named: bool  # whether the key is its own; drawn here otherwise
    broker: str = ""  # where it was heard
    due: float = NEVER  # monotonic; when it is to be looked at
    rank: int = 0  # whose turn it is before this peer's
    heard: float = -NEVER  # monotonic, in this life
    turn: float = 0.0  # monotonic; when it is for this peer to fire it
    asking: bool = False  # whether others are being asked for the run
    asked: bool = False  # those before this peer were, and know nothing
    firing: bool = False  # all are being asked: it is fired where nobody knows the run
    # Who asks for it meanwhile, and to fire it as well: they hear when it is fired.
    askers: dict[PeerId, JobQuery] = field(default_factory=dict)
    # By these handles its broker still has it: it is on no disk here.
    unkept: list[int] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        return len(self.message.payload) + ROW_BYTES

    def row(self) -> Row:
        heard = self.message
        message = [heard.topic, heard.payload, heard.reply, heard.correlation]
        value = dumps([self.template, self.key, message, self.heard_ms, self.named, self.broker])
        return ("trigger", self.run, value)


@dataclass(frozen=True, slots=True)
class Delivery:
    """That what came under a broker's name for it was taken."""

    digest: bytes
    place: int  # among all of its session, over this device's lives


@dataclass(slots=True)
class Waiting:
    """The one writer of both; each change gives back the rows to save."""

    config: TriggersConfig
    waiters: dict[JobId, Waiter] = field(default_factory=dict)  # the oldest first
    _bytes: int = 0
    _held: dict[JobId, tuple[int, int]] = field(default_factory=dict)  # rows and bytes, by template
    # By template and name, of each the oldest first.
    _deliveries: dict[JobId, dict[str, Delivery]] = field(default_factory=dict)
    _serial: int = 0  # of the last one that was remembered: their order on disk
    _first: dict[str, int] = field(default_factory=dict)  # numbers seen first here, by session
    _reached: dict[str, int] = field(default_factory=dict)  # places of earlier lives, by session

    def restore(self, disk: Mapping[Bucket, Mapping[str, bytes]]) -> list[Unread]:
        """Rebuild from disk; returns the rows that could not be read."""
        unreadable: list[Unread] = []
        for key, value in disk.get("trigger", {}).items():
            try:
                fields = kept_of(value)
            except (RemoteProtocolError, ValueError) as error:
                unreadable.append(Unread("trigger", key, str(error)))
                continue
            self.hold(Waiter(JobId(key), *fields))
        in_order = sorted(self.waiters.values(), key=lambda each: (each.heard_ms, each.run))
        self.waiters = {each.run: each for each in in_order}
        self._restore_deliveries(disk.get("delivery", {}))
        return unreadable

    def _restore_deliveries(self, rows: Mapping[str, bytes]) -> None:
        """In the order in which they came; those of versions that kept none are before all, and
        those without a place are at the first. One that came too long ago to be known stays in its
        order, in which it leaves the disk."""
        for key, value in sorted(rows.items(), key=lambda row: (row[1][DIGEST_BYTES:], row[0])):
            template, _, name = key.partition("/")
            mine = self._deliveries.setdefault(JobId(template), {})
            rest = value[DIGEST_BYTES:]
            place = int.from_bytes(rest[SERIAL_BYTES:][:PLACE_BYTES], "big")
            mine[name] = Delivery(value[:DIGEST_BYTES], place)
            self._serial = max(self._serial, int.from_bytes(rest[:SERIAL_BYTES], "big"))
            source = source_of(name)
            self._reached[source] = max(self._reached.get(source, 0), place)

    def room(self, payload_bytes: int, template: JobId) -> bool:
        config, more = self.config, payload_bytes + ROW_BYTES
        rows, size = self._held.get(template, (0, 0))
        if rows < config.rows_sure and size + more <= config.bytes_sure:
            return True
        return self._bytes + more <= config.bytes_max and len(self.waiters) < config.rows_max

    def add(self, waiter: Waiter) -> list[Row]:
        self.hold(waiter)
        return [waiter.row()]

    def hold(self, waiter: Waiter) -> None:
        self.waiters[waiter.run] = waiter
        self._count_in(waiter, 1)

    def _count_in(self, waiter: Waiter, sign: int) -> None:
        rows, size = self._held.pop(waiter.template, (0, 0))
        rows, size = rows + sign, size + sign * waiter.size_bytes
        if rows:
            self._held[waiter.template] = (rows, size)
        self._bytes += sign * waiter.size_bytes

    def drop(self, waiter: Waiter) -> list[Row]:
        if self.waiters.pop(waiter.run, None) is None:
            return []
        self._count_in(waiter, -1)
        return [] if waiter.unkept else [("trigger", waiter.run, None)]

    # ---- deliveries --------------------------------------------------------------------------

    def delivered_before(
        self, template: JobId, delivery: str, message: Heard, number: int = 0
    ) -> bool:
        """Whether the broker repeats, by that name, just the message it has sent before. `number`
        is TriggerHeard's."""
        place = self._place(delivery, number)
        known = self._deliveries.get(template, {}).get(delivery)
        if known is None or known.digest != _digest(message):
            return False
        return place - known.place <= FRESH

    def _place(self, delivery: str, number: int) -> int:
        """Numbers begin with the agent, and places go on from the last one on disk: what came
        between that and this life's first is not counted."""
        source = source_of(delivery)
        first = self._first.setdefault(source, number)
        return max(0, self._reached.get(source, 0) + number - first)

    def deliver(self, template: JobId, delivery: str, message: Heard, number: int = 0) -> list[Row]:
        """Remember it, in the place of an earlier one of that name: names come again."""
        mine = self._deliveries.setdefault(template, {})
        mine.pop(delivery, None)
        mine[delivery] = made = Delivery(_digest(message), self._place(delivery, number))
        self._serial += 1
        serial = self._serial.to_bytes(SERIAL_BYTES, "big")
        value = made.digest + serial + made.place.to_bytes(PLACE_BYTES, "big")
        over = len(mine) - self.config.deliveries_max
        gone = self._forget(template, list(islice(mine, max(0, over))))
        return [("delivery", f"{template}/{delivery}", value), *gone]

    def rename(self, template: JobId, delivery: str) -> list[Row]:
        """The broker gives this name to a message that it has not sent before: it has seen the
        earlier one of that name acknowledged, and never repeats it."""
        return self._forget(template, [delivery])

    def begin(self, source: str) -> list[Row]:
        """A session begins anew: its numbers are other messages'."""
        rows: list[Row] = []
        for template, mine in list(self._deliveries.items()):
            rows += self._forget(template, [name for name in mine if source_of(name) == source])
        return rows

    def forget(self, template: JobId) -> list[Row]:
        """The template was deleted."""
        return self._forget(template, list(self._deliveries.get(template, {})))

    def _forget(self, template: JobId, names: list[str]) -> list[Row]:
        mine = self._deliveries.get(template, {})
        gone = [name for name in names if mine.pop(name, None) is not None]
        if not mine:
            self._deliveries.pop(template, None)
        return [("delivery", f"{template}/{name}", None) for name in gone]

    @property
    def deadline(self) -> float:
        return min((each.due for each in self.waiters.values() if not each.asking), default=NEVER)


def kept_of(value: bytes) -> Kept:
    """What a row holds of its message. Raises RemoteProtocolError, or ValueError."""
    fields = load_row(value, list[Any])
    kept: Kept = msgspec.convert([*fields, ""][: len(get_args(Kept))], Kept)
    return kept


def source_of(delivery: str) -> str:
    """Broker and session, whose packets have numbers of their own."""
    return delivery.rpartition("/")[0]


def _digest(message: Heard) -> bytes:
    h = hashlib.blake2b(len(message.topic).to_bytes(4, "big"), digest_size=DIGEST_BYTES)
    h.update(message.topic.encode())
    h.update(message.payload)
    return h.digest()
