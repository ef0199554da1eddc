"""What must hold of standing jobs: at every step of every run, and once all is quiet.

The world is the judge: what a device saved is read from its disk, what runs from its host, who may
submit from the list of members, where a daemon belongs from what each device is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from protocol.antientropy import version_of
from protocol.clock import NEVER
from protocol.constraints import explain_all
from protocol.daemon import Daemon
from protocol.effects import Save, StartTask
from protocol.ids import JobId, execution_id, revision_of
from protocol.job import JobType
from protocol.messages import SyncHeld
from protocol.node import Node
from protocol.records import Control, Role, Spec
from protocol.resources import Resources
from protocol.sim.device import Device
from protocol.sim.tasks import Task
from protocol.sim.world import World
from protocol.standing import DOMAIN
from protocol.standingjob import Kept, StandingJob
from protocol.wire import RECORD_BYTES_MAX, Sealed, loads

ROW_BYTES_MAX = 3 * RECORD_BYTES_MAX
Violate = Callable[[int, str], None]
Unrest = list[tuple[int, str]]
Height = tuple[int, int]  # generation and control number


@dataclass(slots=True)
class StandingWatch:
    """Follows all devices of one run through all their lives."""

    world: World
    violate: Violate
    open: Callable[[bytes], Sealed | None]
    # Rows asked for, per device; then what was ever durable on a device of a job.
    _saved: dict[int, dict[str, Kept]] = field(default_factory=dict)
    _versions: dict[tuple[int, str], dict[bytes, None]] = field(default_factory=dict)
    _heights: dict[tuple[int, str], Height] = field(default_factory=dict)
    _told: dict[JobId, list[tuple[int, int, Height]]] = field(default_factory=dict)

    # ---- every step --------------------------------------------------------------------------

    def booted(self, device: Device) -> None:
        """From here on, what counts is what its disk holds."""
        rows = {key: _row(value) for key, value in device.disk.rows["standing"].items()}
        self._saved[device.index] = dict(rows)
        for (index, job), height in self._heights.items():
            if index != device.index:
                continue
            if job not in rows or self._height(rows[job]) < height:
                self.violate(index, f"standing job {job} goes back over a crash from {height}")

    def forgot(self, device: Device) -> None:
        """Its database is lost: what it held may be older now, until it hears from others."""
        for key in [key for key in self._heights if key[0] == device.index]:
            del self._heights[key]

    def handled(self, device: Device, node: Node, saves: list[Save]) -> None:
        """Between two events: what is merged in memory was saved."""
        mine = self._saved.setdefault(device.index, {})
        for save in saves:
            for bucket, key, value in save.rows:
                if bucket == "standing":
                    self._check_row(device, key, value)
        for job, held in node.steward.standing.jobs.items():
            if mine.get(job) != held.kept:
                self.violate(device.index, f"standing job {job} is held, and not as it was saved")

    def _check_row(self, device: Device, key: str, value: bytes | None) -> None:
        mine = self._saved[device.index]
        if value is None:
            self.violate(device.index, f"standing job {key} is forgotten")
            return
        before, row = mine.get(key), _row(value)
        mine[key] = row
        if before is None:
            return
        old, new = self._height(before), self._height(row)
        specs = [self._record(each[0]) for each in (before, row)]
        generations = [spec.generation for spec in specs if spec is not None]
        fell = len(generations) == 2 and generations[1] < generations[0]
        if fell or new[0] < old[0] or new[1] < old[1]:
            self.violate(device.index, f"standing job {key} goes back from {old} to {new}")

    def committed(self, device: Device, save: Save) -> None:
        for bucket, key, value in save.rows:
            if bucket == "standing" and value is not None:
                place = (device.index, key)
                row = _row(value)
                self._versions.setdefault(place, {})[version_of(*row[:2])] = None
                self._heights[place] = self._height(row)

    def says(self, device: Device, message: SyncHeld) -> bool:
        """Whether what an acknowledgement claims has been on its disk."""
        if message.domain != DOMAIN:
            return True
        return all(
            version in self._versions.get((device.index, key), {}) for key, version in message.items
        )

    def check_start(self, device: Device, start: StartTask) -> None:
        """A daemon is started: journaled, and by somebody who may have it run."""
        row = device.disk.rows["daemon"].get(start.job)
        fields = loads(row, ROW_BYTES_MAX) if row is not None else None
        if not isinstance(fields, list) or not isinstance(fields[0], bytes):
            self.violate(device.index, f"starts daemon {start.job} without a journal of it")
            return
        sealed = self.open(fields[0])
        if sealed is None or not isinstance(sealed.record, Spec):
            self.violate(device.index, f"starts daemon {start.job} without its spec")
            return
        revision = revision_of(sealed.body)
        if execution_id(revision, 0, 0, device.peer, int(fields[3])) != start.execution:
            self.violate(device.index, f"starts daemon {start.job} without a journal of this start")
        author = self.world.by_peer.get(sealed.author)
        certificate = author.keyring.issued if author is not None else None
        if certificate is None or not certificate.holds(Role.SUBMIT, sealed.record.namespace):
            self.violate(device.index, f"starts a daemon of {sealed.author}, who may not submit")

    def began(self, device: Device, start: StartTask, task: Task) -> None:
        """The host has started it: it is the only one of its job there."""
        others = [t for t in device.host.running if t.job == start.job and t is not task]
        if others:
            text = f"daemon {start.job} runs {len(others) + 1} times on one device"
            self.violate(device.index, text)

    def told(self, device: Device, job: JobId, durable_on: int) -> None:
        """A person was told that an act of theirs is accepted, and on how many disks it is."""
        row = device.disk.rows["standing"].get(job)
        if row is None:
            self.violate(device.index, f"acknowledges {job}, which is not on its disk")
            return
        entry = (device.index, durable_on, self._height(_row(row)))
        self._told.setdefault(job, []).append(entry)

    def _height(self, row: Kept) -> Height:
        _, control_data, _, generation = row
        control = self._record(control_data)
        return generation, control.number if isinstance(control, Control) else 0

    def _record(self, data: bytes) -> Spec | Control | None:
        sealed = self.open(data) if data else None
        record = sealed.record if sealed is not None else None
        return record if isinstance(record, Spec | Control) else None

    # ---- once all is quiet -------------------------------------------------------------------

    def unrest(self) -> Unrest:
        """Everything of standing jobs that is not as it should be."""
        up = [device for device in self.world.devices if device.node is not None]
        found = self._differing(up)
        for device in up:
            assert device.node is not None
            jobs = device.node.steward.standing.jobs
            found += [each for held in jobs.values() for each in self._restless(device, held)]
            known = {job: None for job in jobs}
            for task in device.host.running:
                if task.daemon and task.job not in known:
                    found.append((device.index, f"daemon {task.job} runs, and nobody knows it"))
        return found + self._lost(up)

    def _differing(self, up: list[Device]) -> Unrest:
        """All who are there hold the same."""
        seen: dict[tuple[tuple[str, bytes], ...], int] = {}
        for device in up:
            assert device.node is not None
            jobs = device.node.steward.standing.jobs
            versions = tuple((job, jobs[job].version) for job in sorted(jobs))
            seen.setdefault(versions, device.index)
        if len(seen) <= 1:
            return []
        pair = list(seen.values())[:2]
        return [(pair[1], f"its standing jobs differ from node {pair[0]}'s")]

    def _lost(self, up: list[Device]) -> Unrest:
        """What somebody was told of is known, unless the only one who knew went dark, or lost its
        database."""
        found: Unrest = []
        for job, acts in self._told.items():
            for index, durable_on, height in acts:
                only = self.world.devices[index]
                if durable_on < 2 and (only.buried or only.amnesiac):
                    continue
                for device in up:
                    assert device.node is not None
                    held = device.node.steward.standing.jobs.get(job)
                    behind = held is None or held.generation < height[0] or held.number < height[1]
                    if behind:
                        found.append((device.index, f"an act on {job} is lost: {height}"))
        return found

    def _restless(self, device: Device, held: StandingJob) -> Unrest:
        """It runs once where it belongs, in the right revision, and nowhere else."""
        assert device.node is not None
        index, job = device.index, held.id
        daemon = device.node.steward.daemons.daemons.get(job)
        running = [task for task in device.host.running if task.job == job and task.daemon]
        if not self._belongs(device, held):
            return [(index, f"daemon {job} runs, and should not")] if running else []
        if daemon is None:
            return [(index, f"daemon {job} does not run")]
        due = daemon.next_at < NEVER and not daemon.waiting
        if not daemon.active and due and not running:
            return []  # it ended, and is started again after its pause
        if len(running) != 1 or not daemon.active:
            return [(index, f"daemon {job} runs {len(running)} times: {daemon.state}")]
        wanted = held.revision
        if daemon.refused == wanted and daemon.before is not None:
            wanted = daemon.before.revision
        if running[0].execution != daemon.execution(device.peer) or daemon.now.revision != wanted:
            return [(index, f"daemon {job} runs in another revision than it should")]
        return []

    def _belongs(self, device: Device, held: StandingJob) -> bool:
        certificate = device.keyring.issued
        compute = certificate is not None and certificate.holds(Role.COMPUTE)
        spec = held.wanted(device.now())
        if spec is None or not compute or spec.type is not JobType.DAEMON:
            return False
        fits = spec.task.resources.fits(device.described.capacity)
        return fits and explain_all(spec.constraints, device.described.labels) is None


def daemons_need(daemons: dict[JobId, Daemon]) -> Resources:
    """What the executions of a device's daemons keep for themselves."""
    total = Resources()
    for daemon in daemons.values():
        if daemon.active:
            total += daemon.now.spec.task.resources
    return total


def _row(value: bytes) -> Kept:
    kept: Kept = msgspec.convert(loads(value, ROW_BYTES_MAX), Kept)
    return kept
