"""retention: what is old or too much is forgotten, and what may come back is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.clock import NEVER
from protocol.effects import DropVolumes, Effect, RemoveTask
from protocol.events import TaskFound
from protocol.executions import Executions
from protocol.ids import ExecutionId
from protocol.retention import NOTICED
from protocol.wire import dumps
from tests.protocol.jobs import at, fence
from tests.protocol.onedevice import (
    CONFIG,
    FIRST,
    ME,
    SECOND,
    Device,
    ack,
    boot,
    device,
    executor_of,
    keeping,
    publishing_to_a_broker,
    running,
    withdraw,
)


def ended(count: int, it: Device | None = None, owed: bool = False) -> Device:
    it = it or device()
    for attempt in range(1, count + 1):
        of = fence(1, "a", attempt)
        it.award(of, now=attempt)
        it.executor.lifecycle.on_started(it.key(of), at(attempt))
        it.end(of=of, now=float(attempt))
        if not owed:
            ack(it, "accepted", of=of)
    return it


def test_the_oldest_are_forgotten_beyond_the_number_kept() -> None:
    it = ended(4)
    effects = it.does(it.executor.retention.forget_ended(3, 0))
    assert effects == [RemoveTask(it.key(FIRST))]
    assert sorted(it.disk["execution"]) == sorted(it.executor.executions)
    assert it.does(it.executor.retention.forget_ended(3, 0)) == []


def test_time_counts_from_the_end() -> None:
    it = running(now=0.0)
    it.end(now=1_000_000.0)  # it ran for longer than anything is kept
    ack(it, "accepted")
    assert it.does(it.executor.retention.forget_ended(500, at(999_999.0).wall_ms)) == []
    assert len(it.does(it.executor.retention.forget_ended(500, at(1_000_001.0).wall_ms))) == 1


def test_an_adopted_or_stopped_one_is_kept_as_long_as_others() -> None:
    it = running()
    withdraw(it, SECOND)
    it.end(None, now=100.0)
    assert it.does(it.executor.retention.forget_ended(500, at(99.0).wall_ms)) == []
    it = device()
    it.award()
    boot(it, TaskFound(it.key(), running=True), now=100.0)
    it.end(now=101.0)
    ack(it, "accepted")
    assert it.does(it.executor.retention.forget_ended(500, at(100.0).wall_ms)) == []


def test_what_runs_or_is_owed_counts_for_nothing_but_its_age() -> None:
    it = ended(3, owed=True)
    it.award(fence(2, "a", 9))
    assert it.does(it.executor.retention.forget_ended(0, 0)) == []
    removed = it.does(it.executor.retention.forget_ended(0, at(1000.0).wall_ms))
    assert len(removed) == 3
    assert list(it.executor.executions) == [it.key(fence(2, "a", 9))]
    assert it.executor.deadline < NEVER


def test_a_busy_device_forgets_between_the_sweeps_too() -> None:
    it = device()
    it.boots(replace(CONFIG, executions_kept=5))
    ended(60, it)
    assert len(it.executor.executions) <= 11


def test_what_is_retained_is_taken_back_when_its_job_is_forgotten_and_no_sooner() -> None:
    it = publishing_to_a_broker()
    it.award()
    it.end()
    assert len(it.executor.publishing.outbox.messages) == 1
    it.does(it.executor.retention.forget_ended(0, 0))
    ack(it, "accepted")
    it.does(it.executor.retention.forget_ended(0, 0))
    assert not it.executor.executions and len(it.executor.publishing.outbox.messages) == 1
    it.does(it.executor.retention.forget_ended(0, at(1000.0).wall_ms))
    topics = [(m.topic, m.payload) for m in it.executor.publishing.outbox.messages.values()]
    assert len(topics) == 2 and topics[0][0] == topics[1][0] and topics[1][1] == b""


# ---- volumes ----------------------------------------------------------------------------------


def test_of_what_has_volumes_the_latest_of_each_slot_is_kept() -> None:
    """A slot may come back to them; but attempts without end are no more than others."""
    it = ended(4, device(keeping()))
    it.award(fence(1, "a", 1), 1)
    it.end(of=FIRST, now=9.0)
    removed = it.does(it.executor.retention.forget_ended(0, 0))
    gone = [effect.execution for effect in removed if isinstance(effect, RemoveTask)]
    latest = fence(1, "a", 4)
    assert gone == [it.key(fence(1, "a", number)) for number in (1, 2, 3)]
    assert list(it.executor.executions) == [it.key(latest), it.key(FIRST, 1)]
    assert it.executor.retention.keeps(it.book.id)


def test_while_an_execution_cannot_be_read_no_volume_is_given_up() -> None:
    """After a downgrade: it may be of any job."""
    it = device(keeping())
    assert not it.executor.retention.keeps(it.book.id)
    unread = it.executor.restore({"execution": {"later": dumps(["of a later version"])}})
    assert [each.key for each in unread] == ["later"]
    assert it.executor.retention.keeps(it.book.id)


def test_what_has_volumes_is_not_sorted_at_each_award(monkeypatch: pytest.MonkeyPatch) -> None:
    it = device(keeping())
    it.boots(replace(CONFIG, executions_kept=1))
    sorts: list[int] = []
    surplus = Executions.surplus

    def counted(self: Executions, keep: int, before_ms: int) -> list[ExecutionId]:
        sorts.append(len(self))
        return surplus(self, keep, before_ms)

    monkeypatch.setattr(Executions, "surplus", counted)
    for slot in range(3):
        it.award(FIRST, slot)
    assert len(it.executor.executions) == 3 and sorts == []


LATER = ExecutionId("later")


def beside_one_that_cannot_be_read() -> Device:
    it = device()
    it.disk = {"execution": {LATER: dumps(["of a later version"])}}
    again(it)
    return it


def again(it: Device, unread: int = 1) -> None:
    """A restart, with so many rows that cannot be read."""
    it.executor = executor_of(it.book.keyring(ME), CONFIG, it.executor.bidder, lambda peer: True)
    assert len(it.executor.restore(it.disk)) == unread


def forgotten(it: Device, days: float, trusted: bool = True) -> list[Effect]:
    now = replace(at(days * 86_400.0), wall_trusted=trusted)
    return it.does(it.executor.retention.forget_unread(now))


def test_what_cannot_be_read_is_kept_for_a_week_from_when_that_was_noticed() -> None:
    it = beside_one_that_cannot_be_read()
    assert forgotten(it, 100.0, trusted=False) == []
    assert forgotten(it, 10.0) == []
    again(it)
    assert forgotten(it, 16.9) == [] and it.executor.retention.keeps(it.book.id)
    assert forgotten(it, 99.0, trusted=False) == [], "nobody knows what day it is"
    again(it)
    assert forgotten(it, 17.1) == [RemoveTask(LATER), DropVolumes()]
    assert it.disk == {"execution": {}, "meta": {}}
    assert not it.executor.retention.keeps(it.book.id)
    assert forgotten(it, 50.0) == []


def test_what_can_be_read_after_all_begins_anew() -> None:
    it = beside_one_that_cannot_be_read()
    forgotten(it, 1.0)
    row = it.disk["execution"].pop(LATER)
    again(it, unread=0)
    forgotten(it, 2.0)
    it.disk["execution"][LATER] = row
    again(it)
    assert forgotten(it, 8.5) == [] and forgotten(it, 15.0) == []
    assert forgotten(it, 15.6) == [RemoveTask(LATER), DropVolumes()]


def test_when_it_was_noticed_may_be_unreadable_too() -> None:
    it = beside_one_that_cannot_be_read()
    it.disk["meta"] = {NOTICED: b"\xff"}
    again(it)
    assert forgotten(it, 1.0) == [] and forgotten(it, 7.9) == []
    assert forgotten(it, 8.1) == [RemoveTask(LATER), DropVolumes()]


def test_what_begins_anew_in_the_place_of_what_could_not_be_read_stays() -> None:
    it = device()
    it.disk = {"execution": {it.key(): b"\xff"}}
    again(it)
    assert forgotten(it, 1.0) == []
    it.award()
    assert forgotten(it, 9.0) == [] and it.key() in it.disk["execution"]
    assert it.executor.retention.unread == {}
