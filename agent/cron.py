"""Cron: the slots of a schedule, by the calendar and the time zone its author means.

cronsim does as Debian's cron where the clocks change: what was due in a skipped hour is due right
after it, what is due at a certain time in an hour that comes twice is due once, and what is due
every so often goes on as ever. An expression with seconds is taken literally, hour by hour.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from protocol.errors import JobSpecError
from protocol.schedule import Schedule

FIELDS: Final = "second minute hour day-of-month month day-of-week"
FIRST_S: Final = 0
LAST_S: Final = 253_370_764_800  # the year 9999, where datetime ends


class Calendar:
    """Implements protocol.slots.Cron."""

    def next(self, schedule: Schedule, after_s: int) -> int | None:
        """The first slot after this moment. Raises JobSpecError with the field that is wrong."""
        return _slot(schedule.cron, schedule.zone, after_s, False)

    def last(self, schedule: Schedule, until_s: int) -> int | None:
        """The latest slot up to this moment."""
        return _slot(schedule.cron, schedule.zone, until_s + 1, True)


@lru_cache(maxsize=1024)  # every peer asks for the same slots again with each sample of facts
def _slot(cron: str, zone: str, at_s: int, back: bool) -> int | None:
    if not FIRST_S <= at_s < LAST_S:
        return None
    at = datetime.fromtimestamp(at_s, _zone(zone))
    try:
        return int(next(CronSim(cron, at, reverse=back)).timestamp())
    except StopIteration:
        return None
    except CronSimError as error:
        raise JobSpecError("Schedule.Cron", f"{_wrong(cron, str(error))} in '{cron}'") from None
    except OverflowError:  # past the calendar's end
        return None


def _wrong(cron: str, message: str) -> str:
    """cronsim says `Bad minute`; say what stands there."""
    name = message.removeprefix("Bad ")
    names = FIELDS.split()[-len(cron.split()) :]
    if name not in names:
        return message
    return f"wrong {name} {cron.split()[names.index(name)]!r}"


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # a directory, a path, and a name that is not there
        allowed = "allowed: IANA names, as Europe/Berlin"
        message = f"unknown time zone {name!r}; {allowed}"
        raise JobSpecError("Schedule.TimeZone", message) from None
