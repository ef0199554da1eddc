"""People: who submits what where and when, who asks again, who stops what; drawn from the seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Final

from protocol.effects import Reply
from protocol.events import ControlRequested, SubmitRequested
from protocol.ids import JobId
from protocol.job import JobSpec, Plain
from protocol.moment import format_moment
from protocol.records import Desired
from protocol.sim.device import EPOCH_S, Device
from protocol.sim.faults import HEAL_S
from protocol.sim.invariants import Invariants
from protocol.sim.tasks import Behaviour
from protocol.sim.world import World

LAST_CALL_S: Final = 5.0  # before everything heals; nobody submits anything later than this
PATIENCE_S: Final = 6.0  # a call that is not answered by then is repeated
TRIES_MAX: Final = 30
OPS: Final = 0.3  # of the calls want an ops job


@dataclass(slots=True)
class Call:
    """One person who wants one job, and repeats the call until somebody answers for it."""

    number: int
    spec: JobSpec
    key: str
    at: float
    device: int
    stop_after_s: float | None = None
    tries: int = 0
    request: int = -1
    job: JobId | None = None
    error: str = ""
    asked: list[int] = field(default_factory=list)  # devices that may have heard it

    @property
    def answered(self) -> bool:
        return self.job is not None or bool(self.error)


@dataclass(slots=True)
class People:
    """All calls of a run, and what became of them."""

    world: World
    invariants: Invariants
    rng: Random
    heal_s: float = HEAL_S
    volumes: bool = False  # what batch jobs keep
    calls: list[Call] = field(default_factory=list)
    stops: dict[int, JobId] = field(default_factory=dict)  # requests under way
    _requests: dict[int, Call] = field(default_factory=dict)
    _count: int = 0

    def draw(self, jobs: int) -> None:
        """Draw the calls and put them on the heap; some are made twice, at one peer or at two."""
        for number in range(jobs):
            spec = draw_spec(number, self.rng, self.volumes)
            if self.rng.random() < OPS:
                spec = draw_ops(number, self.rng)
            call = Call(
                number,
                spec,
                f"key-{number}",
                self.rng.uniform(1.0, self.heal_s - LAST_CALL_S),
                self.rng.randrange(len(self.world.devices)),
            )
            if self.rng.random() < 0.15:
                call.stop_after_s = self.rng.uniform(0.0, 15.0)
            self._place(call)
            if self.rng.random() < 0.2:
                again = Call(number, call.spec, call.key, call.at, call.device)
                again.at += self.rng.choice((0.0, 0.01, 2.0, 10.0))
                if self.rng.random() < 0.3:
                    again.device = self.rng.randrange(len(self.world.devices))
                self._place(again)
        self.world.on_reply = self._on_reply

    @property
    def busy(self) -> bool:
        return any(not call.answered and call.tries < TRIES_MAX for call in self.calls)

    def _place(self, call: Call) -> None:
        self.calls.append(call)
        self.world.heap.at(call.at, self._call, call)

    def _call(self, call: Call) -> None:
        """Ask, here or, where nobody is at home, at another device."""
        if call.answered or call.tries >= TRIES_MAX:
            return
        call.tries += 1
        device = self.world.devices[call.device]
        if device.responsive:
            self._submit(call, device)
            self.world.heap.after(PATIENCE_S, self._call_again, call, call.tries)
            return
        if self.rng.random() < 0.5:
            call.device = self.rng.randrange(len(self.world.devices))
        self.world.heap.after(1.0, self._call, call)

    def _call_again(self, call: Call, tries: int) -> None:
        if tries == call.tries:
            self._call(call)

    def _submit(self, call: Call, device: Device) -> None:
        self._count += 1
        call.request = self._count
        self._requests[self._count] = call
        call.asked.append(device.index)
        askers = {index for other in self.calls if other.key == call.key for index in other.asked}
        if len(askers) > 1:
            self.invariants.contest(call.key)
        device.handle(SubmitRequested(call.request, call.spec, call.key))

    def _stop(self, call: Call) -> None:
        device = self.world.devices[call.device]
        if call.job is None or not device.responsive:
            return
        self._count += 1
        self.stops[self._count] = call.job
        device.handle(ControlRequested(self._count, call.job, Desired.STOPPED))

    def _on_reply(self, device: Device, reply: Reply) -> None:
        stopped = self.stops.pop(reply.request, None)
        if stopped is not None:
            if not reply.error and "note" not in reply.value:  # it had not ended already
                self.invariants.stopped[stopped] = None
            return
        call = self._requests.get(reply.request)
        if call is None or call.answered:
            return
        if reply.error:
            self._refused(call, device, reply.error)
            return
        job, durable_on = reply.value.get("job"), reply.value.get("durable_on")
        if not isinstance(job, str) or not isinstance(durable_on, int):
            self.invariants.violate(device.index, f"an answer that says too little: {reply}")
            return
        call.job = JobId(job)
        self.invariants.acknowledge(device, call.job, durable_on)
        if call.stop_after_s is not None:
            self.world.heap.after(call.stop_after_s, self._stop, call)

    def _refused(self, call: Call, device: Device, error: str) -> None:
        """A device that may not submit says so; any other refusal is tried elsewhere."""
        assert device.keyring.issued is not None
        may = "submit" in device.keyring.issued.roles
        if may and call.tries < TRIES_MAX and self.world.heap.now < self.heal_s + 30:
            self.world.heap.after(1.0, self._call, call)
        else:
            call.error = error


def draw_spec(number: int, rng: Random, volumes: bool = False) -> JobSpec:
    """A batch job: how many slots, how long, how often it fails, what it does about that."""
    shortest = rng.choice((50, 200, 1000, 4000))
    behaviour = Behaviour(
        shortest, shortest * rng.choice((1, 2, 5)), rng.choice((0, 0, 0, 200, 600))
    )
    tree: dict[str, Plain] = {
        "Name": f"job-{number}",
        "Type": "batch",
        "Count": rng.choice((1, 1, 2, 3, 4)),
    }
    task: dict[str, Plain] = {
        "Engine": {"Type": "process", "Params": {"Command": list(behaviour.command)}},
        "Resources": {
            "CPU": f"{rng.choice((100, 500, 1000))}m",
            "Memory": rng.choice(("32Mi", "256Mi", "900Mi")),
        },
        "Timeouts": {
            "ExecutionTimeout": rng.choice((0, 0, 2, 10)),
            "QueueTimeout": rng.choice((20, 40)),
            "TotalTimeout": rng.choice((0, 0, 60)),
        },
    }
    tree["Tasks"] = [task]
    if rng.random() < 0.7:
        causes: list[list[Plain]] = [["failure"], ["lost", "system"], ["lost", "system", "failure"]]
        tree["Retry"] = {
            "Attempts": rng.randint(2, 5),
            "Backoff": rng.choice((0, 1, 2)),
            "On": rng.choice(causes),
        }
    if rng.random() < 0.15:
        tree["Constraints"] = [{"Key": "zone", "Operator": "=", "Values": ["attic"]}]
    if rng.random() < 0.1:
        tree["Disconnect"] = {"StopAfter": rng.choice((12, 20))}
    if volumes:  # its device may be gone for long
        task["Volumes"] = [{"Name": "data", "Target": "data"}]
        task["Timeouts"] = {"QueueTimeout": 20, "TotalTimeout": 60}
    return JobSpec.from_plain(tree)


def draw_ops(number: int, rng: Random) -> JobSpec:
    """An ops job: for whom, how long it takes there, and until when it is open if it is."""
    shortest = rng.choice((50, 1000, 8000))
    behaviour = Behaviour(shortest, shortest * rng.choice((1, 3)), rng.choice((0, 0, 300)))
    is_open = rng.random() < 0.3
    tree: dict[str, Plain] = {
        "Name": f"ops-{number}",
        "Type": "ops",
        "Tasks": [
            {
                "Engine": {"Type": "process", "Params": {"Command": list(behaviour.command)}},
                "Resources": {"CPU": f"{rng.choice((10, 100, 1000))}m"},
                "Timeouts": {
                    "QueueTimeout": rng.choice((0, 20)),
                    # Where the clock is not to be trusted NotAfter never comes.
                    "TotalTimeout": 100 if is_open else 0,
                },
            }
        ],
    }
    if rng.random() < 0.5:
        zones = rng.choice((["attic"], ["attic", "cellar"]))
        tree["Constraints"] = [{"Key": "zone", "Operator": "in", "Values": [*zones]}]
    if is_open:
        tree["NotAfter"] = format_moment(int(EPOCH_S + rng.uniform(30.0, 90.0)))
    return JobSpec.from_plain(tree)
