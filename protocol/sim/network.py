"""The simulated network: links between devices, what they delay, lose, repeat and cut."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import Final, Protocol

from protocol.errors import RemoteProtocolError
from protocol.sim.heap import Heap
from protocol.wire import decode_message

# What a frame costs at the socket beside itself: its length, Yamux's head, Noise's length and tag.
FRAME_OVERHEAD_BYTES: Final = 2 + 12 + 2 + 16
HANDSHAKE_BYTES: Final = 1200  # TCP, Noise and Yamux set up, certificates both ways, each side
GOSSIP_DEGREE: Final = 6  # gossipsub's D: how many copies each peer sends on
GOSSIP_OVERHEAD_BYTES: Final = 150  # of one gossipsub RPC: source, number, topic, signature
ROUND_TRIPS_TO_CONNECT: Final = 3  # TCP, Noise, Hello
DIAL_TIMEOUT_S: Final = 5.0
REDIAL_S: Final = 0.5  # after a reset: twice within this, then it counts as refused
OVERTAKEN_S: Final = (0.05, 0.5, 8.0)  # how late a frame may come that others overtake
IDLE_S: Final = 60.0  # a connection that nobody keeps is closed when it was not used for so long
JOB_KINDS: Final = 20  # from here on, messages are about jobs; a kind above 23 starts with 24
OUTBOX_MAX: Final = 256  # frames that wait for a handshake, or for a cut link to heal


class Port(Protocol):
    """What the network sees of a device."""

    index: int

    @property
    def host_up(self) -> bool: ...

    @property
    def listening(self) -> bool: ...

    @property
    def meshed(self) -> bool:
        """Whether it takes part in gossip."""

    @property
    def responsive(self) -> bool: ...

    @property
    def slowness(self) -> float: ...

    def hear(self, sender: int, frame: bytes) -> None: ...

    def hear_gossip(self, frame: bytes) -> None: ...

    def connected(self, other: int) -> None: ...

    def disconnected(self, other: int, refused: bool) -> None: ...

    def dial_failed(self, other: int) -> None: ...


@dataclass(slots=True)
class Conditions:
    """How every link behaves just now; probabilities per frame."""

    delay_s: tuple[float, float] = (0.0005, 0.004)  # a LAN with some Wi-Fi in it
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    garble: float = 0.0  # a broken peer: garbage arrives beside the frame


@dataclass(slots=True)
class Traffic:
    """What one device sent. For jobs: their messages, and all on connections made for them."""

    frames: int = 0
    bytes: int = 0
    gossips: int = 0
    job_frames: int = 0
    job_bytes: int = 0

    def count(self, frames: int, size: int, for_job: bool) -> None:
        self.frames += frames
        self.bytes += size
        if for_job:
            self.job_frames += frames
            self.job_bytes += size


@dataclass(slots=True)
class Connection:
    """One stream between two devices. Each end has its own opinion of whether it stands."""

    ends: tuple[int, int]
    on_demand: bool  # made for a message; closed when it has been idle
    used_at: float
    last_arrival: list[float] = field(default_factory=lambda: [0.0, 0.0])
    stalled: tuple[deque[bytes], deque[bytes]] = field(
        default_factory=lambda: (deque(maxlen=OUTBOX_MAX), deque(maxlen=OUTBOX_MAX))
    )

    def side(self, index: int) -> int:
        return 0 if self.ends[0] == index else 1


@dataclass(slots=True)
class Network:
    """All links. A direction that is cut stalls what it is given, as TCP does: it comes late."""

    heap: Heap
    rng: Random
    ports: list[Port]
    conditions: Conditions = field(default_factory=Conditions)
    traffic: list[Traffic] = field(default_factory=list)
    behind: dict[int, int] = field(default_factory=dict)  # devices behind a NAT, and which
    _peers: list[dict[int, Connection]] = field(default_factory=list)  # by device: open on its side
    _dialling: dict[tuple[int, int], deque[bytes]] = field(default_factory=dict)
    _cuts: dict[tuple[int, int], int] = field(default_factory=dict)

    def start(self) -> None:
        self.traffic = [Traffic() for _ in self.ports]
        self._peers = [{} for _ in self.ports]

    # ---- cutting and healing ------------------------------------------------------------------

    def cut(self, sender: int, receiver: int) -> None:
        """Nothing passes this way until as many heals have come."""
        self._cuts[(sender, receiver)] = self._cuts.get((sender, receiver), 0) + 1

    def heal(self, sender: int, receiver: int) -> None:
        left = self._cuts[(sender, receiver)] - 1
        if left:
            self._cuts[(sender, receiver)] = left
            return
        del self._cuts[(sender, receiver)]
        connection = self._peers[sender].get(receiver)
        if connection is None:
            return
        late = connection.stalled[connection.side(sender)]
        while late:  # what TCP has been repeating in vain
            self._carry(connection, sender, receiver, late.popleft(), self.rng.uniform(0.1, 1.0))

    def passes(self, sender: int, receiver: int) -> bool:
        return (sender, receiver) not in self._cuts

    def reachable(self, one: int, other: int) -> bool:
        return self.passes(one, other) and self.passes(other, one)

    def lets_in(self, index: int, other: int) -> bool:
        """Whether a dial gets through: behind a NAT only from there. Connections go both ways."""
        return other not in self.behind or self.behind.get(index) == self.behind[other]

    # ---- connections --------------------------------------------------------------------------

    def stands(self, index: int, other: int) -> bool:
        """Whether `index` believes itself connected to `other`."""
        return other in self._peers[index]

    def neighbours(self, index: int) -> list[int]:
        return list(self._peers[index])

    def dial(self, index: int, other: int, frame: bytes | None = None) -> None:
        """Set a connection up; `frame` waits for it."""
        waiting = self._dialling.get((index, other))
        if waiting is None:
            waiting = self._dialling[(index, other)] = deque(maxlen=OUTBOX_MAX)
            delay = ROUND_TRIPS_TO_CONNECT * 2 * self._delay(index, other)
            self.heap.after(delay, self._dialled, index, other)
        if frame is not None:
            waiting.append(frame)

    def _dialled(self, index: int, other: int) -> None:
        here, there = self.ports[index], self.ports[other]
        if (index, other) not in self._dialling:  # whoever dialled is dead
            return
        if not here.responsive:  # frozen in the middle of it
            self.heap.after(DIAL_TIMEOUT_S, self._dialled, index, other)
            return
        answers = self.reachable(index, other) and self.lets_in(index, other) and there.host_up
        if not answers or (there.listening and not there.responsive):
            self.heap.after(DIAL_TIMEOUT_S, self._dial_over, index, other)
            return
        if not there.listening:
            self._dial_over(index, other)
            return
        waiting = self._dialling.pop((index, other))
        if not self.stands(index, other) or not self.stands(other, index):
            self._connect(index, other, bool(waiting))
        for frame in waiting:
            self.send(index, other, frame)

    def _dial_over(self, index: int, other: int) -> None:
        if self._dialling.pop((index, other), None) is not None:
            self.ports[index].dial_failed(other)

    def _connect(self, index: int, other: int, on_demand: bool) -> None:
        for end in (index, other):
            self.traffic[end].count(0, HANDSHAKE_BYTES, on_demand)
            if self.stands(end, index + other - end):  # half-open: the other end has forgotten it
                self._drop(end, index + other - end, refused=False)
        connection = Connection((index, other), on_demand, self.heap.now)
        self._peers[index][other] = self._peers[other][index] = connection
        self.ports[index].connected(other)
        self.ports[other].connected(index)
        if on_demand:
            self.heap.after(IDLE_S, self._close_idle, connection)

    def keep(self, index: int, other: int) -> None:
        """The connection, if there is one, stays even when it is idle."""
        connection = self._peers[index].get(other)
        if connection is not None:
            connection.on_demand = False

    def _close_idle(self, connection: Connection) -> None:
        index, other = connection.ends
        if self._peers[index].get(other) is not connection or not connection.on_demand:
            return
        left = connection.used_at + IDLE_S - self.heap.now
        if left > 0:
            self.heap.after(left, self._close_idle, connection)
            return
        self.hang_up(index, other)
        self.ports[index].disconnected(other, False)

    def hang_up(self, index: int, other: int) -> None:
        """`index` closes; the other end hears of it where anything passes."""
        self._dialling.pop((index, other), None)
        connection = self._peers[index].pop(other, None)
        if connection is None:
            return
        if self.passes(index, other):
            self.heap.after(self._delay(index, other), self._end_of, connection, other, index)

    def _end_of(self, connection: Connection, index: int, other: int) -> None:
        """The end of a connection has reached `index`."""
        if self._peers[index].get(other) is connection:
            self._drop(index, other, refused=False)

    def _drop(self, index: int, other: int, refused: bool) -> None:
        del self._peers[index][other]
        self.ports[index].disconnected(other, refused)

    def process_gone(self, index: int) -> None:
        """The agent died: its host's kernel resets all its connections."""
        for other, connection in list(self._peers[index].items()):
            if self.passes(index, other):
                delay = self._delay(index, other)
                self.heap.after(delay, self._reset, connection, other, index)
        self._forget(index)

    def power_gone(self, index: int) -> None:
        """The host went dark: nobody is told anything."""
        self._forget(index)

    def _forget(self, index: int) -> None:
        self._peers[index].clear()
        for pair in [pair for pair in self._dialling if pair[0] == index]:
            del self._dialling[pair]

    def _reset(self, connection: Connection, index: int, other: int) -> None:
        """A reset has reached `index`, which dials twice to see whether anybody is there."""
        if self._peers[index].get(other) is connection:
            self.heap.after(REDIAL_S, self._redialled, connection, index, other)

    def _redialled(self, connection: Connection, index: int, other: int) -> None:
        if self._peers[index].get(other) is not connection:
            return
        there = self.ports[other]
        answered = self.reachable(index, other) and self.lets_in(index, other) and there.host_up
        self._drop(index, other, refused=answered and not there.listening)

    # ---- frames -------------------------------------------------------------------------------

    def send(self, index: int, other: int, frame: bytes) -> None:
        """Send on the connection that stands, else lose the frame."""
        connection = self._peers[index].get(other)
        if connection is None:
            return
        connection.used_at = self.heap.now
        for_job = connection.on_demand or frame[1] >= JOB_KINDS
        self.traffic[index].count(1, len(frame) + FRAME_OVERHEAD_BYTES, for_job)
        if not self.passes(index, other):
            connection.stalled[connection.side(index)].append(frame)
            return
        self._carry(connection, index, other, frame, 0.0)

    def _carry(
        self, connection: Connection, sender: int, receiver: int, frame: bytes, extra_s: float
    ) -> None:
        rng, conditions = self.rng, self.conditions
        if conditions.loss and rng.random() < conditions.loss:
            return
        side = connection.side(sender)
        arrival = self.heap.now + self._delay(sender, receiver) + extra_s
        if conditions.reorder and rng.random() < conditions.reorder:
            arrival += rng.uniform(0.0, rng.choice(OVERTAKEN_S))
        else:
            arrival = max(arrival, connection.last_arrival[side])
            connection.last_arrival[side] = arrival
        self.heap.at(arrival, self._arrive, connection, sender, receiver, frame)
        if conditions.duplicate and rng.random() < conditions.duplicate:
            again = arrival + rng.uniform(0.0, rng.choice(OVERTAKEN_S))
            self.heap.at(again, self._arrive, connection, sender, receiver, frame)
        if conditions.garble and rng.random() < conditions.garble:
            garbage = garbled(frame, rng)
            self.heap.at(arrival, self._arrive, connection, sender, receiver, garbage)

    def _arrive(self, connection: Connection, sender: int, receiver: int, frame: bytes) -> None:
        if self._peers[receiver].get(sender) is connection:
            self.ports[receiver].hear(sender, frame)
        elif self.ports[receiver].host_up and self.passes(receiver, sender):
            # Its host knows nothing of that connection any more, and says so.
            delay = self._delay(receiver, sender)
            self.heap.after(delay, self._reset, connection, sender, receiver)

    def gossip(self, index: int, frame: bytes) -> None:
        """Flood over the connections that stand both ways, each hop a delay further."""
        if not self.ports[index].meshed:
            return
        self._spread(index, frame)
        hops: dict[int, float] = {index: 0.0}
        frontier = [index]
        while frontier:
            following: list[int] = []
            for sender in frontier:
                for receiver in self._peers[sender]:
                    if receiver in hops or not self._hears(sender, receiver):
                        continue
                    hops[receiver] = hops[sender] + self._delay(sender, receiver)
                    following.append(receiver)
                    self.heap.after(hops[receiver], self._arrive_gossip, receiver, frame)
            frontier = following

    def _hears(self, sender: int, receiver: int) -> bool:
        connection = self._peers[receiver].get(sender)
        if connection is None or not self.passes(sender, receiver):
            return False
        if not self.ports[receiver].meshed:
            return False
        if not self.ports[receiver].responsive:
            return False
        # Several neighbours send a copy each, so that a lossy link alone loses little.
        return not self.conditions.loss or self.rng.random() >= self.conditions.loss**2

    def _arrive_gossip(self, index: int, frame: bytes) -> None:
        if self.ports[index].listening:
            self._spread(index, frame)
            self.ports[index].hear_gossip(frame)

    def _spread(self, index: int, frame: bytes) -> None:
        copies = min(GOSSIP_DEGREE, len(self._peers[index]))
        traffic = self.traffic[index]
        traffic.gossips += copies
        traffic.bytes += copies * (len(frame) + GOSSIP_OVERHEAD_BYTES + FRAME_OVERHEAD_BYTES)

    def _delay(self, sender: int, receiver: int) -> float:
        low, high = self.conditions.delay_s
        slow = self.ports[sender].slowness + self.ports[receiver].slowness
        return self.rng.uniform(low, high) + (self.rng.uniform(0.5, 1.0) * slow if slow else 0.0)


def garbled(frame: bytes, rng: Random) -> bytes:
    """Bytes that no correct peer sends: `frame` with bits turned over until nobody can read it."""
    for _ in range(16):
        broken = bytearray(frame)
        for _ in range(rng.randint(1, 8)):
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        try:
            decode_message(bytes(broken))
        except RemoteProtocolError:
            return bytes(broken)
    return b"\xff" + frame
