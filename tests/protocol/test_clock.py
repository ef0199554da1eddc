"""clock: two clocks in one reading."""

from __future__ import annotations

import pytest

from protocol.clock import NEVER, Now


def test_milliseconds_are_whole() -> None:
    assert Now(0.0, 1_760_000_000.1239).wall_ms == 1_760_000_000_123
    assert Now(5.0, 0.0).wall_ms == 0


def test_never_comes_after_everything() -> None:
    assert Now(1e300, 0.0).mono < NEVER
    assert min(NEVER, 3.0) == 3.0


def test_a_reading_does_not_change() -> None:
    with pytest.raises(AttributeError):
        Now(0.0, 0.0).mono = 1.0  # type: ignore[misc]


def test_a_clock_is_trusted_unless_it_is_said_not_to_be() -> None:
    assert Now(0.0, 0.0).wall_trusted
    assert not Now(0.0, 0.0, False).wall_trusted
