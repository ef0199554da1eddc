"""Scale: what an idle peer sends in a shoal of a given size, and what one job costs all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final

from protocol.config import NodeConfig
from protocol.effects import Effect, Save, Send, StartTask
from protocol.events import Event, GossipReceived, PeerConnected, SubmitRequested
from protocol.job import JobSpec, Plain
from protocol.messages import Rumours
from protocol.sim.device import Described, Device
from protocol.sim.heap import Heap
from protocol.sim.keyring import Root
from protocol.sim.network import Network
from protocol.sim.tasks import Behaviour, Task
from protocol.sim.trace import Trace
from protocol.sim.world import World
from protocol.wire import encode_message

SETTLE_S: Final = 30.0  # links are chosen, and all have compared adverts with their neighbours
IDLE_S: Final = 60.0
JOBS: Final = 20
JOB_EVERY_S: Final = 1.0
JOB_TAIL_S: Final = 5.0  # the last one's end, and what follows it
RUMOURS_PER_FRAME: Final = 64
TASK: Final = Behaviour(200, 200, 0)
FOREVER: Final = Behaviour(10**9, 10**9, 0)
ATTACH_S: Final = 60.0  # by then the slowest must have it
ATTACH_LOOK_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Census:
    """Of one size. Bytes are those at the socket: framing and encryption included."""

    peers: int
    idle_frames: float  # sent per peer and minute
    idle_bytes: float  # the same
    job_frames: float  # per job, all peers together
    job_bytes: float  # the same, handshakes of connections made for it included
    ended: int  # of JOBS jobs, with success
    attached: int  # peers that run the daemon that one of them was asked to run
    attach_s: float  # from the request to the start on the last of them
    attach_bytes: float  # sent per peer for that, beside what an idle peer sends


def measure(peers: int) -> Census:
    """Run a shoal of `peers` that know each other: idle first, then with a few small jobs."""
    world = _shoal(peers)
    world.heap.run(SETTLE_S)
    before = _totals(world)
    world.heap.run(SETTLE_S + IDLE_S)
    after = _totals(world)
    minutes = IDLE_S / 60 * peers
    frames, size = (end - start for start, end in zip(before[:2], after[:2], strict=True))
    _submit(world, Random(f"scale/{peers}/people"))
    world.heap.run(world.heap.now + JOBS * JOB_EVERY_S + JOB_TAIL_S)
    end = _totals(world)
    attached, attach_s, attach_bytes = _attach(world, size / IDLE_S)
    return Census(
        peers=peers,
        idle_frames=frames / minutes,
        idle_bytes=size / minutes,
        job_frames=(end[2] - after[2]) / JOBS,
        job_bytes=(end[3] - after[3]) / JOBS,
        ended=len({job for device in world.devices for job in _ended(device)}),
        attached=attached,
        attach_s=attach_s,
        attach_bytes=attach_bytes / peers,
    )


def _shoal(peers: int) -> World:
    """Peers that are alike, all up, each with everybody's advert: no storm of joins."""
    name, heap = f"scale/{peers}", Heap()
    world = World(heap, Network(heap, Random(f"{name}/network"), []), Trace(), Random(name), name)
    root, adverts = Root(name), _Adverts()
    for index in range(peers):
        keyring, neighbour = root.member(index), (index + 1) % peers
        world.add(Device(world, index, keyring, NodeConfig(), Described(), (neighbour,)))
    world.network.start()
    world.watcher = adverts
    for device in world.devices:
        device.power_on()
    heap.run(1.0)
    for frame in adverts.frames():
        for device in world.devices:
            device.handle(GossipReceived(frame))
    world.watcher = None
    return world


@dataclass(slots=True)
class _Adverts:
    """Collects what each peer says of itself when it meets its first neighbour."""

    found: dict[int, bytes] = field(default_factory=dict)

    def frames(self) -> Iterator[bytes]:
        """All of them, as gossip would bring them."""
        records = list(self.found.values())
        for at in range(0, len(records), RUMOURS_PER_FRAME):
            yield encode_message(Rumours(tuple(records[at : at + RUMOURS_PER_FRAME])))

    def handled(self, device: Device, event: Event, effects: list[Effect]) -> None:
        if isinstance(event, PeerConnected):
            for effect in effects:
                if isinstance(effect, Send) and isinstance(effect.message, Rumours):
                    self.found.setdefault(device.index, effect.message.records[0])

    def booted(self, device: Device) -> None: ...

    def forgot(self, device: Device) -> None: ...

    def committed(self, device: Device, save: Save) -> None: ...

    def leaving(self, device: Device, effect: Effect) -> None: ...

    def began(self, device: Device, start: StartTask, task: Task) -> None: ...

    def broke(self, device: Device, text: str) -> None:
        raise AssertionError(f"node {device.index}: {text}")


def _totals(world: World) -> tuple[int, int, int, int]:
    traffic = world.network.traffic
    return (
        sum(each.frames + each.gossips for each in traffic),
        sum(each.bytes for each in traffic),
        sum(each.job_frames for each in traffic),
        sum(each.job_bytes for each in traffic),
    )


def _submit(world: World, rng: Random) -> None:
    engine: Plain = {"Type": "process", "Params": {"Command": list(TASK.command)}}
    spec = JobSpec.from_plain({"Name": "job", "Type": "batch", "Tasks": [{"Engine": engine}]})
    for number in range(JOBS):
        device = rng.choice(world.devices)
        event = SubmitRequested(number, spec, f"key-{number}")
        world.heap.after(number * JOB_EVERY_S, device.handle, event)


def _attach(world: World, idle_bytes_s: float) -> tuple[int, float, float]:
    """Run a daemon from one peer: on how many it starts, how soon, and the bytes that takes."""
    engine: Plain = {"Type": "process", "Params": {"Command": list(FOREVER.command)}}
    spec = JobSpec.from_plain({"Name": "daemon", "Type": "daemon", "Tasks": [{"Engine": engine}]})
    began, before = world.heap.now, _totals(world)[1]
    world.devices[0].handle(SubmitRequested(JOBS, spec, "daemon"))
    while world.heap.now < began + ATTACH_S:
        world.heap.run(world.heap.now + ATTACH_LOOK_S)
        if all(any(task.daemon for task in device.host.running) for device in world.devices):
            break
    took = world.heap.now - began
    attached = sum(any(task.daemon for task in device.host.running) for device in world.devices)
    return attached, took, max(0.0, _totals(world)[1] - before - idle_bytes_s * took)


def _ended(device: Device) -> Iterator[str]:
    assert device.node is not None
    for job, held in device.node.jobs.items():
        if held.done and all(s.acceptance and s.acceptance.verdict == 0 for s in held.slots):
            yield job
