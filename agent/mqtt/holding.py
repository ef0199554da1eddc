"""Holding: messages that the node is told of and has not kept, which their brokers have still.

Each session has room of its own, so that what one template is behind with costs none in another
session. Templates that share one (agent.mqtt.listening) hold up each other, as they do at a broker,
which has only so many under way for a session. What the node puts off waits in a line of its
template, and is told of again from its front, a few at a time: a thousand that wait cost no more
than those few.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Final

from protocol.events import TriggerHeard, TriggerRefused
from protocol.ids import JobId

# Of one session. Ours lets a broker have 64 under way; Debian 12's Mosquitto (2.0.11) sends all
# there is once a few were acknowledged.
HELD_MAX: Final = 512
HELD_BYTES_MAX: Final = 1024 * 1024  # of their payloads; a broker may have 33 sessions here
HELD_FEW: Final = HELD_MAX // 4  # from then on there is room for what was let go of
HELD_BYTES_FEW: Final = HELD_BYTES_MAX // 4
AGAIN_MAX: Final = 8  # that are told of again together

Source = tuple[str, str]  # a broker and a session there
Line = tuple[JobId, bool]  # a template, and whether they ask: answers need room elsewhere


@dataclass(slots=True)
class Held:
    """A message that the node is told of, and may have to be told of again."""

    event: TriggerHeard | TriggerRefused
    ack: Callable[[], None]
    source: Source
    size_bytes: int
    waits: bool = False  # in its line

    @property
    def line(self) -> Line:
        event = self.event
        asks = not isinstance(event, TriggerHeard) or bool(event.message.reply)
        return event.template, asks


class Holding:
    """The one writer of all that is held."""

    def __init__(self) -> None:
        self._held: dict[int, Held] = {}  # by handle, the oldest first
        self._named: dict[tuple[JobId, str], int] = {}  # handles by template and delivery
        self._sizes: dict[Source, tuple[int, int]] = {}  # messages and bytes
        self._lines: dict[Line, list[int]] = {}  # heaps of handles: the oldest is the least

    def room(self, source: Source) -> bool:
        """Whether one more of a session may be held."""
        count, size = self._sizes.get(source, (0, 0))
        return count < HELD_MAX and size < HELD_BYTES_MAX

    def few(self, source: Source) -> bool:
        """Whether so little of a session is held that much more may be asked for."""
        count, size = self._sizes.get(source, (0, 0))
        return count <= HELD_FEW and size <= HELD_BYTES_FEW

    def count(self, source: Source) -> int:
        return self._sizes.get(source, (0, 0))[0]

    def add(self, held: Held, again: bool) -> None:
        """`again`: it was sent before (DUP). What a connection before this one has brought as well
        is held once then: by the later one alone its broker can be told of it."""
        event = held.event
        if event.delivery:
            name = (event.template, event.delivery)
            if again and name in self._named:
                self.pop(self._named[name])
            self._named[name] = event.handle
        self._held[event.handle] = held
        self._count(held, 1)

    def get(self, handle: int) -> Held | None:
        return self._held.get(handle)

    def pop(self, handle: int) -> Held | None:
        held = self._held.pop(handle, None)
        if held is None:
            return None
        name = (held.event.template, held.event.delivery)
        if self._named.get(name) == handle:
            del self._named[name]
        self._count(held, -1)
        if held.waits:
            self._keep(held.line, [each for each in self._lines[held.line] if each != handle])
        return held

    def _count(self, held: Held, sign: int) -> None:
        count, size = self._sizes.pop(held.source, (0, 0))
        if count + sign:
            self._sizes[held.source] = (count + sign, size + sign * held.size_bytes)

    def leave(self, source: Source) -> None:
        """What its connection brought comes again with the next one, but for what no broker
        keeps."""
        theirs = [held for held in self._held.values() if held.source == source]
        gone = [held for held in theirs if held.event.delivery]
        lines = dict.fromkeys(held.line for held in gone if held.waits)
        for held in gone:
            held.waits = False
            self.pop(held.event.handle)
        for line in lines:
            self._keep(line, [handle for handle in self._lines[line] if handle in self._held])

    def told(self) -> list[TriggerHeard | TriggerRefused]:
        """Those of which no line will tell the node again."""
        return [held.event for held in self._held.values() if not held.waits]

    # ---- lines -------------------------------------------------------------------------------

    def put_off(self, held: Held) -> None:
        """It goes to its place in its line."""
        if not held.waits:
            held.waits = True
            heappush(self._lines.setdefault(held.line, []), held.event.handle)

    def waits(self, line: Line) -> bool:
        return bool(self._lines.get(line))

    def _keep(self, line: Line, handles: list[int]) -> None:
        """Just these of a line."""
        heapify(handles)
        self._lines[line] = handles
        if not handles:
            del self._lines[line]

    def front(self, line: Line) -> list[TriggerHeard | TriggerRefused]:
        """The oldest few, which leave the line."""
        handles = self._lines.get(line, [])
        found = []
        for _ in range(min(AGAIN_MAX, len(handles))):
            held = self._held[heappop(handles)]
            held.waits = False
            found.append(held.event)
        if not handles:
            self._lines.pop(line, None)
        return found
