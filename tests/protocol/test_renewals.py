"""renewals: leases are kept, and what is cut off runs on unless its job says otherwise."""

from __future__ import annotations

from protocol.effects import Effect, Save, Send, StopTask
from protocol.events import Booted, TaskFound, TaskProgressed
from protocol.execution import State
from protocol.ids import ExecutionId, PeerId
from protocol.lifecycle import CUT_OFF, DOING_CHARS_MAX
from protocol.messages import Renew
from protocol.records import Verdict
from protocol.renewals import RENEWALS_PER_MESSAGE
from tests.protocol.jobs import Book, at, fence, job_spec, task_spec
from tests.protocol.onedevice import (
    CUT,
    FIRST,
    MALLORY,
    SECOND,
    A,
    B,
    C,
    answer,
    device,
    offered,
    renewals,
    running,
)

# ---- leases -----------------------------------------------------------------------------------


def test_leases_are_renewed_together() -> None:
    it = device()
    it.award(FIRST, 0)
    it.award(FIRST, 1, now=0.3)
    assert it.pass_(4.9) == []
    assert renewals(it.pass_(5.0)) == [(A, 2)]
    assert it.executor.deadline == 10.0


def test_a_lease_that_is_not_due_yet_waits_for_its_own_time() -> None:
    it = device()
    it.award(FIRST, 0)
    it.award(FIRST, 1, now=2.0)
    assert renewals(it.pass_(5.0)) == [(A, 1)]
    assert it.executor.deadline == 7.0


def test_renewals_are_a_few_to_a_message() -> None:
    it = device(Book(task_spec(count=50, Resources={"CPU": "1m", "Memory": "1Mi"})))
    for slot in range(40):
        it.award(FIRST, slot)
    assert renewals(it.pass_(5.0)) == [(A, RENEWALS_PER_MESSAGE), (A, 40 - RENEWALS_PER_MESSAGE)]


def test_a_successor_gets_the_award_with_the_renewal() -> None:
    it = running()
    (to_a,) = it.pass_(5.0)
    it.away = {A}
    (to_b,) = it.pass_(10.0)
    assert isinstance(to_a, Send)
    assert isinstance(to_b, Send)
    assert isinstance(to_a.message, Renew)
    assert isinstance(to_b.message, Renew)
    assert to_a.message.items[0].assignment == b""
    assert to_b.peer == B
    assert to_b.message.items[0].assignment == it.book.awarded(FIRST)
    assert (to_b.message.items[0].state, to_b.message.items[0].fence) == ("running", FIRST)


def test_a_lease_that_is_kept_says_who_holds_the_job_now() -> None:
    it = running()
    it.pass_(5.0)
    answer(it, "kept", now=5.1, hint=A, holders=(A, PeerId("d")))
    execution = it.executor.executions[it.key()]
    assert (execution.heard_at, execution.tries) == (5.1, 0)
    assert execution.holders == (A, "d")
    answer(it, "kept", now=6.0)
    assert execution.holders == (A, "d")


def test_unknown_leads_to_the_next_holder_and_a_hint_to_the_one_named() -> None:
    it = running()
    assert renewals(it.pass_(5.0)) == [(A, 1)]
    answer(it, "unknown")
    assert renewals(it.pass_(10.0)) == [(A, 1)]
    answer(it, "unknown")
    assert renewals(it.pass_(15.0)) == [(B, 1)]
    answer(it, "unknown", by=B, hint=C)
    assert renewals(it.pass_(20.0)) == [(C, 1)]


def test_over_stops_the_task_for_good() -> None:
    it = running()
    assert answer(it, "over") == [StopTask(it.key(), "superseded: the slot was decided without it")]
    assert answer(it, "over") == []
    assert it.end(None) == []
    assert it.state() is State.SUPERSEDED


