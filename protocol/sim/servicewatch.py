"""What must hold of services: at every step of every run, and once all is quiet.

The world is the judge: what runs is read from the hosts, where a slot could run from what each
device is and has left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from protocol.clock import NEVER
from protocol.constraints import explain_all
from protocol.effects import StartTask
from protocol.execution import Execution
from protocol.heldservice import HeldService
from protocol.ids import JobId
from protocol.job import JobSpec, JobType
from protocol.led import Phase
from protocol.node import Node
from protocol.pins import homes_of
from protocol.records import Fence, Role
from protocol.resources import Resources
from protocol.sim.device import Device
from protocol.sim.tasks import Task
from protocol.sim.world import World
from protocol.standingjob import StandingJob

HANDOVER_S: Final = 3.0  # an award, its answer, and a task that is told to stop; on slow disks too
Violate = Callable[[int, str], None]
Unrest = list[tuple[int, str]]


@dataclass(slots=True)
class ServiceWatch:
    """Follows all executions of services of one run. `exclusive`: nobody is ever cut off."""

    world: World
    violate: Violate
    exclusive: bool
    contested: dict[JobId, None] = field(default_factory=dict)  # run at more than one peer
    _fences: dict[str, tuple[JobId, int, Fence]] = field(default_factory=dict)  # by execution

    # ---- every step --------------------------------------------------------------------------

    def began(self, device: Device, start: StartTask, task: Task) -> None:
        """The host has started it, for an award that nothing else runs for."""
        assert device.node is not None
        execution = device.node.executor.executions[start.execution]
        award = (execution.job, execution.slot, execution.fence)
        for other in self._running(execution.job, execution.slot):
            if other is not task and self._fences.get(other.execution) == award:
                self.violate(device.index, f"{award} runs twice")
        self._fences[start.execution] = award
        if start.timeout_s is not None:
            self.violate(device.index, f"{award} has a timeout, which a service has not")
        if self.exclusive and execution.job not in self.contested:
            slot = (execution.job, execution.slot)
            self.world.heap.after(HANDOVER_S, self._check_handover, device.index, *slot)

    def _running(self, job: JobId, slot: int) -> list[Task]:
        return [
            task
            for device in self.world.devices
            for task in device.host.running
            if task.job == job and self._fences.get(task.execution, (job, -1))[1] == slot
        ]

    def _check_handover(self, index: int, job: JobId, slot: int) -> None:
        """Nobody is cut off: what took its place was told to stop, and has."""
        count = len(self._running(job, slot)) if job not in self.contested else 0
        settled = [task for task in self._running(job, slot) if self._age(task) > HANDOVER_S / 2]
        if count > 1 and len(settled) > 1:
            self.violate(index, f"slot {slot} of service {job} runs {count} times, nobody cut off")

    def _age(self, task: Task) -> float:
        return self.world.heap.now - task.began

    # ---- once all is quiet -------------------------------------------------------------------

    def unrest(self) -> Unrest:
        """Everything of services that is not as it should be."""
        up = [device for device in self.world.devices if device.node is not None]
        records: dict[JobId, StandingJob] = {}
        for device in up:
            assert device.node is not None
            records |= device.node.steward.standing.jobs
        known = {execution: award[0] for execution, award in self._fences.items()}
        found: Unrest = [
            (device.index, f"service {task.job} runs, and should not")
            for device in up
            for task in device.host.running
            if task.execution in known and not _wanted(records.get(task.job), device)
        ]
        for record in records.values():
            if up and _wanted(record, up[0]):
                found += self._restless(record, up)
        return found

    def _restless(self, record: StandingJob, up: list[Device]) -> Unrest:
        """Somebody coordinates it; each slot runs once, or has nowhere to run."""
        leaders = [d for d in up if d.node and record.id in d.node.coordination.led]
        if len(leaders) != 1:
            return [(-1, f"service {record.id} has {len(leaders)} coordinators")]
        (leader,) = leaders
        assert leader.node is not None
        held = leader.node.jobs[record.id]
        assert isinstance(held, HeldService)
        found: Unrest = []
        for index in range(held.job.count):
            found += self._slot(leader.node, held, index, up)
        seen: dict[int, None] = {}
        for device, execution in _open(record.id, up):
            # Of a generation before, which a paused update left where it is, that may not be asked.
            if execution.spec.spread and device.index in seen:
                found.append((device.index, f"slots of service {record.id} are not spread"))
            seen[device.index] = None
            if execution.slot >= held.job.count:
                text = f"slot {execution.slot} of service {record.id} is one too many"
                found.append((device.index, text))
        return found

    def _slot(self, node: Node, held: HeldService, index: int, up: list[Device]) -> Unrest:
        slot = f"slot {index} of service {held.id}"
        here = [(d, e) for d, e in _open(held.id, up) if e.slot == index]
        if len(here) > 1:
            return [(here[0][0].index, f"{slot} has {len(here)} executions")]
        plan = node.coordination.led[held.id].plans[index]
        if here:
            device, execution = here[0]
            stuck = held.paused or _waits_for_volumes(node, held)
            if execution.revision != held.revision and not stuck:
                return [(device.index, f"{slot} runs another revision than it should")]
            running = len(self._running(held.id, index))
            if running == 1 or execution.start_at < NEVER:
                return []
            return [(device.index, f"{slot} runs {running} times")]
        if plan.phase is Phase.WAITING and plan.ended is not None and not plan.dry_rounds:
            return []  # handed back, and in its pause
        room = [device.index for device in up if _fits(device, held, up)]
        if held.job.task.volumes:  # of which the world may know less, see VolumeWatch
            room = self._with_volumes(node, held, index, room)
        return [(room[0], f"{slot} runs nowhere, and would fit here")] if room else []

    def _with_volumes(
        self, node: Node, held: HeldService, index: int, room: list[int]
    ) -> list[int]:
        """Those that have its volumes; while nobody has, those that keep no other slot's."""
        fleet, led = node.coordination.fleet, node.coordination.led[held.id]
        homes = {
            slot: self.world.by_peer[home].index for slot, home in homes_of(led, fleet.name).items()
        }
        if index in homes:
            return [device for device in room if device == homes[index]]
        others = list(homes.values()) if held.job.spread else []
        return [device for device in room if device not in others]


