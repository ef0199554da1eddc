"""Scale: what an idle peer sends in a large shoal, and what one job costs all of them."""
from __future__ import annotations
from dataclasses import dataclass
@dataclass(frozen=True, slots=True)
class Census:
    peers: int
def measure(peers: int) -> Census:
    return Census(peers)
