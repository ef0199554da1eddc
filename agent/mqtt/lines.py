"""Lines: what tasks print, published line by line as it comes (effects.StreamLines).

Nothing is kept here but what is on its way: the task's output on disk is the queue, and the node
has the place up to which the broker has acknowledged it. When a connection breaks, or a line is
refused, the output is read again from there.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import trio

from agent.engines.engine import Crowded, Engines
from agent.mqtt.broker import Broker, Brokers
from agent.mqtt.linesplitter import Line, Splitter
from agent.mqtt.message import Outgoing
from agent.mqtt.refusal import HELD, LOST, concerns_message
from protocol.effects import StreamLines
from protocol.events import Event, LinesPublished
from protocol.ids import ExecutionId, PeerId
from protocol.resultmessage import CONTENT_TYPES, line_payload
from protocol.tree import Plain

SAVED_S: Final = 10.0  # how often a place is told of: an SD card wears out
SPARE: Final = 6  # of what may be on its way to a broker: results and the rest are not to wait
REFUSED_S: Final = 60.0  # a person mends an access list
AGAIN_S: Final = 1.0
HELD_S: Final = 10.0  # for one that is to go alone: the output is read again
CROWDED_S: Final = 30.0  # others follow for hours
LOOKS_MAX: Final = 10  # for output that is not there: its task is just being started
ROOM_S: Final = 1.0
_log = logging.getLogger("shoal.mqtt")


@dataclass(eq=False, slots=True)
class Entry:
    """A line on its way."""

    resume: int  # where it ends
    size_bytes: int
    dropped_bytes: int  # before it, and with it where nobody will take it
    gap: bool  # before it some may be gone that nobody can count
    acked: bool = False


class Places:
    """What all streams together may have on their way to one broker: of what it takes at once some
    is spared for results and the rest. Whoever wants a place waits for its turn."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._limiter = trio.CapacityLimiter(1)

    async def take(self, entry: Entry) -> None:
        """One at least, also where the broker takes hardly any."""
        self._limiter.total_tokens = max(1, self._broker.window - SPARE)
        await self._limiter.acquire_on_behalf_of(entry)

    def give_back(self, entry: Entry) -> None:
        self._limiter.release_on_behalf_of(entry)


@dataclass(slots=True)
class Reading:
    """One pass through an execution's output: what is on its way, in order."""

    acked: int
    dropped_bytes: int = 0  # before what is acknowledged
    gaps: int = 0  # likewise
    reading: trio.CancelScope = field(default_factory=trio.CancelScope)
    problem: str = ""
    waiting: deque[Entry] = field(default_factory=deque)
    moved: trio.Event = field(default_factory=trio.Event)

    def done(self, entry: Entry, problem: str) -> None:
        if problem:
            self.problem = self.problem or problem
            self.reading.cancel()
        elif not self.problem:
            entry.acked = True
            while self.waiting and self.waiting[0].acked:
                first = self.waiting.popleft()
                self.acked = max(self.acked, first.resume)
                self.dropped_bytes += first.dropped_bytes
                self.gaps += first.gap
        self.moved.set()
        self.moved = trio.Event()


class Lines:
    """All streams of this agent; `post` hears of their places and ends."""

    def __init__(
        self, engines: Engines, brokers: Brokers, post: Callable[[Event], None], peer: PeerId
    ) -> None:
        self._engines = engines
        self._brokers = brokers
        self._post = post
        self._peer = peer
        self._nursery: trio.Nursery | None = None
        self._streams: dict[ExecutionId, Stream] = {}
        self._places: dict[str, Places] = {}
        self._dropped: dict[str, int] = {}  # by broker, of streams that are over

    def start(self, effect: StreamLines) -> None:
        """Once; a node that was built anew asks again for what is read already."""
        broker = self._brokers.named(effect.broker)
        if broker is None or effect.execution in self._streams:
            return
        places = self._places.setdefault(effect.broker, Places(broker))
        stream = Stream(effect, broker, places, self._engines, self._post, self._peer)
        self._streams[effect.execution] = stream
        if self._nursery is not None:
            self._nursery.start_soon(self._run, stream)

    @property
    def waiting(self) -> int:
        """How many streams have a line that is not acknowledged."""
        return sum(stream.waits for stream in self._streams.values())

    def dropped_bytes(self, broker: str) -> int:
        """Gone before it had them, since the agent started, as far as they can be counted."""
        streams = self._streams.values()
        live = sum(each.dropped_bytes for each in streams if each.broker == broker)
        return live + self._dropped.get(broker, 0)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for stream in self._streams.values():
                nursery.start_soon(self._run, stream)
            while True:
                await trio.sleep(SAVED_S)
                for stream in list(self._streams.values()):
                    stream.tell_place()

    async def _run(self, stream: Stream) -> None:
        try:
            await stream.run()
        except Exception:  # our own bug costs one stream
            _log.exception("the lines of %s", stream.execution)
        del self._streams[stream.execution]
        before = self._dropped.get(stream.broker, 0)
        self._dropped[stream.broker] = before + stream.dropped_bytes
        stream.tell_place(over=True)


