"""Timers: who has something run again and again, until all has been well for a while."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Final

from protocol.constraints import explain_all
from protocol.effects import Reply
from protocol.events import SubmitRequested
from protocol.ids import JobId, job_id
from protocol.job import JobSpec, Plain
from protocol.sim.device import Device
from protocol.sim.faults import HEAL_S
from protocol.sim.keepers import ZONES
from protocol.sim.schedulewatch import ScheduleWatch
from protocol.sim.tasks import Behaviour
from protocol.sim.world import World

FIRST_REQUEST: Final = 2_000_000  # so that no request of other people's has the same number
PATIENCE_S: Final = 6.0
# After healing: clocks are trusted again within a minute, then one slot of the rarest schedule.
WATCHED_S: Final = 110.0
PERIODS_S: Final = (10, 20, 30)
OPS: Final = 0.35  # of the schedules are of ops jobs


@dataclass(slots=True)
class Timer:
    """One schedule: submitted, and watched to the end."""

    name: str
    device: int
    spec: JobSpec
    accepted: bool = False
    over: bool = False


@dataclass(slots=True)
class Timers:
    """All schedules of a run."""

    world: World
    watch: ScheduleWatch
    rng: Random
    heal_s: float = HEAL_S
    timers: list[Timer] = field(default_factory=list)
    _requests: dict[int, Timer] = field(default_factory=dict)
    _count: int = FIRST_REQUEST

    def draw(self, schedules: int) -> None:
        """Put them on the heap; the first third of the run sees them submitted."""
        kinds = Random(f"{self.world.seed}/kinds of timers")  # apart: all else is drawn as ever
        for number in range(schedules):
            device = self.rng.randrange(len(self.world.devices))
            name = f"timer-{number}"
            spec = draw_schedule(name, self.rng)
            spec = of_ops(spec, kinds) if kinds.random() < OPS else spec
            timer = Timer(name, device, spec)
            self.timers.append(timer)
            self.world.heap.at(self.rng.uniform(0.5, self.heal_s / 3), self._ask, timer)
            self.world.heap.at(self.heal_s + WATCHED_S, self._end, timer)
        before = self.world.on_reply

        def on_reply(device: Device, reply: Reply) -> None:
            if reply.request >= FIRST_REQUEST:
                self._on_reply(reply)
            elif before is not None:
                before(device, reply)

        self.world.on_reply = on_reply

    @property
    def busy(self) -> bool:
        return any(not timer.over for timer in self.timers)

    def job(self, timer: Timer) -> JobId:
        return job_id(self.world.devices[0].keyring.shoal, "default", "standing", timer.name)

    def _ask(self, timer: Timer) -> None:
        """Here or, where nobody is at home, at another device, until somebody answers."""
        if timer.accepted or timer.over:
            return
        device = self.world.devices[timer.device]
        if device.responsive:
            self._count += 1
            self._requests[self._count] = timer
            device.handle(SubmitRequested(self._count, timer.spec, timer.name))
        timer.device = self.rng.randrange(len(self.world.devices))
        self.world.heap.after(PATIENCE_S, self._ask, timer)

    def _on_reply(self, reply: Reply) -> None:
        timer = self._requests[reply.request]
        timer.accepted = timer.accepted or not reply.error

    def _end(self, timer: Timer) -> None:
        """All has been well for a while: it has run since then."""
        timer.over, self.world.cron.over = True, True
        job = self.job(timer)
        latest = self.watch.handled_at.get(job, 0.0)
        if timer.accepted and self._known(job) and self._fits(timer) and latest < self.heal_s:
            text = f"{timer.name} has not run since all is well: last at {latest:.1f}"
            self.watch.violate(-1, text)

    def _fits(self, timer: Timer) -> bool:
        """Somebody may run it: their owners move devices from zone to zone."""
        devices = [device for device in self.world.devices if not device.buried]
        constraints = timer.spec.constraints
        return any(not explain_all(constraints, device.described.labels) for device in devices)

    def _known(self, job: JobId) -> bool:
        """Unless whoever accepted it went dark before telling anybody."""
        nodes = [device.node for device in self.world.devices if device.node is not None]
        return any(job in node.steward.standing.jobs for node in nodes)


def draw_schedule(name: str, rng: Random) -> JobSpec:
    """A schedule: how often, who runs it, what happens to runs that meet."""
    behaviour = Behaviour(50, rng.choice((200, 2_000, 15_000)), rng.choice((0, 300)))
    tree: dict[str, Plain] = {
        "Name": name,
        "Type": "batch",
        "Schedule": {
            "Cron": f"*/{rng.choice(PERIODS_S)} * * * * *",
            "Overlap": rng.choice(("skip", "allow", "replace")),
            "CatchUp": rng.choice((0, 1)),
            "Scope": rng.choice(("once", "once", "once", "each")),
        },
        "Tasks": [
            {
                "Engine": {"Type": "process", "Params": {"Command": list(behaviour.command)}},
                "Resources": {"CPU": "50m", "Memory": "16Mi"},
                "Timeouts": {"QueueTimeout": 20, "ExecutionTimeout": 20, "TotalTimeout": 60},
            }
        ],
    }
    return JobSpec.from_plain(tree)


def of_ops(schedule: JobSpec, rng: Random) -> JobSpec:
    """The same of an ops job, for every device or for those of one zone."""
    tree = {**schedule.to_plain(), "Type": "ops"}
    del tree["Count"], tree["Retry"]
    if rng.random() < 0.5:
        zones: list[Plain] = [rng.choice(ZONES)]
        tree["Constraints"] = [{"Key": "zone", "Operator": "=", "Values": zones}]
    return JobSpec.from_plain(tree)
