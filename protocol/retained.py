"""Retained: results that brokers keep here and there, until their jobs are forgotten everywhere.

Executions are forgotten sooner than jobs are, by their number. What takes a result back at the
broker then is a small row in the execution's place. (A broker of MQTT 5 drops it by itself, too.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from protocol.effects import Bucket
from protocol.errors import RemoteProtocolError
from protocol.ids import JobId
from protocol.unread import Unread
from protocol.wire import dumps, loads

BUCKET: Final[Bucket] = "result"
ROWS_MAX: Final = 4_000  # some 2 MB; those beyond are taken back early, the oldest first
AT_ONCE_MAX: Final = 500  # taken back in one sweep: each is a message
Row = tuple[Bucket, str, bytes | None]


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """One result at a broker, as its row holds it."""

    broker: str
    topic: str
    job: JobId
    execution: str
    ended_ms: int  # Unix; of the last execution here whose result is there


@dataclass(slots=True)
class Retained:
    """All whose executions are forgotten here, by broker and topic."""

    kept: dict[str, Kept] = field(default_factory=dict)  # that ended first, first

    def restore(self, disk: Mapping[Bucket, Mapping[str, bytes]]) -> list[Unread]:
        """Rebuild from disk; returns the rows that could not be read."""
        unreadable: list[Unread] = []
        found: list[tuple[str, Kept]] = []
        for key, value in disk.get(BUCKET, {}).items():
            try:
                found.append((key, msgspec.convert(loads(value), Kept)))
            except (RemoteProtocolError, ValueError) as error:
                unreadable.append(Unread(BUCKET, key, str(error)))
        self.kept = dict(sorted(found, key=lambda each: (each[1].ended_ms, each[0])))
        return unreadable

    def keep(self, kept: Kept) -> Row:
        key = f"{kept.broker}/{kept.topic}"
        before = self.kept.pop(key, kept)
        self.kept[key] = kept if kept.ended_ms >= before.ended_ms else before
        return (BUCKET, key, dumps(msgspec.to_builtins(self.kept[key])))

    def due(self, before_ms: int, room: int) -> list[tuple[Kept, Row]]:
        """Those to take back now, at most `room`: what ended before then, or is one too many."""
        over = len(self.kept) - ROWS_MAX
        found = [
            key
            for at, (key, kept) in enumerate(self.kept.items())
            if at < over or kept.ended_ms < before_ms
        ]
        return [
            (self.kept.pop(key), (BUCKET, key, None)) for key in found[: min(AT_ONCE_MAX, room)]
        ]
