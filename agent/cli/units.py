"""Units for people: durations, sizes, shares of cores, ids and ages."""

from __future__ import annotations

from agent.printable import clean

ID_CHARS = 8


def short_job(job: str) -> str:
    """The beginning of a job's or execution's id, which is what commands take, too."""
    return clean(job[:ID_CHARS])


def short_peer(peer: str) -> str:
    """The end of a peer id: all of them begin alike."""
    return clean("…" + peer[-ID_CHARS:])


def named(name: str, peer: str) -> str:
    """A peer as people know it, by name before id."""
    return clean(name) if name else short_peer(peer)


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 m 20 s`, `2 h 5 m`, `4 d 3 h`."""
    if seconds < 0:
        return "0 s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, below, smaller in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def size(number: float) -> str:
    """Bytes in binary units: `64 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 10 else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def cores(cpu_m: float) -> str:
    """Millicores as cores: `3.2`, `0.25`."""
    return f"{cpu_m / 1000:.2f}".rstrip("0").rstrip(".")


def clock(at_ms: int) -> str:
    """The time of day here, of a moment in Unix milliseconds."""
    import time

    return time.strftime("%H:%M:%S", time.localtime(at_ms / 1000))


def moment(at_ms: int) -> str:
    """A date and the time of day here."""
    import time

    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))


def age(at_ms: int) -> str:
    """How long ago; a clock that is ahead of ours is now."""
    import time

    return duration(max(0.0, time.time() - at_ms / 1000))


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def parse_duration(text: str) -> int:
    """`15m`, `1h30m`, `90` to seconds. Raises ValueError with what is allowed."""
    from protocol.quantities import parse_duration_s

    return parse_duration_s(text)
