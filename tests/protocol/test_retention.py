"""retention: what is old or too much is forgotten, and what may come back is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.clock import NEVER
from protocol.effects import RemoveTask
from protocol.events import TaskFound
from protocol.executions import Executions
from protocol.ids import ExecutionId
from protocol.wire import dumps
from tests.protocol.jobs import at, fence
from tests.protocol.onedevice import (
    CONFIG,
    FIRST,
    SECOND,
    Device,
    ack,
    boot,
    device,
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
