"""Job types: where a job runs, and when it ends."""

from __future__ import annotations

from enum import StrEnum


class JobType(StrEnum):
    """DESIGN 6: where a job runs, when it ends and what it promises."""

    BATCH = "batch"
    OPS = "ops"
    DAEMON = "daemon"
    SERVICE = "service"

    @property
    def standing(self) -> bool:
        """Whether it runs until stopped; otherwise it ends by itself."""
        return self in (JobType.DAEMON, JobType.SERVICE)

    @property
    def counted(self) -> bool:
        """Whether it has `Count` slots; otherwise it runs on every peer that matches."""
        return self in (JobType.BATCH, JobType.SERVICE)

    @property
    def noun(self) -> str:
        return f"an {self} job" if self is JobType.OPS else f"a {self}"
