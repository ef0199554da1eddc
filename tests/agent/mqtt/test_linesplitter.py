"""Lines of output with places: the same whenever it is read, in whatever pieces."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from agent.engines.task_log import LogChunk
from agent.mqtt.linesplitter import LINE_BYTES_MAX, Line, Splitter


def split(data: bytes, *cuts: int, start: int = 0) -> list[Line]:
    """As a process' output that begins at `start` and comes in pieces."""
    splitter = Splitter(start, exact=True)
    lines: list[Line] = []
    bounds = [0, *cuts, len(data)]
    for begin, end in pairwise(bounds):
        if data[begin:end]:
            lines += splitter.feed(LogChunk(start + begin, data[begin:end], start + len(data)))
    rest = splitter.rest()
    return lines if rest is None else [*lines, rest]


def test_lines_of_a_process_are_known_by_the_byte_they_begin_at() -> None:
    lines = split(b"one\n\ntwo\nthree")
    assert [(line.data, line.place, line.resume) for line in lines] == [
        (b"one", "0", 4),
        (b"", "4", 5),
        (b"two", "5", 9),
        (b"three", "9", 14),
    ]


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=4), st.integers(0, 20))
def test_however_it_is_cut_and_wherever_one_goes_on(
    data: bytes, cuts: list[int], which: int
) -> None:
    whole = split(data)
    assert split(data, *sorted(min(cut, len(data)) for cut in cuts)) == whole
    assert b"\n".join(line.data for line in whole) == data.removesuffix(b"\n")
    if which < len(whole):
        resume = whole[which].resume
        assert split(data[resume:], start=resume) == whole[which + 1 :]


def test_what_the_bound_on_outputs_cost_is_counted_before_the_next_line() -> None:
    splitter = Splitter(0, exact=True)
    (first,) = splitter.feed(LogChunk(0, b"a\nhalf", 1000))
    assert list(splitter.feed(LogChunk(100, b"what is left", 1000))) == []
    (second,) = splitter.feed(LogChunk(112, b" of a line\nb\n", 1000))
    assert (first.dropped_bytes, second.dropped_bytes) == (0, 123 - 2)
    assert (second.data, second.place, second.resume) == (b"b", "123", 125)


def test_a_line_that_is_too_long_is_cut_and_says_by_how_much() -> None:
    data = b"x" * (LINE_BYTES_MAX + 5) + b"\nnext\n"
    first, second = split(data)
    assert (len(first.data), first.cut_bytes) == (LINE_BYTES_MAX, 5)
    assert (second.data, second.cut_bytes) == (b"next", 0)


def container(splitter: Splitter, *frames: tuple[int, bytes]) -> list[Line]:
    lines: list[Line] = []
    for place, data in frames:
        lines += splitter.feed(LogChunk(place - len(data), data, place))
    return lines


def test_lines_of_a_container_are_known_by_the_place_of_what_ends_them() -> None:
    frames = ((256, b"one\n"), (512, b"two\nthree\n"), (768, b"a long "), (1024, b"one\n"))
    lines = container(Splitter(0, exact=False), *frames)
    assert [(line.data, line.place, line.resume) for line in lines] == [
        (b"one", "256", 256),
        (b"two", "512", 256),
        (b"three", "512.1", 512),
        (b"a long one", "1024", 1024),
    ]
    assert container(Splitter(512, exact=False), *frames[2:]) == lines[3:]


def test_where_some_may_be_gone_the_next_line_says_so_and_what_lost_its_end_is_none() -> None:
    splitter = Splitter(0, exact=False)
    assert container(splitter, (256, b"one\nhalf of a ")) == [Line(b"one", "256", 0)]
    found = [*splitter.feed(LogChunk(760, b"two\nthr", 768, gap=True))]
    found += container(splitter, (1024, b"ee\n"))
    assert found == [Line(b"two", "768", 0, gap=True), Line(b"three", "1024", 1024)]


def test_what_stands_behind_the_last_newline_is_a_line_once_all_is_over() -> None:
    splitter = Splitter(0, exact=False)
    assert container(splitter, (256, b"one\ntw")) == [Line(b"one", "256", 0)]
    assert splitter.rest() == Line(b"tw", "256.end", 256)
    assert splitter.rest() is None
