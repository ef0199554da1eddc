"""A few whole nodes on one desk: their effects carried to one another, their deaths at will.

Everything happens in the order of one heap on one clock, so a test is a transcript that never
changes. What a test drops, cuts or kills is said by the test; nothing is lost by chance. Tasks do
nothing until the test ends them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from math import inf
from random import Random

from protocol.catalogue import Catalogue
from protocol.clock import Now
from protocol.config import NodeConfig
from protocol.coordination import Coordination
from protocol.effects import (
    Bucket,
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
    ControlRequested,
    DeadlinePassed,
    Event,
    FactsSampled,
    FrameReceived,
    GossipReceived,
    PeerConnected,
    PeerDisconnected,
    QueryRequested,
    ResultRequested,
    SelfDescribed,
    SubmitRequested,
    TaskEnded,
    TaskFound,
    TaskStarted,
)
from protocol.heldjob import HeldJob, Slot
from protocol.ids import ExecutionId, JobId, PeerId, job_id, peer_slot
from protocol.job import JobSpec
from protocol.led import Led
from protocol.listening import TopicWatch
from protocol.messages import Facts, Message
from protocol.node import Node
from protocol.records import Certificate, Desired, Role
from protocol.sim.cron import EverySeconds
from protocol.tree import Plain
from protocol.wire import decode_message, encode_message, open_sealed
from tests.protocol.fakes import FakeKeyring, FakeShoal

WALL = 1_800_000_000.0
DELAY_S = 0.002
REFUSED_S = 0.55  # redialled twice, half a second apart
SPINS_MAX = 40  # deadlines at one moment, without any of them moving on

Drop = Callable[[str, str, Message], bool]


def batch(
    name: str = "job",
    *,
    count: int = 1,
    on: Iterable[str] = (),
    task: dict[str, Plain] | None = None,
    **fields: Plain,
) -> JobSpec:
    """A batch job, for the peers `on` if any; `task` adds to its one task, `fields` to the job."""
    engine: Plain = {"Type": "process", "Params": {"Command": ["true"]}}
    tree: dict[str, Plain] = {"Name": name, "Type": "batch", "Count": count, **fields}
    tree["Tasks"] = [{"Engine": engine, **(task or {})}]
    if on:
        tree["Constraints"] = [{"Key": "name", "Operator": "in", "Values": [*on]}]
    return JobSpec.from_plain(tree)


def ops(
    name: str = "job",
    *,
    on: Iterable[str] = (),
    task: dict[str, Plain] | None = None,
    **fields: Plain,
) -> JobSpec:
    """An ops job, for the peers `on` if any; otherwise as `batch`."""
    tree = dict(batch(name, on=on, task=task).to_plain())
    del tree["Count"], tree["Retry"]
    return JobSpec.from_plain({**tree, "Type": "ops", **fields})


def retry(attempts: int = 3, *causes: str, backoff: str = "1s") -> dict[str, Plain]:
    """Fields of a job that is retried for these causes."""
    return {"Retry": {"Attempts": attempts, "Backoff": backoff, "On": [*causes]}}


def queue(seconds: int) -> dict[str, Plain]:
    """Fields of a task that waits so long for a peer."""
    return {"Timeouts": {"QueueTimeout": f"{seconds}s"}}


def reported(job: str = "a" * 32, **fields: Plain) -> dict[str, Plain]:
    """A view of a job as a peer reports it."""
    texts = ("name", "namespace", "type", "reason", "coordinator_name", "revision", "author_name")
    numbers = ("created_ms", "ended_ms", "generation", "control", "count")
    view: dict[str, Plain] = {
        "id": job,
        "state": "running",
        "term": 1,
        "desired": "running",
        "coordinator": "b",
        "author": "b",
        "holders": ["b"],
        "slots": [],
    }
    return {**dict.fromkeys(texts, ""), **dict.fromkeys(numbers, 0), **view, **fields}


def reported_slot(slot: int = 0, **fields: Plain) -> dict[str, Plain]:
    """One slot of such a view."""
    texts = ("executor", "executor_name", "verdict", "reason", "execution")
    numbers = ("attempt", "term", "failures", "started_ms", "ended_ms", "duration_ms")
    tails = dict.fromkeys(("stdout_tail", "stderr_tail"), "")
    view: dict[str, Plain] = {"slot": slot, "state": "running", "exit_code": None}
    return {**dict.fromkeys(texts, ""), **dict.fromkeys(numbers, 0), **tails, **view, **fields}


@dataclass
class Box:
    """One device: its disk and tasks outlive its node."""

    keyring: FakeKeyring
    config: NodeConfig
    described: SelfDescribed
    disk: dict[Bucket, dict[str, bytes]] = field(default_factory=dict)
    node: Node | None = None
    life: int = 0
    trusted: bool = True
    running: dict[ExecutionId, StartTask] = field(default_factory=dict)
    started: list[StartTask] = field(default_factory=list)
    checked: list[ExecutionId] = field(default_factory=list)
    stopping: dict[ExecutionId, str] = field(default_factory=dict)
    ended: dict[ExecutionId, TaskEnded] = field(default_factory=dict)
    streamed: list[StreamLines] = field(default_factory=list)
    published: list[Publish] = field(default_factory=list)
    tells: list[Tell] = field(default_factory=list)
    replies: dict[int, list[Reply]] = field(default_factory=dict)
    sent: list[tuple[PeerId, Message]] = field(default_factory=list)
    watched: tuple[TopicWatch, ...] | None = None
    kept: list[int] = field(default_factory=list)
    put_off: list[int] = field(default_factory=list)
    spins: int = 0
    spun_at: float = -inf


class NodeNet:
    """Boots one node for each name; all are connected and know each other when it returns."""

    def __init__(
        self,
        *names: str,
        roles: dict[str, tuple[Role, ...]] | None = None,
        cpu_m: dict[str, int] | None = None,
        configs: dict[str, NodeConfig] | None = None,
        settle_s: float = 1.0,
    ) -> None:
        self.shoal = FakeShoal()
        self.now = 100.0
        self.drop: Drop = lambda sender, to, message: False
        self.cut: dict[frozenset[str], None] = {}
        self.lag_s: dict[str, float] = {}  # what a busy device sends takes so much longer
        self.boxes: dict[str, Box] = {}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = count()
        self._requests = count(1)
        for name in names:
            keyring = self.shoal.keyring(name, *(roles or {}).get(name, ()))
            cpu = (cpu_m or {}).get(name, 4000)
            described = SelfDescribed(
                (f"/dns4/{name}/tcp/1",), {"name": name}, cpu, 1 << 30, 1 << 33
            )
            config = (configs or {}).get(name) or NodeConfig()
            self.boxes[name] = Box(keyring, config, described)
        for name in names:
            self.boot(name)
        self.run(settle_s)

    # ---- what a test does --------------------------------------------------------------------

    def boot(self, name: str, *, lost: Iterable[ExecutionId] = ()) -> None:
        """Start the node from its disk, and connect it to everybody it can reach."""
        box = self.boxes[name]
        box.life += 1
        for execution in lost:
            del box.running[execution]
        found = [TaskFound(execution, True) for execution in box.running]
        found += [TaskFound(e.execution, False, e.exit_code, e.reason) for e in box.ended.values()]
        box.node = Node(
            box.keyring,
            box.config,
            Random(f"{name}/{box.life}"),
            {k: dict(v) for k, v in box.disk.items()},
            EverySeconds(),
        )
        self.handle(name, Booted(tuple(found)))
        self.handle(name, box.described)
        self.handle(name, FactsSampled(Facts(cpu_free_m=box.described.cpu_m)))
        for other in self.boxes:
            if self.reachable(name, other):
                self.connect(name, other)

    def fill(self, name: str, *, full: bool = True) -> None:
        """Its disk is full now, or no longer."""
        facts = Facts(cpu_free_m=self.boxes[name].described.cpu_m)
        self.handle(name, FactsSampled(facts, disk_full=full))

    def connect(self, name: str, other: str) -> None:
        self.handle(name, self._connected(other))
        self.handle(other, self._connected(name))

    def kill(self, *names: str) -> None:
        """The agents are gone, their ports refuse; their tasks run on."""
        for name in names:
            self.boxes[name].node = None
            self.boxes[name].life += 1
        for name in names:
            for other, box in self.boxes.items():
                if box.node is not None and frozenset((name, other)) not in self.cut:
                    self.after(REFUSED_S, lambda o=other, n=name: self._refused(o, n))

    def part(self, *sides: Iterable[str]) -> None:
        """Cut every connection between the sides; it looks as if the others were dead."""
        groups = [list(side) for side in sides]
        for one in groups:
            for other in groups:
                if one is not other:
                    for a in one:
                        for b in other:
                            self.cut[frozenset((a, b))] = None
                            self.handle(a, PeerDisconnected(PeerId(b), refused=True))

    def heal(self) -> None:
        cut, self.cut = list(self.cut), {}
        for pair in cut:
            one, other = sorted(pair)
            if self.reachable(one, other):
                self.connect(one, other)

    def submit(self, name: str, spec: JobSpec, key: str = "key", *, again: bool = False) -> int:
        request = next(self._requests)
        self.handle(name, SubmitRequested(request, spec, key, again))
        return request

    def stop(self, name: str, job: JobId, desired: Desired = Desired.STOPPED) -> int:
        request = next(self._requests)
        self.handle(name, ControlRequested(request, job, desired))
        return request

    def query(self, name: str, prefix: str = "", *, limit: int = 50, detail: bool = False) -> int:
        request = next(self._requests)
        self.handle(name, QueryRequested(request, prefix, limit, detail))
        return request

    def result(self, name: str, job: JobId, slot: int) -> int:
        request = next(self._requests)
        self.handle(name, ResultRequested(request, job, slot))
        return request

    def end(
        self,
        name: str,
        code: int | None = 0,
        slot: int | None = None,
        reason: str = "",
        untouched: bool = False,
    ) -> None:
        """The task of `slot` that runs here (the only one, if none is given) ends."""
        box = self.boxes[name]
        found = [
            execution
            for execution, start in box.running.items()
            if slot is None or start.environment["SHOAL_PARTITION_INDEX"] == str(slot)
        ]
        assert len(found) == 1, (name, slot, found)
        self._finish(
            name, TaskEnded(found[0], code, reason, 5, b"out", b"err", untouched=untouched)
        )

    def send(self, sender: str, to: str, message: Message) -> list[Effect]:
        """`to` gets a message that `sender` itself never meant to send."""
        return self.handle(to, FrameReceived(PeerId(sender), encode_message(message)))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        self.now = end

    def until(self, condition: Callable[[], bool], bound_s: float = 60.0) -> float:
        """Seconds until `condition` holds; fails if it does not within the bound."""
        start = self.now
        while not condition():
            assert self.now - start < bound_s, "it never came"
            self.run(0.01)
        return self.now - start

    # ---- what a test looks at ----------------------------------------------------------------

    def __getitem__(self, name: str) -> Node:
        node = self.boxes[name].node
        assert node is not None, f"{name} is down"
        return node

    def job(self, key: str = "key") -> JobId:
        return job_id(self.shoal.id, "default", "one-off", key)

    def held(self, name: str, key: str = "key") -> HeldJob:
        return self[name].jobs[self.job(key)]

    def slot(self, name: str, index: int = 0) -> Slot:
        return self.held(name).slots[index]

    def led(self, name: str) -> Led:
        return self.coordination(name).led[self.job()]

    def coordination(self, name: str) -> Coordination:
        return self[name].coordination

    def catalogue(self, name: str) -> Catalogue:
        return self[name].catalogue

    def executor(self, index: int = 0) -> str:
        """Where the slot's task runs, and nowhere else."""
        (name,) = self.executors(index)
        return name

    def executors(self, index: int = 0, job: JobId | None = None) -> list[str]:
        return [
            name
            for name, box in self.boxes.items()
            for start in box.running.values()
            if start.environment["SHOAL_PARTITION_INDEX"] == str(index)
            and start.job == (job or self.job())
        ]

    def reply(self, name: str, request: int) -> Reply:
        """The one answer to a request."""
        (reply,) = self.boxes[name].replies[request]
        return reply

    def answered(self, name: str, request: int) -> bool:
        return request in self.boxes[name].replies

    def told(self, name: str, kind: str) -> list[Tell]:
        return [tell for tell in self.boxes[name].tells if tell.kind == kind]

    def place(self, name: str, peer: str, key: str = "key") -> Slot:
        """The slot of a peer that is on an ops job's list, as `name` holds it."""
        return self.held(name, key).slots[peer_slot(self.job(key), PeerId(peer))]

    def states(self, name: str, key: str = "key") -> dict[str, str]:
        """How each peer of an ops job's list has answered, as `name` sees it."""
        slots = self[name].views.job(self.held(name, key))["slots"]
        assert isinstance(slots, list)
        found = [slot for slot in slots if isinstance(slot, dict)]
        return {str(slot["executor"]): str(slot["state"]) for slot in found}

    def forget(self, name: str) -> None:
        """The device's database is lost; it must be down."""
        assert self.boxes[name].node is None
        self.boxes[name].disk.clear()

    def sent(self, name: str, kind: type[Message]) -> list[tuple[PeerId, Message]]:
        return [each for each in self.boxes[name].sent if isinstance(each[1], kind)]

    def reachable(self, one: str, other: str) -> bool:
        up = self.boxes[one].node is not None and self.boxes[other].node is not None
        return one != other and up and frozenset((one, other)) not in self.cut

    def clock(self, name: str) -> Now:
        return Now(self.now, WALL + self.now, self.boxes[name].trusted)

    # ---- machinery ---------------------------------------------------------------------------

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now + seconds, next(self._count), action))

    def handle(self, name: str, event: Event) -> list[Effect]:
        """One event in, its effects carried out; nothing where the node is down."""
        box = self.boxes[name]
        if box.node is None:
            return []
        effects = box.node.handle(event, self.clock(name))
        for effect in effects:
            self._carry_out(name, effect)
        self._arm(name)
        return effects

    def _arm(self, name: str) -> None:
        box = self.boxes[name]
        assert box.node is not None
        life, due = box.life, box.node.deadline
        if due == inf:
            return

        def fire() -> None:
            if box.life == life and box.node is not None and box.node.deadline <= self.now:
                box.spins = box.spins + 1 if box.spun_at == self.now else 0
                box.spun_at = self.now
                assert box.spins < SPINS_MAX, f"{name} wants to be woken for ever"
                self.handle(name, DeadlinePassed())

        self.after(max(0.0, due - self.now), fire)

    def _carry_out(self, name: str, effect: Effect) -> None:
        box = self.boxes[name]
        match effect:
            case Save():
                for bucket, key, value in effect.rows:
                    rows = box.disk.setdefault(bucket, {})
                    if value is None:
                        rows.pop(key, None)
                    else:
                        rows[key] = value
            case Send():
                box.sent.append((effect.peer, effect.message))
                self._send(name, effect.peer, effect.message)
            case Gossip():
                for other in self.boxes:
                    if self.reachable(name, other):
                        frame = encode_message(effect.message)
                        self.after(DELAY_S, lambda o=other, f=frame: self._gossip(o, f))
            case StartTask():
                box.started.append(effect)
                box.running[effect.execution] = effect
                self.after(0.0, lambda: self._started(name, effect.execution))
            case CheckTask():
                box.checked.append(effect.execution)
            case StopTask():
                box.stopping[effect.execution] = effect.reason
                self.after(0.01, lambda: self._stopped(name, effect.execution))
            case RemoveTask():
                box.ended.pop(effect.execution, None)
            case Tell():
                box.tells.append(effect)
            case Reply():
                box.replies.setdefault(effect.request, []).append(effect)
                assert len(box.replies[effect.request]) == 1, effect
            case StreamLines():
                box.streamed.append(effect)
            case Publish():
                box.published.append(effect)
            case WatchTopics():
                box.watched = effect.watches
            case TriggerKept():
                box.kept.append(effect.handle)
            case TriggerPutOff():
                box.put_off.append(effect.handle)
            case Dial() | Hangup() | DropVolumes():
                pass

    def _send(self, name: str, to: PeerId, message: Message) -> None:
        frame = encode_message(message)
        again = decode_message(frame)
        assert again is not None
        if to in self.boxes and self.reachable(name, to) and not self.drop(name, to, again):
            delay = DELAY_S + self.lag_s.get(name, 0.0)
            self.after(delay, lambda: self._arrive(name, to, frame))

    def _arrive(self, sender: str, to: str, frame: bytes) -> None:
        if self.reachable(sender, to):
            self.handle(to, FrameReceived(PeerId(sender), frame))

    def _gossip(self, to: str, frame: bytes) -> None:
        self.handle(to, GossipReceived(frame))

    def _started(self, name: str, execution: ExecutionId) -> None:
        if execution in self.boxes[name].running:
            self.handle(name, TaskStarted(execution))

    def _stopped(self, name: str, execution: ExecutionId) -> None:
        if execution in self.boxes[name].running:
            self._finish(name, TaskEnded(execution, 143, "stopped"))

    def _finish(self, name: str, event: TaskEnded) -> None:
        box = self.boxes[name]
        del box.running[event.execution]
        box.ended[event.execution] = event
        self.handle(name, event)

    def _refused(self, near: str, far: str) -> None:
        if self.boxes[far].node is None:
            self.handle(near, PeerDisconnected(PeerId(far), refused=True))

    def _connected(self, name: str) -> PeerConnected:
        boot = f"{name}/{self.boxes[name].life}".encode()
        return PeerConnected(PeerId(name), self._certificate(name), boot)

    def _certificate(self, name: str) -> Certificate:
        keyring = self.boxes[name].keyring
        certificate = open_sealed(keyring.certificate, keyring).record
        assert isinstance(certificate, Certificate)
        return certificate


def drop(net: NodeNet, *kinds: type[Message], sender: str = "", to: str = "") -> None:
    """From now on lose these messages, of this sender and to this receiver where one is named."""

    def lost(by: str, at: str, message: Message) -> bool:
        return isinstance(message, kinds) and sender in ("", by) and to in ("", at)

    net.drop = lost


def keep(net: NodeNet) -> None:
    net.drop = lambda sender, to, message: False


def offered_to(net: NodeNet) -> str:
    assignment = net.slot("a").assignment
    assert assignment is not None
    return assignment.executor


class Natted(NodeNet):
    """No two of those whose names begin with n are connected; each dial between them fails."""

    def reachable(self, one: str, other: str) -> bool:
        return super().reachable(one, other) and not (one[0] == other[0] == "n")


def natted(*names: str) -> Natted:
    """One of them, when its nodes have found ways to each other."""
    net = Natted(*names)
    net.run(5.0)
    return net
