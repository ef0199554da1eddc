"""Slots: the moments at which a schedule's runs are due, as whoever knows calendars tells them.

Calendars and time zones are files; they stay outside and are injected. A slot is a whole second of
Unix time: an hour that comes twice has two of them, an hour that is skipped has none.
"""

from __future__ import annotations

from typing import Protocol

from protocol.errors import JobSpecError
from protocol.schedule import Schedule


class Cron(Protocol):
    """Pure: the same answer to the same question, whenever it is asked."""

    def next(self, schedule: Schedule, after_s: int) -> int | None:
        """The first slot after this moment, None where there is none. Raises JobSpecError."""

    def last(self, schedule: Schedule, until_s: int) -> int | None:
        """The latest slot up to this moment, itself included. Raises JobSpecError."""


def slots_between(
    cron: Cron, schedule: Schedule, after_s: int, until_s: int, most: int
) -> list[int]:
    """The first `most` slots after one moment and up to another."""
    found: list[int] = []
    at = cron.next(schedule, after_s)
    while at is not None and at <= until_s and len(found) < most:
        found.append(at)
        at = cron.next(schedule, at)
    return found


def why_wrong(cron: Cron, schedule: Schedule) -> str:
    """Why this is no schedule here: a field of cron out of range, a time zone nobody knows."""
    try:
        return "" if cron.next(schedule, 0) is not None else "Schedule.Cron: there is no such day"
    except JobSpecError as error:
        return str(error)
