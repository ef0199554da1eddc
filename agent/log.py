"""Logs: one line per event worth telling, for people or as JSON, safe against what is in it.

    log = logging.getLogger(__name__)
    tell(log, "peer.dead", "pi-attic does not answer", peer=peer_id)

An event is a record with `extra={"shoal": {"kind", "job", "peer", "fields"}}`; `tell` makes one.
Only the standard library. Whatever a peer or a task had a hand in cannot start a line of its own
or speak to the terminal: control characters are escaped in both formats.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TextIO

from agent.printable import clean

FIELD_CHARS_MAX: Final = 300  # of one value in a line for people
REPEATS_MAX: Final = 20  # of one kind of line within a window; the rest is counted
WINDOW_S: Final = 10.0
KINDS_MAX: Final = 256  # counted at one time

# What somebody who watches `shoal up` wants to know; bids and questions are in `shoal job why`.
_WATCHED: Final = (
    "agent.", "peer.", "shoal.", "job.accepted", "job.awarded", "job.waiting", "job.placed-again",
    "job.completed", "job.failed", "job.stopped", "job.conflict", "execution.", "mqtt.",
)  # fmt: skip
_LIBRARIES: Final = ("libp2p", "zeroconf", "hypercorn", "multiaddr", "trio", "asyncio")


def tell(
    log: logging.Logger, kind: str, text: str, /, *, level: int = logging.INFO, **fields: object
) -> None:
    """Write one event: a dotted `kind` (job.accepted), a sentence, and plain values."""
    if log.isEnabledFor(level):
        log.log(level, "%s", text, extra={"shoal": {"kind": kind, "fields": fields}})


def set_up(
    form: str = "human", level: str = "info", stream: TextIO | None = None, *, watched: bool = False
) -> None:
    """Write the process' log to `stream` (standard error). Replaces what was set up before.

    `watched` is for an agent started in a terminal: only what a person wants to know, and warnings.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else HumanFormatter(watched))
    if watched and form != "json":
        handler.addFilter(is_watched)
    handler.addFilter(RepeatFilter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _LIBRARIES:  # their everyday lines tell of their inside, several a second
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    logging.captureWarnings(True)


class HumanFormatter(logging.Formatter):
    """`12:03:04 job.accepted  the sentence  slot=0 peer=12D3…`, and the level where it is bad."""

    def __init__(self, brief: bool = False) -> None:
        super().__init__()
        self._brief = brief

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S" if self._brief else "%Y-%m-%dT%H:%M:%S", _local(record))
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        parts = [clock]
        if not self._brief:
            parts.append(clean(_kind(record)))
        parts.append(level + clean(_message(record)))
        fields = _fields(record)
        if fields and not self._brief:
            parts.append(" ".join(f"{name}={_short(value)}" for name, value in fields.items()))
        if record.exc_info and not self._brief:
            parts.append(clean(self.formatException(record.exc_info)))
        return "  ".join(parts)


class JsonFormatter(logging.Formatter):
    """One object a line: at (seconds), level, kind, text, the fields, and error with its trace."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "kind": _kind(record),
            "text": _message(record),
        }
        for name, value in _fields(record).items():
            line.setdefault(name, value)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        # ASCII alone: no character in it can move a terminal's cursor or end the line.
        return json.dumps(line, default=str, separators=(",", ":"))


class RepeatFilter(logging.Filter):
    """Lets a kind of line through so many times a window, then counts: a peer that sends garbage
    for hours must not fill an SD card."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[str, tuple[float, int]] = {}  # since when, and how many

    def filter(self, record: logging.LogRecord) -> bool:
        key = f"{record.name} {record.msg if _is_plain(record) else _kind(record)}"
        now = self._clock()
        since, count = self._seen.get(key, (now, 0))
        if now - since >= WINDOW_S:
            if count > REPEATS_MAX:
                record.msg = f"{_message(record)} ({count - REPEATS_MAX} more like it before)"
                record.args = ()
            since, count = now, 0
        if key not in self._seen and len(self._seen) >= KINDS_MAX:
            self._seen.pop(next(iter(self._seen)))
        self._seen[key] = (since, count + 1)
        return count < REPEATS_MAX


def is_watched(record: logging.LogRecord) -> bool:
    if record.levelno >= logging.WARNING:
        return True
    return not _is_plain(record) and _kind(record).startswith(_WATCHED)


def _is_plain(record: logging.LogRecord) -> bool:
    """Whether it is a mere line of text, and no event."""
    return not hasattr(record, "shoal")


def _kind(record: logging.LogRecord) -> str:
    return record.name if _is_plain(record) else str(record.__dict__["shoal"]["kind"])


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """An event's values; its job and peer come first."""
    about: Mapping[str, Any] = record.__dict__.get("shoal", {})
    named = {name: about[name] for name in ("job", "peer") if about.get(name)}
    return {**named, **(about.get("fields") or {})}


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # a wrong argument in a rare line must not end what it tells of
        return f"{record.msg} {record.args!r}"


def _short(value: object) -> str:
    text = clean(str(value))
    text = text if len(text) <= FIELD_CHARS_MAX else text[:FIELD_CHARS_MAX] + "…"
    return json.dumps(text, ensure_ascii=False) if " " in text or '"' in text else text


def _local(record: logging.LogRecord) -> time.struct_time:
    return time.localtime(record.created)
