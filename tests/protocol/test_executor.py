"""executor: what its parts make together, over restarts and whatever comes in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.clock import NEVER
from protocol.effects import RemoveTask, Send, StartTask, StopTask
from protocol.errors import RemoteProtocolError
from protocol.events import TaskFound
from protocol.execution import State
from protocol.ids import ExecutionId
from protocol.lifecycle import CUT_OFF
from protocol.messages import Announce, Award, Release, RenewAck, ResultAck, Withdraw
from protocol.records import Verdict
from protocol.resources import Resources
from tests.protocol.jobs import Book, at, job_spec
from tests.protocol.onedevice import (
    CONFIG,
    CUT,
    ME,
    SECOND,
    A,
    boot,
    device,
    executor_of,
    offered,
    renewals,
    running,
    withdraw,
)
from tests.protocol.strategies import structs

# ---- restarts ---------------------------------------------------------------------------------


def test_what_still_runs_is_adopted() -> None:
    it = device()
    it.award()
    assert boot(it, TaskFound(it.key(), running=True, duration_ms=60_000)) == []
    assert it.state() is State.RUNNING
    assert it.used.cpu_m == 100
    assert it.executor.executions[it.key()].started_ms == at(40.0).wall_ms
    assert renewals(it.pass_(100.0)) == [(A, 1)]


def test_what_ended_meanwhile_has_its_result() -> None:
    it = running()
    peer, result = offered(boot(it, TaskFound(it.key(), False, 4, "exited", 7000)))
    assert (peer, result.exit_code, result.duration_ms) == (A, 4, 7000)
    assert it.used == Resources()


def test_what_nothing_is_left_of_is_lost() -> None:
    it = running()
    _, result = offered(boot(it))
    assert result.verdict == Verdict.FAULT
    assert "power cut" in result.reason
    assert it.state() is State.LOST


def test_a_result_still_owed_is_offered_at_once() -> None:
    it = running()
    it.end()
    assert boot(it) == []
    assert offered(it.pass_(100.0))[1].verdict == Verdict.SUCCESS


def test_a_stop_under_way_goes_on() -> None:
    it = running()
    withdraw(it, SECOND, reason="the job was stopped")
    assert boot(it, TaskFound(it.key(), running=True)) == [
        StopTask(it.key(), "the job was stopped")
    ]
    it.end(None)
    assert it.state() is State.STOPPED


@pytest.mark.parametrize("found", [(), (TaskFound(ExecutionId("x"), False, 0),)])
def test_a_stop_that_was_done_meanwhile_owes_no_result(found: tuple[TaskFound, ...]) -> None:
    it = running()
    withdraw(it, SECOND)
    here = tuple(replace(task, execution=it.key()) for task in found)
    assert boot(it, *here) == []
    assert it.state() is State.STOPPED
    assert it.executor.deadline == NEVER


@pytest.mark.parametrize("key", ["a", "b", "c", "d", "e", "f"])  # ids, and so their order, differ
def test_what_an_end_meanwhile_makes_room_for_starts_once(key: str) -> None:
    """A later award of a service's slot waits for the older to stop, which it did unseen."""
    it = running(Book(job_spec(Type="service"), key))
    assert [type(effect) for effect in it.award(SECOND)] == [Send, StopTask]
    started = boot(it, TaskFound(it.key(), False, 0))
    assert [e.execution for e in started if isinstance(e, StartTask)] == [it.key(SECOND)]
    assert it.state(SECOND) is State.STARTING


def test_a_cut_off_task_that_vanished_is_still_told_of() -> None:
    it = running(CUT)
    it.pass_(30.0)
    assert offered(boot(it))[1].reason == CUT_OFF


def test_strays_are_stopped_and_what_is_left_of_them_removed() -> None:
    it = running()
    it.end()
    runs, ended = ExecutionId("r" * 32), ExecutionId("e" * 32)
    effects = boot(
        it,
        TaskFound(runs, running=True),
        TaskFound(ended, running=False, exit_code=0),
        TaskFound(it.key(), running=True),  # it was said to have ended
    )
    assert effects == [
        StopTask(runs, "nothing is known of it"),
        RemoveTask(ended),
        StopTask(it.key(), "nothing is known of it"),
    ]
    assert boot(it, TaskFound(it.key(), running=False)) == []  # its output is kept


def test_a_row_that_cannot_be_read_is_named() -> None:
    it = running()
    it.disk["execution"]["broken"] = b"\x80"
    it.disk["fence"]["broken"] = b"\x80"
    fresh = executor_of(it.book.keyring(ME), CONFIG, it.executor.bidder, lambda peer: True)
    assert [each.key for each in fresh.restore(it.disk)] == ["broken", "broken"]
    assert list(fresh.executions) == [it.key()]


# ---- anything at all --------------------------------------------------------------------------


MESSAGES = (Announce, Award, Release, Withdraw, RenewAck, ResultAck)


@settings(max_examples=150)
@given(st.lists(st.sampled_from(MESSAGES).flatmap(structs), max_size=4), st.integers(0, 1))
def test_no_message_ends_the_agent_or_leaks_capacity(messages: list[object], ran: int) -> None:
    it = running()
    if ran:
        it.end()
    for message in messages:
        try:
            match message:
                case Announce():
                    it.executor.awards.on_announce(A, message, at(1.0))
                case Award():
                    it.executor.awards.on_award(A, message, at(1.0))
                case Release():
                    it.executor.awards.on_release(A, message, at(1.0))
                case Withdraw():
                    it.executor.awards.on_withdraw(A, message, at(1.0))
                case RenewAck():
                    it.executor.renewals.on_renew_ack(A, message, at(1.0))
                case ResultAck():
                    it.executor.delivery.on_result_ack(A, message)
        except RemoteProtocolError:
            pass
    it.pass_(100.0)
    if not ran:
        it.end()
    assert it.used == Resources()
