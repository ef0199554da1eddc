"""MicroPython's `ntptime`: it sets the clock to what $BOARD/ntp says, or is not answered."""

import time

from machine import BOARD

host = "pool.ntp.org"


def settime():
    path = BOARD / "ntp"
    if not path.exists():
        raise OSError(110, "ETIMEDOUT")
    (BOARD / "asked").write_text(host)
    now_s = int(path.read_text())
    time.time = lambda: now_s
