"""The clock: what is believed of the wall, and that it never goes back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio

from agent.clock import ASK_AGAIN_S, FLOOR_S, Clock, synchronised


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The device's wall clock; its first item is what it says."""
    said = [FLOOR_S + 1000]
    monkeypatch.setattr(time, "time", lambda: said[0])
    return said


def kept(highest_wall_s: float = 0.0) -> Clock:
    """A clock with a battery."""
    clock = Clock(highest_wall_s)
    clock._has_rtc = True
    return clock


async def test_mono_is_trios_so_that_deadlines_can_be_slept_until() -> None:
    before = trio.current_time()
    assert before <= Clock().now().mono <= trio.current_time()


async def test_a_kept_clock_is_trusted(wall: list[float]) -> None:
    now = kept().now()
    assert (now.wall, now.wall_trusted) == (FLOOR_S + 1000, True)


async def test_before_the_first_release_it_is_not_and_shows_that_day(wall: list[float]) -> None:
    wall[0] = 42.0
    now = kept().now()
    assert (now.wall, now.wall_trusted) == (FLOOR_S, False)


async def test_behind_what_was_saved_it_is_not_and_does_not_go_back(wall: list[float]) -> None:
    clock = kept(FLOOR_S + 5000)
    now = clock.now()
    assert (now.wall, now.wall_trusted) == (FLOOR_S + 5000, False)
    wall[0] = FLOOR_S + 6000
    assert clock.now().wall_trusted


async def test_a_clock_set_back_shows_no_earlier_time(wall: list[float]) -> None:
    clock = kept()
    clock.now()
    wall[0] -= 500
    now = clock.now()
    assert (now.wall, now.wall_trusted) == (FLOOR_S + 1000, False)
    assert clock.highest_wall_s == FLOOR_S + 1000


async def test_without_battery_or_time_server_it_is_not_trusted(wall: list[float]) -> None:
    clock = Clock()
    clock._has_rtc = False
    assert clock.now().wall_trusted == synchronised()


@pytest.mark.parametrize(
    ("said", "keeps"),
    [
        (f"{FLOOR_S:.0f}\n", True),
        ("1546300819\n", False),  # a battery is flat, and systemd set the time to its own release
        ("42\n", False),  # a Raspberry Pi 5 without a battery
        (None, False),  # a DS3231 that had stopped: reading fails
    ],
)
async def test_a_hardware_clock_that_lost_the_time_keeps_none(
    wall: list[float], tmp_path: Path, said: str | None, keeps: bool
) -> None:
    rtc = tmp_path / "rtc0"
    rtc.mkdir()
    if said is not None:
        (rtc / "since_epoch").write_text(said)
    assert Clock(rtc=tmp_path).now().wall_trusted is (keeps or synchronised())


async def test_a_hardware_clock_that_is_set_counts_from_then_on(
    wall: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rtc = tmp_path / "rtc0"
    rtc.mkdir()
    (rtc / "since_epoch").write_text("42")
    clock = Clock(rtc=tmp_path)
    assert clock.now().wall_trusted is synchronised()
    (rtc / "since_epoch").write_text(f"{FLOOR_S + 1000:.0f}")
    later = time.monotonic() + ASK_AGAIN_S + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert clock.now().wall_trusted


async def test_its_owner_may_say_that_it_is_right(wall: list[float]) -> None:
    clock = Clock(told_right=True)
    clock._has_rtc = False
    assert clock.now().wall_trusted
    wall[0] = 42.0  # but not that it was right all along
    assert not clock.now().wall_trusted
