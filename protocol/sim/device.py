"""One simulated device: its power, its agent's process, its disk and its clocks.

It does what the agent's driver does: turns what happens into events, and carries the effects out
in their order, each after every earlier Save is durable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import Final, assert_never

from protocol.clock import Now
from protocol.config import NodeConfig
from protocol.effects import (
    CheckTask,
    Dial,
    DropVolumes,
    Effect,
    Gossip,
    Hangup,
    Publish,
    RemoveTask,
    Reply,
    Save,
    Send,
    StartTask,
    StopTask,
    StreamLines,
    Tell,
    TriggerKept,
    TriggerPutOff,
    WatchTopics,
)
from protocol.events import (
    Booted,
    BrokerChanged,
    DeadlinePassed,
    Event,
    FactsSampled,
    FrameReceived,
    GossipReceived,
    HealthChanged,
    LoopLagged,
    MessagePublished,
    PeerConnected,
    PeerDisconnected,
    SelfDescribed,
    TaskEnded,
    TaskStarted,
)
from protocol.ids import PeerId
from protocol.messages import OVERTAKING, Facts
from protocol.node import Node
from protocol.resources import Resources
from protocol.sim.broker import NAME
from protocol.sim.dialler import REDIAL_FIRST_S, Dialler
from protocol.sim.disk import Disk
from protocol.sim.host import Host
from protocol.sim.keyring import SimKeyring
from protocol.sim.trace import event_text, shortened
from protocol.sim.world import World
from protocol.wire import encode_message

EPOCH_S: Final = 1_800_000_000.0  # wall time at the start of every run
COMMIT_S: Final = (0.0003, 0.030)  # an NVMe's fsync to an SD card's
INBOX_MAX: Final = 10_000  # frames that a frozen process finds in its sockets
SPINS_MAX: Final = 2_000  # deadlines in a row with nothing else between
RESTART_S: Final = 1.0  # after it broke


@dataclass(slots=True)
class Described:
    """What the device is, as its agent would find out."""

    cpu_m: int = 2000
    memory_bytes: int = 2 * 1024**3
    disk_bytes: int = 16 * 1024**3
    labels: dict[str, str] = field(default_factory=dict)
    draining: bool = False

    @property
    def capacity(self) -> Resources:
        return Resources(self.cpu_m, self.memory_bytes, self.disk_bytes)


@dataclass(slots=True)
class Clocks:
    """A device's own idea of time."""

    wall_offset_s: float = 0.0
    wall_trusted: bool = True
    rate: float = 1.0
    forgetful: bool = False  # no battery behind it: each boot begins in 1970, until NTP is heard
    right_s: float | None = None  # the offset it learns then, while it stands in 1970
    started: float = 0.0  # simulated time at which its monotonic clock showed zero

    def read(self, time: float) -> Now:
        wall = EPOCH_S + self.wall_offset_s + time * self.rate
        return Now((time - self.started) * self.rate, wall, self.wall_trusted)

    def time_of(self, mono: float) -> float:
        """The simulated time at which the monotonic clock shows `mono`."""
        return mono / self.rate + self.started