def test_an_answer_is_about_its_own_fence_and_from_whom_it_was_asked() -> None:
    it = running()
    for by, of in ((MALLORY, FIRST), (A, SECOND), (A, fence(0, "a", 1))):
        assert answer(it, "over", by=by, of=of) == []
        assert answer(it, "kept", by=by, of=of, hint=MALLORY, now=9.0) == []
    execution = it.executor.executions[it.key()]
    assert (execution.stopping, execution.coordinator, execution.heard_at) == ("", A, 0.0)


# ---- what is told with them -------------------------------------------------------------------


def test_ports_that_were_chosen_are_told_at_once_and_with_each_renewal() -> None:
    it = device()
    it.award()
    it.executor.lifecycle.on_started(it.key(), at(1.0), (("web", 20_001),))
    assert it.executor.deadline == 1.0
    (send,) = [e for e in it.executor.on_deadline(at(1.0)) if isinstance(e, Send)]
    assert isinstance(send.message, Renew)
    assert [item.ports for item in send.message.items] == [(("web", 20_001),)]


def test_the_ports_of_a_task_that_is_found_again_are_told_too() -> None:
    it = running()
    found = TaskFound(it.key(), True, ports=(("web", 20_002),))
    it.executor.boot(Booted((found,)), at(5.0))
    assert it.executor.executions[it.key()].ports == (("web", 20_002),)


def test_what_takes_long_before_a_start_is_told_with_the_next_renewal_at_once() -> None:
    it = device()
    it.award()
    assert (
        it.executor.lifecycle.on_progress(TaskProgressed(it.key(), "pulling " + "x" * 900), at(1.0))
        == []
    )
    assert it.executor.deadline == 1.0
    effects = it.executor.on_deadline(at(1.0))
    assert not any(isinstance(effect, Save) for effect in effects)
    assert [len(doing) for doing in renewed(effects)] == [DOING_CHARS_MAX]
    it.executor.lifecycle.on_started(it.key(), at(2.0))
    assert renewed(it.executor.on_deadline(at(2.0))) == [""], "that is news too"
    it.executor.lifecycle.on_progress(TaskProgressed(it.key(), "late"), at(3.0))
    it.executor.lifecycle.on_progress(TaskProgressed(ExecutionId("other"), "x"), at(3.0))
    assert it.executor.executions[it.key()].doing == ""


def renewed(effects: list[Effect]) -> list[str]:
    sent = [e.message for e in effects if isinstance(e, Send)]
    return [item.doing for message in sent if isinstance(message, Renew) for item in message.items]


# ---- being cut off ----------------------------------------------------------------------------


def test_by_default_a_task_that_is_cut_off_runs_on() -> None:
    it = running()
    for now in range(5, 500, 5):
        assert all(isinstance(effect, Send) for effect in it.pass_(now))
    assert it.state() is State.RUNNING


def test_a_job_may_want_to_be_stopped_when_cut_off() -> None:
    it = running(CUT)
    it.pass_(5.0)
    answer(it, "kept", now=6.0)
    assert StopTask(it.key(), CUT_OFF) not in it.pass_(35.9)
    assert StopTask(it.key(), CUT_OFF) in it.pass_(36.0)
    it.pass_(41.0)  # once


def test_what_was_stopped_so_is_a_fault_that_its_coordinator_hears_of() -> None:
    """Or a slot that may not be placed elsewhere would be waited for without end."""
    it = running(CUT)
    it.pass_(30.0)
    peer, result = offered(it.end(143, now=31.0))
    assert (peer in (A, B), result.verdict, result.reason) == (True, Verdict.FAULT, CUT_OFF)
    assert it.state() is State.STOPPED
    it.boots()
    it.executor.boot(Booted(), at(32.0))
    assert it.executor.executions[it.key()].owes


def test_a_short_stop_after_still_leaves_time_for_two_renewals() -> None:
    it = running(Book(job_spec(Disconnect={"StopAfter": 1})))
    it.pass_(9.9)
    assert it.executor.executions[it.key()].stopping == ""
    it.pass_(10.0)
    assert it.executor.executions[it.key()].stopping == CUT_OFF
