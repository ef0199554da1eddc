"""The watch over schedules: each thing it looks for, shown to it."""

from random import Random

from msgspec.structs import replace

from protocol.derived import derive
from protocol.effects import Save, Tell
from protocol.execution import Execution
from protocol.ids import JobId, job_id, peer_slot, revision_of
from protocol.job import JobSpec
from protocol.records import Assignment, Fence, Spec
from protocol.sim.device import EPOCH_S, Device
from protocol.sim.run import build
from protocol.sim.schedulewatch import ScheduleWatch
from protocol.sim.trace import Trace
from protocol.wire import dumps, seal
from tests.protocol.schedulenet import ops_schedule, schedule

SLOT = int(EPOCH_S)


class Shown:
    """One device, and what the watch says of what it is made to do."""

    def __init__(self, job: JobSpec | None = None) -> None:
        self.device: Device = build("lab", 1, Random(1), Trace()).devices[0]
        self.texts: list[str] = []
        self.watch = ScheduleWatch(lambda device, text: self.texts.append(text))
        keyring = self.device.keyring
        self.schedule = job_id(keyring.shoal, "default", "standing", "backup")
        spec = Spec(
            job=self.schedule,
            shoal=keyring.shoal,
            namespace="default",
            kind="standing",
            key="backup",
            generation=1,
            body=(job or schedule()).encode(),
        )
        self.spec, self.source = spec, seal(spec, keyring)

    def fire(self, slot: int = SLOT, mark: int | None = None, data: bytes | None = None) -> str:
        sealed = derive(self.source, str(slot), {}, self.device.keyring)
        assert isinstance(sealed.record, Spec)
        run = sealed.record.job
        saved = Save(
            (
                ("spec", run, sealed.data if data is None else data),
                ("schedule", self.schedule, dumps([1, slot if mark is None else mark])),
            )
        )
        return self.tell(run, saved)

    def start(self, trigger: str, generation: int = 1) -> str:
        """The device starts its part of a run."""
        keyring = self.device.keyring
        source = seal(replace(self.spec, generation=generation), keyring)
        sealed = derive(source, trigger, {}, keyring)
        assert isinstance(sealed.record, Spec)
        award = Assignment(
            job=sealed.record.job,
            revision=revision_of(sealed.body),
            slot=peer_slot(sealed.record.job, keyring.peer),
            fence=Fence(1, keyring.peer, 1),
            executor=keyring.peer,
            lease_ms=1000,
        )
        self.watch.started(self.device, Execution.begin(award, b"", sealed, ()))
        return "; ".join(self.texts)

    def tell(self, run: JobId, *saves: Save) -> str:
        told = Tell("schedule.fired", "", self.schedule, fields={"job": run})
        self.watch.handled(self.device, [*saves, told], 7.0)
        return "; ".join(self.texts)


def test_a_run_at_its_time_is_right_once() -> None:
    shown = Shown()
    assert shown.fire() == ""
    assert shown.watch.handled_at == {shown.schedule: 7.0}
    assert shown.fire() == ""  # it never came to its disk
    sealed = derive(shown.source, str(SLOT), {}, shown.device.keyring)
    assert isinstance(sealed.record, Spec)
    shown.device.disk.rows["job"][sealed.record.job] = b""
    assert "twice" in shown.fire()


def test_a_run_that_is_not_saved_with_its_mark() -> None:
    shown = Shown()
    assert "without saving it with its mark" in shown.tell(JobId("a" * 32))


def test_a_run_before_its_time() -> None:
    assert "before its time" in Shown().fire(SLOT + 3600)


def test_a_run_on_a_clock_that_is_not_trusted() -> None:
    shown = Shown()
    shown.device.clocks.wall_trusted = False
    assert "not trusted" in shown.fire()


def test_a_mark_of_another_slot() -> None:
    assert "marks another slot" in Shown().fire(mark=SLOT - 60)


def test_a_run_that_nobody_would_take() -> None:
    assert "nobody would take" in Shown().fire(data=b"\x00")


def test_a_run_that_is_skipped_is_handled_too() -> None:
    shown = Shown()
    skipped = Tell("schedule.skipped", "", shown.schedule)
    shown.watch.handled(shown.device, [skipped], 9.0)
    assert shown.watch.handled_at == {shown.schedule: 9.0}
    assert shown.texts == []


def test_an_ops_run_that_starts_twice_on_one_device() -> None:
    shown = Shown(ops_schedule())
    assert shown.start(str(SLOT)) == ""
    assert shown.start(str(SLOT + 60)) == ""
    assert shown.start(str(SLOT), generation=2) == ""  # two islands may have had one each
    assert "twice" in shown.start(str(SLOT))


def test_an_ops_run_that_is_another_devices_own() -> None:
    shown = Shown(ops_schedule(Scope="each"))
    assert shown.start(f"{SLOT}/{shown.device.peer}") == ""
    assert "another's own" in shown.start(f"{SLOT}/somebody")