@dataclass(slots=True)
class Device:
    """Off until `power_on`. `slowness`: seconds that all it says, hears and saves takes longer."""

    world: World
    index: int
    keyring: SimKeyring
    config: NodeConfig
    described: Described
    bootstrap: tuple[int, ...] = ()  # configured addresses: dialled at start, and kept
    slowness: float = 0.0
    clocks: Clocks = field(default_factory=Clocks)
    disk: Disk = field(default_factory=Disk)
    node: Node | None = None
    powered: bool = False
    frozen: bool = False
    buried: bool = False  # never to be powered again
    amnesiac: bool = False  # it has lost its database, once or more
    lives: int = 0
    boundary: tuple[int, Callable[[], None]] | None = None  # after so many of them: this crash
    host: Host = field(init=False)
    dialler: Dialler = field(init=False)
    _queue: deque[tuple[Effect, int]] = field(default_factory=deque)  # with the save it waits for
    _inbox: deque[Callable[[], None]] = field(default_factory=deque)  # of a frozen process
    _frozen_at: float = 0.0
    _wake_at: float = inf  # simulated time of the earliest wake on the heap
    _spins: int = 0

    def __post_init__(self) -> None:
        self.host = Host(self.world, self._tell_of)
        self.dialler = Dialler(self.world, self.index, self._soon, self.handle)

    @property
    def peer(self) -> PeerId:
        return self.keyring.peer

    @property
    def meshed(self) -> bool:
        return not self.config.membership.leaf

    @property
    def address(self) -> str:
        return f"/ip4/10.{self.index >> 16}.{self.index >> 8 & 255}.{self.index & 255}/tcp/4001"

    # ---- what the network sees ---------------------------------------------------------------

    @property
    def host_up(self) -> bool:
        return self.powered

    @property
    def listening(self) -> bool:
        return self.node is not None

    @property
    def responsive(self) -> bool:
        return self.node is not None and not self.frozen

    def hear(self, sender: int, frame: bytes) -> None:
        if len(self._inbox) < INBOX_MAX:
            self._live(self.handle, FrameReceived(self.world.devices[sender].peer, frame))

    def hear_broker(self, event: BrokerChanged | MessagePublished) -> None:
        self._live(self.handle, event)

    def hear_gossip(self, frame: bytes) -> None:
        self._live(self.handle, GossipReceived(frame))

    def connected(self, other: int) -> None:
        keyring = self.world.devices[other].keyring
        assert keyring.issued is not None
        self.dialler.connected(keyring.peer)
        boot = b"%d" % self.world.devices[other].lives
        self._soon(0.0, self._meet, PeerConnected(keyring.peer, keyring.issued, boot), other)

    def _meet(self, event: PeerConnected, other: int) -> None:
        if self.world.network.stands(self.index, other):
            self.handle(event)

    def disconnected(self, other: int, refused: bool) -> None:
        peer = self.world.devices[other].peer
        self._soon(0.0, self.handle, PeerDisconnected(peer, refused))
        self.dialler.lost(peer)

    def dial_failed(self, other: int) -> None:
        self.dialler.lost(self.world.devices[other].peer)

    def _soon(self, delay_s: float, call: Callable[..., None], *arguments: object) -> None:
        """In this life of the agent, through the heap: no event is handled inside another."""
        self.world.heap.after(delay_s, self._in_life, self.lives, call, arguments)

    def _in_life(self, life: int, call: Callable[..., None], arguments: tuple[object, ...]) -> None:
        if life == self.lives and self.node is not None:
            self._live(call, *arguments)

    def _live(self, call: Callable[..., None], *arguments: object) -> None:
        """Now, or when the process goes on."""
        if self.frozen:
            self._inbox.append(lambda: call(*arguments))
        else:
            call(*arguments)

    # ---- power, process, freezing ------------------------------------------------------------

    def power_on(self) -> None:
        if not self.powered and not self.buried:
            self.powered = True
            self.clocks.started = self.world.heap.now - self.world.rng.uniform(1.0, 20.0)
            if self.clocks.forgetful and self.clocks.right_s is None:
                self._forget_time()
            self.start_agent()

    def _forget_time(self) -> None:
        self.clocks.right_s = self.clocks.wall_offset_s
        self.clocks.wall_offset_s, self.clocks.wall_trusted = -EPOCH_S, False
        self.world.heap.after(self.world.rng.uniform(5.0, 60.0), self._learn_time)

    def _learn_time(self) -> None:
        """It asks while it is on; its agent hears of it with the next sample of facts."""
        assert self.clocks.right_s is not None
        self.clocks.wall_offset_s, self.clocks.wall_trusted = self.clocks.right_s, True
        self.clocks.right_s = None
        if self.node is not None:
            self._live(self._sample)

    def start_agent(self) -> None:
        """A new life of the agent, from what its disk holds."""
        if self.node is not None or not self.powered:
            return
        self._begin_life()
        for other in self.bootstrap:
            peer = self.world.devices[other].peer
            self.dialler.kept.setdefault(peer, REDIAL_FIRST_S)
            self.dialler.redial_now(peer)

    def _begin_life(self) -> None:
        self.lives += 1
        rng = Random(f"{self.world.seed}/node/{self.index}/{self.lives}")
        self.world.note(self.index, "starts", "a new life begins")
        self.node = Node(self.keyring, self.config, rng, self.disk.image(), self.world.cron)
        if self.world.watcher is not None:
            self.world.watcher.booted(self)
        self.handle(Booted(self.host.found()))
        self.describe()
        self._sample()
        if self.world.broker is not None:
            self.world.broker.arrived(self)
        if self.world.topics is not None:
            self.world.topics.arrived(self)

    def _sample(self) -> None:
        mine = self.described
        facts = Facts(mine.cpu_m, mine.memory_bytes, mine.disk_bytes, load_permille=100)
        self.handle(FactsSampled(facts))

    def describe(self) -> None:
        """Tell the node what the device is now; a device that is off tells it when it boots."""
        mine = self.described
        event = SelfDescribed(
            (self.address,),
            dict(mine.labels),
            mine.cpu_m,
            mine.memory_bytes,
            mine.disk_bytes,
            draining=mine.draining,
        )
        self.handle(event)

    def crash(self) -> None:
        """The agent dies and its tasks live on; the host's kernel says so to those connected."""
        if self.node is not None:
            self.world.note(self.index, "crash", "the agent is killed")
            self._end_life()
            self.world.network.process_gone(self.index)

    def power_off(self) -> None:
        """Everything stops in the middle of what it did, and nobody is told."""
        if not self.powered:
            return
        self.world.note(self.index, "power", "the power is cut")
        self._end_life()
        self.world.network.power_gone(self.index)
        self.powered = False
        self.host.power_gone()

    def forget(self) -> None:
        """Its database is gone; it must be off."""
        assert self.node is None
        self.world.note(self.index, "amnesia", "the database is lost")
        self.amnesiac = True
        self.disk = Disk(commits=self.disk.commits)
        if self.world.watcher is not None:
            self.world.watcher.forgot(self)

    def _end_life(self) -> None:
        self.node = None
        for save in self.disk.crash(self.world.rng):
            if self.world.watcher is not None:
                self.world.watcher.committed(self, save)
        self._queue.clear()
        self._inbox.clear()
        self.dialler.clear()
        if self.world.broker is not None:
            self.world.broker.left(self)
        self.frozen = False
        self.lives += 1  # whatever was under way belongs to nobody

    def freeze(self) -> None:
        if self.node is not None and not self.frozen:
            self.world.note(self.index, "freeze", "stopped (SIGSTOP)")
            self.frozen, self._frozen_at = True, self.world.heap.now

    def thaw(self) -> None:
        """It goes on where it was, with all that came meanwhile."""
        if not self.frozen:
            return
        self.world.note(self.index, "thaw", "continued (SIGCONT)")
        self.frozen = False
        if self.world.rng.random() < 0.5:  # the timer may run before anything else is looked at
            self._wake(self.world.heap.now)
        self.handle(LoopLagged(self.world.heap.now - self._frozen_at))
        while self._inbox and not self.frozen:
            self._inbox.popleft()()
        self._arm()

    # ---- time ----------------------------------------------------------------------------------

    def now(self) -> Now:
        return self.clocks.read(self.world.heap.now)

    def _arm(self) -> None:
        """Put the node's deadline on the heap, unless an earlier wake is there already."""
        if self.node is None:
            return
        deadline = self.node.deadline
        if deadline == inf:
            return
        now = self.world.heap.now
        time = max(self.clocks.time_of(deadline), now)
        if time < self._wake_at or self._wake_at < now:
            self._wake_at = time
            self.world.heap.at(time, self._wake, time)

    def _wake(self, asked: float) -> None:
        if asked == self._wake_at:
            self._wake_at = inf
        if self.node is None or self.frozen:
            return
        now, deadline = self.now(), self.node.deadline
        if now.mono < deadline - 1e-6:  # it has moved on since
            self._arm()
            return
        self._spins += 1
        if self._spins > SPINS_MAX:
            self._broke(f"it wants to be woken at {deadline:.6f} for ever, at {now.mono:.6f}")
            return
        # The clocks' rounding must not wake it a nanosecond early for ever.
        self.handle(DeadlinePassed(), Now(max(now.mono, deadline), now.wall, now.wall_trusted))

    # ---- events in, effects out ----------------------------------------------------------------

    def handle(self, event: Event, now: Now | None = None) -> None:
        """Give the node one event and take its effects up."""
        if self.node is None:
            return
        if self.frozen:
            self._inbox.append(lambda: self.handle(event))
            return
        if not isinstance(event, DeadlinePassed):
            self._spins = 0
        self._trace(event)
        try:
            effects = self.node.handle(event, self.now() if now is None else now)
        except Exception as error:  # nothing that comes in may end the agent: that is the finding
            self._broke(f"{type(error).__name__} on {shortened(repr(event))}: {error}")
            return
        if self.world.watcher is not None:
            self.world.watcher.handled(self, event, effects)
        life = self.lives
        for effect in effects:
            if self.lives != life:  # it crashed half way
                return
            self._take(effect)
        self._arm()

    def _at_boundary(self) -> bool:
        """Whether it dies here, between what it has done and what it was about to do."""
        if self.boundary is None:
            return False
        left, crash = self.boundary
        self.boundary = (left - 1, crash) if left else None
        if not left:
            crash()
        return not left

    def _tell_of(self, event: TaskStarted | HealthChanged | TaskEnded) -> None:
        """An agent that is down learns of it when it boots."""
        if self.node is not None:
            self._live(self.handle, event)

    def _broke(self, text: str) -> None:
        if self.world.watcher is not None:
            self.world.watcher.broke(self, text)
        self._spins = 0
        self.crash()
        self.world.heap.after(RESTART_S, self.start_agent)

    def _take(self, effect: Effect) -> None:
        if self._at_boundary():
            return
        if isinstance(effect, Save):
            self.disk.submit(effect)
            self._write()
            return
        overtakes = isinstance(effect, Send) and (
            effect.overtakes or isinstance(effect.message, OVERTAKING)
        )
        if overtakes or (not self._queue and self.disk.durable >= self.disk.submitted):
            self._carry_out(effect)
        else:
            self._queue.append((effect, self.disk.submitted))

    def _write(self) -> None:
        if self.disk.begin():
            delay = self.world.rng.uniform(*COMMIT_S) + self.slowness
            self._soon(delay, self._written)

    def _written(self) -> None:
        if self.world.save_failures and self.world.rng.random() < self.world.save_failures:
            self._save_failed()
            return
        self.world.trace.note(self.world.heap.now, self.index, "commit")
        for save in self.disk.commit():
            if self.world.watcher is not None:
                self.world.watcher.committed(self, save)
        life = self.lives
        while self._queue and self._queue[0][1] <= self.disk.durable:
            if self._at_boundary():
                return
            self._carry_out(self._queue.popleft()[0])
            if self.lives != life:
                return
        self._write()

    def _save_failed(self) -> None:
        """The node is discarded and read from disk again; connections and tasks stay (DESIGN 2)."""
        self.world.note(self.index, "save-failed", "a save failed: the disk is read again")
        self.disk.abandon()
        self._queue.clear()
        self._begin_life()
        for other in self.world.network.neighbours(self.index):
            self.connected(other)

    def _carry_out(self, effect: Effect) -> None:
        if self.world.watcher is not None:
            self.world.watcher.leaving(self, effect)
        match effect:
            case Send():
                assert self.node is not None
                known = self.node.membership.peer(effect.peer)
                address = known is not None and bool(known.addresses)
                self.dialler.send(effect.peer, effect.message, address)
            case Gossip():
                self.world.network.gossip(self.index, encode_message(effect.message))
            case Dial():
                self.dialler.keep(effect)
            case Hangup():
                self.dialler.hang_up(effect.peer)
            case StartTask():
                task = self.host.start(effect)
                if task is not None and self.world.watcher is not None:
                    self.world.watcher.began(self, effect, task)
            case CheckTask():
                self.host.check(effect.execution)
            case StopTask():
                self.host.stop(effect.execution)
            case RemoveTask():
                self.host.remove(effect.execution)
            case DropVolumes():
                pass  # `sim.volumewatch` remembers who has what
            case Publish() if effect.broker == NAME:
                if self.world.broker is not None:
                    self.world.broker.publish(self, effect)
            case Publish():
                if self.world.topics is not None:
                    self.world.topics.publish_of(self, effect)
            case StreamLines():
                raise AssertionError("no simulated task prints lines")
            case Reply():
                if self.world.on_reply is not None:
                    self.world.on_reply(self, effect)
            case WatchTopics() | TriggerKept() | TriggerPutOff():
                if self.world.topics is not None:
                    self.world.topics.told(self, effect)
            case Tell():
                self.world.trace.tell(
                    self.world.heap.now, self.index, f"tells {effect.kind}: {effect.text}"
                )
            case Save():
                raise AssertionError("a save is no effect that waits")
            case _:
                assert_never(effect)

    def _trace(self, event: Event) -> None:
        trace, time = self.world.trace, self.world.heap.now
        if isinstance(event, FrameReceived | GossipReceived):
            trace.note(time, self.index, "frame", event.frame)
        else:
            trace.note(time, self.index, type(event).__name__)
        if trace.line is not None and not isinstance(event, DeadlinePassed):
            trace.tell(time, self.index, event_text(event, self.world.by_peer))
