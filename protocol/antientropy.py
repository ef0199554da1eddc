"""Anti-entropy: two peers find out what differs between two sets, and exchange just that.

Keys fall into buckets by hash; a bucket's sum changes in O(1) with each key. One exchange is

    SyncRoot ->            25 bytes, and silence when the roots agree
         <- SyncBuckets    0.6 KB
    SyncItems ->           keys and versions of buckets that differ, one part of them
         <- SyncWant       what the answerer lacks or holds in another version
         <- SyncRecords    what the asker lacks or holds in another version
    SyncRecords ->         what was wanted

Each kind calls forth later kinds only, so that an exchange ends whatever the two hold. Which of two
versions is the newer is the owner's to know: both travel, and the merge drops one. One exchange
brings about BURST_BYTES each way at most; an owner who learned something starts another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

from protocol.errors import RemoteProtocolError
from protocol.messages import Message, SyncBuckets, SyncItems, SyncRecords, SyncRoot, SyncWant

BUCKETS: Final = 64  # 10,000 keys make 156 a bucket, 7 KB: what one changed key costs
ROOT_BYTES: Final = 16
BUCKET_BYTES: Final = 8  # of a bucket's sum on the wire: a chance of 2^-64 to overlook a difference
VERSION_BYTES_MIN: Final = 8
VERSION_BYTES_MAX: Final = 32
KEY_CHARS_MAX: Final = 128
PART_BYTES: Final = 48 * 1024  # of a message, so that a frame with its heads stays below 64 KiB
PART_ITEMS: Final = 1024  # three CBOR items each, of the 8,192 that a frame may have
BURST_BYTES: Final = 512 * 1024
_SUM: Final = (1 << 128) - 1

Load = Callable[[str], Sequence[bytes]]
SyncMessage = SyncRoot | SyncBuckets | SyncItems | SyncWant


def version_of(*parts: bytes) -> bytes:
    """Hash what a key stands for into a version of 8 bytes."""
    h = hashlib.blake2b(digest_size=8, person=b"shoal/version/1")
    for part in parts:
        h.update(len(part).to_bytes(4, "big"))
        h.update(part)
    return h.digest()


class Reconciler:
    """The keys held in one domain, each with the hash of its version, and how to compare them.

    `load` gives the sealed records that a key stands for, none if it is gone by now. Records that
    arrive (SyncRecords) are the owner's: it merges them and calls `put` for what it kept.
    """

    def __init__(self, domain: int, load: Load) -> None:
        self.domain = domain
        self._load = load
        self._buckets: list[dict[str, bytes]] = [{} for _ in range(BUCKETS)]
        self._sums = [0] * BUCKETS
        self._size = 0
        self._turn = 0  # where the next gift starts, so that no key starves behind the bound
        self._first = 0  # the bucket listed first, for the same reason

    def __len__(self) -> int:
        return self._size

    def version(self, key: str) -> bytes | None:
        return self._buckets[_bucket(key)].get(key)

    def put(self, key: str, version: bytes) -> None:
        """Hold `key` at `version` (8 to 32 bytes), in place of any other version."""
        assert VERSION_BYTES_MIN <= len(version) <= VERSION_BYTES_MAX, len(version)
        assert len(key) <= KEY_CHARS_MAX, key
        index = _bucket(key)
        bucket = self._buckets[index]
        before = bucket.get(key)
        if before == version:
            return
        if before is None:
            self._size += 1
        else:
            self._sums[index] -= _item(key, before)
        bucket[key] = version
        self._sums[index] = (self._sums[index] + _item(key, version)) & _SUM

    def discard(self, key: str) -> None:
        index = _bucket(key)
        before = self._buckets[index].pop(key, None)
        if before is not None:
            self._size -= 1
            self._sums[index] = (self._sums[index] - _item(key, before)) & _SUM

    @property
    def root(self) -> bytes:
        """The hash of everything held."""
        h = hashlib.blake2b(digest_size=ROOT_BYTES)
        for total in self._sums:
            h.update(total.to_bytes(16, "big"))
        return h.digest()

    def start(self) -> SyncRoot:
        """What opens an exchange."""
        return SyncRoot(self.domain, self.root)

    def answer(self, message: SyncMessage) -> list[Message]:
        """What to send back, in this order. Raises RemoteProtocolError."""
        assert message.domain == self.domain, message
        if isinstance(message, SyncRoot):
            return [] if message.root == self.root else [SyncBuckets(self.domain, self._hashes())]
        if isinstance(message, SyncBuckets):
            return list(self._list_differing(message))
        if isinstance(message, SyncItems):
            check(message)
            return self._compare(message)
        return list(self._give(message.keys))

    def _hashes(self) -> tuple[bytes, ...]:
        mask = (1 << 8 * BUCKET_BYTES) - 1
        return tuple((total & mask).to_bytes(BUCKET_BYTES, "big") for total in self._sums)

    def _list_differing(self, message: SyncBuckets) -> list[SyncItems]:
        """Our items of the buckets that differ, as many as one part holds, none if none differ.

        What did not fit comes first the next time.
        """
        if len(message.hashes) != BUCKETS:
            raise RemoteProtocolError(f"{len(message.hashes)} buckets where {BUCKETS} are used")
        ours, theirs = self._hashes(), message.hashes
        turned = [(self._first + step) % BUCKETS for step in range(BUCKETS)]
        differing = [index for index in turned if ours[index] != theirs[index]]
        buckets: list[int] = []
        items: list[tuple[str, bytes]] = []
        size = 0
        for index in differing:
            mine = sorted(self._buckets[index].items())
            size += sum(map(_weight, mine))
            if size > PART_BYTES or len(items) + len(mine) > PART_ITEMS:
                self._first = index
                return [self._list_some(mine) if not buckets else self._part(buckets, items)]
            buckets.append(index)
            items += mine
        return [self._part(buckets, items)] if buckets else []

    def _part(self, buckets: list[int], items: list[tuple[str, bytes]]) -> SyncItems:
        return SyncItems(self.domain, tuple(buckets), tuple(items))

    def _list_some(self, items: list[tuple[str, bytes]]) -> SyncItems:
        """A piece of a bucket that is too large to be listed whole, from elsewhere each time."""
        self._first = (self._first + 1) % BUCKETS
        start = self._turn % len(items)
        piece: list[tuple[str, bytes]] = []
        size = 0
        for item in (items[start:] + items[:start])[:PART_ITEMS]:
            size += _weight(item)
            if size > PART_BYTES:
                break
            piece.append(item)
        self._turn += len(piece)
        return self._part([], piece)

    def _compare(self, message: SyncItems) -> list[Message]:
        """Want what differs; give what differs in the buckets that the message lists whole.

        Items may come without the number of their bucket, too large for one part: what the sender
        does not list is then no sign that it lacks it, and flows when this side opens an exchange.
        """
        theirs = dict(message.items)
        wanted = [key for key in sorted(theirs) if self.version(key) != theirs[key]]
        answers: list[Message] = [SyncWant(self.domain, tuple(wanted))] if wanted else []
        gifts = [
            key
            for index in sorted(set(message.buckets))
            for key, version in sorted(self._buckets[index].items())
            if theirs.get(key) != version
        ]
        answers += self._give(gifts)
        return answers

    def _give(self, keys: Sequence[str]) -> list[SyncRecords]:
        """The records of `keys` in parts, BURST_BYTES at most, starting elsewhere each time."""
        parts: list[SyncRecords] = []
        part: list[bytes] = []
        size = total = 0
        start = self._turn % len(keys) if keys else 0
        for at in range(len(keys)):
            key = keys[(start + at) % len(keys)]
            if self.version(key) is None:
                continue
            for record in self._load(key):
                if part and (size + len(record) > PART_BYTES or len(part) >= PART_ITEMS):
                    parts.append(SyncRecords(self.domain, tuple(part)))
                    part, size = [], 0
                part.append(record)
                size += len(record)
                total += len(record)
            if total >= BURST_BYTES:
                self._turn += at + 1
                break
        if part:
            parts.append(SyncRecords(self.domain, tuple(part)))
        return parts


def check(message: SyncItems) -> None:
    """Raises RemoteProtocolError where no reconciler could have sent this."""
    for key, version in message.items:
        if len(key) > KEY_CHARS_MAX:
            raise RemoteProtocolError(f"a key of {len(key)} characters")
        if not VERSION_BYTES_MIN <= len(version) <= VERSION_BYTES_MAX:
            raise RemoteProtocolError(f"a version of {len(version)} bytes")
    if any(not 0 <= index < BUCKETS for index in message.buckets):
        raise RemoteProtocolError("no such bucket")


def _bucket(key: str) -> int:
    digest = hashlib.blake2b(key.encode(), digest_size=1, person=b"shoal/bucket/1").digest()
    return digest[0] % BUCKETS


def _item(key: str, version: bytes) -> int:
    """What one item adds to its bucket's sum; the sum does not depend on their order."""
    h = hashlib.blake2b(key.encode(), digest_size=16, person=b"shoal/item/1")
    h.update(b"\0")
    h.update(version)
    return int.from_bytes(h.digest(), "big")


def _weight(item: tuple[str, bytes]) -> int:
    """Bytes of one item on the wire, 8 of them for heads."""
    return len(item[0].encode()) + len(item[1]) + 8
