"""The service manager, as systemd has it: told that this agent is up, ends, and is alive.

By a datagram to $NOTIFY_SOCKET (sd_notify(3)); nothing where that is not set.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Mapping

import trio

PATS = 3  # within the time after which systemd gives us up: two may come late


def notify(state: str) -> None:
    """Tell systemd, where it started us; whether it hears it is its own business."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    target = "\0" + address[1:] if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)  # a manager that hangs must not hold us
        sender.sendto(state.encode(), target)


def watchdog_s(environment: Mapping[str, str]) -> float | None:
    """How often this process has to be heard of; None where nobody asked for that."""
    text, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not text.isdigit() or int(text) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 1_000_000


async def keep_patting(alive: Callable[[], Awaitable[object]]) -> None:
    """Pat the watchdog for as long as `alive` keeps returning; until cancelled."""
    limit_s = watchdog_s(os.environ)
    if limit_s is None or not os.environ.get("NOTIFY_SOCKET"):
        return
    while True:
        await alive()
        notify("WATCHDOG=1")
        await trio.sleep(limit_s / PATS)
