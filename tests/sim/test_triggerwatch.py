"""The watch over triggers: each thing it looks for, shown to it."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from protocol.derived import derive
from protocol.effects import Save, Tell, TriggerKept
from protocol.heldjob import HeldJob
from protocol.ids import JobId, job_id
from protocol.records import Spec
from protocol.sim.broker import Receipt
from protocol.sim.mqtt import Broker, Published
from protocol.sim.run import build
from protocol.sim.trace import Trace
from protocol.sim.triggerwatch import TriggerWatch
from protocol.waiting import Waiter
from protocol.wire import seal
from tests.protocol.test_trigger import triggered


class Shown:
    """Two devices, one of which is made to do things, and what the watch says of it."""

    def __init__(self, exclusive: bool = True, number: int = 2) -> None:
        self.world = build("lab", 2, Random(1), Trace())
        self.device = self.world.devices[0]
        self.device.power_on()
        self.broker = self.world.topics = Broker(self.world, Random(1))
        self.texts: list[str] = []
        self.watch = TriggerWatch(
            self.world, lambda device, text: self.texts.append(text), exclusive
        )
        keyring = self.device.keyring
        self.template = job_id(keyring.shoal, "default", "standing", "template/look")
        spec = Spec(
            job=self.template,
            shoal=keyring.shoal,
            namespace="default",
            kind="standing",
            key="template/look",
            generation=1,
            body=triggered().encode(),
        )
        self.source = seal(spec, keyring)
        self.message = Published(number, self.template, "home/porch/motion", "", targets=[0])
        self.broker.handles[(0, 1)] = self.message
        self.watch.messages.append(self.message)

    def wait(self, run: str = "r" * 32) -> None:
        """The message is saved, and the save is durable."""
        waiter = Waiter(JobId(run), self.template, "k", self.message.heard, 5, named=False)
        bucket, key, value = waiter.row()
        self.watch.handled(self.device, [Save(((bucket, key, value),))])
        assert value is not None
        self.device.disk.rows[bucket][key] = value

    def fire(self, key: str = "k") -> JobId:
        """The node holds a run of it."""
        heard = self.message.heard
        sealed = derive(self.source, key, {}, self.device.keyring, heard)
        held = HeldJob.create(sealed, self.device.peer, 1, 0, (self.device.peer,))
        assert self.device.node is not None
        self.device.node.jobs[held.id] = held
        told = Tell("trigger.fired", "", self.template, fields={"job": held.id})
        self.watch.handled(self.device, [told])
        return held.id

    def keep(self) -> str:
        self.watch.leaving(self.device, TriggerKept(1))
        return "; ".join(self.texts)

    def end(self) -> str:
        return "; ".join(text for _, text in self.watch.unrest())


def test_what_is_on_disk_may_be_acknowledged() -> None:
    shown = Shown()
    shown.wait()
    assert shown.keep() == ""


def test_what_is_on_no_disk_may_not() -> None:
    assert "acknowledges message 2, which is on no disk" in Shown().keep()


def test_a_job_on_another_disk_will_do() -> None:
    shown = Shown()
    run = shown.fire()
    assert "on no disk" in shown.keep()
    shown.texts.clear()
    shown.world.devices[1].disk.rows["job"][run] = b""
    assert shown.keep() == ""


def test_a_run_is_fired_once_where_nobody_is_cut_off() -> None:
    shown = Shown()
    shown.fire()
    assert shown.texts == []
    shown.fire()
    assert "fired a second time" in shown.texts[0]
    shown = Shown(exclusive=False)
    shown.fire()
    shown.fire()
    assert shown.texts == []


def test_a_message_that_came_is_a_job_in_the_end() -> None:
    shown = Shown()
    assert "message 2 is lost" in shown.end()
    shown.fire()
    assert shown.end() == ""
    shown.message.targets.clear()
    assert shown.end() == ""


def test_a_message_is_as_many_jobs_as_devices_that_heard_it_at_most() -> None:
    shown = Shown()
    shown.fire("k1")
    shown.fire("k2")
    assert "message 2 is 2 jobs; 1 devices heard it" in shown.end()
    shown.message.targets.append(1)
    assert shown.end() == ""
    shown.message.key = "k1"
    assert "message 2 is 2 jobs" in shown.end()


def test_what_has_no_key_comes_to_one_device_when_all_is_well() -> None:
    shown = Shown()
    shown.fire()
    shown.message.targets.append(1)
    shown.message.at = 50.0
    assert shown.end() == ""
    shown.watch.well_from = 40.0
    assert "without a key came to [0, 1]" in shown.end()


def test_nothing_waits_when_all_is_quiet() -> None:
    shown = Shown()
    shown.wait()
    assert "1 messages still wait" in shown.end()


def test_who_lost_its_database_is_no_witness() -> None:
    shown = Shown()
    shown.device.amnesiac = True
    assert shown.end() == ""


def test_one_device_that_is_well_steps_in_for_one_that_is_gone() -> None:
    shown = Shown()
    shown.message.key = "k"
    shown.message.targets.append(1)
    shown.world.devices[1].buried = True
    assert "message 2 is lost" in shown.end()
    shown.message.key = ""
    assert shown.end() == ""


def test_a_job_may_be_lost_with_the_one_device_that_had_it() -> None:
    shown = Shown()
    shown.message.key = "k"
    shown.message.targets.append(1)
    run = shown.fire()
    assert shown.device.node is not None
    del shown.device.node.jobs[run]
    assert "message 2 is lost" in shown.end()
    shown.device.buried = True
    assert shown.end() == ""


# ---- answers ------------------------------------------------------------------------------------


def answered(*receipts: Receipt, exclusive: bool = True) -> str:
    """Of a message that asks and has become a job."""
    shown = Shown(exclusive, number=1)
    shown.fire()
    shown.broker.received += receipts
    return shown.end()


ANSWER = Receipt(0, "r:answer", "replies/1", b"{}")


def test_whoever_asks_is_to_be_answered() -> None:
    assert "message 1 is not answered" in answered()
    assert answered(ANSWER) == answered(ANSWER, ANSWER) == ""


def test_where_nobody_is_cut_off_one_answers_and_says_one_thing() -> None:
    for other in (replace(ANSWER, device=1), replace(ANSWER, payload=b"[]")):
        assert "has 2 answers; 1 runs" in answered(ANSWER, other)
        assert answered(ANSWER, other, exclusive=False) == ""


def test_who_goes_dark_may_take_the_answer_along() -> None:
    shown = Shown(number=1)
    shown.fire()
    shown.world.devices[1].amnesiac = True
    assert shown.end() == ""
