"""Counters: bytes at the socket, and what was dropped, refused or malformed, by reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Read by metrics and the doctor; written only on the trio thread.

    `events` counts by dotted reason, e.g. `drop.outbox-full`, `refused.not-a-member`,
    `malformed.gossip`; the reasons are ours, never a peer's text, so their number is bounded.
    """

    bytes_in: int = 0
    bytes_out: int = 0
    frames_in: int = 0
    frames_out: int = 0
    frame_bytes_in: int = 0  # on message streams, before encryption
    frame_bytes_out: int = 0
    gossip_in: int = 0  # rumours that passed the cheap checks
    gossip_out: int = 0  # our own; what is passed on for others is upstream's
    gossip_bytes_in: int = 0
    gossip_bytes_out: int = 0
    relayed_bytes: int = 0  # of streams that were joined for others
    events: Counter[str] = field(default_factory=Counter)

    def count(self, reason: str) -> None:
        self.events[reason] += 1

    def snapshot(self) -> dict[str, int]:
        """All figures as one flat map, in a fixed order."""
        totals = {
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "frames_in": self.frames_in,
            "frames_out": self.frames_out,
            "frame_bytes_in": self.frame_bytes_in,
            "frame_bytes_out": self.frame_bytes_out,
            "gossip_in": self.gossip_in,
            "gossip_out": self.gossip_out,
            "gossip_bytes_in": self.gossip_bytes_in,
            "gossip_bytes_out": self.gossip_bytes_out,
            "relayed_bytes": self.relayed_bytes,
        }
        return totals | {reason: self.events[reason] for reason in sorted(self.events)}
