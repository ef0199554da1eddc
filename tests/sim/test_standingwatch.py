"""What must hold of standing jobs is noticed where it does not."""

from random import Random

from protocol.effects import Save, StartTask
from protocol.events import ControlRequested, SubmitRequested
from protocol.ids import ExecutionId, JobId
from protocol.messages import SyncHeld
from protocol.records import Desired
from protocol.sim.device import Device
from protocol.sim.invariants import Invariants
from protocol.sim.keepers import draw_daemon
from protocol.sim.quiet import unrest
from protocol.sim.run import build
from protocol.sim.standingwatch import daemons_need
from protocol.sim.trace import Trace
from protocol.sim.world import World
from protocol.standing import DOMAIN
from protocol.standingjob import StandingJob


def _shoal() -> tuple[World, Invariants]:
    """Three honest peers that run a daemon."""
    world = build("lab", 3, Random(1), Trace())
    invariants = Invariants(world, 7, exclusive=True)
    world.watcher = invariants
    world.on_reply = lambda device, reply: invariants.standing.told(
        device, JobId(str(reply.value["job"])), 1
    )
    world.heap.run(5.0)
    # The second draw of this generator is a daemon that runs on and belongs everywhere.
    spec = draw_daemon("d", 1, Random(2))
    assert not spec.constraints
    world.devices[0].handle(SubmitRequested(1, spec, "key"))
    world.heap.run(12.0)
    assert _texts(invariants) == "" == _unrest(world, invariants)
    return world, invariants


def _texts(invariants: Invariants) -> str:
    return "\n".join(violation.text for violation in invariants.violations)


def _unrest(world: World, invariants: Invariants) -> str:
    return "\n".join(text for _, text in unrest(world, invariants))


def _held(device: Device) -> StandingJob:
    assert device.node is not None
    (held,) = device.node.steward.standing.jobs.values()
    return held


def test_a_claim_without_a_disk_is_noticed() -> None:
    world, invariants = _shoal()
    device = world.devices[1]
    held = _held(device)
    assert invariants.standing.says(device, SyncHeld(DOMAIN, ((held.id, held.version),)))
    assert invariants.standing.says(device, SyncHeld(7, (("x", b"12345678"),)))
    assert not invariants.standing.says(device, SyncHeld(DOMAIN, ((held.id, b"12345678"),)))


def test_what_goes_back_or_is_forgotten_is_noticed() -> None:
    world, invariants = _shoal()
    device = world.devices[1]
    assert device.node is not None
    held = _held(device)
    old = held.row()
    world.devices[0].handle(ControlRequested(2, held.id, Desired.STOPPED))
    world.heap.run(13.0)
    for rows, says in (
        ((old,), "goes back from (1, 1) to (1, 0)"),
        ((("standing", held.id, None),), "is forgotten"),
    ):
        invariants.standing.handled(device, device.node, [Save(rows)])
        assert says in _texts(invariants)
    assert "is held, and not as it was saved" in _texts(invariants)
    del device.disk.rows["standing"][held.id]
    invariants.standing.booted(device)
    assert "goes back over a crash from (1, 1)" in _texts(invariants)


def test_a_start_without_its_journal_is_noticed() -> None:
    world, invariants = _shoal()
    device = world.devices[1]
    assert device.node is not None
    (daemon,) = device.node.steward.daemons.daemons.values()
    start = StartTask(ExecutionId("x" * 32), daemon.job, daemon.now.spec, {}, None, ())
    invariants.standing.check_start(device, start)
    assert "without a journal of this start" in _texts(invariants)
    device.disk.rows["daemon"].clear()
    invariants.standing.check_start(device, start)
    assert f"starts daemon {daemon.job} without a journal of it" in _texts(invariants)


def test_a_second_one_on_a_device_is_noticed() -> None:
    world, invariants = _shoal()
    device = world.devices[1]
    assert device.node is not None
    (daemon,) = device.node.steward.daemons.daemons.values()
    start = StartTask(ExecutionId("x" * 32), daemon.job, daemon.now.spec, {}, None, ())
    task = device.host.start(start)
    assert task is not None
    invariants.standing.began(device, start, task)
    assert "runs 2 times on one device" in _texts(invariants)
    assert "runs 2 times" in _unrest(world, invariants)


def test_what_runs_where_it_should_not_or_does_not_where_it_should_is_noticed() -> None:
    world, invariants = _shoal()
    device = world.devices[1]
    assert device.node is not None
    job = _held(device).id
    daemons = device.node.steward.daemons.daemons
    assert daemons_need(daemons).cpu_m == 50
    del daemons[job]
    assert f"daemon {job} does not run" in _unrest(world, invariants)
    device.described.cpu_m = 1
    assert f"daemon {job} runs, and should not" in _unrest(world, invariants)
    device.node.steward.standing.jobs.clear()
    texts = _unrest(world, invariants)
    for part in ("nobody knows it", "standing jobs differ", f"an act on {job} is lost"):
        assert part in texts


def test_what_was_told_of_and_is_nowhere_is_noticed() -> None:
    world, invariants = _shoal()
    invariants.standing.told(world.devices[0], JobId("x" * 32), 2)
    assert "which is not on its disk" in _texts(invariants)
