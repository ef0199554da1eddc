"""Bringing a job's other holders up to date: what each lacks, what is under way, when to repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from protocol.clock import NEVER
from protocol.config import CoordinationConfig

# Of a message, so that a frame with its heads stays below 128 KiB (wire.FRAME_BYTES_MAX): an
# award and a result with its tails are 2 to 40 KB a slot, and a spec beside them up to 66 KB.
SYNC_BYTES = 88 * 1024
SLOTS_PER_SYNC = 256  # four items each, of the 8,192 that a frame may have


@dataclass(slots=True)
class Replica:
    """One holder's copy of one job, as its sender believes it to be."""

    dirty: dict[int, None]  # slots to send, in order
    head: bool = True  # the head is to be sent
    with_spec: bool = True
    acked: int = -1  # the job's version that this holder has on disk
    tries: int = 0
    next_at: float = 0.0  # monotonic; when to send, or to send again
    news_at: float = NEVER  # monotonic; when what is unsent is due, once nothing is under way
    seq: int = 0  # of the sync under way, zero where none is
    sent: dict[int, None] = field(default_factory=dict)
    sent_version: int = -1
    unequal: int = 0  # comparisons in a row that found the copies different

    @classmethod
    def empty(cls, slots: Iterable[int]) -> Replica:
        """Of a holder that is not known to have anything."""
        return cls(dict.fromkeys(slots))

    @classmethod
    def equal(cls, version: int) -> Replica:
        """Of a holder that just showed it has all of it."""
        return cls({}, head=False, with_spec=False, acked=version)

    @property
    def unsent(self) -> bool:
        return self.head or bool(self.dirty)

    @property
    def pending(self) -> bool:
        return self.unsent or self.seq != 0

    def on_its_way(self, now: float) -> bool:
        """Whether what was sent once is not yet due again: it may have waited for a connection."""
        return self.seq != 0 and self.tries == 1 and now < self.next_at

    def touch(self, slots: list[int], head: bool, at: float) -> None:
        """Something changed that this holder has not seen, and is to see by `at`."""
        self.news_at = min(self.news_at, at) if self.unsent else at
        self.dirty.update(dict.fromkeys(slots))
        self.head |= head
        if not self.seq:
            self.next_at = self.news_at

    def take(
        self,
        seq: int,
        version: int,
        now: float,
        config: CoordinationConfig,
        weigh: Callable[[int], int],
        beside: int,
    ) -> list[int]:
        """The slots of the next message; repeated with backoff until it is acknowledged.

        `weigh` gives the bytes of a slot, `beside` those of the rest; one slot at least goes along.
        """
        self.dirty = {**self.sent, **self.dirty}
        part: list[int] = []
        room = SYNC_BYTES - beside
        for slot in self.dirty:
            room -= weigh(slot)
            if part and (room < 0 or len(part) == SLOTS_PER_SYNC):
                break
            part.append(slot)
        self.sent = dict.fromkeys(part)
        for slot in part:
            del self.dirty[slot]
        self.seq, self.head = seq, False
        self.sent_version = version if not self.dirty else -1
        self.news_at = now  # of the parts that are left
        self.next_at = now + min(config.resend_first_s * 2**self.tries, config.resend_max_s)
        self.tries = min(self.tries + 1, 16)
        return part

    def ack(self, seq: int, now: float) -> bool:
        """The sync under way is on the holder's disk; False for one that is not under way."""
        if not seq or seq != self.seq:
            return False
        self.acked = max(self.acked, self.sent_version)
        self.seq, self.tries, self.sent, self.with_spec = 0, 0, {}, False
        self.next_at = max(now, self.news_at) if self.unsent else NEVER
        return True

    def restart(self, at: float) -> None:
        """The connection was gone: what was under way may be lost, and the holder may be too."""
        self.dirty = {**self.sent, **self.dirty}
        self.head = True  # what both say of their copies on meeting may be lost as well
        self.seq, self.tries, self.sent, self.acked, self.next_at = 0, 0, {}, -1, at
        self.unequal = 0

    def again(self, slots: Iterable[int], with_spec: bool, at: float) -> None:
        """The holder has something else after all: send it everything, at `at`."""
        self.dirty = dict.fromkeys(slots)
        self.head, self.with_spec = True, self.with_spec or with_spec
        self.seq, self.sent, self.next_at = 0, {}, at

    def differs(
        self, slots: Iterable[int], with_spec: bool, now: float, config: CoordinationConfig
    ) -> None:
        """The copies are not equal: send everything, later each time that it did not help."""
        wait = min(config.resend_first_s * 2**self.unequal, config.resend_max_s)
        self.unequal = min(self.unequal + 1, 16)
        self.again(slots, with_spec, now + wait)
