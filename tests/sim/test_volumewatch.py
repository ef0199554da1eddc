"""volumewatch: a slot that runs without its volumes is seen; what is promised to nobody is not."""

from __future__ import annotations

from random import Random

import pytest

from protocol.effects import StartTask
from protocol.ids import ExecutionId, JobId
from protocol.job import JobSpec
from protocol.jobtype import JobType
from protocol.sim.run import Options, build, run
from protocol.sim.tasks import Task
from protocol.sim.trace import Trace
from protocol.sim.volumewatch import VolumeWatch

JOB = JobId("j")


def _keeping(kind: JobType = JobType.BATCH) -> JobSpec:
    engine = {"Type": "process", "Params": {"Command": ["simulate", "1", "1", "0"]}}
    volumes = [{"Name": "data", "Target": "data"}]
    task = {"Engine": engine, "Volumes": volumes}
    return JobSpec.from_plain({"Name": "job", "Type": kind.value, "Tasks": [task]})


class Watched:
    def __init__(self) -> None:
        self.devices = build("lab", 2, Random(1), Trace()).devices
        self.seen: list[tuple[int, str]] = []
        self.free: dict[JobId, None] = {}
        self.watch = VolumeWatch(lambda *each: self.seen.append(each), [self.free])

    def begin(
        self, device: int, slot: int = 0, untouched: bool = False, kind: JobType = JobType.BATCH
    ) -> None:
        spec, key = _keeping(kind), ExecutionId("e")
        start = StartTask(key, JOB, spec, {}, None, (), slot)
        task = Task.begin(key, JOB, spec, None, 0.0, Random(1))
        task.untouched = untouched
        self.watch.began(self.devices[device], start, task)


def test_a_slot_that_moves_without_its_volume_is_seen() -> None:
    it = Watched()
    it.begin(0)
    it.begin(0)
    it.begin(1, slot=1)
    assert it.seen == []
    it.begin(1)
    assert it.seen == [(1, "slot 0 of j runs without its volume, on 0")]


def test_what_did_not_begin_left_nothing() -> None:
    it = Watched()
    it.begin(0, untouched=True)
    it.begin(1)
    assert it.seen == []


def test_a_daemon_has_one_on_each_device() -> None:
    it = Watched()
    it.begin(0, kind=JobType.DAEMON)
    it.begin(1, kind=JobType.DAEMON)
    assert it.seen == []


@pytest.mark.parametrize("how", ["contested", "deleted"])
def test_what_is_promised_to_nobody_is_not_asked_for(how: str) -> None:
    it = Watched()
    it.begin(0)
    (it.free if how == "contested" else it.watch.deleted)[JOB] = None
    it.begin(1)
    assert it.seen == []


@pytest.mark.parametrize("seed", [3, 7, 27, 335])
def test_slots_stay_with_their_volumes_on_devices_that_go_down(seed: int) -> None:
    """3: an award was sent again with the spec of a later revision, which nobody answers. 335: an
    update waits for a device that does not match it any more, and other slots with it."""
    outcome = run(seed, Options(scenario="volumes"))
    assert [str(violation) for violation in outcome.violations] == []
    assert outcome.executions > 20
