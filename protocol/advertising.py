"""Advertising: what this peer says of itself, and the incarnation under which it says so."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from protocol import bounds
from protocol.clock import CLOCK_LABEL
from protocol.config import MembershipConfig
from protocol.effects import Effect, Save, Tell
from protocol.errors import RemoteProtocolError
from protocol.events import SelfDescribed
from protocol.ids import PeerId
from protocol.records import Advert, Departure, Keyring
from protocol.rumours import RECORD_BYTES_MAX
from protocol.wire import dumps, seal

INCARNATION_MAX: Final = 1 << 62  # of what is believed; half of what a record can hold
JUMP_MAX: Final = 1 << 20  # how far another's word may raise us: a lost database, not a prank
REFUTE_GAP_S: Final = 1.0  # each refutation is an fsync and a gossip message: nobody orders them
ADDRESSES_MAX: Final = 16
LABELS_MAX: Final = 64
TEXT_MAX: Final = 256  # bounds.Key, Value and Address


@dataclass(slots=True)
class Advertiser:
    """Our own advert. Each has an incarnation of its own, saved before anybody hears of it.

    So the number orders adverts as well as lives: the higher is the newer, whatever it says.
    """

    config: MembershipConfig
    keyring: Keyring
    incarnation: int
    name: str
    version: str
    computes: bool  # its certificate lets it run tasks
    memory: bytes = b""
    data: bytes = b""  # the sealed advert, empty until we were described
    described: SelfDescribed | None = None
    issued: float = -inf  # when `data` was
    spent_until: float = -inf  # when the bucket of changes is full again
    unused: bool = False  # `incarnation` is saved, and no advert has it yet
    stale: bool = False  # `described` is not yet what `data` says
    above: int = -1  # the highest incarnation that is accused and not yet refuted
    accusers: tuple[PeerId, ...] = ()  # who shall hear the refutation first

    @property
    def deadline(self) -> float:
        """When the next advert may be issued that is due; inf where none is."""
        refute = self.issued + REFUTE_GAP_S if self.above >= 0 else inf
        return min(refute, self._renewal if self.stale else inf)

    @property
    def _renewal(self) -> float:
        """A bucket of `advert_burst` changes that gains one a period; the first advert is free.

        So a label set by hand is told at once, and one that flaps costs no more than one a period.
        """
        if not self.data:
            return -inf
        return self.spent_until - (self.config.advert_burst - 1) * self.config.advert_period_s

    def boot(self) -> list[Effect]:
        """Raise the incarnation over that of every earlier life."""
        return self._raise(self.incarnation)

    def describe(self, event: SelfDescribed) -> None:
        """An advert is due if this is news: at once, unless there was much of it lately."""
        self.stale = not self.data or event != self.described or self.stale
        self.described = event

    def accused(self, incarnation: int, by: PeerId) -> bool:
        """Whether a refutation is due; not if the accusation is of an earlier incarnation.

        Raises RemoteProtocolError where it is of one that cannot have been ours.
        """
        if incarnation < self.incarnation:
            return False
        if incarnation > self.incarnation + JUMP_MAX:
            raise RemoteProtocolError(f"accuses incarnation {incarnation}")
        self._contest(incarnation, by)
        return True

    def echoed(self, incarnation: int, by: PeerId | None) -> None:
        """An advert or departure that we signed, and know nothing of: another life's, perhaps."""
        if incarnation >= self.incarnation:
            self._contest(incarnation, by)

    def issue(self, now: float) -> list[Effect]:
        """What an advert needs to be durable; `data` is the advert then (if we were described)."""
        effects: list[Effect] = []
        if self.above >= self.incarnation or not self.unused:
            effects += self._raise(max(self.above, self.incarnation))
        self.above, self.accusers = -1, ()
        if self.data:
            self.spent_until = max(self.spent_until, now) + self.config.advert_period_s
        self.issued = now
        if self.described is not None:
            effects += self._seal(self.described)
        return effects

    def departure(self, until_ms: int) -> bytes:
        record = Departure(
            peer=self.keyring.peer, incarnation=self.incarnation, until_ms=max(0, until_ms)
        )
        return seal(record, self.keyring)

    def _contest(self, incarnation: int, by: PeerId | None) -> None:
        self.above = max(self.above, incarnation)
        if by is not None and by not in self.accusers:
            self.accusers = (*self.accusers, by)[:LABELS_MAX]

    def _raise(self, over: int) -> list[Effect]:
        self.incarnation = over + 1
        self.unused = True
        return [Save((("meta", "incarnation", dumps(self.incarnation)),))]

    def _seal(self, event: SelfDescribed) -> list[Effect]:
        labels = {
            key: event.labels[key]
            for key in sorted(event.labels, key=lambda key: (key != CLOCK_LABEL, key))
            if len(key) <= TEXT_MAX and len(event.labels[key]) <= TEXT_MAX
        }
        labels = dict(list(labels.items())[:LABELS_MAX])
        data = seal(self._advert(event, labels), self.keyring)
        if len(data) > RECORD_BYTES_MAX:
            labels = {key: labels[key] for key in labels if key == CLOCK_LABEL}
            data = seal(self._advert(event, labels), self.keyring)
        self.data, self.unused, self.stale = data, False, False
        missing = len(event.labels) - len(labels)
        if not missing:
            return []
        text = f"{missing} labels are too many or too long to be told to others"
        return [Tell("self.labels-cut", text, fields={"missing": missing})]

    def _advert(self, event: SelfDescribed, labels: dict[str, str]) -> Advert:
        fitting = [address for address in event.addresses if 0 < len(address) <= TEXT_MAX]
        return Advert(
            peer=self.keyring.peer,
            incarnation=self.incarnation,
            addresses=tuple(fitting[:ADDRESSES_MAX]),
            labels=labels,
            engines=event.engines if self.computes else (),
            cpu_m=event.cpu_m,
            memory_bytes=event.memory_bytes,
            disk_bytes=event.disk_bytes,
            gpus=event.gpus,
            version=self.version[:64],
            name=self.name[: bounds.NAME_CHARS_MAX],
            draining=event.draining,
            memory=self.memory,
            keepalive_s=self.config.keepalive_s,
        )
