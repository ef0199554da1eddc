"""When all is quiet: what must hold once nothing goes wrong any more and nobody wants anything."""

from __future__ import annotations

from protocol.execution import State
from protocol.ids import JobId, peer_slot
from protocol.records import Desired, Verdict
from protocol.sim.device import Device
from protocol.sim.invariants import Invariants
from protocol.sim.servicewatch import services_need
from protocol.sim.standingwatch import daemons_need
from protocol.sim.world import World

Unrest = list[tuple[int, str]]  # device (-1: all) and what is not as it should be


def unrest(world: World, invariants: Invariants) -> Unrest:
    """Everything that is not at rest, the first of each kind per device."""
    found: Unrest = invariants.standing.unrest() + invariants.services.unrest()
    found += invariants.broker.unrest()
    found += invariants.triggers.unrest()
    for device in world.devices:
        found += _restless(world, device)
    for job, (device_index, durable_on) in invariants.acknowledged.items():
        device = world.devices[device_index]
        lost_with_it = (device.buried or device.amnesiac) and durable_on < 2
        if not lost_with_it:
            found += _unfinished(world, job, device_index)
            found += _unlisted(world, invariants, job)
    # A coordinator that was cut off may have been the only one to know of a stop or a success.
    if not any(device.buried or device.amnesiac for device in world.devices):
        for job in invariants.stopped:
            found += _not_stopped(world, job)
        for device in world.devices:
            found += _wasted(world, device)
    for job in dict.fromkeys(job for d in world.devices if d.node for job in d.node.jobs):
        found += _differing(world, job)
    return found


def _restless(world: World, device: Device) -> Unrest:
    node = device.node
    if device.buried:
        return []
    if node is None:
        return [(device.index, "it is down")]
    found: Unrest = []
    kept = daemons_need(node.steward.daemons.daemons) + services_need(node)
    if node.executor.reserved != kept:
        found.append((device.index, f"capacity is still reserved: {node.executor.reserved}"))
    for task in device.host.tasks.values():
        if task.running and not task.daemon and not task.service:
            found.append((device.index, f"task {task.execution} of {task.job} still runs"))
    for execution in node.executor.executions.values():
        if not execution.ended and not execution.service:
            found.append((device.index, f"execution {execution.id} is {execution.state}"))
        elif execution.owes and not _gone_with_its_holders(world, execution.job):
            found.append((device.index, f"the result of {execution.id} found nobody"))
    return found


def _gone_with_its_holders(world: World, job: JobId) -> bool:
    """Only a device that went dark for good held it, or one that lost its database: nobody is
    left to take its results."""
    if any(d.node is not None and job in d.node.jobs for d in world.devices):
        return False
    dark = any(job in d.disk.rows["job"] for d in world.devices if d.buried)
    return dark or any(d.amnesiac for d in world.devices)


def _unfinished(world: World, job: JobId, acknowledged_by: int) -> Unrest:
    """An acknowledged job is held by somebody, and has ended with a reason."""
    holders = [device for device in world.devices if device.node and job in device.node.jobs]
    if not holders:
        return [(acknowledged_by, f"acknowledged job {job} is lost")]
    found: Unrest = []
    for device in holders:
        assert device.node is not None
        held = device.node.jobs[job]
        if not held.done:
            found.append((device.index, f"job {job} has not ended"))
        for slot in held.slots:
            choice = slot.acceptance
            if choice is None or choice.verdict == Verdict.SUCCESS:
                continue
            if not choice.reason and not choice.result:
                found.append((device.index, f"slot {slot.index} of {job} ended without a reason"))
    return found


def _unlisted(world: World, invariants: Invariants, job: JobId) -> Unrest:
    """Whoever was on the list when a person was told that the job is accepted still is."""
    found: Unrest = []
    for device in world.devices:
        held = device.node.jobs.get(job) if device.node is not None else None
        for peer in invariants.promised[job] if held is not None else ():
            if held is not None and peer_slot(job, peer) not in held.slots:
                found.append((device.index, f"{peer} is no longer on the list of job {job}"))
    return found


def _not_stopped(world: World, job: JobId) -> Unrest:
    """A stop that somebody was told of is known to every holder."""
    return [
        (device.index, f"the stop of job {job} is lost")
        for device in world.devices
        if device.node is not None
        and job in device.node.jobs
        and device.node.jobs[job].desired is Desired.RUNNING
    ]


def _wasted(world: World, device: Device) -> Unrest:
    """A success that its executor kept counts: it comes before any failure (DESIGN 5)."""
    if device.node is None:
        return []
    found: Unrest = []
    for execution in device.node.executor.executions.values():
        if execution.state is not State.COMPLETED or execution.service:
            continue
        for other in world.devices:
            held = other.node.jobs.get(execution.job) if other.node is not None else None
            known = held is not None and execution.slot in held.slots
            choice = held.slots[execution.slot].acceptance if held is not None and known else None
            if choice is not None and choice.verdict != Verdict.SUCCESS:
                found.append((other.index, f"the success of {execution.id} does not count"))
    return found


def _differing(world: World, job: JobId) -> Unrest:
    """All who hold a job hold the same."""
    prints: dict[bytes, int] = {}
    for device in world.devices:
        if device.node is not None and job in device.node.jobs:
            prints.setdefault(device.node.jobs[job].fingerprint(), device.index)
    if len(prints) <= 1:
        return []
    pair = list(prints.values())[:2]
    return [(pair[1], f"job {job} differs from node {pair[0]}'s")]
