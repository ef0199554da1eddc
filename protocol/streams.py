"""Streams: what tasks print, line by line, on its way to a broker.

The task's own output on disk is the queue. A cursor goes through it, which says up to where the
broker has acknowledged it; it is saved now and then, so that after a crash some lines come twice,
under the same ids, and none is lost but those that the bounds on outputs have dropped, which is
told. Executions of
one slot are streamed one after the other, in the order in which they began.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from protocol.effects import Bucket, Effect, Save, StreamLines, Tell
from protocol.errors import RemoteProtocolError
from protocol.events import LinesPublished
from protocol.ids import ExecutionId, JobId
from protocol.unread import Unread
from protocol.wire import dumps, loads

BUCKET: Final[Bucket] = "stream"
STREAMS_MAX: Final = 256  # a daemon that ends every second while the broker is away; oldest first
Row = tuple[Bucket, str, bytes | None]


class Stream(msgspec.Struct, frozen=True, array_like=True):
    """One execution's output on its way, as its row holds it."""

    execution: ExecutionId
    number: int  # in the order in which they began
    job: JobId
    slot: int
    name: str  # of the job
    broker: str
    topic: str
    qos: int
    retain: bool
    format: str
    offset: int = 0  # the broker has acknowledged what comes before
    dropped_bytes: int = 0  # gone before it could be published
    gaps: int = 0  # places where more may be, of a container: docker does not tell how much


@dataclass(slots=True)
class Streams:
    """All that are not over; the first of each slot is read, once its task has begun."""

    streams: dict[ExecutionId, Stream] = field(default_factory=dict)
    _begun: dict[ExecutionId, None] = field(default_factory=dict)  # there is output to read
    _read: dict[ExecutionId, None] = field(default_factory=dict)  # in this life
    _untold: list[Effect] = field(default_factory=list)
    _next: int = 1

    def restore(self, disk: Mapping[Bucket, Mapping[str, bytes]]) -> list[Unread]:
        """Rebuild from disk; returns the rows that could not be read."""
        unreadable: list[Unread] = []
        found: list[Stream] = []
        for key, value in sorted(disk.get(BUCKET, {}).items()):
            try:
                found.append(msgspec.convert(loads(value), Stream))
            except (RemoteProtocolError, ValueError) as error:
                unreadable.append(Unread(BUCKET, key, str(error)))
        for stream in sorted(found, key=lambda each: each.number):
            self.streams[stream.execution] = stream
            self._begun[stream.execution] = None
            self._next = max(self._next, stream.number + 1)
        return unreadable

    def add(self, stream: Stream) -> list[Row]:
        """Its task is about to start; the row is saved with that."""
        stream = msgspec.structs.replace(stream, number=self._next)
        self._next += 1
        self.streams[stream.execution] = stream
        rows = [_row(stream)]
        if len(self.streams) > STREAMS_MAX:
            victim = self._surplus()
            self._untold.append(_dropped(victim, "others of its job took its place"))
            self._forget(victim.execution)
            rows.append((BUCKET, victim.execution, None))
        return rows

    def _surplus(self) -> Stream:
        """Whose output is given up: the oldest of the job that has the most, and one that has ended
        as far as there is any: a later one of its slot has begun."""
        counts: dict[JobId, int] = {}
        latest: dict[tuple[JobId, int], ExecutionId] = {}
        for stream in self.streams.values():
            counts[stream.job] = counts.get(stream.job, 0) + 1
            latest[(stream.job, stream.slot)] = stream.execution
        most = max(counts.values())
        job = next(job for job, count in counts.items() if count == most)
        mine = [stream for stream in self.streams.values() if stream.job == job]
        ended = [each for each in mine if latest[(job, each.slot)] != each.execution]
        return (ended or mine)[0]

    def removed(self, execution: ExecutionId) -> list[Effect]:
        """Its output is gone from the disk: what was not published of it never will be."""
        stream = self.streams.get(execution)
        if stream is None:
            return []
        self._forget(execution)
        gone = Save(((BUCKET, execution, None),), lazy=True)
        return [gone, _dropped(stream, "its output was removed to make room"), *self.due()]

    def begun(self, execution: ExecutionId) -> list[Effect]:
        """Its task runs, or has ended: there may be something to read."""
        if execution not in self.streams:
            return []
        self._begun[execution] = None
        return self.due()

    def due(self) -> list[Effect]:
        """Have the first of each slot read."""
        effects, self._untold = self._untold, []
        slots: dict[tuple[JobId, int], None] = {}
        for execution, stream in self.streams.items():
            first = (stream.job, stream.slot) not in slots
            slots[(stream.job, stream.slot)] = None
            if first and execution in self._begun and execution not in self._read:
                self._read[execution] = None
                effects.append(
                    StreamLines(
                        execution,
                        stream.broker,
                        stream.topic,
                        stream.qos,
                        stream.retain,
                        stream.format,
                        stream.offset,
                        (stream.job, stream.slot, stream.name),
                    )
                )
        return effects

    def on_published(self, event: LinesPublished) -> list[Effect]:
        """The broker has all before `offset`; with `over` there will be nothing more."""
        stream = self.streams.get(event.execution)
        if stream is None:
            return []
        moved = msgspec.structs.replace(
            stream,
            offset=max(stream.offset, event.offset),
            dropped_bytes=stream.dropped_bytes + event.dropped_bytes,
            gaps=stream.gaps + event.gaps,
        )
        effects: list[Effect] = []
        # What prints faster than a broker takes it loses some every few seconds.
        if moved.dropped_bytes.bit_length() > stream.dropped_bytes.bit_length():
            effects.append(_dropped_of(moved))
        if moved.gaps.bit_length() > stream.gaps.bit_length():
            effects.append(_missing_of(moved))
        if event.over:
            self._forget(event.execution)
            return [Save(((BUCKET, event.execution, None),), lazy=True), *effects, *self.due()]
        self.streams[event.execution] = moved
        return [Save((_row(moved),), lazy=True), *effects]

    def _forget(self, execution: ExecutionId) -> None:
        self.streams.pop(execution, None)
        self._begun.pop(execution, None)
        self._read.pop(execution, None)


def _dropped(stream: Stream, why: str) -> Tell:
    text = f"output of {stream.name} was dropped before broker {stream.broker} had it: {why}"
    fields: dict[str, object] = {"execution": stream.execution, "broker": stream.broker}
    return Tell("mqtt.dropped", text, stream.job, fields=fields)


def _dropped_of(stream: Stream) -> Tell:
    """What goes on being read has lost so much by now."""
    lost = f"{stream.dropped_bytes:,} bytes of the output of {stream.name}"
    text = f"{lost} were dropped before broker {stream.broker} had them: it was longer than is kept"
    fields: dict[str, object] = {
        "execution": stream.execution,
        "broker": stream.broker,
        "dropped_bytes": stream.dropped_bytes,
    }
    return Tell("mqtt.dropped", text, stream.job, fields=fields)


def _missing_of(stream: Stream) -> Tell:
    """What was seen to be missing, so often by now, and cannot be counted."""
    lost = f"output of {stream.name} may have been dropped before broker {stream.broker} had it"
    often = f" ({stream.gaps:,} times by now)" if stream.gaps > 1 else ""
    text = f"{lost}{often}: docker keeps so much, and does not say what it drops"
    fields: dict[str, object] = {
        "execution": stream.execution,
        "broker": stream.broker,
        "gaps": stream.gaps,
    }
    return Tell("mqtt.dropped", text, stream.job, fields=fields)


def _row(stream: Stream) -> Row:
    return (BUCKET, stream.execution, dumps(msgspec.to_builtins(stream)))
