"""Quantities as people write them: cpu, sizes, counts and durations, parsed to exact integers.

The spellings are Bacalhau's: cpu as Kubernetes has it (`500m`, `0.5`), sizes as go-humanize reads
them (`64Mb` is 64,000,000 bytes, `64Mi` is 67,108,864; letter case says nothing), both also as
bare numbers. No binary floating point takes part, so `0.1` is 100 millicores on every machine.
Every parser raises ValueError with what was found and what is allowed. Ranges are the caller's.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Final

from protocol.tree import Scalar, shown

_TEXT_MAX: Final = 32  # characters: keeps the arithmetic below small
_NUMBER: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]*)")
_DURATION: Final = re.compile(r"(?:(?:[0-9]+(?:\.[0-9]+)?)(?:d|h|m|s|ms))+")
_DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(d|ms|h|m|s)")

_SIZE_UNITS: Final[dict[str, int]] = {
    "": 1,
    "b": 1,
    **{letter + end: 1000 ** (i + 1) for i, letter in enumerate("kmgtp") for end in ("", "b")},
    **{letter + end: 1024 ** (i + 1) for i, letter in enumerate("kmgtp") for end in ("i", "ib")},
}
_SECONDS: Final[dict[str, Fraction]] = {
    "d": Fraction(86400),
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
}

CPU_ALLOWED: Final = "allowed: cores such as 2 or 0.5, or millicores such as 500m"
SIZE_ALLOWED: Final = (
    "allowed: bytes, or a number with Kb, Mb, Gb, Tb (of 1000) or Ki, Mi, Gi, Ti (of 1024), "
    "e.g. 64Mb, 1.5Gi"
)
COUNT_ALLOWED: Final = "allowed: a whole number such as 0 or 1"
DURATION_ALLOWED: Final = "allowed: whole seconds such as 90, or e.g. 90s, 15m, 1h30m, 2d"


def parse_cpu_m(value: Scalar) -> int:
    """Cpu in millicores, rounded up: a task never gets less than it asked for."""
    number, unit = _number(value, "a cpu quantity", CPU_ALLOWED)
    if unit not in ("", "m"):
        raise ValueError(f"{shown(value)} is not a cpu quantity; {CPU_ALLOWED}")
    return math.ceil(number if unit == "m" else number * 1000)


def parse_size_bytes(value: Scalar) -> int:
    """A size in bytes, rounded up. `m` is mega, as in go-humanize, not Kubernetes' milli."""
    number, unit = _number(value, "a size", SIZE_ALLOWED)
    if unit not in _SIZE_UNITS:
        raise ValueError(f"{shown(value)} is not a size; {SIZE_ALLOWED}")
    return math.ceil(number * _SIZE_UNITS[unit])


def parse_count(value: Scalar) -> int:
    """A count of whole things, also as a string: Bacalhau writes `GPU: "1"`."""
    number, unit = _number(value, "a count", COUNT_ALLOWED)
    if unit or number.denominator != 1:
        raise ValueError(f"{shown(value)} is not a count; {COUNT_ALLOWED}")
    return int(number)


def parse_duration_s(value: Scalar) -> int:
    """A duration in whole seconds, from a number of seconds or Go's form (`1h30m`), with days."""
    if isinstance(value, str) and _DURATION.fullmatch(text := _bare(value)):
        seconds = sum(
            (Fraction(n) * _SECONDS[u] for n, u in _DURATION_PART.findall(text)), start=Fraction()
        )
    else:
        seconds, unit = _number(value, "a duration", DURATION_ALLOWED)
        if unit:
            raise ValueError(f"{shown(value)} is not a duration; {DURATION_ALLOWED}")
    if seconds.denominator != 1:
        raise ValueError(f"{shown(value)} is not in whole seconds; {DURATION_ALLOWED}")
    return int(seconds)


def format_size(size_bytes: int) -> str:
    """A size for people, exact: the largest binary unit that divides it (`64Mi`), else bytes."""
    for power, unit in ((4, "Ti"), (3, "Gi"), (2, "Mi"), (1, "Ki")):
        if size_bytes and size_bytes % 1024**power == 0:
            return f"{size_bytes // 1024**power}{unit}"
    return f"{size_bytes}"


def format_cpu(cpu_m: int) -> str:
    return f"{cpu_m}m" if cpu_m % 1000 else f"{cpu_m // 1000}"


def format_duration(seconds: int) -> str:
    """A duration for people, as parse_duration_s reads it: `90s`, `15m`, `2d`."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds and seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _number(value: Scalar, noun: str, allowed: str) -> tuple[Fraction, str]:
    """Split into an exact number and a lower-case unit."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Fraction(value), ""
    # repr gives the shortest text that means this float, which is what stood in the file. One as
    # large as 1e300 is all digits in a Fraction, and still only a thousand bits.
    if isinstance(value, float) and math.isfinite(value) and value >= 0:
        return Fraction(repr(value)), ""
    if isinstance(value, str) and (match := _NUMBER.fullmatch(_bare(value))):
        return Fraction(match[1] if match[1][-1] != "." else match[1] + "0"), match[2].lower()
    raise ValueError(f"{shown(value)} is not {noun}; {allowed}")


def _bare(text: str) -> str:
    """Without the space at its ends; too long a text becomes one that nothing accepts."""
    return text.strip() if len(text) <= _TEXT_MAX else "?"
