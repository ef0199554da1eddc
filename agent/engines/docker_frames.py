"""Frames of a container's output, as docker sends them: each behind a header that says of which
stream it is and how long (Engine API, ContainerAttach, "Stream format")."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final

from agent.engines.task_log import Stream

_HEADER: Final = struct.Struct(">BxxxL")
_STREAMS: Final[dict[int, Stream]] = {1: "stdout", 2: "stderr"}


def frames(pieces: Iterable[bytes]) -> Iterator[tuple[Stream | None, bytes]]:
    """Each frame and its stream, whatever pieces it came in; of none where docker tells of a
    trouble of its own, as of a damaged file. Raises EOFError where they end within one."""
    left = b""
    for piece in pieces:
        data, at = left + piece, 0
        while len(data) - at >= _HEADER.size:
            number, length = _HEADER.unpack_from(data, at)
            begin = at + _HEADER.size
            if len(data) - begin < length:
                break
            at = begin + length
            if length:
                yield _STREAMS.get(number), data[begin:at]
        left = data[at:]
    if left:
        raise EOFError("docker's output ends within a line")
