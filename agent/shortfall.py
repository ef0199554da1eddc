"""Shortfalls: output that cannot be had. Why, what stands in for it, and what a person can do.

A sentence goes on from "output on DEVICE", so that one of many devices is one sentence.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from agent.control.backend import LogQuery, RequestError, View
from agent.tasks import TAIL_BYTES, TAIL_LINES
from protocol.bounds import TAIL_BYTES_MAX
from protocol.errors import ShoalError

# What a device answers, of any version.
GONE_TEXT: Final = "the output of this execution is no longer here"
BUSY_TEXT: Final = "too many read logs here just now"
_NOT_BEGUN: Final = ("pending", "starting", "waiting", "restarting")


class Cause(StrEnum):
    UNREACHABLE = "unreachable"
    GONE = "gone"
    NONE = "none"  # there never was any: its task did not begin
    BUSY = "busy"
    FAILED = "failed"  # its device says how
    WAITING = "waiting"  # what becomes of it is told later


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Of one stream of an execution; `missing` where something that was asked for may be."""

    cause: Cause
    text: str
    missing: bool = True


SLOW: Final = Shortfall(
    Cause.WAITING, "is waited for: the device has not answered yet", missing=False
)


@dataclass(frozen=True, slots=True)
class Remains:
    """What came with a result of a stream; `whole` where that is all that was asked for."""

    data: bytes
    whole: bool


def cause_of(error: Exception) -> tuple[Cause, str]:
    """And the reason in words."""
    text = str(error)
    if isinstance(error, KeyError | ValueError) or text == GONE_TEXT:
        return Cause.GONE, "none is kept there"
    if isinstance(error, ShoalError):
        return Cause.UNREACHABLE, "the device cannot be reached"
    if text == BUSY_TEXT:
        return Cause.BUSY, "too many read logs there just now"
    assert isinstance(error, RequestError | OSError), error
    return Cause.FAILED, said(error)


def said(error: RequestError | OSError) -> str:
    """Without the path that Python puts to what the system says."""
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or str(error) or type(error).__name__


def has_begun(execution: View) -> bool:
    """Whether its task may have written anything."""
    return bool(execution.get("started_ms")) or execution.get("state") not in _NOT_BEGUN


def _began(execution: View) -> bool:
    """Whether the task of one that has ended may have written anything. The result of one that
    never began has its end for its start, too."""
    if execution.get("stdout_tail") or execution.get("stderr_tail"):
        return True
    started_ms, ended_ms = execution.get("started_ms"), execution.get("ended_ms")
    return execution.get("exit_code") == 0 or bool(started_ms and started_ms != ended_ms)


def remains_of(execution: View, stream: str, wanted: LogQuery) -> Remains:
    """What of a stream came with the result, as far as it was asked for. Which of its lines are
    since a moment is not known, unless all ended before."""
    ended_ms = int(execution.get("ended_ms") or 0)
    if wanted.tail == 0 or (wanted.tail < 0 and 0 < ended_ms < wanted.since_ms):
        return Remains(b"", True)
    data = str(execution.get(f"{stream}_tail") or "").encode()
    if not data:  # both come together, so where there is one the other was empty
        return Remains(b"", bool(execution.get("stdout_tail") or execution.get("stderr_tail")))
    if len(data) >= TAIL_BYTES_MAX:  # of a run that is answered the beginning is kept
        return Remains(data if wanted.tail < 0 else b"", False)
    lines, cut = _lines_of(data), len(data) >= TAIL_BYTES
    whole = not cut and len(lines) < TAIL_LINES
    if wanted.tail < 0:
        return Remains(data, whole)
    enough = whole or wanted.tail <= len(lines) - cut  # the first line may be the end of one
    return Remains(b"".join(lines[-wanted.tail :]), enough)


def _lines_of(data: bytes) -> list[bytes]:
    """As `tail` has them: the \\r of a progress bar ends none."""
    return io.BytesIO(data).readlines()


def of_ended(
    error: Exception, execution: View, streams: Sequence[str], wanted: LogQuery
) -> Shortfall | None:
    """Where what came with the result is given in its place; none where nothing is missing."""
    (cause, why), found = cause_of(error), [remains_of(execution, s, wanted) for s in streams]
    if cause is Cause.GONE and not _began(execution):
        cause = Cause.NONE
    whole, some = all(each.whole for each in found), any(each.data for each in found)
    any_moment = ", whenever it was written" if wanted.since_ms and wanted.tail < 0 else ""
    if some and whole:
        return Shortfall(cause, f"is as it came with the result{any_moment}: {why}", False)
    if some:
        text = f"is what came with the result{any_moment}, and may not be all: {why}"
        return Shortfall(cause, text + _once(cause))
    if whole:
        return None
    reason = str(execution.get("reason") or "")
    if cause in (Cause.GONE, Cause.NONE) and reason and execution.get("exit_code") is None:
        return Shortfall(cause, f"cannot be had: {why}, and its task ended so: {reason}")
    return Shortfall(cause, f"cannot be had: {why}, and none came with the result{_once(cause)}")


def of_broken_off(error: Exception) -> Shortfall:
    """Where some was given before."""
    cause, why = cause_of(error)
    return Shortfall(cause, f"breaks off: {why}{_once(cause)}")


def of_replaced(error: Exception, given: bool, begun: bool) -> Shortfall | None:
    """Of an execution whose slot was placed again, of which there is no result; `given` where some
    of its output was, `begun` where it was seen to run. None where it may have had none."""
    cause, why = cause_of(error)
    if not given and (cause is Cause.GONE or not begun):
        return None
    how = "breaks off" if given else "cannot be had"
    return Shortfall(cause, f"{how}: {why}, and that execution no longer counts")


def of_running(error: Exception, execution: View, follows: bool) -> Shortfall | None:
    """Who follows is told of what may last; there is none yet of what has not begun."""
    cause, why = cause_of(error)
    if cause is Cause.GONE and (follows or not has_begun(execution)):
        return None
    if follows:
        return Shortfall(cause, f"cannot be had just now: {why}; it is asked again", False)
    if cause is Cause.UNREACHABLE:
        way = "`shoal logs -f` waits until it is back (see `shoal peers`)"
        return Shortfall(cause, f"cannot be had: {why}; {way}")
    return Shortfall(cause, f"cannot be had: {why}{_once(cause)}")


def _once(cause: Cause) -> str:
    """How to have it later."""
    match cause:
        case Cause.UNREACHABLE:
            return "; once it is back (see `shoal peers`) `shoal logs` has all of it"
        case Cause.BUSY:
            return "; `shoal logs` has it in a moment"
        case _:
            return ""
