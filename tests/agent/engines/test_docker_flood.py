"""Floods: from when on output is read and no longer followed, and when it is followed again."""

from __future__ import annotations

import pytest
import trio.testing

from agent.engines.docker_flood import (
    CALM_RATE,
    FLOOD_BYTES,
    PAUSE_MAX_S,
    PIECE_BYTES,
    POLL_S,
    RATE,
    Flooded,
    Flow,
    Readings,
    flood_of,
    pieces,
    size_of,
)
from agent.engines.docker_log import SAME_MAX

MOMENT = 1 << 40


def test_more_than_can_be_followed_is_a_flood() -> None:
    flow, end = Flow(1000, MOMENT), MOMENT
    with pytest.raises(Flooded):
        for _ in range(100):  # twice as much as leaks out
            flow.waited(0.01)
            flow.came(int(1000 * RATE * 0.01 * 2), end := end + (1 << 8))
    assert 10 < (end - MOMENT) >> 8 < 20


def test_what_can_be_followed_is_none_however_long() -> None:
    flow = Flow(1000, MOMENT)
    for number in range(10_000):
        flow.waited(0.01)
        flow.came(int(1000 * RATE * 0.01 * 0.9), MOMENT + (number + 1 << 8))


def test_while_its_reader_is_busy_nothing_leaks() -> None:
    flow = Flow(1000, MOMENT)
    with pytest.raises(Flooded):
        for number in range(100):
            flow.came(100, MOMENT + (number + 1 << 8))


def test_where_none_could_go_on_it_is_followed_on() -> None:
    flow = Flow(1000, MOMENT)
    flow.came(5000, MOMENT + SAME_MAX)  # more frames of a moment than can be counted
    flow.came(5000, MOMENT - 100)  # the clock was set back
    flow.came(5000, MOMENT - 1)
    with pytest.raises(Flooded):
        flow.came(1, MOMENT + (1 << 8))


@pytest.mark.parametrize(
    ("kept_bytes", "flood_bytes"),
    [(0, FLOOD_BYTES), (8 << 20, 32 << 10), (1 << 30, 32 << 10), (128 << 10, 512)],
)
def test_of_little_that_docker_keeps_less_is_a_flood(kept_bytes: int, flood_bytes: int) -> None:
    assert flood_of(kept_bytes) == flood_bytes


def test_what_docker_keeps_beside_short_lines_counts() -> None:
    """Of `yes` it is nearly all that there is in docker's files."""
    assert size_of(b"y\n" * 1000) > 10 * 2 * 1000
    assert size_of(b"x" * 10_000 + b"\n") < 1.01 * 10_000
    assert size_of(b"half a line") == len(b"half a line")


async def test_it_is_followed_again_once_little_is_read_for_the_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    readings = Readings(1000)
    await trio.sleep(2.0)
    readings.begin()
    assert readings.calm(1000 * CALM_RATE * 2) and not readings.calm(1000 * CALM_RATE * 2 + 1)
    readings.begin()  # at once: what that finds says nothing of the rate
    assert not readings.calm(int(1000 * CALM_RATE * POLL_S) + 1)


async def test_it_is_read_a_fifth_of_the_time_and_the_readers_own_does_not_count(
    autojump_clock: trio.testing.MockClock,
) -> None:
    readings = Readings(1000)
    readings.begin()
    assert readings.pause_s() == POLL_S
    await trio.sleep(1.0)
    assert readings.pause_s() == 4.0
    readings.lent_s = 0.5
    assert readings.pause_s() == 2.0
    await trio.sleep(60.0)
    assert readings.pause_s() == PAUSE_MAX_S


def test_of_what_waits_no_more_is_taken_at_a_time_than_has_to_be() -> None:
    frames = [b"x" * 1000] * 20
    found = list(pieces(frames))
    assert [frame for piece in found for frame in piece] == frames
    assert [len(piece) for piece in found] == [9, 9, 2]
    assert list(pieces([])) == []
    large = b"y" * 2 * PIECE_BYTES
    assert list(pieces([large, b"z"])) == [[large], [b"z"]]