def _waits_for_volumes(node: Node, held: HeldService) -> bool:
    """Whether an update is held up by a slot whose device cannot run it, and nobody else may."""
    led = node.coordination.led[held.id]
    homes = homes_of(led, node.coordination.fleet.name)
    awards = {slot.index: slot.assignment for slot in held.slots}
    return any(
        led.plans[index].phase is Phase.WAITING
        or (award := awards[index]) is None
        or award.executor != home
        for index, home in homes.items()
    )


def _open(job: JobId, up: list[Device]) -> list[tuple[Device, Execution]]:
    """The executions of a service that have not ended, and where."""
    return [
        (device, execution)
        for device in up
        if device.node is not None
        for execution in device.node.executor.executions.open
        if execution.job == job
    ]


def _wanted(record: StandingJob | None, device: Device) -> JobSpec | None:
    spec = record.wanted(device.now()) if record is not None else None
    return spec if spec is not None and spec.type is JobType.SERVICE else None


def _fits(device: Device, held: HeldService, up: list[Device]) -> bool:
    """Whether the device could take one more slot."""
    certificate = device.keyring.issued
    if device.node is None or certificate is None or not certificate.holds(Role.COMPUTE):
        return False
    if held.job.spread and any(where is device for where, _ in _open(held.id, up)):
        return False
    needs = held.job.task.resources + device.node.executor.reserved
    fits = needs.fits(device.described.capacity)
    return fits and explain_all(held.job.constraints, device.described.labels) is None


def services_need(node: Node) -> Resources:
    """What the executions of services keep for themselves on a device."""
    total = Resources()
    for execution in node.executor.executions.open:
        if execution.service:
            total += execution.spec.task.resources
    return total
