"""What main.py uses of MicroPython's `machine` on an ESP32, for one waking under CPython.

In $BOARD: `rtc` is the memory that stays on, `sensor` the six bytes that the sensor answers;
without it there is none. The clock says $BOARD_TIME, in seconds, and stands. The deep sleep writes
`slept` and ends the process.
"""

import os
import ssl
import time
from pathlib import Path

BOARD = Path(os.environ["BOARD"])
RTC_BYTES_MAX = 2048  # ports/esp32/machine_rtc.c

_now_s = int(os.environ["BOARD_TIME"])
_gmtime = time.gmtime
time.time = lambda: _now_s  # MicroPython's has whole seconds
time.gmtime = lambda seconds=None: _gmtime(time.time() if seconds is None else seconds)
# MicroPython's time has these, CPython's has not.
time.sleep_ms = lambda ms: time.sleep(ms / 1000)
time.ticks_ms = lambda: time.monotonic_ns() // 1_000_000
time.ticks_diff = lambda later, earlier: later - earlier


# MicroPython's ssl checks nothing until told to, and then the name, too
# (micropython-lib/python-stdlib/ssl).
_new_context = ssl.SSLContext.__new__
_verify_mode = ssl.SSLContext.verify_mode


def _set_verify_mode(context, mode):
    context.check_hostname = False
    _verify_mode.fset(context, mode)
    context.check_hostname = mode == ssl.CERT_REQUIRED


def _new(kind, protocol):
    context = _new_context(kind, protocol)
    context.verify_mode = ssl.CERT_NONE
    return context


ssl.SSLContext.verify_mode = property(_verify_mode.fget, _set_verify_mode)
ssl.SSLContext.__new__ = _new


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
