"""Keepers: who runs, changes, stops and deletes daemons, and relabels devices; from the seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Final

import msgspec

from protocol.effects import Reply
from protocol.events import ControlRequested, Event, SubmitRequested
from protocol.ids import JobId, job_id
from protocol.job import JobSpec, Plain
from protocol.records import Desired
from protocol.sim.device import Device
from protocol.sim.faults import HEAL_S
from protocol.sim.standingwatch import StandingWatch
from protocol.sim.tasks import Behaviour
from protocol.sim.world import World
from protocol.volumes import Volume

SERVICE: Final = "service-"  # how its name begins
FIRST_REQUEST: Final = 1_000_000  # so that no request of other people's has the same number
PATIENCE_S: Final = 6.0  # a call that is not answered by then is repeated
TRIES_MAX: Final = 30
LIVES_MS: Final = ((10**7, 10**8), (10**7, 10**8), (5_000, 40_000), (100, 2_000))
ZONES: Final = ("attic", "cellar", "garden")
ACTS: Final = ("update", "update", "stop", "delete", "again", "relabel", "relabel")


@dataclass(slots=True)
class Wish:
    """One thing that one person wants done, and asks for until somebody answers."""

    event: str  # what it is, see ACTS
    name: str
    device: int
    number: int
    tries: int = 0
    over: bool = False


@dataclass(slots=True)
class Keepers:
    """All wishes of a run, and what became of them."""

    world: World
    watch: StandingWatch
    rng: Random
    heal_s: float = HEAL_S  # what they wish is spread over this time
    contested: dict[JobId, None] = field(default_factory=dict)  # services run at several devices
    wishes: list[Wish] = field(default_factory=list)
    volumes: dict[JobId, None] | None = None  # services keep some; those deleted, which begin anew
    _requests: dict[int, Wish] = field(default_factory=dict)
    _askers: dict[str, dict[int, None]] = field(default_factory=dict)
    _count: int = FIRST_REQUEST

    def draw(self, daemons: int, services: int = 0) -> None:
        """Put the wishes on the heap; some are made at two devices at one moment."""
        names = [f"daemon-{number}" for number in range(daemons)]
        for name in [*names, *(f"{SERVICE}{number}" for number in range(services))]:
            at = self.rng.uniform(0.5, self.heal_s / 3)
            self._place("update", name, at)
            for _ in range(self.rng.randint(0, 4)):
                at += self.rng.choice((0.0, 0.3, 4.0, 15.0))
                event = self.rng.choice(ACTS)
                self._place(event, name, at)
                if self.rng.random() < 0.2:
                    self._place(event, name, at)
        before = self.world.on_reply

        def on_reply(device: Device, reply: Reply) -> None:
            if reply.request >= FIRST_REQUEST:
                self._on_reply(device, reply)
            elif before is not None:
                before(device, reply)

        self.world.on_reply = on_reply

    @property
    def busy(self) -> bool:
        return any(not wish.over for wish in self.wishes)

    def _place(self, event: str, name: str, at: float) -> None:
        device = self.rng.randrange(len(self.world.devices))
        wish = Wish(event, name, device, len(self.wishes))
        self.wishes.append(wish)
        at *= self.heal_s / HEAL_S
        self.world.heap.at(min(at, self.heal_s - 1.0), self._ask, wish)

    def _ask(self, wish: Wish) -> None:
        """Here or, where nobody is at home, at another device."""
        if wish.over:
            return
        device = self.world.devices[wish.device]
        if wish.event == "relabel":
            wish.over = True
            self._relabel(device)
            return
        wish.tries += 1
        if wish.tries > TRIES_MAX:
            wish.over = True
        elif device.responsive:
            self._count += 1
            self._requests[self._count] = wish
            self.world.heap.after(PATIENCE_S, self._ask_again, wish, wish.tries)
            device.handle(self._event(wish, self._count))
        else:
            if self.rng.random() < 0.5:
                wish.device = self.rng.randrange(len(self.world.devices))
            self.world.heap.after(1.0, self._ask, wish)

    def _ask_again(self, wish: Wish, tries: int) -> None:
        if tries == wish.tries:
            self._ask(wish)

    def _event(self, wish: Wish, request: int) -> Event:
        if wish.event in ("stop", "delete"):
            desired = Desired.STOPPED if wish.event == "stop" else Desired.DELETED
            if wish.event == "delete" and self.volumes is not None:
                self.volumes[self.job(wish.name)] = None
            return ControlRequested(request, self.job(wish.name), desired)
        # "again" is the file as it was first run: it brings back what was stopped or deleted.
        edit = 0 if wish.event == "again" else wish.number
        draw = draw_service if wish.name.startswith(SERVICE) else draw_daemon
        if wish.event in ("update", "again"):
            self._note_contest(wish)
        spec = draw(wish.name, edit, Random(f"{self.world.seed}/{wish.name}/{edit}"))
        if self.volumes is not None:
            (task,) = spec.tasks
            name = "other" if edit % 3 == 1 else "data"  # which some updates rename, and go back
            kept = msgspec.structs.replace(task, volumes=(Volume(name, "data"),))
            spec = msgspec.structs.replace(spec, tasks=(kept,))
        return SubmitRequested(request, spec, f"{wish.name}/{wish.number}")

    def _note_contest(self, wish: Wish) -> None:
        """Whoever runs a new name coordinates it, and two may do so at once."""
        askers = self._askers.setdefault(wish.name, {})
        askers[wish.device] = None
        if len(askers) > 1:
            self.contested[self.job(wish.name)] = None

    def job(self, name: str) -> JobId:
        return job_id(self.world.devices[0].keyring.shoal, "default", "standing", name)

    def _relabel(self, device: Device) -> None:
        """Its owner moves the device; an agent that is down finds out when it starts."""
        mine = device.described
        mine.labels["zone"] = self.rng.choice(ZONES)
        self.world.note(device.index, "relabel", f"is in zone {mine.labels['zone']} now")
        device.describe()

    def _on_reply(self, device: Device, reply: Reply) -> None:
        wish = self._requests.get(reply.request)
        if wish is None or wish.over:
            return
        if reply.error:
            refused = "may" in reply.error or "known here" in reply.error or wish.tries > 3
            wish.over = refused
            if not refused:
                self.world.heap.after(1.0, self._ask, wish)
            return
        wish.over = True
        durable_on = reply.value.get("durable_on")
        if isinstance(durable_on, int):
            self.watch.told(device, self.job(wish.name), durable_on)


def draw_service(name: str, edit: int, rng: Random) -> JobSpec:
    """A service: how many slots, where, how long its task lives, how it is updated."""
    shortest, longest = rng.choice(LIVES_MS)
    behaviour = Behaviour(shortest, longest, rng.choice((0, 300, 1000)))
    tree: dict[str, Plain] = {
        "Name": name,
        "Type": "service",
        "Count": rng.choice((1, 2, 2, 3, 4)),
        "Spread": rng.random() < 0.8,
        "Meta": {"edit": str(edit)},
        "Update": {
            "MaxParallel": rng.choice((1, 2, 12)),
            "HealthyAfter": rng.choice((1, 2)),
            "OnFailure": rng.choice(("pause", "rollback")),
        },
        "Tasks": [
            {
                "Engine": {"Type": "process", "Params": {"Command": list(behaviour.command)}},
                "Resources": {"CPU": rng.choice(("50m", "400m")), "Memory": "16Mi"},
            }
        ],
    }
    if rng.random() < 0.2:
        tree["Constraints"] = [{"Key": "zone", "Operator": "=", "Values": [rng.choice(ZONES)]}]
    if rng.random() < 0.15:
        tree["Disconnect"] = {"StopAfter": rng.choice((12, 20))}
    return JobSpec.from_plain(tree)


def draw_daemon(name: str, edit: int, rng: Random) -> JobSpec:
    """A daemon: how long its task lives, where it belongs, how it is updated."""
    shortest, longest = rng.choice(LIVES_MS)
    behaviour = Behaviour(shortest, longest, rng.choice((0, 300, 1000)))
    tree: dict[str, Plain] = {
        "Name": name,
        "Type": "daemon",
        "Meta": {"edit": str(edit)},
        "Update": {
            "MaxParallel": rng.choice((1, 2, 12)),
            "HealthyAfter": rng.choice((1, 2)),
            "OnFailure": rng.choice(("pause", "rollback")),
        },
        "Tasks": [
            {
                "Engine": {"Type": "process", "Params": {"Command": list(behaviour.command)}},
                "Resources": {"CPU": "50m", "Memory": "16Mi"},
            }
        ],
    }
    if rng.random() < 0.4:
        tree["Constraints"] = [{"Key": "zone", "Operator": "=", "Values": [rng.choice(ZONES)]}]
    return JobSpec.from_plain(tree)
