"""Unread: rows on disk that this version cannot read.

A later version wrote them, or an earlier one that refused less, or a card lost what stood there.
The device goes on without them. They stay as they are, and whoever looks after it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from protocol.bounds import clipped
from protocol.effects import Bucket, Tell

TOLD_MAX: Final = 16  # one by one; a damaged database may have thousands


@dataclass(frozen=True, slots=True)
class Unread:
    bucket: Bucket
    key: str
    why: str

    @property
    def text(self) -> str:
        """For people."""
        return clipped(f"{self.bucket} {self.key}: {self.why}")


def told(unread: Sequence[Unread]) -> list[Tell]:
    """What is left aside and why, and of how many more that is not said."""
    tells = [
        Tell(
            "agent.left-aside",
            f"left aside, and kept as it is: {each.text}",
            fields={"bucket": each.bucket, "key": each.key, "reason": clipped(each.why)},
        )
        for each in unread[:TOLD_MAX]
    ]
    more = len(unread) - len(tells)
    if more:
        tells.append(Tell("agent.left-aside", f"left aside, and kept as they are: {more} more"))
    return tells
