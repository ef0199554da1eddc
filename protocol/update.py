"""Update: how a standing job goes from one revision to the next, peer after peer."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from protocol.jobtype import JobType
from protocol.quantities import format_duration, parse_duration_s
from protocol.tree import Node, Plain

PARALLEL_MAX: Final = 10_000
HEALTHY_AFTER_S_DEFAULT: Final = 10  # Nomad's min_healthy_time
HEALTHY_AFTER_S_MAX: Final = 86400
FIELDS: Final = ("MaxParallel", "HealthyAfter", "OnFailure")


class OnFailure(StrEnum):
    """What a peer does whose new revision ends before it counts as healthy."""

    PAUSE = "pause"  # it keeps the new one, restarts it, and goes no further
    ROLLBACK = "rollback"  # it goes back to the one before


class UpdateSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One wave of peers after the other, each wave `healthy_after_s` later than the one before."""

    max_parallel: int = 1
    healthy_after_s: int = HEALTHY_AFTER_S_DEFAULT
    on_failure: OnFailure = OnFailure.ROLLBACK

    @classmethod
    def read(cls, node: Node, kind: JobType) -> UpdateSpec:
        if not kind.standing:
            node.fail(f"{kind.noun} has one revision all its life; leave Update out")
        fields = node.fields(*FIELDS)
        return cls(
            max_parallel=fields.read("MaxParallel", lambda at: at.integer(1, PARALLEL_MAX), 1),
            healthy_after_s=fields.read("HealthyAfter", _read_healthy_s, HEALTHY_AFTER_S_DEFAULT),
            on_failure=fields.read("OnFailure", _read_on_failure, OnFailure.ROLLBACK),
        )

    def to_plain(self) -> dict[str, Plain]:
        """All of it, or nothing where nothing was said: the field came later than the job spec."""
        if self == UpdateSpec():
            return {}
        return {
            "MaxParallel": self.max_parallel,
            "HealthyAfter": self.healthy_after_s,
            "OnFailure": self.on_failure.value,
        }


def _read_healthy_s(node: Node) -> int:
    return node.quantity(parse_duration_s, 1, HEALTHY_AFTER_S_MAX, format_duration)


def _read_on_failure(node: Node) -> OnFailure:
    return OnFailure(node.choice(tuple(OnFailure), "an answer to a failed update"))
