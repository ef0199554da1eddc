"""The invariants: what must hold at every step of every run.

The world is the judge here, not the node: what a node has saved is read from its simulated disk,
what ran from its simulated tasks, who may do what from the world's own list of members.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from protocol.constraints import explain_all
from protocol.derived import open_spec
from protocol.effects import Effect, Gossip, Save, Send, StartTask, Tell, TriggerKept
from protocol.errors import RemoteProtocolError
from protocol.events import DeadlinePassed, Event, FrameReceived, GossipReceived, SubmitRequested
from protocol.execution import Execution
from protocol.ids import PEER_SLOT_MIN, JobId, PeerId, execution_id, job_id
from protocol.job import JobType
from protocol.labels import PEER_LABEL
from protocol.messages import (
    Accepted,
    Award,
    JobSyncAck,
    Letter,
    Relayed,
    ResultAck,
    ResultOffer,
    Rumours,
    SyncHeld,
    SyncRecords,
)
from protocol.node import Node
from protocol.records import (
    Acceptance,
    Advert,
    Assignment,
    Desired,
    Fence,
    Record,
    Result,
    Role,
    Spec,
    Unknown,
)
from protocol.resources import Resources
from protocol.sim.brokerwatch import BrokerWatch
from protocol.sim.device import Device
from protocol.sim.ledger import EXECUTION_BYTES_MAX, Ledger, pair_of
from protocol.sim.schedulewatch import ScheduleWatch, fired
from protocol.sim.servicewatch import ServiceWatch
from protocol.sim.standingwatch import StandingWatch
from protocol.sim.tasks import Task
from protocol.sim.triggerwatch import TriggerWatch
from protocol.sim.volumewatch import VolumeWatch
from protocol.sim.world import World
from protocol.wire import Sealed, decode_as, decode_message, loads

VIOLATIONS_MAX: Final = 20  # of one run: the first few tell the story
PROBES: Final = (1, 2, 3, 4)  # kinds of messages that can change nothing of a job
RELAYED_HEAD: Final = b"\x18\x3c"  # kind 60

Slot = tuple[JobId, int]


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise broken, with all that is needed to see it again."""

    seed: int
    peers: int
    time: float
    device: int  # -1 where it is nobody's in particular
    text: str

    def __str__(self) -> str:
        where = "all" if self.device < 0 else str(self.device)
        return f"seed {self.seed} peers {self.peers} t={self.time:.4f} node {where}: {self.text}"


