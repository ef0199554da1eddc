"""Moments: points in time as people write them (RFC 3339), as exact milliseconds of Unix time.

The canonical form is in UTC, in whole seconds or milliseconds: `2026-11-27T18:00:00Z`.
"""

from __future__ import annotations

import re
from typing import Final

from protocol.tree import Node, shown

_FORM: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})"
    r"(?:\.([0-9]{1,9}))?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
MOMENT_ALLOWED: Final = (
    "allowed: date, time and offset from UTC, at most milliseconds, "
    "e.g. 2026-11-27T18:00:00Z or 2026-11-27T19:00:00+01:00"
)
YEAR_MIN: Final = 1970
DAY_MS: Final = 86_400_000
_DAYS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def read_moment_ms(node: Node) -> int:
    """Read a field that holds a moment. Raises JobSpecError."""
    try:
        return parse_moment_ms(node.word(64))
    except ValueError as error:
        node.fail(str(error))


def parse_moment_ms(text: str) -> int:
    """Milliseconds since 1970 in UTC, at least one. Raises ValueError with what is allowed."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{shown(text)} is not a moment; {MOMENT_ALLOWED}")
    year, month, day, hour, minute, second = (int(match[group]) for group in range(1, 7))
    fraction, offset = match[7] or "", _offset_min(match[8])
    known = year >= YEAR_MIN and 1 <= month <= 12 and 1 <= day <= _days_in(year, month)
    if not known or hour > 23 or minute > 59 or second > 59 or offset is None:
        raise ValueError(f"{shown(text)} is no moment since {YEAR_MIN}; {MOMENT_ALLOWED}")
    if fraction[3:].strip("0"):
        raise ValueError(f"{shown(text)} is finer than milliseconds; {MOMENT_ALLOWED}")
    minutes = (_days_until(year, month, day) * 24 + hour) * 60 + minute - offset
    found = (minutes * 60 + second) * 1000 + int(fraction[:3].ljust(3, "0"))
    if found < 1 or found >= _days_until(10_000, 1, 1) * DAY_MS:  # what four digits can write
        raise ValueError(f"{shown(text)} is no moment since {YEAR_MIN}; {MOMENT_ALLOWED}")
    return found


def format_moment(moment_ms: int) -> str:
    """The canonical form; parse_moment_ms gives the same number back."""
    days, rest = divmod(moment_ms, DAY_MS)
    year = YEAR_MIN + days // 366
    while _days_until(year + 1, 1, 1) <= days:
        year += 1
    days -= _days_until(year, 1, 1)
    month = 1
    while days >= _days_in(year, month):
        days -= _days_in(year, month)
        month += 1
    seconds, ms = divmod(rest, 1000)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{year:04}-{month:02}-{days + 1:02}T{clock}" + (f".{ms:03}Z" if ms else "Z")


def _offset_min(text: str) -> int | None:
    """Minutes east of UTC; None for what is no offset."""
    if text in "Zz":
        return 0
    hours, minutes = int(text[1:3]), int(text[4:6])
    if hours > 23 or minutes > 59:
        return None
    return (hours * 60 + minutes) * (-1 if text[0] == "-" else 1)


def _leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _days_in(year: int, month: int) -> int:
    return 29 if month == 2 and _leap(year) else _DAYS[month - 1]


def _days_until(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01 to this date (Gregorian, as RFC 3339 has it)."""
    before = year - 1
    days = before * 365 + before // 4 - before // 100 + before // 400 - 719_162
    days += sum(_days_in(year, each) for each in range(1, month))
    return days + day - 1
