"""Output of containers: places that mean the same for ever, and none lost or told twice."""

from __future__ import annotations

import errno
import io
import os
import struct
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engines import docker_log
from agent.engines.docker_client import moment_ns
from agent.engines.docker_log import (
    CHUNK_BYTES,
    Amount,
    Places,
    before,
    before_last,
    begins_late,
    chunks,
    last,
    read_kept,
    second_of,
    spool,
    spooled,
    whole_chunk,
)
from agent.engines.docker_repeats import Repeats
from agent.engines.task_log import LogChunk

UNIT_NS = 100
SECOND = 1_000_000_000
NOW = 1_770_091_506 * SECOND  # 2026-02-03T04:05:06Z
UNIT = NOW // UNIT_NS


def frame(moment: int, data: bytes) -> bytes:
    """As docker writes it: nine digits, then a space."""
    second = datetime.fromtimestamp(moment // SECOND, UTC)
    return f"{second:%Y-%m-%dT%H:%M:%S}.{moment % SECOND:09d}Z ".encode() + data


def lines(*steps: int) -> list[bytes]:
    """One frame a step, that many nanoseconds after the one before; each says its number."""
    moments = accumulate(steps, initial=NOW)
    next(moments)
    return [frame(moment, b"%d\n" % number) for number, moment in enumerate(moments)]


def data_of(found: Iterable[LogChunk]) -> bytes:
    return b"".join(chunk.data for chunk in found)


def since(frames: Iterable[bytes], offset: int) -> list[bytes]:
    """What docker gives when it is asked for what came from that second on."""
    return [one for one in frames if _moment(one) >= second_of(offset) * SECOND]


def _moment(one: bytes) -> int:
    return moment_ns(one.partition(b" ")[0].decode())


# ---- places ------------------------------------------------------------------------------------


def test_a_place_is_the_moment_and_how_many_of_it_came_before() -> None:
    places = Places()
    assert places.of(frame(NOW, b"a b\n")) == (UNIT << 8, b"a b\n")
    assert places.of(frame(NOW, b"c\n")) == (UNIT << 8 | 1, b"c\n")
    assert places.of(frame(NOW + UNIT_NS - 1, b"d\n")) == (UNIT << 8 | 2, b"d\n")
    assert places.of(frame(NOW + UNIT_NS, b"e\n")) == (UNIT + 1 << 8, b"e\n")
    assert places.of(frame(NOW + UNIT_NS, b"\n")) == (UNIT + 1 << 8 | 1, b"\n")


def test_places_are_fit_for_the_wire_until_2084() -> None:
    places = Places()
    place, _ = places.of(b"2084-01-01T00:00:00.999999999Z x")
    assert 0 < place < 2**63


def test_more_of_one_moment_than_can_be_counted_share_the_last_place() -> None:
    places = Places()
    found = [places.of(frame(NOW, b"x"))[0] for _ in range(300)]
    assert found[:256] == [UNIT << 8 | same for same in range(256)]
    assert set(found[256:]) == {UNIT << 8 | 255}
    assert places.of(frame(NOW + UNIT_NS, b"x"))[0] == UNIT + 1 << 8


def test_of_a_tail_all_of_the_first_moment_have_its_last_place() -> None:
    places = Places(tail=True)
    found = [places.of(one)[0] for one in lines(0, 0, UNIT_NS, 0)]
    first, second = UNIT << 8, UNIT + 1 << 8
    assert found == [first | 255, first | 255, second, second | 1]


def test_a_place_does_not_depend_on_the_moments_before_it() -> None:
    """Docker's own moments have nine digits and are UTC; podman's may be otherwise."""
    moments = [
        b"2026-02-03T04:05:06.000000100Z", b"2026-02-03T04:05:06.9Z", b"2026-02-03T04:05:06Z",
        b"2026-02-03T05:05:06.123456789+01:00", b"2026-02-03T04:05:07.12345678xZ",
        b"2026-13-03T04:05:06.000000100Z", b"2026-02-03T04:05:06.999999999Z",
    ]  # fmt: skip
    for order in (moments, moments[::-1]):
        places = Places()
        for moment in order:
            places.of(moment + b" x")
            assert places.unit == moment_ns(moment.decode()) // UNIT_NS, moment


def test_what_has_no_moment_stands_at_the_beginning() -> None:
    assert Places().of(b"no moment at all") == (1, b"moment at all")
    assert Places().of(b"") == (1, b"")


@pytest.mark.parametrize(
    ("moment", "second"),
    [(NOW, NOW // SECOND), (NOW + SECOND - 1, NOW // SECOND), (NOW + SECOND, NOW // SECOND + 1)],
)
def test_docker_is_asked_from_the_second_on_that_a_place_lies_in(moment: int, second: int) -> None:
    place, _ = Places().of(frame(moment, b"x"))
    assert second_of(place) == second
    assert second_of(place + 255) == second


def test_from_the_beginning_is_second_zero() -> None:
    assert second_of(0) == 0


def test_before_a_moment_is_the_place_after_which_its_first_frame_comes() -> None:
    frames = [frame(NOW + step, b"%d\n" % step) for step in (0, 999_900, 1_000_000, 1_000_001)]
    found = data_of(chunks(frames, before((NOW + 1_000_000) // 1_000_000)))
    assert found == b"1000000\n1000001\n"
    assert data_of(chunks(frames, before(NOW // 1_000_000))) == b"".join(
        one.partition(b" ")[2] for one in frames
    )


# ---- chunks ------------------------------------------------------------------------------------


def test_frames_go_together_into_a_chunk_that_ends_at_the_last_ones_place() -> None:
    frames = lines(0, UNIT_NS, 0)
    end = UNIT + 1 << 8 | 1
    assert list(chunks(frames, 0)) == [LogChunk(end - 6, b"0\n1\n2\n", end)]
    assert list(chunks([], 0)) == []


def test_what_came_before_a_place_is_left_out() -> None:
    frames = lines(0, 0, UNIT_NS)
    assert data_of(chunks(frames, UNIT << 8)) == b"1\n2\n"
    assert data_of(chunks(frames, UNIT << 8 | 1)) == b"2\n"
    assert list(chunks(frames, UNIT + 1 << 8)) == []


def test_equal_lines_of_one_moment_are_all_told_and_kept(tmp_path: Path) -> None:
    """Also where a clock was set back to just what it was; only followers are given some again."""
    frames = [frame(NOW + step, b"line\n") for step in (5, 5, 5, 105, 205, 5, 105, 205, 205)]
    assert data_of(chunks(frames, 0)) == b"line\n" * 9
    spool(frames, tmp_path / "log.stdout")
    assert data_of(read_kept(tmp_path / "log.stdout", 0, -1)) == b"line\n" * 9
    assert data_of(read_kept(tmp_path / "log.stdout", 0, 2)) == b"line\n" * 2
    assert whole_chunk(frames).data == b"line\n" * 9
    assert data_of(chunks(frames[:3], before_last(frames[:3], 2))) == b"line\n" * 2


def test_what_a_follower_is_given_again_is_left_out_and_has_the_latest_place() -> None:
    frames = lines(1, 5000, 0, 5000)
    places = Places(repeats=Repeats(fine=True))
    assert data_of(chunks([*frames[:3], *frames[:2]], 0, places)) == b"0\n1\n2\n"
    assert places.of(frames[2]) == (UNIT + 50 << 8 | 1, b"2\n")
    assert data_of(chunks(frames[3:], 0, places)) == b"3\n"


def test_a_chunk_is_as_large_as_its_frames_go_into_it() -> None:
    size = CHUNK_BYTES // 4
    frames = [frame(NOW + number * UNIT_NS, b"x" * size) for number in range(5)]
    found = list(chunks(frames, 0))
    assert [len(chunk.data) for chunk in found] == [CHUNK_BYTES, size]
    assert [chunk.next_offset for chunk in found] == [UNIT + 3 << 8, UNIT + 4 << 8]
    assert [chunk.end for chunk in found] == [UNIT + 3 << 8, UNIT + 4 << 8]


def test_a_frame_larger_than_a_chunk_is_one_of_its_own() -> None:
    large = b"x" * (CHUNK_BYTES + 1)
    pieces = [large, b"a", large, b"b"]
    frames = [frame(NOW, piece) for piece in pieces]
    assert [chunk.data for chunk in chunks(frames, 0)] == pieces


def test_a_long_line_is_whole_across_batches_and_from_each_place_in_it() -> None:
    """Docker cuts a line each 16 KiB and gives all pieces the moment of the first."""
    pieces = [b"%03d" % number + b"x" * (16 * 1024 - 3) for number in range(40)]
    frames = [frame(NOW, piece) for piece in pieces]
    places, after, found = Places(), 0, []
    for begin in range(0, len(frames), 3):
        for chunk in chunks(frames[begin : begin + 3], after, places):
            found.append(chunk)
            after = chunk.end
    assert data_of(found) == b"".join(pieces)
    assert [chunk.end for chunk in found] == [UNIT << 8 | min(n + 2, 39) for n in range(0, 40, 3)]
    for number, chunk in enumerate(found):
        rest = data_of(chunks(frames, chunk.next_offset))
        assert rest == b"".join(pieces[(number + 1) * 3 :])


def test_who_goes_on_is_told_where_docker_has_dropped_what_was_read_last() -> None:
    """Files go whole, the oldest first; what stood behind it there is gone with it."""
    frames = lines(0, UNIT_NS, SECOND, UNIT_NS, 2 * SECOND)
    ends = [chunk.end for chunk in chunks(frames, 0, single=True)]
    for at, after in enumerate(ends[:-1]):
        for dropped in range(len(frames)):
            kept = since(frames[dropped:], after)
            found = list(chunks(kept, after, single=True))
            gap = dropped > at
            rest = [True, False, False, False] if gap else [False] * 4
            assert [chunk.gap for chunk in found] == rest[: len(frames) - max(dropped, at + 1)]


def test_a_gap_is_told_once_in_however_many_batches_and_to_who_keeps_places_alone() -> None:
    frames = lines(0, UNIT_NS, SECOND, UNIT_NS)
    places = Places()
    found = [list(chunks([one], UNIT - 1 << 8, places, single=True)) for one in frames]
    assert [[chunk.gap for chunk in some] for some in found] == [[True], [False], [False], [False]]
    assert [chunk.gap for chunk in chunks(frames, 0, single=True)] == [False] * 4
    assert [chunk.gap for chunk in chunks(frames, before(NOW // 1_000_000))] == [False]
    assert list(chunks([], UNIT << 8, single=True)) == []


# Steps in nanoseconds: within a unit, to the next one, within a second, to a later one.
STEPS = st.sampled_from([0, 0, 0, 30, UNIT_NS, 12_345, SECOND // 3, 2 * SECOND])
WRITTEN = st.lists(st.tuples(STEPS, st.integers(0, 30)), max_size=60)


def _frames(written: list[tuple[int, int]]) -> list[bytes]:
    """Every one different, so that none can stand for another."""
    found, moment = [], NOW
    for number, (step, size) in enumerate(written):
        moment += step
        found.append(frame(moment, (b"%d " % number * size)[:size]))
    return found


@given(WRITTEN)
def test_from_each_chunks_end_on_comes_exactly_the_rest(written: list[tuple[int, int]]) -> None:
    frames = _frames(written)
    whole = b"".join(one.partition(b" ")[2] for one in frames)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(docker_log, "CHUNK_BYTES", 40)
        found = list(chunks(frames, 0))
        assert data_of(found) == whole
        seen, before = 0, 0
        for chunk in found:
            assert chunk.data and len(chunk.data) <= 40
            assert before < chunk.next_offset == chunk.end
            seen, before = seen + len(chunk.data), chunk.end
            rest = chunks(since(frames, chunk.next_offset), chunk.next_offset)
            assert data_of(rest) == whole[seen:]


@given(WRITTEN, st.lists(st.integers(1, 9), min_size=60, max_size=60))
def test_batches_are_as_if_it_came_in_one(written: list[tuple[int, int]], sizes: list[int]) -> None:
    frames = _frames(written)
    places, after, found, begin = Places(), 0, b"", 0
    for size in sizes:
        for chunk in chunks(frames[begin : begin + size], after, places):
            found, after = found + chunk.data, chunk.end
        begin += size
    assert found == data_of(chunks(frames, 0))


# ---- kept --------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=50)))
def test_frames_are_read_as_they_were_kept(frames: list[bytes]) -> None:
    file = io.BytesIO(b"".join(struct.pack(">I", len(one)) + one for one in frames))
    assert list(spooled(file)) == frames


def test_a_file_of_frames_is_there_when_all_of_them_are(tmp_path: Path) -> None:
    path = tmp_path / "log.stdout"

    def watched() -> Iterator[bytes]:
        for one in lines(0, 5):
            assert not path.exists()
            yield one

    spool(watched(), path)
    with path.open("rb") as file:
        assert list(spooled(file)) == lines(0, 5)
    assert os.listdir(tmp_path) == ["log.stdout"]


def test_on_a_full_disk_none_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "log.stdout"

    def filling() -> Iterator[bytes]:
        yield frame(NOW, b"x\n")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        spool(filling(), path)
    assert os.listdir(tmp_path) == []


def test_a_file_that_was_cut_off_is_read_as_far_as_it_goes() -> None:
    whole = struct.pack(">I", 3) + b"abc"
    assert list(spooled(io.BytesIO(whole + b"\0\0"))) == [b"abc"]
    assert list(spooled(io.BytesIO(whole + struct.pack(">I", 9) + b"de"))) == [b"abc", b"de"]
    assert list(spooled(io.BytesIO(b""))) == []


def test_zeroes_after_a_power_loss_are_no_output(tmp_path: Path) -> None:
    path = tmp_path / "log.stdout"
    path.write_bytes(bytes(4000))
    assert list(read_kept(path, 0, -1)) == []


def test_what_is_not_kept_is_empty(tmp_path: Path) -> None:
    assert list(read_kept(tmp_path / "log.stdout", 0, -1)) == []
    assert list(read_kept(tmp_path / "log.stdout", 0, 5)) == []


def test_a_place_means_the_same_once_it_is_kept(tmp_path: Path) -> None:
    frames, path = lines(0, 0, UNIT_NS, SECOND, 0), tmp_path / "log.stdout"
    spool(frames, path)
    assert list(read_kept(path, 0, -1)) == list(chunks(frames, 0))
    places = Places()
    for number, one in enumerate(frames):
        place, _ = places.of(one)
        rest = b"".join(b"%d\n" % after for after in range(number + 1, len(frames)))
        assert data_of(read_kept(path, place, -1)) == rest


@pytest.mark.parametrize(
    ("lost_output", "late"),
    [
        ("", False),
        ("stderr could not be kept: the disk is full", False),
        (
            "what came before its last 9 bytes, of both streams together, may be gone, as "
            "task.log_bytes_max has it",
            True,
        ),
    ],
)
def test_what_is_kept_begins_late_where_docker_may_have_dropped_some(
    lost_output: str, late: bool
) -> None:
    assert begins_late(lost_output) == late


def test_what_output_takes_in_docker_s_files_is_counted() -> None:
    """As docker 20.10 writes it: in parts where a line is longer than 16 KiB, or has no end."""
    for written, stored in (
        ([b"\n"], 26),
        ([b"1\n"], 29),
        ([b"end"], 103),
        ([b"x" * 200 + b"\n"], 229),
        ([b"x" * 16384, b"x" * 3616 + b"\n"], 20_205),
    ):
        amount = Amount()
        frames = [frame(NOW, data) for data in written]
        assert list(amount.counting(iter(frames))) == frames
        assert amount.written == sum(map(len, written))
        assert stored <= amount.stored <= stored + 5 * len(frames)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [(0, b""), (1, b"4\n"), (2, b"3\n4\n"), (5, b"0\n1\n2\n3\n4\n"), (9, b"0\n1\n2\n3\n4\n")],
)
def test_a_tail_is_the_last_lines_and_nothing_is_left_after_it(
    tmp_path: Path, wanted: int, found: bytes
) -> None:
    path = tmp_path / "log.stdout"
    spool(lines(0, 0, UNIT_NS, 0, SECOND), path)
    tail = list(read_kept(path, 0, wanted))
    assert data_of(tail) == found
    if tail:
        assert tail[-1].end == UNIT + 1 + SECOND // UNIT_NS << 8 | (255 if wanted == 1 else 0)
        assert list(read_kept(path, tail[-1].next_offset, -1)) == []


def test_the_last_of_nothing_is_nothing() -> None:
    assert list(last([], 3)) == []
    assert list(last([b"a", b"b"], -1)) == []


def test_the_place_before_the_last_lines_is_that_after_which_they_come() -> None:
    frames = lines(0, 0, 1000, 0, 50)
    for count in range(1, 8):
        after = before_last(frames, count)
        assert data_of(chunks(frames, after)) == data_of(chunks(last(frames, count), 0))


@given(WRITTEN, st.integers(1, 12), st.integers(0, 60))
def test_before_the_last_of_a_part_is_as_of_the_whole(
    written: list[tuple[int, int]], count: int, begin: int
) -> None:
    """Of a part that begins anywhere, or zero where that does not tell."""
    frames = _frames([(step, size + 9) for step, size in written])
    part = frames[begin:]
    after = before_last(part, count, tail=True)
    known = len(part) > count and _unit(part[-count - 1]) != _unit(part[0])
    assert after == (before_last(frames, count) if known else 0)


def _unit(one: bytes) -> int:
    return _moment(one) // UNIT_NS


def test_more_of_one_moment_than_can_be_counted_are_more_than_the_last_lines() -> None:
    frames = [frame(NOW, b"first\n"), *[frame(NOW + SECOND, b"x")] * 300]
    assert data_of(chunks(frames, before_last(frames, 2))) == b"x" * 300
