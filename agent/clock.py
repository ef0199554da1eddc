"""The clock: the one place where time is read, and the judgement whether the wall time is true."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Final

import trio

from protocol.clock import Now

# Nothing of Shoal existed before; a device that says so has lost its clock (2026-01-01, UTC).
FLOOR_S: Final = 1_767_225_600.0
ASK_AGAIN_S: Final = 10.0  # a time server is found soon after a network is; the call costs 0.1 ms
_UNSYNCHRONISED: Final = 5  # adjtimex's TIME_ERROR
_RTC: Final = Path("/sys/class/rtc")


class Clock:
    """Reads monotonic and wall time; the wall never goes behind what was once seen and saved."""

    def __init__(
        self, highest_wall_s: float = 0.0, told_right: bool = False, rtc: Path = _RTC
    ) -> None:
        """`told_right`: its owner says that the wall clock is kept right (trust_clock)."""
        self.highest_wall_s = highest_wall_s
        self.told_right = told_right
        self._rtc = rtc
        self._has_rtc = keeps_time(rtc)
        self._synchronised = synchronised()
        self._asked_at = time.monotonic()

    def now(self) -> Now:
        """One reading. `mono` is trio's clock, so that deadlines can be slept until."""
        wall = time.time()
        trusted = wall >= max(FLOOR_S, self.highest_wall_s) and self._kept()
        wall = self.highest_wall_s = max(wall, self.highest_wall_s, FLOOR_S)
        return Now(trio.current_time(), wall, trusted)

    def _kept(self) -> bool:
        """A clock that survives the night, or one that a time server has set."""
        if not self._has_rtc and time.monotonic() - self._asked_at > ASK_AGAIN_S:
            self._synchronised, self._asked_at = synchronised(), time.monotonic()
            self._has_rtc = keeps_time(self._rtc)
        return self.told_right or self._has_rtc or self._synchronised


def utc_offset_s() -> int:
    """Of local time, summer time included: how far it is ahead of UTC."""
    return time.localtime().tm_gmtoff


def keeps_time(rtc: Path) -> bool:
    """Whether a hardware clock (rtc-class, in sysfs) has kept the time while there was no power.

    One whose battery is flat or missing, as mostly in a Raspberry Pi 5, begins long ago; the wall
    clock tells nothing of that, since systemd sets it to at least its own release or the last time
    that it wrote down.
    """
    for said in rtc.glob("*/since_epoch"):
        try:
            if int(said.read_text()) >= FLOOR_S:
                return True
        except (OSError, ValueError):  # it knows itself that it stopped
            continue
    return False


class _Timex(ctypes.Structure):
    """Only its size and its first field (modes: 0 only asks) matter; Linux needs 208 bytes."""

    _fields_ = (("modes", ctypes.c_uint), ("rest", ctypes.c_byte * 252))


def synchronised() -> bool:
    """Whether the kernel's clock is disciplined by a time server (adjtimex(2))."""
    try:
        state: int = ctypes.CDLL(None).adjtimex(ctypes.byref(_Timex()))
    except (OSError, AttributeError):
        return False
    return 0 <= state < _UNSYNCHRONISED
