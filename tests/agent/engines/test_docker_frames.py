"""Frames of output: the same whatever pieces they come in."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engines.docker_frames import frames

STREAMS = {"stdout": 1, "stderr": 2}
WRITTEN = st.lists(
    st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(min_size=1, max_size=40))
)


def sent(written: list[tuple[str, bytes]]) -> bytes:
    """As the Engine API has it: the stream's number, three zeroes, a length, and so many bytes."""
    return b"".join(
        bytes([STREAMS[stream], 0, 0, 0]) + struct.pack(">I", len(data)) + data
        for stream, data in written
    )


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


@given(WRITTEN, st.lists(st.integers(0, 30), max_size=40))
def test_frames_are_the_same_whatever_pieces_they_come_in(
    written: list[tuple[str, bytes]], sizes: list[int]
) -> None:
    assert list(frames(cut(sent(written), sizes))) == written


def test_each_frame_is_told_as_soon_as_it_is_there() -> None:
    data = sent([("stdout", b"a"), ("stderr", b"bc")])
    seen: list[int] = []

    def pieces() -> Iterator[bytes]:
        for at in range(len(data)):
            seen.append(at + 1)
            yield data[at : at + 1]

    found = frames(pieces())
    assert next(found) == ("stdout", b"a") and len(seen) == 9
    assert next(found) == ("stderr", b"bc") and len(seen) == len(data)
    assert list(found) == []


@pytest.mark.parametrize("size", [1, 7, 8, 10])
def test_what_ends_within_a_frame_is_told(size: int) -> None:
    whole = sent([("stdout", b"a")])
    found = frames([whole, sent([("stdout", b"bcd")])[:size]])
    assert next(found) == ("stdout", b"a")
    with pytest.raises(EOFError, match="ends within a line"):
        next(found)


def test_what_is_of_neither_stream_is_told_as_that() -> None:
    """3 is a trouble of docker's own, as of a damaged file."""
    other = b"\3\0\0\0\0\0\0\3err"
    assert list(frames([other + sent([("stdout", b"a")])])) == [(None, b"err"), ("stdout", b"a")]


def test_an_empty_frame_is_none() -> None:
    assert list(frames([sent([("stdout", b""), ("stderr", b"a")])])) == [("stderr", b"a")]
