"""A simulated device drives a real node as the agent's driver would."""

from random import Random

from protocol.effects import Reply, Save, Tell
from protocol.events import DeadlinePassed, SubmitRequested
from protocol.sim.device import EPOCH_S, Clocks, Device
from protocol.sim.run import build
from protocol.sim.tasks import Behaviour
from protocol.sim.trace import Trace
from protocol.sim.world import World
from tests.sim.test_tasks import spec_of


def _lab(peers: int = 3) -> tuple[World, list[str]]:
    lines: list[str] = []
    world = build("lab", peers, Random(1), Trace(lines.append))
    world.heap.run(5.0)
    return world, lines


def _run_job(world: World, device: Device, lasts_ms: int = 500) -> list[Reply]:
    replies: list[Reply] = []
    world.on_reply = lambda device, reply: replies.append(reply)
    spec = spec_of(Behaviour(lasts_ms, lasts_ms, 0))
    device.handle(SubmitRequested(1, spec, "key"))
    return replies


def _held(world: World, index: int = 0) -> bool:
    node = world.devices[index].node
    assert node is not None
    return bool(node.jobs) and all(held.done for held in node.jobs.values())


def test_devices_find_each_other_and_run_a_job() -> None:
    world, _ = _lab()
    assert all(len(d.node.membership.alive()) == 2 for d in world.devices if d.node)
    replies = _run_job(world, world.devices[0])
    assert replies == []  # not before it is durable
    world.heap.run(10.0)
    assert [reply.error for reply in replies] == [""]
    assert _held(world)
    assert any(task.code == 0 for d in world.devices for task in d.host.tasks.values())


def test_effects_wait_for_the_saves_before_them() -> None:
    world, _ = _lab()
    device = world.devices[0]
    before = len(device.disk.rows["meta"])
    told: list[int] = []
    world.on_reply = lambda device, reply: told.append(len(device.disk.rows["meta"]))
    for effect in (Reply(1), Save((("meta", "test", b"1"),)), Reply(2), Tell("x", "y"), Reply(3)):
        device._take(effect)
    assert told == [before]
    world.heap.run(world.heap.now + 1.0)
    assert told == [before, before + 1, before + 1]


def test_a_crash_loses_what_was_not_durable_and_says_nothing() -> None:
    world, _ = _lab()
    device = world.devices[0]
    replies = _run_job(world, device)
    device.crash()
    world.heap.run(8.0)
    assert replies == []
    assert not device.listening
    device.start_agent()
    assert device.node is not None
    assert device.node.jobs == {} or device.disk.rows["job"]


def test_a_task_outlives_its_agent_and_its_result_is_learnt() -> None:
    world, _ = _lab()
    _run_job(world, world.devices[0], lasts_ms=4000)
    world.heap.run(7.0)
    (worker,) = [device for device in world.devices if device.host.running]
    worker.crash()
    world.heap.run(12.0)
    assert not worker.host.running
    worker.start_agent()
    world.heap.run(40.0)
    assert all(_held(world, d.index) for d in world.devices if d.node and d.node.jobs)


def test_a_frozen_device_hears_everything_later() -> None:
    world, lines = _lab()
    device = world.devices[1]
    device.freeze()
    del lines[:]
    world.heap.run(8.0)
    assert not [line for line in lines if line.split()[1] == "1"]
    device.thaw()
    assert any("LoopLagged" in line for line in lines)
    assert any(line.split()[1:3] == ["1", "<-"] for line in lines)


def test_a_failed_save_reads_the_disk_again_and_keeps_links_and_tasks() -> None:
    world, lines = _lab()
    device = world.devices[0]
    links = world.network.neighbours(0)
    first = device.node
    world.save_failures = 1.0
    _run_job(world, device)
    world.heap.run(5.05)
    world.save_failures = 0.0
    assert device.node is not first
    assert any("save failed" in line for line in lines)
    assert world.network.neighbours(0) == links
    world.heap.run(9.0)
    assert len(device.node.membership.alive()) == 2 if device.node else False


def test_clocks_run_apart_and_agree_with_themselves() -> None:
    clocks = Clocks(wall_offset_s=3.0, rate=1.25, started=10.0)
    now = clocks.read(18.0)
    assert (now.mono, now.wall) == (10.0, EPOCH_S + 3.0 + 22.5)
    assert clocks.time_of(now.mono) == 18.0


def test_a_node_that_spins_is_noticed() -> None:
    world, lines = _lab()
    device = world.devices[0]

    class Spinning:
        deadline = 0.0

        def handle(self, event: object, now: object) -> list[object]:
            assert isinstance(event, DeadlinePassed)
            return []

    device.node = Spinning()  # type: ignore[assignment]
    device._arm()
    before = device.lives
    world.heap.run(world.heap.now + 0.5)
    assert device.lives > before
    assert any("killed" in line for line in lines)


def test_a_buried_device_stays_dark() -> None:
    world, _ = _lab()
    device = world.devices[2]
    device.buried = True
    device.power_off()
    device.power_on()
    device.start_agent()
    world.heap.run(30.0)
    assert not device.listening
    assert all(device.peer not in d.node.membership.alive() for d in world.devices if d.node)


def test_a_device_without_a_battery_learns_the_time_it_had_and_its_agent_hears_of_it() -> None:
    world, lines = _lab()
    device = world.devices[0]
    device.clocks.forgetful, device.clocks.wall_offset_s = True, 7.0
    for _ in range(2):  # the second cut comes before it has learnt anything
        device.power_off()
        device.power_on()
        assert not device.now().wall_trusted and device.now().wall < EPOCH_S
    del lines[:]
    world.heap.run(world.heap.now + 61.0)
    assert device.now().wall_trusted and device.clocks.wall_offset_s == 7.0
    assert sum("FactsSampled" in line for line in lines if line.split()[1] == "0") == 1
