"""Repeats: what docker gives a follower again is left out, and nothing else is."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import accumulate, count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engines import docker_repeats
from agent.engines.docker_repeats import BLOCK, RECENT_MAX, Repeats, tells_lines_apart

PIECE = b"x" * 16384  # of a longer line
TICK_NS = 4_000_000  # of a clock that goes on with the kernel's own tick


def frame(moment_ns: int, data: bytes) -> bytes:
    """As docker writes it, within one day."""
    second, rest = divmod(moment_ns, 1_000_000_000)
    hour, minute = second // 3600, second // 60 % 60
    return b"2026-02-03T%02d:%02d:%02d.%09dZ " % (hour, minute, second % 60, rest) + data


def lines(*steps: int) -> list[bytes]:
    """One frame a step, that many nanoseconds after the one before; each says its number."""
    moments = accumulate(steps, initial=1)
    return [frame(at, b"%d\n" % number) for number, at in enumerate(moments)]


def new(frames: Iterable[bytes], *, fine: bool = True) -> list[bytes]:
    repeats = Repeats(fine)
    return [each for each in frames if not repeats.has(each)]


FINE = lines(*[7, 1_000, 40, 3_000_000, 1, 80_000, 999_999_999])


@pytest.mark.parametrize("seen", range(1, len(FINE) + 1))
@pytest.mark.parametrize("fine", [True, False])
def test_what_a_follower_was_given_of_the_new_file_is_left_out(seen: int, fine: bool) -> None:
    """Docker had given `seen` frames when it began again, of a file that begins at any of them."""
    for begin in range(seen):
        if fine or begin < seen - 1:
            assert new([*FINE[:seen], *FINE[begin:]], fine=fine) == FINE, begin


def test_it_goes_on_to_a_next_file_again_and_again() -> None:
    given_ = [*FINE[:3], *FINE[1:5], *FINE[4:6], *FINE[4:], FINE[-1]]
    assert new(given_) == FINE


def test_one_line_that_comes_again_and_again_is_left_out_each_time() -> None:
    assert new([FINE[0]] * 4) == FINE[:1]
    assert new([*FINE[:2], *FINE[:2], FINE[1], *FINE[:3], FINE[2], FINE[2]]) == FINE[:3]


@pytest.mark.parametrize("fine", [True, False])
def test_what_was_written_before_a_clock_was_set_back_is_left_out_as_well(fine: bool) -> None:
    frames = lines(60_000, 60_000, -90_000, 100, 100)
    for seen in range(3, len(frames) + 1):
        for begin in range(seen - 1):
            found = new([*frames[:seen], *frames[begin:]], fine=fine)
            assert found == frames, (seen, begin)


def test_as_much_of_a_file_as_it_has_of_short_lines_is_left_out() -> None:
    """Also where its beginning was written before a clock was set back."""
    half = [100] * (RECENT_MAX // 2 - 2 * BLOCK)
    for frames in (lines(*half, 100, *half), lines(*half, -50 * len(half), *half)):
        assert new([*frames, *frames, frame(10**9, b"end\n")]) == [*frames, frame(10**9, b"end\n")]


def test_equal_lines_have_moments_of_their_own() -> None:
    frames = [frame(1 + at, b"line\n") for at in (0, 50, 100, 100_000)]
    assert new(frames) == frames
    assert new([*frames[:3], *frames[2:]]) == frames


@pytest.mark.parametrize("begin", range(4))
@pytest.mark.parametrize("end", [b"y\n", b"y", b"\n", b"\0" * 16383 + b"\n"])
def test_pieces_of_a_long_line_have_one_moment_and_come_again_with_it(
    begin: int, end: bytes
) -> None:
    """The new file may begin with any of them, and docker begin again when the line has ended."""
    pieces = [frame(9, data) for data in (PIECE, PIECE, PIECE, end)]
    after = frame(99, b"z\n")
    assert new([*pieces, *pieces[begin:], after]) == [*pieces, after]


def test_equal_pieces_of_a_line_are_none_of_them_again() -> None:
    pieces = [frame(9, data) for data in (PIECE, PIECE, PIECE, PIECE, b"\n")]
    first = frame(1, b"first\n")
    assert new([first, *pieces]) == [first, *pieces]
    assert new([first, *pieces[:2], first, *pieces]) == [first, *pieces], "the line went on"


def test_podman_s_moments_are_whole_seconds_of_which_nothing_comes_again() -> None:
    for ends in (b"Z", b"+00:00", b"+01:00", b".000000000Z", b".5Z"):
        frames = [b"2026-02-03T04:05:%02d" % at + ends + b" line\n" for at in (6, 6, 6, 7, 6, 7)]
        assert new(frames) == frames, ends


def test_what_is_written_once_a_clock_was_set_back_is_new() -> None:
    frames = lines(1, 5000, 5000, -3000, 100, -2000, 5000)
    assert new(frames) == frames
    equal = [frame(at, b"line\n") for at in (1000, 2000, 3000, 1001, 2001, 3001)]
    assert new(equal) == equal


def test_more_than_is_remembered_comes_twice_and_none_is_lost() -> None:
    frames = lines(*[100] * (RECENT_MAX + BLOCK))
    found = new([*frames, *frames, frame(10**9, b"end\n")])
    assert found[: len(frames)] == frames and found[-1] == frame(10**9, b"end\n")
    assert found.count(frames[-1]) == 2


WRITTEN = st.sampled_from([b"a\n", b"b\n", b"long"])
STEPS = st.lists(st.tuples(st.integers(0, 3), WRITTEN), max_size=40)


@given(STEPS)
def test_where_a_clock_has_ticks_no_line_is_lost(written: list[tuple[int, bytes]]) -> None:
    """Equal lines of one tick follow one another, and each counts."""
    moments = accumulate((steps * TICK_NS for steps, _ in written), initial=123)
    frames = [frame(at, data) for at, (_, data) in zip(moments, written, strict=False)]
    assert new(frames, fine=False) == frames


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=40), st.data())
def test_wherever_the_new_file_begins_all_comes_once(steps: list[int], data: st.DataObject) -> None:
    frames = lines(*steps)
    seen = data.draw(st.integers(1, len(frames)))
    begin = data.draw(st.integers(0, seen - 1))
    assert new([*frames[:seen], *frames[begin:]]) == frames


@pytest.mark.parametrize(("step_ns", "apart"), [(1, True), (54, True), (0, False)])
def test_a_clock_that_stands_between_two_looks_tells_no_lines_apart(
    step_ns: int, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = count(1_770_091_506_000_000_000, step_ns)
    monkeypatch.setattr(docker_repeats.time, "time_ns", lambda: next(looks))
    assert tells_lines_apart.__wrapped__() is apart


def test_one_that_ticks_now_and_then_does_not_either(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = count(0, 100)
    monkeypatch.setattr(docker_repeats.time, "time_ns", lambda: next(looks) // 1000 * 1000)
    assert tells_lines_apart.__wrapped__() is False


def test_this_device_s_clock_is_looked_at_once() -> None:
    before = time.time_ns()
    assert Repeats().fine is tells_lines_apart() is Repeats().fine
    assert time.time_ns() >= before
