"""Frames of a container's output, as docker sends them: each behind a header that says of which
stream it is and how long (Engine API, ContainerAttach, "Stream format")."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final

from agent.engines.task_log import Stream

_HEADER: Final = struct.Struct(">BxxxL")
_STREAMS: Final[dict[int, Stream]] = {1: "stdout", 2: "stderr"}


def frames(pieces: Iterable[bytes]) -> Iterator[tuple[Stream, bytes]]:
    """Each frame and its stream, whatever pieces it came in. Raises EOFError where they end within
    one."""
    left = b""
    for piece in pieces:
        data, at = left + piece, 0
        while len(data) - at >= _HEADER.size:
            number, length = _HEADER.unpack_from(data, at)
            begin = at + _HEADER.size
            if len(data) - begin < length:
                break
            at = begin + length
            if number in _STREAMS:
                yield _STREAMS[number], data[begin:at]
        left = data[at:]
    if left:
        raise EOFError("docker's output ends within a line")
