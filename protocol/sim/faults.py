"""The fault script of a run: what goes wrong, when, to whom and for how long."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from protocol.sim.device import Described, Device
from protocol.sim.network import Conditions
from protocol.sim.world import World

FIRST_S: Final = 3.0  # the shoal has found itself by then
DELAY_MAX_S: Final = 0.1  # one way; there and back through a relay within probe_timeout_s
HEAL_S: Final = 45.0  # from here on nothing more goes wrong


@dataclass(slots=True)
class Faults:
    """Which families of faults a run has. None of them: a clean run."""

    conditions: Conditions = field(default_factory=Conditions)
    crashes: int = 0
    power_cuts: int = 0
    burials: int = 0  # devices that go dark for good; no more than one is promised to be survived
    freezes: int = 0
    partitions: int = 0
    deaf: int = 0  # one-way cuts of a single device
    slow: int = 0
    skew_s: float = 0.0  # wall clocks are off by up to this
    drift: float = 0.0  # and every clock runs this much faster or slower, at most
    untrusted: bool = False  # some devices have no clock that they trust
    save_failures: float = 0.0
    start_failures: float = 0.0
    amnesia: bool = False  # one device loses its database, and its power for a moment
    rogues: int = 0  # members without `submit` that order work all the same
    flaps: int = 0  # links that come and go, and single directions of them
    boundaries: int = 0  # crashes just before or just after something is saved, sent or started
    black_holes: float = 0.0  # share of the devices whose engines take tasks and never start them
    absences: int = 0  # devices that are off until everything heals
    forgetful: float = 0.0  # share of the devices that boot in 1970 and learn the time later
    nats: int = 0  # networks that nobody outside can dial into
    leaves: int = 0  # devices on metered links, whose death is known in minutes
    broker: bool = False  # there is an MQTT broker, and jobs publish their results there
    outages: int = 0  # of it
    part_s: tuple[float, float] = (1.0, 25.0)  # how long partitions last
    heal_s: float = HEAL_S  # from here on nothing more goes wrong
    moods: int = 0  # devices drain or change a label for a while; asked for, and never drawn

    @property
    def clean(self) -> bool:
        """Whether nobody is ever cut off, lost, or wrongly thought so."""
        wild = self.conditions.loss or self.conditions.reorder or self.conditions.duplicate
        cuts = self.crashes + self.power_cuts + self.burials + self.freezes + self.boundaries
        cuts += self.absences
        cuts += self.partitions + self.deaf + self.flaps + self.amnesia
        return not (wild or cuts or self.save_failures or self.black_holes)

    @property
    def steady(self) -> bool:
        """Whether devices may go down, but those that do not are always well to be heard."""
        c = self.conditions
        wild = c.loss or c.reorder or c.duplicate or c.delay_s[1] > DELAY_MAX_S
        cuts = self.partitions + self.deaf + self.flaps + self.freezes + self.slow
        return not (wild or cuts or self.save_failures or self.drift)

    @property
    def text(self) -> str:
        """The families that are there, for people."""
        c = self.conditions
        named = {
            "loss": c.loss,
            "duplication": c.duplicate,
            "reordering": c.reorder,
            "garbage": c.garble,
            "crashes": self.crashes,
            "power cuts": self.power_cuts,
            "burials": self.burials,
            "freezes": self.freezes,
            "partitions": self.partitions,
            "one-way cuts": self.deaf,
            "slow peers": self.slow,
            "clock skew": self.skew_s,
            "failed saves": self.save_failures,
            "failed starts": self.start_failures,
            "a lost database": self.amnesia,
            "rogues": self.rogues,
            "flapping links": self.flaps,
            "boundary crashes": self.boundaries,
            "black holes": self.black_holes,
            "NATs": self.nats,
            "metered links": self.leaves,
            "absences": self.absences,
            "forgetful clocks": self.forgetful,
            "moods": self.moods,
            "a broker": self.broker,
            "its outages": self.outages,
        }
        return ", ".join(name for name, amount in named.items() if amount) or "clean"

    @classmethod
    def draw(cls, rng: Random) -> Faults:
        """One run in six is clean; the others have some families each, so that they mix.

        What was added later is drawn last: seeds that found something go on finding it.
        """
        faults = cls._drawn(rng)
        if rng.random() < 0.25:
            faults.nats = rng.choice((1, 2, 2, 3))
        if rng.random() < 0.15:
            faults.leaves = rng.randint(1, 4)
        if rng.random() < 0.3:
            faults.broker, faults.outages = True, rng.randint(0, 4)
        return faults

    @classmethod
    def _drawn(cls, rng: Random) -> Faults:
        faults = cls()
        if rng.random() < 0.2:
            faults.skew_s, faults.drift = rng.choice((0.5, 5.0, 120.0)), 0.01
            faults.untrusted = rng.random() < 0.3
        if rng.random() < 0.25:
            faults.start_failures = 0.15
        if rng.random() < 0.25:
            faults.conditions.garble = 0.02
        if rng.random() < 0.3:
            faults.rogues = rng.randint(1, 4)
        if rng.random() < 1 / 6:
            return faults
        for family in rng.sample(_FAMILIES, rng.randint(1, 4)):
            family(faults, rng)
        # Only one copy of anything is promised to be lost at a time.
        faults.amnesia = not faults.burials and rng.random() < 0.2
        return faults


def _losing(faults: Faults, rng: Random) -> None:
    faults.conditions.loss = rng.choice((0.01, 0.05, 0.15))


def _repeating(faults: Faults, rng: Random) -> None:
    faults.conditions.duplicate = rng.choice((0.02, 0.2))
    faults.conditions.reorder = rng.choice((0.0, 0.1, 0.3))


def _lagging(faults: Faults, rng: Random) -> None:
    faults.conditions.delay_s = rng.choice(((0.01, 0.08), (0.05, 0.4)))


def _crashing(faults: Faults, rng: Random) -> None:
    faults.crashes = rng.randint(1, 6)


def _losing_power(faults: Faults, rng: Random) -> None:
    faults.power_cuts = rng.randint(1, 4)


def _burying(faults: Faults, rng: Random) -> None:
    faults.burials = 1


def _freezing(faults: Faults, rng: Random) -> None:
    faults.freezes = rng.randint(1, 3)


def _parting(faults: Faults, rng: Random) -> None:
    faults.partitions = rng.randint(1, 3)


def _deafening(faults: Faults, rng: Random) -> None:
    faults.deaf = rng.randint(1, 3)


def _slowing(faults: Faults, rng: Random) -> None:
    faults.slow = rng.randint(1, 2)


def _failing_saves(faults: Faults, rng: Random) -> None:
    faults.save_failures = rng.choice((0.005, 0.03))


_FAMILIES: Final = (
    _losing,
    _repeating,
    _lagging,
    _crashing,
    _crashing,  # what the product promises most about comes up twice as often
    _losing_power,
    _burying,
    _burying,
    _freezing,
    _parting,
    _deafening,
    _slowing,
    _failing_saves,
)


@dataclass(slots=True)
class Script:
    """Puts the faults of a run on the heap, and takes every one of them back at HEAL_S."""

    world: World
    faults: Faults
    rng: Random
    _cuts: list[tuple[int, int]] = field(default_factory=list)
    _calm_moods: dict[int, Described] = field(default_factory=dict)  # as each was before any

    def schedule(self) -> None:
        world, faults = self.world, self.faults
        world.network.conditions = faults.conditions
        world.save_failures = faults.save_failures
        world.start_failures = faults.start_failures
        for device in world.devices:
            device.clocks.wall_offset_s = self.rng.uniform(-faults.skew_s, faults.skew_s)
            device.clocks.rate = 1.0 + self.rng.uniform(-faults.drift, faults.drift)
            device.clocks.wall_trusted = not (faults.untrusted and self.rng.random() < 0.3)
        for _ in range(faults.slow):
            self._victim().slowness = self.rng.choice((0.02, 0.1, 0.4))
        for _ in range(faults.crashes):
            self._at(self._crash, self._pause())
        for _ in range(faults.power_cuts):
            self._at(self._cut_power, self._pause())
        for _ in range(faults.burials):
            self._at(self._bury)
        if faults.amnesia:
            self._at(self._lose_database, self._pause())
        for _ in range(faults.freezes):
            self._at(self._freeze, self.rng.uniform(0.5, 20.0))
        for _ in range(faults.partitions):
            self._at(self._part, self._halves(), self.rng.uniform(*faults.part_s))
        for _ in range(faults.deaf):
            self._at(self._deafen, self.rng.uniform(1.0, 20.0))
        for _ in range(faults.flaps):
            self._at(self._flap, self._one_way(), self.rng.uniform(5.0, 30.0))
        for _ in range(faults.boundaries):
            self._at(self._arm, self.rng.randrange(12), self._pause())
        for _ in range(faults.absences):
            world.heap.at(self.rng.uniform(FIRST_S, 0.3 * faults.heal_s), self._send_away)
        for device in world.devices:
            device.clocks.forgetful = faults.forgetful > 0 and self.rng.random() < faults.forgetful
            if faults.black_holes and self.rng.random() < faults.black_holes:
                device.host.swallows = True
        for _ in range(faults.moods):
            self._at(self._change_mood, self.rng.uniform(0.1, 15.0))
        world.heap.at(faults.heal_s, self._heal)

    def _at(self, call: object, *arguments: object) -> None:
        assert callable(call)
        self.world.heap.at(self.rng.uniform(FIRST_S, self.faults.heal_s - 2.0), call, *arguments)

    def _victim(self) -> Device:
        return self.rng.choice(self.world.devices)

    def _busy_victim(self) -> Device:
        """Somebody at random, but rather one that runs or coordinates something just now."""
        busy = [d for d in self.world.devices if d.host.running or _leads(d)]
        return self.rng.choice(busy) if busy and self.rng.random() < 0.7 else self._victim()

    def _pause(self) -> float:
        """Back at once, as a supervisor restarts it, or after it was given up."""
        return self.rng.choice((0.05, 0.4, 1.0, 3.0, 10.0, 25.0)) * self.rng.uniform(0.5, 1.5)

    def _crash(self, pause_s: float) -> None:
        device = self._busy_victim()
        device.crash()
        self.world.heap.after(pause_s, device.start_agent)

    def _cut_power(self, pause_s: float) -> None:
        device = self._busy_victim()
        device.power_off()
        self.world.heap.after(1.0 + pause_s, device.power_on)

    def _lose_database(self, pause_s: float) -> None:
        device = self._busy_victim()
        device.power_off()
        device.forget()
        self.world.heap.after(1.0 + pause_s, device.power_on)

    def _arm(self, boundary: int, pause_s: float) -> None:
        """Somebody busy will crash at its next boundary but so many, wherever that is."""
        device = self._busy_victim()

        def crash() -> None:
            device.crash()
            self.world.heap.after(pause_s, device.start_agent)

        device.boundary = (boundary, crash)

    def _flap(self, pairs: list[tuple[int, int]], left_s: float) -> None:
        """Down for a moment, up for a moment, over and over."""
        down, up = self.rng.uniform(0.2, 3.0), self.rng.uniform(0.2, 3.0)
        self._part(pairs, down)
        if left_s > down + up:
            self.world.heap.after(down + up, self._flap, pairs, left_s - down - up)

    def _send_away(self) -> None:
        self._busy_victim().power_off()

    def _bury(self) -> None:
        device = self._busy_victim()
        device.buried = True
        device.power_off()

    def _freeze(self, pause_s: float) -> None:
        device = self._busy_victim()
        device.freeze()
        self.world.heap.after(pause_s, device.thaw)

    def _change_mood(self, pause_s: float) -> None:
        """It drains, or belongs elsewhere; then it is as it was, so that every job can end."""
        device = self._busy_victim()
        mine = device.described
        self._calm_moods.setdefault(device.index, replace(mine, labels=dict(mine.labels)))
        if self.rng.random() < 0.5:
            device.described.draining = True
        else:
            device.described.labels["zone"] = self.rng.choice(("attic", "cellar", "garden", "lost"))
        self._tell(f"device {device.index} is {device.described}")
        device.describe()
        self.world.heap.after(pause_s, self._calm, device)

    def _calm(self, device: Device) -> None:
        before = self._calm_moods[device.index]
        device.described = replace(before, labels=dict(before.labels))
        device.describe()

    def _halves(self) -> list[tuple[int, int]]:
        """Two random groups that cannot hear each other."""
        side = [self.rng.random() < self.rng.choice((0.5, 0.2)) for _ in self.world.devices]
        count = range(len(side))
        return [(a, b) for a in count for b in count if side[a] != side[b]]

    def _deafen(self, pause_s: float) -> None:
        self._part(self._one_way(), pause_s)

    def _one_way(self) -> list[tuple[int, int]]:
        """One device that hears nobody, or that nobody hears, or a single direction."""
        victim = self._busy_victim().index
        others = [index for index in range(len(self.world.devices)) if index != victim]
        kind = self.rng.choice(("deaf", "mute", "link"))
        if kind == "deaf":
            return [(other, victim) for other in others]
        if kind == "mute":
            return [(victim, other) for other in others]
        return [(victim, self.rng.choice(others))]

    def _part(self, pairs: list[tuple[int, int]], pause_s: float) -> None:
        for pair in pairs:
            self.world.network.cut(*pair)
        self._cuts += pairs
        self._tell(f"{len(pairs)} directions are cut for {pause_s:.1f} s")
        self.world.heap.after(pause_s, self._mend, pairs)

    def _mend(self, pairs: list[tuple[int, int]]) -> None:
        for pair in pairs:
            if pair in self._cuts:
                self._cuts.remove(pair)
                self.world.network.heal(*pair)

    def _heal(self) -> None:
        """Every link whole, every device up, nothing fails any more."""
        self._tell("everything heals")
        self.world.network.conditions = Conditions()
        self.world.save_failures = self.world.start_failures = 0.0
        self._mend(list(self._cuts))
        for device in self.world.devices:
            device.slowness = 0.0
            device.boundary = None
            device.host.swallows = False
            device.thaw()
            device.power_on()
            device.start_agent()

    def _tell(self, text: str) -> None:
        self.world.trace.note(self.world.heap.now, -1, text)
        self.world.trace.tell(self.world.heap.now, -1, text)


def _leads(device: Device) -> bool:
    node = device.node
    return node is not None and any(
        not held.done and held.coordinator == device.peer for held in node.jobs.values()
    )
