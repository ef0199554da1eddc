"""Waiting: the messages that were heard here, are on disk, and have become no job yet.

Beside them, of messages without a key, which deliveries of a broker were taken: it sends one again
whose acknowledgement it has not seen, and that is no second message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
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
# After so many more in the same session its number has come to mean another: they begin anew after
# 65,535, and a broker has 20 or so under way.
FRESH: Final = 1_000


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


@dataclass(slots=True)
class Waiting:
    """The one writer of both; each change gives back the rows to save."""

    config: TriggersConfig
    waiters: dict[JobId, Waiter] = field(default_factory=dict)  # the oldest first
    _bytes: int = 0
    _held: dict[JobId, tuple[int, int]] = field(default_factory=dict)  # rows and bytes, by template
    _deliveries: dict[tuple[JobId, str], bytes] = field(default_factory=dict)
    _counts: dict[tuple[JobId, str], int] = field(default_factory=dict)  # when each came
    _count: dict[str, int] = field(default_factory=dict)  # of all that came, by session, this life

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
        for key, value in disk.get("delivery", {}).items():
            template, _, delivery = key.partition("/")
            self._deliveries[(JobId(template), delivery)] = value
        return unreadable

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

    def came(self, delivery: str) -> None:
        """Something came in a broker's session under that name, whatever it was."""
        source = source_of(delivery)
        self._count[source] = self._count.get(source, 0) + 1

    def delivered_before(self, template: JobId, delivery: str, message: Heard) -> bool:
        """Whether the broker repeats, by that name, just the message it has sent before."""
        key = (template, delivery)
        since = self._count.get(source_of(delivery), 0) - self._counts.get(key, 0)
        return since <= FRESH and self._deliveries.get(key) == _digest(message)

    def deliver(self, template: JobId, delivery: str, message: Heard) -> list[Row]:
        """Remember it, in the place of an earlier one of that name: names come again."""
        self._deliveries.pop((template, delivery), None)
        value = self._deliveries[(template, delivery)] = _digest(message)
        self._counts[(template, delivery)] = self._count.get(source_of(delivery), 0)
        rows: list[Row] = [("delivery", f"{template}/{delivery}", value)]
        mine = [key for key in self._deliveries if key[0] == template]
        return rows + self._forget(mine[: -self.config.deliveries_max])

    def begin(self, source: str) -> list[Row]:
        """A session begins anew: its numbers are other messages'."""
        gone = [key for key in self._deliveries if source_of(key[1]) == source]
        return self._forget(gone)

    def forget(self, template: JobId) -> list[Row]:
        """The template was deleted."""
        return self._forget([key for key in self._deliveries if key[0] == template])

    def _forget(self, keys: list[tuple[JobId, str]]) -> list[Row]:
        for key in keys:
            del self._deliveries[key]
            self._counts.pop(key, None)
        return [("delivery", "/".join(key), None) for key in keys]

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
    h = hashlib.blake2b(len(message.topic).to_bytes(4, "big"), digest_size=16)
    h.update(message.topic.encode())
    h.update(message.payload)
    return h.digest()
