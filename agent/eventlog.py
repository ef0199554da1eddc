"""The event log: what a person may want to know, newest first kept, for `shoal events`.

A bounded ring in memory that the store writes along with its next commit: an event alone never
wakes the disk, and the last few may be lost in a power cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from agent.storesql import EVENTS_KEPT, EventWrite

if TYPE_CHECKING:
    from protocol.effects import Tell

UNSAVED_MAX: Final = 256  # more than this since the last commit is no idle agent: worth a commit
TEXT_LENGTH_MAX: Final = 1000
FIELDS_BYTES_MAX: Final = 4096

_GAP: Final = 4 * UNSAVED_MAX  # numbers that were given out but may not have reached the disk


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the log; `seq` only ever rises, also over restarts, but may skip."""

    seq: int
    at_ms: int
    kind: str
    text: str
    job: str | None = None
    peer: str | None = None
    fields: msgspec.Raw = msgspec.Raw(b"{}")  # a JSON object


class EventLog:
    """Appended to by the loop; `take_unsaved` alone is for the store's writer thread."""

    def __init__(self, saved: Sequence[EventWrite] = ()) -> None:
        self._ring: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._unsaved: deque[Event] = deque(maxlen=2 * UNSAVED_MAX)
        for _, _, text in saved:
            try:
                self._ring.append(msgspec.json.decode(text, type=Event))
            except msgspec.DecodeError:
                continue  # a line that cannot be read is no reason not to start
        self._next = saved[-1][0] + _GAP if saved else 1

    def append(self, tell: Tell, wall_ms: int) -> Event:
        """Take down one `Tell`, cut to its bounds. Whatever it holds, this raises nothing: it is
        called in the middle of an event."""
        fields = _encoded(tell.fields)
        if len(fields) > FIELDS_BYTES_MAX:
            fields = b'{"truncated":true}'
        event = Event(
            seq=self._next,
            at_ms=wall_ms,
            kind=tell.kind,
            text=_whole(tell.text[:TEXT_LENGTH_MAX]),
            job=None if tell.job is None else _whole(tell.job),
            peer=None if tell.peer is None else _whole(tell.peer),
            fields=msgspec.Raw(fields),
        )
        self._next += 1
        self._ring.append(event)
        self._unsaved.append(event)
        return event

    def since(self, seq: int, limit: int) -> list[Event]:
        """Up to `limit` events behind number `seq`, in order."""
        behind = [event for event in islice(reversed(self._ring), EVENTS_KEPT) if event.seq > seq]
        return behind[::-1][:limit]

    def last(self, limit: int) -> list[Event]:
        """The newest `limit`, in order."""
        return list(islice(reversed(self._ring), limit))[::-1]

    @property
    def unsaved(self) -> int:
        return len(self._unsaved)

    def take_unsaved(self) -> list[EventWrite]:
        """What the next commit should carry; taken, so a commit that fails loses it."""
        taken: list[EventWrite] = []
        while True:
            try:
                event = self._unsaved.popleft()  # one step for the interpreter: no lock is needed
            except IndexError:
                return taken
            taken.append((event.seq, event.at_ms, msgspec.json.encode(event).decode()))


def _whole(text: str) -> str:
    """Without halves of surrogate pairs, which UTF-8 has no form for."""
    return text.encode(errors="replace").decode()


def _encoded(fields: Mapping[str, object]) -> bytes:
    try:
        return msgspec.json.encode(fields, enc_hook=str)
    except Exception:  # half a surrogate pair, a number over 64 bits
        return msgspec.json.encode({_whole(key): ascii(value) for key, value in fields.items()})