@dataclass(slots=True)
class Invariants:
    """Watches every device of one run. `exclusive`: nobody is cut off or wrongly declared dead.

    `steady`: who never was down was always well to be heard.
    """

    world: World
    seed: int
    exclusive: bool
    steady: bool = False
    violations: list[Violation] = field(default_factory=list)
    executions: int = 0
    acknowledged: dict[JobId, tuple[int, int]] = field(default_factory=dict)  # by, on how many
    stopped: dict[JobId, None] = field(default_factory=dict)  # and somebody was told so
    contested: dict[JobId, None] = field(default_factory=dict)  # submitted at more than one peer
    promised: dict[JobId, dict[PeerId, None]] = field(default_factory=dict)  # lists told of
    _lists: dict[tuple[JobId, int], dict[PeerId, None]] = field(default_factory=dict)  # per device
    _once: dict[tuple[str, int], None] = field(default_factory=dict)  # revision and device
    _anew: dict[tuple[JobId | None, int], bool] = field(default_factory=dict)  # see _check_once
    _accepted: dict[Slot, dict[Fence, Acceptance]] = field(default_factory=dict)
    _tasks: dict[Slot, list[Task]] = field(default_factory=dict)  # ever started, anywhere
    _ledgers: list[Ledger] = field(default_factory=list)
    _letters: dict[tuple[PeerId, int], int] = field(default_factory=dict)  # written, by life
    _opened: dict[bytes, Sealed] = field(default_factory=dict)
    standing: StandingWatch = field(init=False)
    schedules: ScheduleWatch = field(init=False)
    services: ServiceWatch = field(init=False)
    volumes: VolumeWatch = field(init=False)
    broker: BrokerWatch = field(init=False)
    triggers: TriggerWatch = field(init=False)

    def __post_init__(self) -> None:
        self._ledgers = [Ledger(self._record) for _ in self.world.devices]
        self.standing = StandingWatch(self.world, self.violate, self._open)
        self.schedules = ScheduleWatch(self.violate)
        self.broker = BrokerWatch(self.world, self.violate)
        self.services = ServiceWatch(self.world, self.violate, self.exclusive)
        self.volumes = VolumeWatch(self.violate, [self.contested, self.services.contested])
        self.triggers = TriggerWatch(self.world, self.violate, self.exclusive)

    def violate(self, device: int, text: str) -> None:
        if len(self.violations) < VIOLATIONS_MAX:
            time, peers = self.world.heap.now, len(self.world.devices)
            self.violations.append(Violation(self.seed, peers, time, device, text))
            self.world.trace.tell(time, device, f"VIOLATION {text}")

    # ---- what people were told ---------------------------------------------------------------

    def contest(self, key: str) -> None:
        """The call with this key was made at more than one peer: each may coordinate it."""
        shoal = self.world.devices[0].keyring.shoal
        self.contested[job_id(shoal, "default", "one-off", key)] = None

    def acknowledge(self, device: Device, job: JobId, durable_on: int) -> None:
        """A person was told that this job is accepted, and on how many disks it is."""
        disks = [d.disk.rows for d in self.world.devices]
        holding = [job in rows["spec"] and job in rows["job"] for rows in disks]
        if not holding[device.index]:
            self.violate(device.index, f"acknowledges job {job}, which is not on its disk")
        if sum(holding) < durable_on:
            text = f"says {durable_on} peers have job {job} on disk, {sum(holding)} do"
            self.violate(device.index, text)
        self.acknowledged.setdefault(job, (device.index, durable_on))
        self.promised.setdefault(job, {}).update(self._listed_on_disk(device, job))

    # ---- what devices do ---------------------------------------------------------------------

    def broke(self, device: Device, text: str) -> None:
        self.violate(device.index, f"the node broke: {text}")

    def booted(self, device: Device) -> None:
        self._ledgers[device.index].booted(device.disk)
        self.standing.booted(device)

    def forgot(self, device: Device) -> None:
        self._ledgers[device.index].forgot()
        self.standing.forgot(device)

    def handled(self, device: Device, event: Event, effects: list[Effect]) -> None:
        """The node is between two events: what it saved and what it holds must agree."""
        ledger, node = self._ledgers[device.index], device.node
        assert node is not None
        self._check_reading(device, event)
        self.schedules.handled(device, effects, self.world.heap.now)
        self.triggers.handled(device, effects)
        runs = fired(effects)
        if device.amnesiac and isinstance(event, SubmitRequested):
            tells = [effect for effect in effects if isinstance(effect, Tell)]
            self._anew |= {(tell.job, device.index): True for tell in tells}
        for effect in map(_unfolded, effects):
            if isinstance(effect, Save):
                for text in ledger.saved(effect, lambda job: _deleted(node, job)):
                    self.violate(device.index, text)
                self._check_lists(device, effect, isinstance(event, SubmitRequested), runs)
            elif isinstance(effect, Send) and isinstance(effect.message, JobSyncAck):
                ledger.claims(node, effect.message)
            elif isinstance(effect, StartTask) and effect.execution in node.executor.executions:
                execution = node.executor.executions[effect.execution]
                if not execution.stopping:  # what is withdrawn at once ends right after it
                    self._check_fence(device, (execution.job, execution.slot), execution.fence)
        if not _matters(event, effects):
            return
        saves = [effect for effect in effects if isinstance(effect, Save)]
        self.standing.handled(device, node, saves)
        for text in ledger.compare(node):
            self.violate(device.index, text)
        for choice in ledger.choices:
            self._chosen(device, choice)
        ledger.choices.clear()
        reserved = node.executor.reserved
        if not reserved.fits(device.described.capacity):
            self.violate(device.index, f"more is reserved than there is: {reserved}")

    def committed(self, device: Device, save: Save) -> None:
        self._ledgers[device.index].committed(save)
        self.standing.committed(device, save)
        self.broker.committed(device, save)

    def began(self, device: Device, start: StartTask, task: Task) -> None:
        """The host has started a task."""
        self.volumes.began(device, start, task)
        if task.daemon:
            self.standing.began(device, start, task)
            return
        if task.service:
            self.services.began(device, start, task)
            return
        assert device.node is not None
        slot = device.node.executor.executions[start.execution].slot
        self._tasks.setdefault((start.job, slot), []).append(task)

    def leaving(self, device: Device, effect: Effect) -> None:
        """The effect is carried out now: what it claims must be on disk."""
        match effect:
            case StartTask():
                self._check_start(device, effect)
            case Send():
                self._wrote(device, effect)
                self._check_send(device, _said(effect))
            case TriggerKept():
                self.triggers.leaving(device, effect)
            case Tell(kind="peer.dead"):
                self._check_death(device, effect)
            case Gossip(message=Rumours() as rumours):
                self._check_adverts(device, rumours.records)
            case _:
                pass

    def _chosen(self, device: Device, choice: Acceptance) -> None:
        """This peer accepts an execution for a slot."""
        if choice.fence.attempt == 0:  # it ended before anything was started
            return
        known = self._accepted.setdefault((choice.job, choice.slot), {})
        known.setdefault(choice.fence, choice)
        if self.exclusive and len(known) > 1 and choice.job not in self.contested:
            fences = ", ".join(str(fence) for fence in known)
            text = f"slot {choice.slot} of {choice.job} has two accepted executions: {fences}"
            self.violate(device.index, text)

    # ---- letters and deaths ------------------------------------------------------------------

    def _wrote(self, device: Device, send: Send) -> None:
        """Remember the letters that leave their author."""
        if isinstance(send.message, Relayed):
            letter = decode_as(send.message.letter, Letter)
            if letter.sender == device.peer:
                key = (device.peer, letter.sender_life)
                self._letters[key] = max(letter.number, self._letters.get(key, 0))

    def _check_reading(self, device: Device, event: Event) -> None:
        """What counts as read of a peer's letters was written by that peer."""
        if not isinstance(event, FrameReceived) or event.frame[1:3] != RELAYED_HEAD:
            return
        try:
            message = decode_message(event.frame)
            assert isinstance(message, Relayed)
            sender = decode_as(message.letter, Letter).sender
        except RemoteProtocolError:
            return
        assert device.node is not None
        relay = device.node.relay
        if relay.highest(sender) > self._letters.get((sender, relay.life_of(sender)), 0):
            self.violate(device.index, f"reads a letter that {sender} has not written")

    def _check_death(self, device: Device, tell: Tell) -> None:
        """Nobody is thought dead that never was down, whatever relay between them was."""
        other = self.world.by_peer.get(tell.peer) if tell.peer is not None else None
        if self.steady and other is not None and other.powered and other.lives == 1:
            self.violate(device.index, f"holds node {other.index} for dead, which never was down")

    # ---- what is said ------------------------------------------------------------------------

    def _check_send(self, device: Device, send: Send) -> None:
        ledger, message = self._ledgers[device.index], send.message
        saved = True
        match message:
            case Accepted():
                saved = ledger.has_award(message.job, message.slot, message.fence)
            case JobSyncAck():
                rows = device.disk.rows
                held = message.job in rows["spec"] and message.job in rows["job"]
                # One that was deleted meanwhile is rightly gone again.
                held = held or (device.node is not None and _deleted(device.node, message.job))
                saved = message.want_spec or (held and ledger.proven(message))
            case Award():
                saved = all(self._has_assignment(device, data) for data in message.assignments)
            case ResultOffer():
                saved = self._has_result(device, message.result)
            case ResultAck():
                # The executor forgets its duty on this word: a decision must be on disk.
                slot = device.disk.rows["slot"].get(f"{message.job}/{message.slot}")
                decided = slot is not None and any(pair_of(slot))
                saved = message.status != "accepted" or decided
            case SyncHeld():
                saved = self.standing.says(device, message)
            case Rumours() | SyncRecords():
                self._check_adverts(device, message.records)
            case _:
                pass
        if not saved:
            self.violate(device.index, f"says what is not on its disk: {message!r:.200}")

    def _has_assignment(self, device: Device, data: bytes) -> bool:
        award = self._record(data)
        assert isinstance(award, Assignment)
        if device.node is not None and _deleted(device.node, award.job):
            return True  # its slots went with it before this left
        slot = device.disk.rows["slot"].get(f"{award.job}/{award.slot}")
        known = self._record(pair_of(slot)[0]) if slot else None
        return isinstance(known, Assignment) and known.fence >= award.fence

    def _has_result(self, device: Device, data: bytes) -> bool:
        result = self._record(data)
        assert isinstance(result, Result)
        fence = result.fence
        key = execution_id(
            result.revision, result.slot, fence.term, fence.coordinator, fence.attempt
        )
        rows = device.disk.rows["execution"]
        # A service's execution has the name of its run.
        if data in rows.get(key, b"") or any(data in row for row in rows.values()):
            return True
        # Said instead of a start: from the journal of ops, or that nobody can know.
        return result.unknown or result.revision in device.disk.rows["ops"]

    def _check_adverts(self, device: Device, records: tuple[bytes, ...]) -> None:
        for data in records:
            advert = self._record(data)
            if isinstance(advert, Advert) and advert.peer == device.peer:
                for text in self._ledgers[device.index].advertised(advert):
                    self.violate(device.index, text)

    # ---- lists of peers ----------------------------------------------------------------------

    def _listed_on_disk(self, device: Device, job: JobId) -> dict[PeerId, None]:
        """What is promised is what is durable: a list whose save failed was never one."""
        found: dict[PeerId, None] = {}
        for key, value in device.disk.rows["slot"].items():
            owner, _, index = key.partition("/")
            if owner == job and int(index) >= PEER_SLOT_MIN:
                award = self._record(pair_of(value)[0])
                if isinstance(award, Assignment):
                    found[award.executor] = None
        return found

    def _check_lists(
        self, device: Device, save: Save, submitted: bool, runs: dict[JobId, JobId | None]
    ) -> None:
        """A coordinator writes the list when it accepts the job, or fires it; later only while it
        is open."""
        assert device.node is not None
        for bucket, key, value in save.rows:
            job, _, index = key.partition("/")
            if bucket != "slot" or value is None or int(index) < PEER_SLOT_MIN:
                continue
            award = self._record(pair_of(value)[0])
            if not isinstance(award, Assignment):
                self.violate(device.index, f"keeps a peer of {job} without the award that lists it")
                continue
            known = self._lists.setdefault((award.job, device.index), {})
            if award.executor not in known and award.fence.coordinator == device.peer:
                self._check_listing(device, award, submitted or award.job in runs)
            known[award.executor] = None

    def _check_listing(self, device: Device, award: Assignment, accepts: bool) -> None:
        """This peer puts another on a list, now."""
        assert device.node is not None
        held, now = device.node.jobs[award.job], device.now()
        until_s = held.job.not_after_s
        if not accepts and until_s is None:
            self.violate(device.index, f"the list of {award.job} grows after it was frozen")
        if not accepts and until_s is not None and now.wall_trusted and now.wall > until_s:
            self.violate(device.index, f"the list of {award.job} grows after NotAfter")
        listed = self.world.by_peer[award.executor]
        known = device.node.membership.peer(award.executor)  # labels may have changed, unheard of
        labels = known.advert.labels if known is not None and known.advert is not None else {}
        labels = labels if listed is not device else device.described.labels
        labels = {**labels, PEER_LABEL: award.executor}
        if explain_all(held.job.constraints, labels):
            self.violate(device.index, f"{listed.index} is on the list of {award.job}: no match")

    def _check_once(self, device: Device, execution: Execution) -> None:
        """DESIGN 6: one start per revision and peer, journaled, on an award that names it."""
        revision, award = execution.revision, execution.assignment
        if revision not in device.disk.rows["ops"]:
            self.violate(device.index, f"starts {revision} of {execution.job} without a journal")
        # Of a device that lost its database a person may ask the same again before it has met
        # anybody who knows of it: then it is accepted anew, after the loss.
        anew = self._anew.pop((execution.job, device.index), False)
        if (revision, device.index) in self._once and not anew:
            self.violate(device.index, f"starts {revision} of {execution.job} a second time")
        self._once[(revision, device.index)] = None
        sealed = self._open(execution.assignment_data)
        named = sealed is not None and sealed.record == award and award.executor == device.peer
        if not named or sealed is None or sealed.author != award.fence.coordinator:
            self.violate(device.index, f"starts {execution.job} without an award that names it")
        lists = [known for (job, _), known in self._lists.items() if job == execution.job]
        if not any(device.peer in known for known in lists):
            self.violate(device.index, f"starts {execution.job}, and is on no list of it")

    # ---- what is started ---------------------------------------------------------------------

    def _check_start(self, device: Device, start: StartTask) -> None:
        assert device.node is not None
        if start.spec.type is JobType.DAEMON:
            self.executions += 1
            self.standing.check_start(device, start)
            self._check_capacity(device, start, start.spec.task.resources)
            return
        execution = device.node.executor.executions.get(start.execution)
        row = device.disk.rows["execution"].get(start.execution)
        if execution is None or row is None:
            self.violate(device.index, f"starts {start.execution} without a journal of it")
            return
        self.executions += 1
        self._check_author(device, start, row)
        if execution.listed:
            self._check_once(device, execution)
            self.schedules.started(device, execution)
        if not execution.service:
            self._check_exclusive(device, (execution.job, execution.slot))
        self._check_capacity(device, start, execution.spec.task.resources)

    def _check_capacity(self, device: Device, start: StartTask, needs: Resources) -> None:
        for task in device.host.running:
            needs += task.resources
        if start.execution not in device.host.tasks and not needs.fits(device.described.capacity):
            self.violate(device.index, f"runs more than it can hold: {needs}")

    def _check_author(self, device: Device, start: StartTask, row: bytes) -> None:
        fields = loads(row, EXECUTION_BYTES_MAX)
        assert isinstance(fields, list)
        sealed = self._open(fields[1])
        if sealed is None or not isinstance(sealed.record, Spec) or sealed.record.job != start.job:
            self.violate(device.index, f"starts {start.execution} without its spec")
            return
        author = self.world.by_peer.get(sealed.author)
        certificate = author.keyring.issued if author is not None else None
        if certificate is None or not certificate.holds(Role.SUBMIT, sealed.record.namespace):
            self.violate(device.index, f"starts a job of {sealed.author}, who may not submit")

    def _check_fence(self, device: Device, slot: Slot, fence: Fence) -> None:
        ledger = self._ledgers[device.index]
        before = ledger.started.get(slot)
        highest = ledger.fences.get(f"{slot[0]}/{slot[1]}")
        if before is not None and fence < before:
            self.violate(device.index, f"starts {slot} at {fence}, after {before}")
        elif highest is not None and fence < highest:
            self.violate(device.index, f"starts {slot} at {fence}, and knows {highest}")
        elif highest is None:
            self.violate(device.index, f"starts {slot} at {fence}, and does not remember it")
        ledger.started[slot] = fence

    def _check_exclusive(self, device: Device, slot: Slot) -> None:
        """Nobody was cut off: an execution starts only where every earlier one has failed."""
        if not self.exclusive or slot[0] in self.contested:
            return
        for task in self._tasks.get(slot, ()):
            if task.running:
                self.violate(device.index, f"{slot} is started while it runs elsewhere")
            elif task.code == 0:
                self.violate(device.index, f"{slot} is started again after its success")

    # ---- records -----------------------------------------------------------------------------

    def _record(self, data: bytes) -> Record | Unknown | None:
        sealed = self._open(data)
        return None if sealed is None else sealed.record

    def _open(self, data: bytes) -> Sealed | None:
        sealed = self._opened.get(data)
        if sealed is None:
            try:
                sealed = open_spec(data, self.world.devices[0].keyring)
            except RemoteProtocolError:
                return None
            self._opened[data] = sealed
        return sealed


def _deleted(node: Node, job: str) -> bool:
    """Whether it is a service whose name was deleted: nothing is kept of its slots."""
    held = node.steward.standing.jobs.get(JobId(job))
    return held is not None and held.desired is Desired.DELETED


def _matters(event: Event, effects: list[Effect]) -> bool:
    """Whether the event can have changed anything of a job."""
    if isinstance(event, FrameReceived):
        return len(event.frame) < 2 or event.frame[1] not in PROBES
    return bool(effects) or not isinstance(event, GossipReceived | DeadlinePassed)


def _unfolded(effect: Effect) -> Effect:
    return _said(effect) if isinstance(effect, Send) else effect


def _said(send: Send) -> Send:
    """What a letter of this peer's says; handing on another's says nothing."""
    if not isinstance(send.message, Relayed):
        return send
    letter = decode_as(send.message.letter, Letter)
    message = decode_message(letter.frame)
    return send if message is None or send.peer != letter.through else Send(send.peer, message)
