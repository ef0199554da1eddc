"""What main.py uses of MicroPython's `machine` on an ESP32, for one waking under CPython.

In $BOARD: `rtc` is the memory that stays on, `sensor` the six bytes that the sensor answers; without
it there is none. `slept` is written by the deep sleep, which ends the process.
"""

import os
import time
from pathlib import Path

BOARD = Path(os.environ["BOARD"])
RTC_BYTES_MAX = 2048  # ports/esp32/machine_rtc.c

# MicroPython's time has these, CPython's has not.
time.sleep_ms = lambda ms: time.sleep(ms / 1000)
time.ticks_ms = lambda: time.monotonic_ns() // 1_000_000
time.ticks_diff = lambda later, earlier: later - earlier


class WDT:
    def __init__(self, id=0, timeout=5000):
        assert timeout > 0


class RTC:
    def memory(self, data=None):
        path = BOARD / "rtc"
        if data is None:
            return path.read_bytes() if path.exists() else b""
        if len(data) > RTC_BYTES_MAX:
            raise ValueError("buffer too long")
        path.write_bytes(data)
        return None


class Pin:
    def __init__(self, number):
        self.number = number


class I2C:
    def __init__(self, number, *, scl, sda, freq=400_000):
        assert (scl.number, sda.number) == (22, 21)
        self._asked = b""

    def writeto(self, address, data):
        if address != 0x44 or not (BOARD / "sensor").exists():
            raise OSError(19, "ENODEV")
        self._asked = data

    def readfrom(self, address, count):
        assert self._asked == b"\xfd"
        return (BOARD / "sensor").read_bytes()[:count]


def deepsleep(time_ms):
    (BOARD / "slept").write_text(str(time_ms))
    os._exit(0)
