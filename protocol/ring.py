"""The ring: who monitors whom, agreed by all who know the same peers and flat in the shoal's size.

Peers stand on a circle in the order of a hash (Karger et al. 1997); each is monitored by the k that
follow it and monitors the k before it. As with a rendezvous hash, a peer that comes or goes moves
nobody else, but everyone has exactly k targets where a rendezvous hash gives Poisson(k), and a
change costs O(log n) where ranking n peers for n targets costs n squared (1 s of hashing at 1,000).
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache

from protocol.ids import PeerId

Point = tuple[int, PeerId]


@lru_cache(maxsize=8192)  # a pure function; a simulator of 1,000 rings shares the points
def _point(peer: PeerId) -> Point:
    digest = hashlib.blake2b(peer.encode(), digest_size=8, person=b"shoal/ring/1").digest()
    return int.from_bytes(digest, "big"), peer


class Ring:
    """A set of peers in ring order; ties of the hash are broken by peer id."""

    def __init__(self) -> None:
        self._points: list[Point] = []

    def __len__(self) -> int:
        return len(self._points)

    def __iter__(self) -> Iterator[PeerId]:
        """In ring order."""
        return (peer for _, peer in self._points)

    def __contains__(self, peer: PeerId) -> bool:
        point = _point(peer)
        at = bisect_left(self._points, point)
        return at < len(self._points) and self._points[at] == point

    def add(self, peer: PeerId) -> None:
        point = _point(peer)
        at = bisect_left(self._points, point)
        if at == len(self._points) or self._points[at] != point:
            self._points.insert(at, point)

    def discard(self, peer: PeerId) -> None:
        point = _point(peer)
        at = bisect_left(self._points, point)
        if at < len(self._points) and self._points[at] == point:
            del self._points[at]

    def monitors(self, peer: PeerId, k: int) -> list[PeerId]:
        """The k that follow `peer`, nearest first, fewer in a small ring, never itself."""
        return self._walk(peer, k, 1)

    def targets(self, peer: PeerId, k: int) -> list[PeerId]:
        """The k before `peer`: exactly those that have it among their monitors."""
        return self._walk(peer, k, -1)

    def _walk(self, peer: PeerId, k: int, step: int) -> list[PeerId]:
        size = len(self._points)
        here = bisect_left(self._points, _point(peer))
        inside = here < size and self._points[here][1] == peer
        first = here + (step if inside or step < 0 else 0)
        count = min(k, size - 1 if inside else size)
        return [self._points[(first + step * i) % size][1] for i in range(count)]
