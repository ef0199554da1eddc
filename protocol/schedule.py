"""Schedule: when a job runs again and again, and what happens where runs meet or are missed.

What a cron expression means is not decided here (see `slots`): this module holds its words.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

import msgspec

from protocol.jobtype import JobType
from protocol.tree import Node, Plain

FIELDS: Final = ("Cron", "TimeZone", "Overlap", "CatchUp", "Scope")
CRON: Final = re.compile(r"[0-9A-Za-z*/,#-]+( [0-9A-Za-z*/,#-]+){4,5}")
CRON_BYTES_MAX: Final = 128
CRON_ALLOWED: Final = (
    "allowed: minute hour day-of-month month day-of-week, as in crontab(5), with the second "
    "before them if it matters"
)
ZONE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}")
ZONE_ALLOWED: Final = "allowed: a name of the IANA time zone database, as Europe/Berlin; UTC"


class Overlap(StrEnum):
    """What becomes of a run whose predecessor has not ended."""

    SKIP = "skip"  # it does not take place: what is slow must not pile up on a small device
    ALLOW = "allow"  # both run
    REPLACE = "replace"  # the one before is stopped first


class Scope(StrEnum):
    """Who runs it when its time has come."""

    ONCE = "once"  # the shoal, once: where bidding says; an ops job's on all that match then
    EACH = "each"  # every peer that matches, for itself, by its own clock


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """When, in whose time, and what then."""

    cron: str
    zone: str = "UTC"  # devices of one shoal may stand in several
    overlap: Overlap = Overlap.SKIP
    catch_up: int = 0  # so many of the runs that were missed are made up for: none, or the latest
    scope: Scope = Scope.ONCE

    @classmethod
    def read(cls, node: Node, kind: JobType) -> Schedule:
        """Read a job's `Schedule`. Raises JobSpecError."""
        if kind.standing:
            node.fail(f"only a batch or ops job has a Schedule; {kind.noun} does not")
        fields = node.fields(*FIELDS)
        return cls(
            cron=_read_cron(fields.need("Cron")),
            zone=fields.read("TimeZone", _read_zone, "UTC"),
            overlap=Overlap(
                fields.get_or("Overlap", Overlap.SKIP).choice(tuple(Overlap), "an overlap")
            ),
            catch_up=fields.read("CatchUp", lambda at: at.integer(0, 1), 0),
            scope=Scope(fields.get_or("Scope", Scope.ONCE).choice(tuple(Scope), "a scope")),
        )

    def to_plain(self) -> dict[str, Plain]:
        return {
            "Cron": self.cron,
            "TimeZone": self.zone,
            "Overlap": self.overlap.value,
            "CatchUp": self.catch_up,
            "Scope": self.scope.value,
        }


def _read_cron(node: Node) -> str:
    """With single spaces and in capitals: two ways to write one schedule are one."""
    text = " ".join(node.text(CRON_BYTES_MAX).split()).upper()
    if not CRON.fullmatch(text):
        node.fail(f"{text.count(' ') + 1} fields, or characters that cron has not; {CRON_ALLOWED}")
    return text


def _read_zone(node: Node) -> str:
    return node.matching(ZONE, ZONE_ALLOWED)
