"""The owner's policy: whose jobs, which, and when this device takes; it stands before any score.

Two kinds of objection: a *misfit* is never taken here, whatever the hour; an *unwell* device takes
no more for now. Each sentence quotes the line of the configuration that caused it. What is known
of the device comes in as plain values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from protocol.asks import not_allowed
from protocol.clock import Now
from protocol.config import PolicyConfig
from protocol.ids import PeerId
from protocol.messages import Facts
from protocol.quantities import format_duration

ANY: Final = "*"
DAY_MIN: Final = 24 * 60
HOURS_ALLOWED: Final = "allowed: from and to as hours and minutes, e.g. 22:00-06:00"
_HOURS: Final = re.compile(r"([0-9]{1,2}):([0-9]{2})\s*-\s*([0-9]{1,2}):([0-9]{2})")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the policy looks at in a job. `roles` is None while its author is not known here."""

    type: str  # jobtype.JobType; empty where an older coordinator does not say
    engine: str
    namespace: str
    author: PeerId
    name: str = ""  # the author's, by its certificate: what a peer calls itself proves nothing
    roles: tuple[str, ...] | None = None
    limit_s: int = 0  # how long it may run at most; 0: it does not say
    asks: tuple[str, ...] = ()  # see asks


def misfit(policy: PolicyConfig, asked: Asked) -> str:
    """Why this device's owner never takes such a job; empty where there is nothing against it."""
    if asked.type and not _listed(asked.type, policy.types):
        return _never(f"{asked.type} jobs are not taken here", "types", policy.types)
    if not _listed(asked.engine, policy.engines):
        return _never(f"engine {asked.engine} is not taken here", "engines", policy.engines)
    if not _listed(asked.namespace, policy.namespaces):
        text = f"namespace {asked.namespace} is not taken here"
        return _never(text, "namespaces", policy.namespaces)
    named = bool(asked.name) and asked.name in policy.authors
    if policy.authors and not named and asked.author not in policy.authors:
        who = asked.name or asked.author[-8:]
        # Whom else the owner trusts is nobody's business: the line is named and not quoted.
        return f"policy: jobs of {who} are not taken here ([accept] authors)"
    unknown = asked.roles is None or not policy.roles
    if not unknown and not any(role in policy.roles for role in asked.roles or ()):
        return _never("its author holds no role that is taken here", "roles", policy.roles)
    if refused := not_allowed(policy, asked.asks):
        return refused
    if asked.limit_s > policy.job_timeout_max_s:
        limit = format_duration(policy.job_timeout_max_s)
        text = f"a timeout of {format_duration(asked.limit_s)} is over {limit}"
        return f"policy: {text} ([accept] job_timeout_max_s = {policy.job_timeout_max_s})"
    return ""


def unwell(policy: PolicyConfig, facts: Facts, minute: int) -> str:
    """Why the owner wants no more work just now, empty where nothing is against it.

    `minute` is that of the day here, -1 where the time is not known. What else is not known bars
    nothing: a board that cannot tell its power or heat would never work.
    """
    if facts.temperature_mc > policy.temperature_max_c * 1000:
        text = f"{facts.temperature_mc // 1000} C is too hot"
        return f"policy: {text} ([accept] temperature_max_c = {policy.temperature_max_c})"
    if policy.mains_only and facts.mains == 0:
        return "policy: it is on battery ([accept] mains_only = true)"
    if facts.mains == 0 and 0 <= facts.battery_percent < policy.battery_min_percent:
        text = f"battery at {facts.battery_percent} %"
        return f"policy: {text} ([accept] battery_min_percent = {policy.battery_min_percent})"
    if policy.hours and not any(within(hours, minute) for hours in policy.hours):
        text = f"it is {minute // 60:02}:{minute % 60:02} here"
        if minute < 0:
            text = "this device does not know the time yet"
        return _never(text, "hours", policy.hours)
    return ""


def read_hours(text: str) -> tuple[int, int]:
    """`22:00-06:00` as minutes of the day; the end may lie before the start, on the next day.

    Raises ValueError with what is allowed.
    """
    match = _HOURS.fullmatch(text.strip())
    if match is None:
        raise ValueError(HOURS_ALLOWED)
    hours = [int(part) for part in match.groups()]
    start, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
    if hours[1] > 59 or hours[3] > 59 or start >= DAY_MIN or end > DAY_MIN:
        raise ValueError(HOURS_ALLOWED)
    if start == end:
        raise ValueError("from and to are the same; for the whole day leave it out")
    return start, end


def within(hours: str, minute: int) -> bool:
    """Whether a minute of the day lies in hours such as `22:00-06:00`; the end does not."""
    start, end = read_hours(hours)
    if start < end:
        return start <= minute < end
    return minute >= start or 0 <= minute < end


def minute_here(now: Now, utc_offset_s: int) -> int:
    """The minute of the day where this device is; -1 while its clock is not to be trusted."""
    return int(now.wall + utc_offset_s) // 60 % DAY_MIN if now.wall_trusted else -1


def _listed(word: str, allowed: tuple[str, ...]) -> bool:
    return ANY in allowed or word in allowed


def _never(text: str, key: str, values: tuple[str, ...]) -> str:
    """The sentence, and the line as it would stand in the file."""
    line = ", ".join(f'"{value}"' for value in values)
    return f"policy: {text} ([accept] {key} = [{line}])"
