"""A few memberships and nothing else, in one process: links, gossip, faults and time are simulated.

Deterministic for a seed. Every message goes through its wire form, and its bytes are counted.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import inf
from random import Random

from protocol.clock import Now
from protocol.config import MembershipConfig
from protocol.effects import Dial, Effect, Gossip, Hangup, Save, Send, Tell
from protocol.events import SelfDescribed
from protocol.ids import PeerId
from protocol.membership import Membership
from protocol.messages import Rumours
from protocol.records import Certificate
from protocol.roster import Change, State
from protocol.wire import decode_message, encode_message, loads, open_sealed
from tests.protocol.fakes import FakeKeyring, FakeShoal

WALL = 1_800_000_000.0
FRAME_OVERHEAD_BYTES = 34  # length prefix, Yamux head, Noise head and tag
REDIAL_S = 3.0
REFUSED_S = 0.55  # redialled twice, half a second apart


def described(name: str, **labels: str) -> SelfDescribed:
    return SelfDescribed((f"/dns4/{name}/tcp/4001",), labels, 4000, 1 << 30, 1 << 33)


@dataclass
class Member:
    """One device: `disk` and `incarnation` outlive a life of its agent, the rest does not."""

    keyring: FakeKeyring
    membership: Membership
    disk: dict[str, bytes] = field(default_factory=dict)
    incarnation: int = 0
    up: bool = False
    listening: bool = False
    frozen: bool = False
    life: int = 0
    inbox: list[Callable[[], None]] = field(default_factory=list)  # while frozen
    kept: dict[PeerId, tuple[str, ...]] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    sent_bytes: int = 0

    @property
    def id(self) -> PeerId:
        return self.keyring.peer


@dataclass
class Seen:
    """One state change, as one member had it."""

    at: float
    by: PeerId
    change: Change


class ShoalNet:
    def __init__(
        self,
        names: Sequence[str],
        seed: int = 1,
        config: MembershipConfig | None = None,
        leaves: Sequence[str] = (),
    ) -> None:
        """`leaves` are on metered links, the others as `config` says."""
        self.rng = Random(f"net/{seed}")
        self.seed = seed
        self.config = config or MembershipConfig()
        self.leaves = [PeerId(name) for name in leaves]
        self.shoal = FakeShoal()
        self.now = 100.0
        self.loss = 0.0
        self.delay_s = (0.0005, 0.004)
        self.slow: dict[PeerId, tuple[float, float]] = {}  # extra delay of what a member handles
        self.sides: dict[PeerId, int] = {}  # after a partition
        self.links: dict[tuple[PeerId, PeerId], None] = {}  # directed: the first thinks it stands
        self.seen: list[Seen] = []
        self.tells: list[tuple[float, PeerId, Tell]] = []
        self.gossips = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = count()
        self.members = {
            keyring.peer: Member(keyring, self._life(keyring))
            for keyring in map(self.shoal.keyring, names)
        }

    # ---- what a test does --------------------------------------------------------------------

    def boot(self, name: str, bootstrap: Sequence[str] = ()) -> None:
        """Start a device: it dials what its disk remembers, and `bootstrap`."""
        member = self.members[PeerId(name)]
        member.life += 1
        member.kept = {}
        member.membership = self._life(
            member.keyring, member.life, member.incarnation, **member.disk
        )
        member.up = member.listening = True
        member.frozen = False
        self.do(member, lambda: member.membership.boot(self.clock()))
        self.do(member, lambda: member.membership.describe(described(name), self.clock()))
        for other in bootstrap:
            self._keep(member, PeerId(other), (f"/dns4/{other}/tcp/4001",))

    def boot_all(self, spread_s: float = 1.0) -> float:
        """Start everybody within a while, each with two others to begin with; wait until all know
        all. Returns the seconds that took."""
        names = list(self.members)
        for index, name in enumerate(names):
            others = [names[index - 1], names[index - 7 * index % len(names) - 1]]
            bootstrap = [other for other in others if other != name]
            self.after(self.rng.random() * spread_s, lambda n=name, b=bootstrap: self.boot(n, b))
        self.run(spread_s)
        return spread_s + self.run_until(self.all_alive)

    def kill(self, name: str) -> None:
        """The process dies: its sockets close, and its port refuses."""
        self._down(name)
        for near, far in [link for link in self.links if PeerId(name) in link]:
            del self.links[near, far]
            if near != name:
                self.after(REFUSED_S, lambda n=near: self._refused(n, PeerId(name)))

    def vanish(self, name: str) -> None:
        """The power goes: nobody hears anything, and no socket closes."""
        self._down(name)
        for link in [link for link in self.links if link[0] == name]:
            del self.links[link]

    def freeze(self, name: str) -> None:
        self.members[PeerId(name)].frozen = True

    def thaw(self, name: str) -> None:
        member = self.members[PeerId(name)]
        member.frozen = False
        waiting, member.inbox = member.inbox, []
        for each in waiting:
            each()
        self._wake(member)

    def part(self, *sides: Sequence[str]) -> None:
        self.sides = {PeerId(name): side for side, names in enumerate(sides) for name in names}

    def heal(self) -> None:
        self.sides = {}

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        self.now = end

    def run_until(self, condition: Callable[[], bool], bound_s: float = 120.0) -> float:
        """Seconds until `condition` holds; fails if it does not within the bound."""
        start = self.now
        while not condition():
            assert self.now - start < bound_s, "it never came"
            self.run(0.05)
        return self.now - start

    # ---- what a test looks at ----------------------------------------------------------------

    def __getitem__(self, name: str) -> Membership:
        return self.members[PeerId(name)].membership

    def described_as(self, name: str, **labels: str) -> SelfDescribed:
        return described(name, **labels)

    def state(self, by: str, of: str) -> State | None:
        peer = self[by].peer(PeerId(of))
        return None if peer is None else peer.state

    def all_alive(self) -> bool:
        """Whether every running member holds every other running one for alive, and no more."""
        running = sorted(m.id for m in self.members.values() if m.up)
        return all(
            self[name].alive() == [other for other in running if other != name]
            and all(self.state(name, other) is State.ALIVE for other in running if other != name)
            for name in running
        )

    def known(self, of: str, state: State) -> bool:
        """Whether everybody who runs holds `of` to be in `state`."""
        return all(
            self.state(member.id, of) is state
            for member in self.members.values()
            if member.up and not member.frozen and member.id != of
        )

    def deaths(self, since: float = 0.0) -> list[Seen]:
        return [s for s in self.seen if s.change.after is State.DEAD and s.at >= since]

    def clock(self) -> Now:
        return Now(self.now, WALL + self.now)

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now + seconds, next(self._count), action))

    # ---- machinery ---------------------------------------------------------------------------

    def _life(
        self, keyring: FakeKeyring, life: int = 0, incarnation: int = 0, **known: bytes
    ) -> Membership:
        leaf = keyring.peer in self.leaves
        return Membership(
            MembershipConfig.preset("metered") if leaf else self.config,
            keyring,
            Random(f"{self.seed}/{keyring.peer}/{life}"),
            incarnation=incarnation,
            known=known,
            name=keyring.peer,
            version="1",
            computes=True,
        )

    def _down(self, name: str) -> None:
        member = self.members[PeerId(name)]
        member.up = member.listening = member.frozen = False
        member.life += 1
        member.inbox = []

    def do(self, member: Member, call: Callable[[], list[Effect]]) -> None:
        """Call a handler in the member's present life, and carry out what it wants."""
        if member.frozen:
            life = member.life
            member.inbox.append(lambda: self.do(member, call) if member.life == life else None)
            return
        if not member.up:
            return
        effects = call()
        for change in member.membership.changes:
            self.seen.append(Seen(self.now, member.id, change))
        member.membership.changes.clear()
        for effect in effects:
            self._carry_out(member, effect)
        self._schedule(member)

    def _schedule(self, member: Member) -> None:
        deadline = member.membership.deadline
        if deadline == inf:
            return
        life = member.life
        extra = self._extra(member)

        def fire() -> None:
            due = member.life == life and member.membership.deadline <= self.now
            if due and not member.frozen:
                self._wake(member)

        self.after(max(0.0, deadline - self.now) + extra, fire)

    def _wake(self, member: Member) -> None:
        self.do(member, lambda: member.membership.on_deadline(self.clock()))

    def _extra(self, member: Member) -> float:
        low, high = self.slow.get(member.id, (0.0, 0.0))
        return self.rng.uniform(low, high)

    def _carry_out(self, member: Member, effect: Effect) -> None:
        match effect:
            case Save():
                for bucket, key, value in effect.rows:
                    if bucket == "meta":
                        number = loads(value or b"")
                        assert key == "incarnation" and isinstance(number, int)
                        assert number > member.incarnation, "an incarnation is used once"
                        member.incarnation = number
                    elif value is None:
                        member.disk.pop(key, None)
                    else:
                        member.disk[key] = value
            case Send():
                self._send(member, effect.peer, encode_message(effect.message), effect)
            case Gossip():
                self._gossip(member, effect)
            case Dial():
                self._keep(member, effect.peer, effect.addresses)
            case Hangup():
                self._hang_up(member, effect.peer)
            case Tell():
                self.tells.append((self.now, member.id, effect))
            case _:
                raise AssertionError(effect)

    def _passes(self, sender: PeerId, receiver: PeerId) -> bool:
        return self.sides.get(sender, 0) == self.sides.get(receiver, 0)

    def _send(self, member: Member, to: PeerId, frame: bytes, effect: Send) -> None:
        member.sent[type(effect.message).__name__] += 1
        member.sent_bytes += len(frame) + FRAME_OVERHEAD_BYTES
        if to not in self.members or self.rng.random() < self.loss:
            return
        if (member.id, to) not in self.links and not self._connect(member.id, to):
            return
        delay = self.rng.uniform(*self.delay_s)
        self.after(delay, lambda: self._arrive(member.id, to, frame))

    def _arrive(self, sender: PeerId, to: PeerId, frame: bytes) -> None:
        target = self.members[to]
        if not target.up or not self._passes(sender, to):
            return
        message = decode_message(frame)
        assert message is not None
        self.after(
            self._extra(target),
            lambda: self.do(
                target,
                lambda: target.membership.receive(sender, message, self.clock()),  # type: ignore[arg-type]
            ),
        )

    def _gossip(self, member: Member, effect: Gossip) -> None:
        """Floods over whatever links stand; a mesh loses less than one link does."""
        self.gossips += 1
        message = decode_message(encode_message(effect.message))
        assert isinstance(message, Rumours)
        meshed = {name: None for name in self.members if name not in self.leaves}
        reached, ahead = {member.id: None}, [member.id] if member.id in meshed else []
        while ahead:
            here = ahead.pop()
            for near, far in list(self.links):
                known = far in reached or far not in meshed
                if near == here and not known and self._passes(near, far):
                    target = self.members[far]
                    if target.up and not target.frozen:
                        reached[far] = None
                        ahead.append(far)
        for name in sorted(reached):
            if name == member.id or self.rng.random() < self.loss**2:
                continue
            target = self.members[name]
            self.after(
                self.rng.uniform(0.01, 0.08) + self._extra(target),
                lambda t=target: self.do(t, lambda: t.membership.gossip(message, self.clock())),
            )

    def _keep(self, member: Member, to: PeerId, addresses: tuple[str, ...]) -> None:
        if not addresses:
            member.kept.pop(to, None)
            return
        member.kept[to] = addresses
        self._dial(member, to, member.life)

    def _dial(self, member: Member, to: PeerId, life: int) -> None:
        if member.life != life or to not in member.kept or to not in self.members:
            return
        if (member.id, to) not in self.links:
            self._connect(member.id, to)
        self.after(REDIAL_S * self.rng.uniform(0.7, 1.3), lambda: self._dial(member, to, life))

    def _connect(self, one: PeerId, other: PeerId) -> bool:
        ends = [self.members[one], self.members[other]]
        if not self._passes(one, other) or not all(e.up and not e.frozen for e in ends):
            return False
        self.links[one, other] = self.links[other, one] = None
        for here, there in (ends, ends[::-1]):
            certificate = open_sealed(there.keyring.certificate, here.keyring).record
            assert isinstance(certificate, Certificate)
            self.do(
                here,
                lambda h=here, t=there, c=certificate: h.membership.connected(
                    t.id, c, b"%d" % t.life, self.clock()
                ),
            )
        return True

    def _hang_up(self, member: Member, peer: PeerId) -> None:
        for near, far in ((member.id, peer), (peer, member.id)):
            if self.links.pop((near, far), 0) is None and self._passes(member.id, peer):
                self._lost(near, far)

    def _lost(self, near: PeerId, far: PeerId) -> None:
        member = self.members[near]
        life = member.life

        def lost() -> None:
            if member.life == life:
                self.do(member, lambda: member.membership.disconnected(far, False, self.clock()))

        self.after(0.01, lost)

    def _refused(self, near: PeerId, far: PeerId) -> None:
        member, refused = self.members[near], not self.members[far].listening
        if (near, far) not in self.links:
            self.do(member, lambda: member.membership.disconnected(far, refused, self.clock()))
