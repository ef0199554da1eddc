"""The invariants say nothing of an honest shoal, and speak up when a device breaks a promise."""

from random import Random

import msgspec

from protocol.constraints import Constraint, Operator
from protocol.effects import Save, Send, StartTask, Tell
from protocol.events import DeadlinePassed, SubmitRequested
from protocol.ids import ExecutionId
from protocol.messages import Accepted, JobSyncAck, ResultAck
from protocol.records import Fence
from protocol.resources import Resources
from protocol.sim.device import Device
from protocol.sim.invariants import VIOLATIONS_MAX, Invariants, Violation
from protocol.sim.people import draw_ops
from protocol.sim.run import build
from protocol.sim.tasks import Behaviour
from protocol.sim.trace import Trace
from protocol.sim.world import World
from protocol.wire import dumps
from tests.sim.test_tasks import spec_of


def _shoal() -> tuple[World, Invariants]:
    """Three honest peers that have just run a job."""
    world = build("lab", 3, Random(1), Trace())
    invariants = Invariants(world, 7, exclusive=True)
    world.watcher = invariants
    world.heap.run(5.0)
    event = SubmitRequested(1, spec_of(Behaviour(100, 100, 0)), "key")
    world.devices[0].handle(event)
    world.heap.run(10.0)
    assert invariants.violations == []
    assert invariants.executions == 1
    return world, invariants


def _texts(invariants: Invariants) -> str:
    return "\n".join(violation.text for violation in invariants.violations)


def _worker(world: World) -> Device:
    (worker,) = [device for device in world.devices if device.host.tasks]
    return worker


def test_a_violation_says_how_to_see_it_again() -> None:
    text = str(Violation(5, 12, 1.5, 3, "it broke"))
    assert text == "seed 5 peers 12 t=1.5000 node 3: it broke"
    assert "node all" in str(Violation(5, 12, 1.5, -1, "it broke"))


def test_only_the_first_violations_are_kept() -> None:
    _, invariants = _shoal()
    for _ in range(2 * VIOLATIONS_MAX):
        invariants.violate(0, "x")
    assert len(invariants.violations) == VIOLATIONS_MAX


def test_claims_without_a_disk_are_noticed() -> None:
    world, invariants = _shoal()
    device = world.devices[0]
    assert device.node is not None
    (job,) = device.node.jobs
    for message in (
        Accepted(job, 0, Fence(9, device.peer, 9)),
        JobSyncAck(1, msgspec.convert("z" * 32, str), b""),  # type: ignore[arg-type]
        ResultAck(msgspec.convert("z" * 32, str), 0, Fence(1, device.peer, 1), "accepted"),  # type: ignore[arg-type]
    ):
        before = len(invariants.violations)
        invariants.leaving(device, Send(device.peer, message))
        assert len(invariants.violations) == before + 1, message
    assert _texts(invariants).count("not on its disk") == 3


def test_an_acknowledged_job_is_on_as_many_disks_as_was_said() -> None:
    world, invariants = _shoal()
    device = world.devices[0]
    assert device.node is not None
    (job,) = device.node.jobs
    invariants.acknowledge(device, job, 3)
    assert invariants.violations == []
    invariants.acknowledge(device, job, 4)
    assert "says 4 peers" in _texts(invariants)
    device.disk.rows["spec"].clear()
    invariants.acknowledge(device, job, 1)
    assert "not on its disk" in _texts(invariants)


def test_what_is_held_and_not_saved_is_noticed() -> None:
    world, invariants = _shoal()
    device = world.devices[0]
    assert device.node is not None
    (held,) = device.node.jobs.values()
    held.slots[0].acceptance_data = b"other"
    invariants.handled(device, SubmitRequested(2, held.job, "key"), [])
    assert "is not the one saved" in _texts(invariants)


def test_overbooking_is_noticed() -> None:
    world, invariants = _shoal()
    device = world.devices[0]
    assert device.node is not None
    (held,) = device.node.jobs.values()
    device.node.executor.bidder.adopt("ghost", Resources(cpu_m=999_999))
    invariants.handled(device, SubmitRequested(2, held.job, "key"), [])
    assert "more is reserved" in _texts(invariants)


def test_a_start_needs_a_journal_and_happens_once() -> None:
    world, invariants = _shoal()
    worker = _worker(world)
    (execution,) = worker.host.tasks
    spec = spec_of(Behaviour(100, 100, 0))
    (task,) = worker.host.tasks.values()
    start = StartTask(execution, task.job, spec, {"SHOAL_PARTITION_INDEX": "0"}, None, ())
    invariants.leaving(worker, start)
    assert "started again after its success" in _texts(invariants)
    ghost = StartTask(ExecutionId("ghost"), task.job, spec, {}, None, ())
    invariants.leaving(worker, ghost)
    assert "without a journal" in _texts(invariants)