class Stream:
    """One execution's lines."""

    def __init__(
        self,
        effect: StreamLines,
        broker: Broker,
        places: Places,
        engines: Engines,
        post: Callable[[Event], None],
        peer: PeerId,
    ) -> None:
        self.execution = effect.execution
        self.broker = effect.broker
        self.dropped_bytes = 0  # of all its lines
        self._effect = effect
        self._broker = broker
        self._places = places
        self._engines = engines
        self._post = post
        self._peer = peer
        self._acked = self._told = effect.offset
        self._dropped = 0  # bytes, that were not told of yet
        self._gaps = 0  # likewise
        self._looks = 0
        self.waits = False  # it has a line that is not acknowledged

    def tell_place(self, over: bool = False) -> None:
        if over or self._acked != self._told or self._dropped or self._gaps:
            dropped, self._dropped = self._dropped, 0
            gaps, self._gaps = self._gaps, 0
            self._told = self._acked
            self._post(LinesPublished(self.execution, self._acked, dropped, over, gaps))

    async def run(self) -> None:
        """Until all that it ever printed is with the broker, or gone."""
        while self._looks < LOOKS_MAX:
            if not self._broker.connected:
                await trio.sleep(AGAIN_S)
                continue
            reading, pause_s = Reading(self._acked), AGAIN_S
            try:
                with reading.reading:
                    await self._read(reading)
                    await self._settled(reading)
                    return
            except Crowded as error:  # its output is there, and waits
                _log.warning("the lines of %s wait: %s", self.execution, error)
                self._looks, pause_s = 0, CROWDED_S
            except (KeyError, OSError, ValueError) as error:
                _log.debug("the output of %s: %r", self.execution, error)
                self._looks += 1
            finally:
                self._take_over(reading)
            pauses = {"": pause_s, LOST: pause_s, HELD: HELD_S}
            await trio.sleep(pauses.get(reading.problem, REFUSED_S))

    async def _read(self, reading: Reading) -> None:
        engine = self._engines.of(self.execution)
        splitter = Splitter(self._acked, exact=engine is self._engines.process)
        log = engine.log(self.execution, "stdout", self._acked, -1, True, single=True)
        async with aclosing(log) as chunks:
            async for chunk in chunks:
                self._looks = 0
                for line in splitter.feed(chunk):
                    await self._publish(reading, line)
        if (rest := splitter.rest()) is not None:
            await self._publish(reading, rest)

    async def _publish(self, reading: Reading, line: Line) -> None:
        """Wait for its turn, and send it on its way."""
        message = self._fitting(line)
        size = len(line.data) + line.cut_bytes + 1
        entry = Entry(line.resume, size, line.dropped_bytes, line.gap)
        reading.waiting.append(entry)
        self.waits = True
        await self._places.take(entry)
        sent = False
        try:
            while not sent:
                sent = self._broker.publish(message, partial(self._done, reading, entry))
                if not sent and not self._broker.connected:
                    reading.done(entry, LOST)
                    await trio.lowlevel.checkpoint_if_cancelled()
                if not sent:
                    with trio.move_on_after(ROOM_S):
                        await reading.moved.wait()
        finally:
            if not sent:
                self._places.give_back(entry)

    def _done(self, reading: Reading, entry: Entry, problem: str) -> None:
        self._places.give_back(entry)
        if concerns_message(problem):  # it would stop all that come behind it
            entry.dropped_bytes += entry.size_bytes
            problem = ""
        reading.done(entry, problem)
        self.waits = bool(reading.waiting)
        self._take_over(reading)

    def _take_over(self, reading: Reading) -> None:
        self._acked = max(self._acked, reading.acked)
        self.dropped_bytes += reading.dropped_bytes
        self._dropped, reading.dropped_bytes = self._dropped + reading.dropped_bytes, 0
        self._gaps, reading.gaps = self._gaps + reading.gaps, 0

    async def _settled(self, reading: Reading) -> None:
        while reading.waiting:
            await reading.moved.wait()

    def _fitting(self, line: Line) -> Outgoing:
        """Cut to what the broker takes; in JSON a byte may be six."""
        message, limit = self._message(line), self._broker.limit_bytes
        while limit and message.size_bytes > limit and line.data:
            share = len(line.data) * (message.size_bytes - limit) // max(1, len(message.payload))
            kept = line.data[: max(0, len(line.data) - share - 1)]
            cut = line.cut_bytes + len(line.data) - len(kept)
            line = replace(line, data=kept, cut_bytes=cut)
            message = self._message(line)
        return message

    def _message(self, line: Line) -> Outgoing:
        effect = self._effect
        job, slot, name = effect.about
        id = f"{self.execution}:{line.place}"
        about: dict[str, Plain] = {
            "id": id,
            "job": job,
            "name": name,
            "slot": slot,
            "peer": self._peer,
        }
        properties = [("id", id)]
        lost = {"truncated_bytes": line.cut_bytes, "dropped_bytes": line.dropped_bytes}
        for key, value in lost.items():
            if value:
                about[key] = value
                properties.append((key, str(value)))
        if line.gap:
            about["gap"] = True
            properties.append(("gap", "true"))
        return Outgoing(
            topic=effect.topic,
            payload=line_payload(effect.format, about, line.data),
            qos=effect.qos,
            retain=effect.retain,
            user_properties=tuple(properties),
            content_type=CONTENT_TYPES[effect.format],
        )
