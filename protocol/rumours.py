"""Rumours: which sealed records were heard before, and which are to be passed on by gossip.

What comes by gossip floods by itself. What comes to us alone, from the peer that tells it, is
passed on once, after a random wait: of twenty peers that are told the same thing, most hear it by
gossip meanwhile and keep quiet (one gossip message costs every host about 10 ms of CPU, measured).
"""

from __future__ import annotations

import hashlib
from math import inf
from random import Random
from typing import Final

from protocol.messages import Rumours

SEEN_MAX: Final = 8192  # digests of 16 bytes; about 1 MB
PENDING_MAX: Final = 512
RECORD_BYTES_MAX: Final = 32 * 1024  # an advert with its certificate is 0.6 KB, with 64 labels 8
BATCH_BYTES: Final = (
    8 * 1024
)  # of one gossip message with several records: gossip is for small things
WAIT_MIN_S: Final = 0.3  # a gossip message reaches the last of 20 hosts in 75 ms (measured)
WAIT_MAX_S: Final = 1.2


def digest_of(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


class RumourMill:
    """A bounded memory of digests, and a bounded queue of records to be passed on."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._seen: dict[bytes, None] = {}  # oldest first
        self._pending: dict[bytes, bytes] = {}
        self.deadline = inf

    def seen(self, digest: bytes) -> bool:
        return digest in self._seen

    def remember(self, digest: bytes) -> None:
        self._seen.pop(digest, None)
        self._seen[digest] = None
        if len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]

    def pass_on(self, digest: bytes, data: bytes, now: float) -> None:
        """Gossip `data` soon, unless it is heard by gossip before; dropped where too many wait."""
        if len(data) > RECORD_BYTES_MAX or len(self._pending) >= PENDING_MAX:
            return
        self._pending[digest] = data
        if self.deadline == inf:
            self.deadline = now + self._wait()

    def drop(self, digest: bytes) -> None:
        """It has been gossiped by another."""
        if self._pending.pop(digest, None) is not None and not self._pending:
            self.deadline = inf

    def flush(self, now: float) -> Rumours | None:
        """The next batch to gossip, when its time has come."""
        if now < self.deadline:
            return None
        batch: list[bytes] = []
        size = 0
        for digest, data in list(self._pending.items()):
            if batch and size + len(data) > BATCH_BYTES:
                break
            batch.append(self._pending.pop(digest))
            size += len(data)
        self.deadline = now + self._wait() if self._pending else inf
        return Rumours(tuple(batch))

    def _wait(self) -> float:
        return WAIT_MIN_S + self._rng.random() * (WAIT_MAX_S - WAIT_MIN_S)
