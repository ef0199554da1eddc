"""Moments: RFC 3339 timestamps to Unix time in whole seconds, and back.

Without the standard library's `datetime`, which knows what time it is now and which zone this is.
"""

from __future__ import annotations

import re
from typing import Final

from protocol.tree import Scalar, shown

MOMENT_ALLOWED: Final = "allowed: a date and time with its zone, as 2027-03-01T06:00:00Z"

_MOMENT: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.0+)?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_MONTHS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def parse_moment_s(value: Scalar) -> int:
    """Seconds since 1970, from RFC 3339 text. Raises ValueError."""
    match = _MOMENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{shown(value)} is not a moment; {MOMENT_ALLOWED}")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    sign, zone_h, zone_m = match[7], int(match[8] or 0), int(match[9] or 0)
    real = 1 <= month <= 12 and 1 <= day <= _days_in(year, month)
    if not real or hour > 23 or minute > 59 or second > 59 or zone_h > 23 or zone_m > 59:
        raise ValueError(f"{shown(value)} is no day or time there is; {MOMENT_ALLOWED}")
    offset = (zone_h * 60 + zone_m) * 60 * (-1 if sign == "-" else 1)
    return _day_number(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - offset


def format_moment(seconds: int) -> str:
    """The one form that is written: UTC, in whole seconds."""
    days, rest = divmod(seconds, 86400)
    # Civil from days, over eras of 400 years that begin in March (Hinnant, "chrono-Compatible
    # Low-Level Date Algorithms").
    era, of_era = divmod(days + 719_468, 146_097)
    year_of = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    day_of = of_era - (365 * year_of + year_of // 4 - year_of // 100)
    shifted = (5 * day_of + 2) // 153
    day = day_of - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = year_of + era * 400 + (month <= 2)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{year:04}-{month:02}-{day:02}T{clock}Z"


def _day_number(year: int, month: int, day: int) -> int:
    shifted = year - (month <= 2)
    era, year_of = divmod(shifted, 400)
    day_of = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146_097 + year_of * 365 + year_of // 4 - year_of // 100 + day_of - 719_468


def _days_in(year: int, month: int) -> int:
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return _MONTHS[month - 1] + (month == 2 and leap)
