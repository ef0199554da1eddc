"""One run: a shoal, its faults and its people, all drawn from one seed, until all is quiet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from protocol.config import NodeConfig
from protocol.records import Role
from protocol.sim import broker
from protocol.sim.device import Described, Device
from protocol.sim.faults import Faults, Script
from protocol.sim.heap import Heap
from protocol.sim.invariants import Invariants, Violation
from protocol.sim.keepers import Keepers
from protocol.sim.keyring import EVERY_ROLE, Root
from protocol.sim.metered import put_on_metered_links
from protocol.sim.nats import put_behind
from protocol.sim.network import Network
from protocol.sim.people import People
from protocol.sim.publishers import Publishers
from protocol.sim.quiet import unrest
from protocol.sim.rogue import schedule_rogue
from protocol.sim.scenarios import MIXED, SCENARIOS, Scenario
from protocol.sim.timers import Timers
from protocol.sim.trace import Trace
from protocol.sim.world import World

QUIET_S: Final = 300.0  # after healing; queue, leases and retries of every job drawn fit in
LEAF_S: Final = 600.0  # more where a leaf's death has to be known, and known to other leaves
LOOK_S: Final = 1.0  # how often it is looked whether all is quiet
STAY_S: Final = 3.0  # it must stay so
BOOTSTRAP: Final = 2  # addresses each device is configured with
WORKING: Final = (Role.COMPUTE,)
OPERATING: Final = (Role.COMPUTE, Role.SUBMIT, Role.OPERATE)


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is drawn from beside its seed."""

    peers: int = 12
    jobs: int = 8
    daemons: int = 3
    services: int = 2
    scenario: str = MIXED
    faults: Faults | None = None  # instead of the scenario's
    schedules: int = 2  # at most; each keeps a run going for longer
    triggers: int = 1  # at most, likewise


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one run."""

    seed: int
    scenario: str
    digest: str
    violations: tuple[Violation, ...]
    faults: str
    seconds: float  # simulated
    steps: int
    jobs: int  # acknowledged
    executions: int
    frames: int
    commits: int


def run(seed: int, options: Options, line: Callable[[str], None] | None = None) -> Outcome:
    """Run one seed to its end. `line` is given the trace as it happens."""
    scenario = SCENARIOS[options.scenario]
    peers = scenario.peers or options.peers
    name = f"{seed}/{peers}" if scenario.name == MIXED else f"{seed}/{peers}/{scenario.name}"
    world = build(name, peers, Random(f"{name}/shape"), Trace(line), scenario)
    faults = options.faults or scenario.faults(Random(f"{name}/faults"))
    if faults.nats:
        put_behind(world, faults.nats, Random(f"{name}/nats"))
    if faults.leaves:
        put_on_metered_links(world, faults.leaves, Random(f"{name}/leaves"))
    invariants = Invariants(world, seed, exclusive=faults.clean, steady=faults.steady)
    world.watcher = invariants
    people = People(world, invariants, Random(f"{name}/people"), faults.heal_s)
    people.volumes = scenario.volumes
    people.draw(options.jobs)
    if faults.broker:
        rng = Random(f"{name}/broker")
        broker.set_up(world, people, faults.outages, rng, faults.heal_s)
    keepers = Keepers(
        world,
        invariants.standing,
        Random(f"{name}/keepers"),
        faults.heal_s,
        invariants.services.contested,
    )
    if scenario.volumes:
        keepers.volumes = invariants.volumes.deleted
    keepers.draw(options.daemons, options.services)
    rng = Random(f"{name}/timers")
    timers = Timers(world, invariants.schedules, rng, faults.heal_s)
    timers.draw(rng.randint(0, options.schedules))
    rng = Random(f"{name}/publishers")
    publishers = Publishers(world, invariants.triggers, rng, faults.heal_s, not faults.clean)
    publishers.draw(rng.randint(0, options.triggers))
    script = Script(world, faults, Random(f"{name}/script"))
    script.schedule()
    rng = Random(f"{name}/rogue")
    for _ in range(faults.rogues):
        schedule_rogue(world, rng)
    world.heap.run(faults.heal_s)
    quiet_s = QUIET_S + (LEAF_S if faults.leaves else 0.0)
    callers = (people, keepers, timers, publishers)
    _settle(world, callers, invariants, faults.heal_s + quiet_s)
    traffic = world.network.traffic
    return Outcome(
        seed=seed,
        scenario=scenario.name,
        digest=world.trace.digest,
        violations=tuple(invariants.violations),
        faults=faults.text,
        seconds=world.heap.now,
        steps=world.heap.steps,
        jobs=len(invariants.acknowledged),
        executions=invariants.executions,
        frames=sum(each.frames for each in traffic),
        commits=sum(device.disk.commits for device in world.devices),
    )


def build(
    name: str, peers: int, rng: Random, trace: Trace, scenario: Scenario = SCENARIOS[MIXED]
) -> World:
    """A shoal of devices that are not alike; they boot within the first seconds."""
    heap = Heap()
    network = Network(heap, Random(f"{name}/network"), [])
    world = World(heap, network, trace, Random(f"{name}/devices"), name)
    root = Root(name)
    for index in range(peers):
        roles = _draw_roles(index, rng)
        described = Described(
            cpu_m=rng.choice((1000, 2000, 4000)),
            memory_bytes=rng.choice((1, 2, 4)) * 1024**3,
            labels={"zone": rng.choice(("attic", "cellar", "garden"))},
        )
        others = [other for other in range(peers) if other != index]
        bootstrap = tuple(rng.sample(others, min(BOOTSTRAP, len(others))))
        keyring = root.member(index, roles)
        config = _draw_config(scenario.config, Random(f"{name}/config/{index}"))
        device = Device(world, index, keyring, config, described, bootstrap)
        world.add(device)
        heap.at(rng.uniform(0.0, scenario.boot_s), device.power_on)
    network.start()
    return world


def _draw_config(config: NodeConfig, rng: Random) -> NodeConfig:
    """Some devices soon forget what ended: then it is fences and journals that remember."""
    if rng.random() < 0.7:
        return config
    return replace(config, coordination=replace(config.coordination, executions_kept=1))


def _draw_roles(index: int, rng: Random) -> tuple[str, ...]:
    """Most may submit, the first always; some only work, some operate other people's jobs."""
    if index and rng.random() < 0.15:
        return WORKING
    return OPERATING if rng.random() < 0.2 else EVERY_ROLE


def _settle(
    world: World,
    callers: Sequence[People | Keepers | Timers | Publishers],
    invariants: Invariants,
    end: float,
) -> None:
    """Run on until all is quiet and stays so; what is not quiet in the end is a violation."""
    while world.heap.now < end and not invariants.violations:
        busy = any(caller.busy for caller in callers)
        if not busy and not unrest(world, invariants):
            world.heap.run(world.heap.now + STAY_S)
            if not unrest(world, invariants):
                return
        world.heap.run(world.heap.now + LOOK_S)
    if invariants.violations:  # what follows from them says nothing more
        return
    for device, text in unrest(world, invariants):
        invariants.violate(device, text)
    if any(caller.busy for caller in callers):
        invariants.violate(-1, "somebody who called was never answered")
