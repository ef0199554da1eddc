"""Floods: from when on output is read and no longer followed."""

from __future__ import annotations

import pytest

from agent.engines.docker_flood import (
    FLOOD_BYTES,
    PAUSE_MAX_S,
    PIECE_BYTES,
    POLL_S,
    Flooded,
    Flow,
    flood_of,
    pause_s,
    pieces,
)


def test_what_comes_without_a_pause_is_a_flood_at_some_size() -> None:
    flow = Flow(100)
    for _ in range(10):
        flow.waited(0.001)
        flow.came(10)
    with pytest.raises(Flooded):
        flow.came(1)


def test_what_comes_now_and_then_is_none_however_much() -> None:
    flow = Flow(100)
    for _ in range(100):
        flow.waited(0.2)
        flow.came(60)


@pytest.mark.parametrize(
    ("kept_bytes", "flood_bytes"),
    [(0, FLOOD_BYTES), (8 << 20, 32 << 10), (1 << 30, 32 << 10), (128 << 10, 512)],
)
def test_of_little_that_docker_keeps_less_is_a_flood(kept_bytes: int, flood_bytes: int) -> None:
    assert flood_of(kept_bytes) == flood_bytes


def test_of_what_waits_no_more_is_taken_at_a_time_than_has_to_be() -> None:
    frames = [b"x" * 1000] * 20
    found = list(pieces(frames))
    assert [frame for piece in found for frame in piece] == frames
    assert [len(piece) for piece in found] == [9, 9, 2]
    assert list(pieces([])) == []
    large = b"y" * 2 * PIECE_BYTES
    assert list(pieces([large, b"z"])) == [[large], [b"z"]]


def test_what_takes_long_to_read_is_read_less_often_within_bounds() -> None:
    assert [pause_s(took) for took in (0.0, 0.1, 60.0)] == [POLL_S, 0.4, PAUSE_MAX_S]
