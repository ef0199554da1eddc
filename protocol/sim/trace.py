"""The trace of a run: every event at every node goes into one digest, and into lines on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from struct import pack
from typing import Final, Protocol

import msgspec

from protocol.errors import RemoteProtocolError
from protocol.events import Event, FrameReceived, GossipReceived
from protocol.ids import PeerId
from protocol.wire import decode_message

ID_CHARS: Final = 31  # a text longer than this is an id


class Numbered(Protocol):
    @property
    def index(self) -> int: ...


class Trace:
    """`line` is called with a sentence per event where somebody reads along."""

    def __init__(self, line: Callable[[str], None] | None = None) -> None:
        self._digest = hashlib.blake2b(digest_size=16)
        self.line = line

    def note(self, time: float, device: int, kind: str, data: bytes = b"") -> None:
        """Time in simulated seconds; `data` is the frame where there is one."""
        self._digest.update(pack(">di", time, device))
        self._digest.update(kind.encode())
        self._digest.update(data)

    def tell(self, time: float, device: int, text: str) -> None:
        if self.line is not None:
            self.line(f"{time:10.4f} {device:4d} {text}")

    @property
    def digest(self) -> str:
        return self._digest.copy().hexdigest()


def event_text(event: Event, devices: Mapping[PeerId, Numbered]) -> str:
    """An event as one line."""
    match event:
        case FrameReceived():
            return f"<- {devices[event.peer].index} {frame_text(event.frame)}"
        case GossipReceived():
            return f"<- gossip {frame_text(event.frame)}"
        case _:
            return shortened(repr(event))


def frame_text(frame: bytes) -> str:
    """A frame as one line, ids and bytes cut short."""
    try:
        message = decode_message(frame)
    except RemoteProtocolError as error:
        return f"garbage ({error})"
    return "a newer message" if message is None else shortened(brief(message))


def brief(value: object) -> str:
    """A message for people: field names, the last letters of ids, the length of bytes."""
    match value:
        case msgspec.Struct():
            names = value.__struct_fields__
            fields = ", ".join(f"{name}={brief(getattr(value, name))}" for name in names)
            return f"{type(value).__name__}({fields})"
        case bytes():
            return f"<{value[:4].hex()} {len(value)}>" if value else "<>"
        case str() if len(value) > ID_CHARS:
            return f"…{value[-6:]}"
        case tuple() | list():
            return "[" + ", ".join(brief(item) for item in value) + "]"
        case _:
            return repr(value)


def shortened(text: str, most: int = 600) -> str:
    return text if len(text) <= most else text[:most] + "…"
