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
from protocol.ids import JobId
from protocol.records import Heard
from protocol.wire import dumps, load_row

Row = tuple[Bucket, str, bytes | None]
Kept = tuple[JobId, str, Heard, int, bool, str]
ROW_BYTES: Final = 512  # of one beside its payload
# After so many more from the same broker its number has come to mean another: they begin anew after
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
    turn: float = 0.0  # monotonic; when it is for this peer to fire it
    asking: bool = False  # whether others are being asked for the run
    asked: bool = False  # those before this peer were, and know nothing

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
    _deliveries: dict[tuple[JobId, str], bytes] = field(default_factory=dict)
    _counts: dict[tuple[JobId, str], int] = field(default_factory=dict)  # when each came
    _count: dict[str, int] = field(default_factory=dict)  # of all that came, by broker, this life

    def restore(self, disk: Mapping[Bucket, Mapping[str, bytes]]) -> list[str]:
        """Rebuild from disk; returns the keys of rows that could not be read."""
        unreadable: list[str] = []
        for key, value in disk.get("trigger", {}).items():
            try:
                fields = kept_of(value)
            except (RemoteProtocolError, ValueError):
                unreadable.append(key)
                continue
            self._hold(Waiter(JobId(key), *fields))
        in_order = sorted(self.waiters.values(), key=lambda each: (each.heard_ms, each.run))
        self.waiters = {each.run: each for each in in_order}
        for key, value in disk.get("delivery", {}).items():
            template, _, delivery = key.partition("/")
            self._deliveries[(JobId(template), delivery)] = value
        return unreadable

    def room(self, payload_bytes: int) -> bool:
        fits = self._bytes + payload_bytes + ROW_BYTES <= self.config.bytes_max
        return fits and len(self.waiters) < self.config.rows_max

    def add(self, waiter: Waiter) -> list[Row]:
        self._hold(waiter)
        return [waiter.row()]

    def _hold(self, waiter: Waiter) -> None:
        self.waiters[waiter.run] = waiter
        self._bytes += waiter.size_bytes

    def drop(self, waiter: Waiter) -> list[Row]:
        if self.waiters.pop(waiter.run, None) is None:
            return []
        self._bytes -= waiter.size_bytes
        return [("trigger", waiter.run, None)]

    # ---- deliveries --------------------------------------------------------------------------

    def came(self, delivery: str) -> None:
        """Something came from a broker under that name, whatever it was."""
        broker = delivery.partition("/")[0]
        self._count[broker] = self._count.get(broker, 0) + 1

    def delivered_before(self, template: JobId, delivery: str, message: Heard) -> bool:
        """Whether the broker repeats, by that name, just the message it has sent before."""
        key = (template, delivery)
        since = self._count.get(delivery.partition("/")[0], 0) - self._counts.get(key, 0)
        return since <= FRESH and self._deliveries.get(key) == _digest(message)

    def deliver(self, template: JobId, delivery: str, message: Heard) -> list[Row]:
        """Remember it, in the place of an earlier one of that name: names come again."""
        self._deliveries.pop((template, delivery), None)
        value = self._deliveries[(template, delivery)] = _digest(message)
        self._counts[(template, delivery)] = self._count.get(delivery.partition("/")[0], 0)
        rows: list[Row] = [("delivery", f"{template}/{delivery}", value)]
        mine = [key for key in self._deliveries if key[0] == template]
        for key in mine[: -self.config.deliveries_max]:
            del self._deliveries[key]
            self._counts.pop(key, None)
            rows.append(("delivery", "/".join(key), None))
        return rows

    def forget(self, template: JobId) -> list[Row]:
        """The template was deleted."""
        mine = [key for key in self._deliveries if key[0] == template]
        for key in mine:
            del self._deliveries[key]
            self._counts.pop(key, None)
        return [("delivery", "/".join(key), None) for key in mine]

    @property
    def deadline(self) -> float:
        return min((each.due for each in self.waiters.values() if not each.asking), default=NEVER)


def kept_of(value: bytes) -> Kept:
    """What a row holds of its message. Raises RemoteProtocolError, or ValueError."""
    fields = load_row(value, list[Any])
    kept: Kept = msgspec.convert([*fields, ""][: len(get_args(Kept))], Kept)
    return kept


def _digest(message: Heard) -> bytes:
    h = hashlib.blake2b(len(message.topic).to_bytes(4, "big"), digest_size=16)
    h.update(message.topic.encode())
    h.update(message.payload)
    return h.digest()
