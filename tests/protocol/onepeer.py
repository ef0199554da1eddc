"""One membership and the words of others: for tests that read as events in and effects out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from protocol.clock import Now
from protocol.config import MembershipConfig
from protocol.effects import Dial, Effect, Gossip, Hangup, Save, Send, Tell
from protocol.events import SelfDescribed
from protocol.ids import PeerId
from protocol.membership import Membership
from protocol.membership import Message as Heard
from protocol.messages import Rumours
from protocol.records import (
    Accusation,
    Advert,
    Certificate,
    Departure,
    Record,
    Suspicion,
)
from protocol.roster import Change, Peer, State
from protocol.wire import open_sealed, seal
from tests.protocol.fakes import FakeShoal

WALL = 1_800_000_000.0
ME = PeerId("me")
DESCRIBED = SelfDescribed(("/ip4/10.0.0.1/tcp/4001",), {"zone": "attic"}, 4000, 1 << 30, 1 << 33)


@dataclass
class OnePeer:
    """`me`, with whoever a test lets speak. Time stands still unless a test moves `now`."""

    config: MembershipConfig = field(default_factory=MembershipConfig)
    known: Mapping[str, bytes] = field(default_factory=dict)
    incarnation: int = 0
    name: str = "me"
    now: float = 100.0
    wall_trusted: bool = True
    shoal: FakeShoal = field(default_factory=FakeShoal)

    def __post_init__(self) -> None:
        self.membership = Membership(
            self.config,
            self.shoal.keyring(self.name),
            Random(7),
            incarnation=self.incarnation,
            known=self.known,
            name=self.name,
            version="1",
            computes=True,
        )

    @property
    def clock(self) -> Now:
        return Now(self.now, WALL + self.now, self.wall_trusted)

    # ---- what others say ---------------------------------------------------------------------

    def sealed(self, by: str, record: Record) -> bytes:
        return seal(record, self.shoal.keyring(by))

    def certificate(self, name: str) -> Certificate:
        keyring = self.shoal.keyring(name)
        record = open_sealed(keyring.certificate, keyring).record
        assert isinstance(record, Certificate)
        return record

    def advert(
        self,
        name: str,
        incarnation: int = 1,
        *,
        by: str = "",
        cpu_m: int = 1000,
        keepalive_s: int = 0,
    ) -> bytes:
        record = Advert(
            peer=PeerId(name),
            incarnation=incarnation,
            addresses=(f"/dns4/{name}/tcp/4001",),
            labels={},
            engines=("process",),
            cpu_m=cpu_m,
            memory_bytes=1 << 30,
            disk_bytes=1 << 33,
            gpus=0,
            version="1",
            name=name,
            keepalive_s=keepalive_s,
        )
        return self.sealed(by or name, record)

    def departure(self, name: str, incarnation: int = 1, until_s: float | None = None) -> bytes:
        until_ms = 0 if until_s is None else int((WALL + until_s) * 1000)
        record = Departure(peer=PeerId(name), incarnation=incarnation, until_ms=until_ms)
        return self.sealed(name, record)

    def suspicion(
        self, by: str, of: str, incarnation: int = 1, why: Accusation = Accusation.SILENT
    ) -> bytes:
        record = Suspicion(peer=PeerId(of), incarnation=incarnation, why=int(why))
        return self.sealed(by, record)

    # ---- what happens ------------------------------------------------------------------------

    def start(self) -> list[Effect]:
        effects = self.membership.boot(self.clock)
        return effects + self.membership.describe(DESCRIBED, self.clock)

    def connect(self, *names: str, tell: bool = True) -> list[Effect]:
        """Streams to these stand, and (unless `tell` is off) each sends its first advert."""
        effects: list[Effect] = []
        for name in names:
            peer = PeerId(name)
            effects += self.membership.connected(peer, self.certificate(name), b"boot", self.clock)
            if tell:
                effects += self.receive(name, Rumours((self.advert(name),)))
        return effects

    def receive(self, sender: str, message: Heard) -> list[Effect]:
        return self.membership.receive(PeerId(sender), message, self.clock)

    def hears(self, sender: str, *records: bytes) -> list[Effect]:
        return self.receive(sender, Rumours(records))

    def gossip(self, *records: bytes) -> list[Effect]:
        return self.membership.gossip(Rumours(records), self.clock)

    def until(self, moment: float, answering: tuple[str, ...] = ()) -> list[Effect]:
        """Carry on to `moment`, each deadline in time; those `answering` speak after each."""
        effects: list[Effect] = []
        while self.membership.deadline <= moment:
            self.now = max(self.now, self.membership.deadline)
            effects += self.membership.on_deadline(self.clock)
            for name in answering:
                effects += self.hears(name)
        self.now = max(self.now, moment)
        return effects

    # ---- what is looked at -------------------------------------------------------------------

    def peer(self, name: str) -> Peer:
        peer = self.membership.peer(PeerId(name))
        assert peer is not None
        return peer

    def state(self, name: str) -> State:
        return self.peer(name).state

    def drain(self) -> list[tuple[str, State, State]]:
        changes: list[Change] = list(self.membership.changes)
        self.membership.changes.clear()
        return [(change.peer, change.before, change.after) for change in changes]

    def own_advert(self) -> bytes:
        (effect,) = [
            effect
            for effect in self.connect("asks-for-it", tell=False)
            if isinstance(effect, Send) and isinstance(effect.message, Rumours)
        ]
        assert isinstance(effect.message, Rumours)
        return effect.message.records[0]


def sent(effects: list[Effect], to: str = "") -> list[object]:
    """The messages sent, to one peer if it is named."""
    return [e.message for e in effects if isinstance(e, Send) and to in ("", e.peer)]


def gossiped(effects: list[Effect]) -> list[bytes]:
    records: list[bytes] = []
    for effect in effects:
        if isinstance(effect, Gossip) and isinstance(effect.message, Rumours):
            records += effect.message.records
    return records


def told(effects: list[Effect]) -> list[str]:
    return [effect.kind for effect in effects if isinstance(effect, Tell)]


def dialled(effects: list[Effect]) -> list[str]:
    return [effect.peer for effect in effects if isinstance(effect, Dial) and effect.addresses]


def hung_up(effects: list[Effect]) -> list[str]:
    return [effect.peer for effect in effects if isinstance(effect, Hangup)]


def rows(effects: list[Effect]) -> list[tuple[str, str, bytes | None]]:
    return [row for effect in effects if isinstance(effect, Save) for row in effect.rows]
