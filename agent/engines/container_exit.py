"""How a container ended, out of what docker says of it and what the agent knows."""

from __future__ import annotations

import time
from typing import Final

from agent.engines.docker_client import Seen
from agent.engines.task import ExitReason, TaskExit

SIGNAL_MAX: Final = 64
UNKNOWN: Final = 255  # what docker writes of containers that it finds gone: after a power cut, say
# Where the device was shut down docker was told to stop, and ended them itself: TERM, then KILL. Of
# what ended so, seen by nobody, all else is unlikely.
SHUT_DOWN: Final = (128 + 15, 128 + 9)


def exit_of(
    seen: Seen,
    *,
    stopping: bool,
    timed_out: bool,
    rebooted: bool,
    unseen: bool,
    killed: bool,
    cut_off: bool,
    memory_bytes: int,
) -> TaskExit:
    """`rebooted`: the device was, since it started; `unseen`: it ended while docker was away, which
    may have kept it running; `killed`: somebody else ended it through
    docker, as docker does when it is stopped itself; `cut_off`: it ended with docker itself."""
    duration_s = max(0.0, seen.finished - seen.started) if seen.started else 0.0
    code, signal, reason, detail = seen.exit_code, None, ExitReason.EXITED, ""
    if stopping:
        reason = ExitReason.STOPPED
    elif timed_out:
        reason = ExitReason.TIMEOUT
    elif rebooted and code == UNKNOWN:
        reason = ExitReason.LOST
        detail = "nobody saw it end: the device lost power or was restarted"
    elif killed:
        reason, detail = ExitReason.INTERRUPTED, "it was stopped through docker on this device"
    elif cut_off:
        reason, detail = ExitReason.INTERRUPTED, "docker was stopped on this device"
    elif unseen and code == UNKNOWN:
        reason, detail = ExitReason.LOST, "nobody saw it end: docker was not there"
    elif rebooted and code in SHUT_DOWN and not seen.out_of_memory:
        reason, detail = ExitReason.INTERRUPTED, "the device was shut down or restarted"
    elif seen.out_of_memory and code != 0:  # OOMKilled stands beside exit code 0 as well
        detail = f"out of memory: it may have {memory_bytes >> 20} MiB, see Resources.Memory"
    elif 128 < code <= 128 + SIGNAL_MAX:
        reason, signal = ExitReason.SIGNALLED, code - 128
    exited = code if reason is ExitReason.EXITED else None
    return TaskExit(exited, signal, reason, seen.finished, duration_s, detail)


def lost(detail: str) -> TaskExit:
    return TaskExit(None, None, ExitReason.LOST, time.time(), 0.0, detail)