def test_a_forgotten_row_is_noticed() -> None:
    world, invariants = _shoal()
    device = world.devices[0]
    (key,) = device.disk.rows["spec"]
    invariants.handled(
        device, SubmitRequested(2, spec_of(Behaviour(1, 1, 0)), "x"), [Save((("spec", key, None),))]
    )
    assert "forgotten" in _texts(invariants)


def test_a_node_that_breaks_is_a_violation() -> None:
    world, invariants = _shoal()
    invariants.broke(world.devices[1], "KeyError")
    assert "the node broke: KeyError" in _texts(invariants)


def _listed(world: World) -> Device:
    """Device 0, after the shoal has run an ops job."""
    spec = draw_ops(1, Random(5))
    assert spec.not_after_s is None
    world.devices[0].handle(SubmitRequested(3, spec, "ops"))
    world.heap.run(world.heap.now + 40.0)
    return world.devices[0]


def _starts(device: Device) -> StartTask:
    """Its one start of an ops job, as it was."""
    assert device.node is not None
    (execution,) = [e for e in device.node.executor.executions.values() if e.listed]
    return StartTask(execution.id, execution.job, execution.spec, {}, None, ())


def test_an_ops_job_starts_once_on_a_peer_and_not_without_a_journal() -> None:
    world, invariants = _shoal()
    device = _listed(world)
    assert invariants.violations == [] and invariants.executions == 4
    start = _starts(device)
    invariants.leaving(device, start)
    assert "a second time" in _texts(invariants)
    device.disk.rows["ops"].clear()
    invariants.leaving(device, start)
    assert "without a journal" in _texts(invariants)


def test_what_is_asked_for_again_after_a_lost_database_may_start_again_once() -> None:
    world, invariants = _shoal()
    device = _listed(world)
    start = _starts(device)
    device.amnesiac = True
    asked = SubmitRequested(4, start.spec, "ops")
    invariants.handled(device, asked, [Tell("job.accepted", "", start.job)])
    invariants.leaving(device, start)
    assert invariants.violations == []
    invariants.leaving(device, start)
    assert "a second time" in _texts(invariants)


def test_an_ops_job_starts_where_an_award_names_the_peer_and_it_is_listed() -> None:
    world, invariants = _shoal()
    device = _listed(world)
    start = _starts(device)
    assert device.node is not None
    execution = device.node.executor.executions[start.execution]
    execution.assignment_data = b"forged"
    invariants.leaving(device, start)
    assert "without an award that names it" in _texts(invariants)
    invariants._lists.clear()
    invariants.leaving(device, start)
    assert "is on no list" in _texts(invariants)


def test_a_list_that_grows_is_noticed() -> None:
    world, invariants = _shoal()
    device = _listed(world)
    assert device.node is not None
    (held,) = [held for held in device.node.jobs.values() if held.listed]
    save = Save(tuple(held.slot_rows(held.slots.indices)))
    invariants.handled(device, DeadlinePassed(), [save])
    assert invariants.violations == []
    invariants._lists.clear()
    invariants.handled(device, DeadlinePassed(), [save])
    assert "grows after it was frozen" in _texts(invariants)
    held.job = msgspec.structs.replace(held.job, not_after_s=1)
    world.devices[1].described.labels["zone"] = "elsewhere"
    held.job = msgspec.structs.replace(
        held.job,
        constraints=(Constraint("zone", Operator.EXISTS), Constraint("x", Operator.EXISTS)),
    )
    invariants._lists.clear()
    invariants.handled(device, DeadlinePassed(), [save])
    assert "grows after NotAfter" in _texts(invariants)
    assert "no match" in _texts(invariants)
    bare = Save((("slot", f"{held.id}/{held.slots.indices[0]}", dumps([b"", b""])),))
    invariants._check_lists(device, bare, True, {})
    assert "without the award that lists it" in _texts(invariants)


def test_a_lost_database_begins_its_incarnations_anew() -> None:
    world, invariants = _shoal()
    device = world.devices[1]
    device.power_off()
    device.forget()
    assert device.amnesiac and device.disk.rows["peer"] == {}
    device.power_on()
    world.heap.run(world.heap.now + 20.0)
    assert invariants.violations == []
    assert device.node is not None and device.node.membership.size == 3
