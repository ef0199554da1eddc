"""Tally: what became of the messages of one template on this device, since its agent started."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from protocol.bounds import clipped

REASONS_MAX: Final = 16  # the reasons of some quote what came
OTHER: Final = "other reasons"


@dataclass(slots=True)
class Tally:
    """`heard` counts all that came, whatever became of it; what comes twice is heard twice."""

    heard: int = 0
    filtered: int = 0  # that When does not want
    fired: int = 0  # here; of those with ids another device may have fired
    refused: dict[str, int] = field(default_factory=dict)  # by reason
    unanswered: dict[str, int] = field(default_factory=dict)  # by reason
    last_fired_ms: int = 0  # wall


def count(counts: dict[str, int], reason: str, most: int = REASONS_MAX) -> None:
    """One more for that reason, or for others where there are many."""
    key = clipped(reason)
    if key not in counts and len(counts) >= most:
        key = OTHER
    counts[key] = counts.get(key, 0) + 1
