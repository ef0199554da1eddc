"""lifecycle: a task starts once and ends once, whatever comes in between."""

from __future__ import annotations

from collections.abc import Mapping

from protocol.clock import Now
from protocol.effects import Bucket, Publish, Save, Send, StartTask, StopTask, StreamLines, Tell
from protocol.events import Booted, BrokerChanged, TaskEnded, TaskFound
from protocol.execution import State
from protocol.lifecycle import CUT_OFF
from protocol.messages import Renew, ResultOffer, Withdraw
from protocol.records import Verdict
from protocol.resources import Resources
from protocol.results import TAIL_BYTES
from tests.protocol.jobs import Book, at, job_spec
from tests.protocol.onedevice import (
    CONFIG,
    CUT,
    FIRST,
    ME,
    SECOND,
    A,
    device,
    offered,
    publishing,
    publishing_to_a_broker,
    running,
)

# ---- starting ---------------------------------------------------------------------------------


def test_a_start_counts_once_and_only_for_what_starts() -> None:
    it = device()
    assert it.executor.lifecycle.on_started(it.key(), at(0.0)) == []
    it.award()
    (tell,) = it.executor.lifecycle.on_started(it.key(), at(4.0))
    assert isinstance(tell, Tell)
    assert it.executor.lifecycle.on_started(it.key(), at(9.0)) == []
    assert it.executor.executions[it.key()].started_ms == at(4.0).wall_ms


def test_lines_are_begun_with_the_start_and_read_once_it_runs() -> None:
    it = publishing_to_a_broker(Lines=True)
    it.award()
    assert list(it.disk["stream"]) == [it.key()]
    started = it.executor.lifecycle.on_started(it.key(), at(0.1))
    assert [e.execution for e in started if isinstance(e, StreamLines)] == [it.key()]
    assert "outbox" not in it.disk or not it.disk["outbox"]
    it.end()
    assert not it.disk.get("outbox")


def _offers(send: Send) -> bool:
    return isinstance(send.message, ResultOffer)


def test_what_the_engine_swallows_is_given_up_and_stopped_should_it_start_after_all() -> None:
    it = device(Book())
    it.award()
    late = CONFIG.start_max_s
    assert StopTask(it.key(), "") not in it.pass_(late - 1)
    effects = it.pass_(late)
    _, result = offered([e for e in effects if isinstance(e, Send) and _offers(e)])
    assert (result.verdict, result.reason) == (
        Verdict.FAULT,
        f"the device did not start it within {late:.0f} s",
    )
    assert any(isinstance(effect, StopTask) for effect in effects)
    assert (it.state(), it.used) == (State.FAILED, Resources())
    assert it.executor.lifecycle.on_started(it.key(), at(late + 1)) == [
        StopTask(it.key(), "it started too late")
    ]


def test_what_was_withdrawn_and_never_started_is_no_longer_waited_for() -> None:
    it = device(Book())
    it.award()
    it.does(
        it.executor.awards.on_withdraw(A, Withdraw(it.book.id, 0, SECOND, "not wanted"), at(0.0))
    )
    effects = it.pass_(CONFIG.start_max_s)
    assert [type(effect) for effect in effects if not isinstance(effect, Send)] == [StopTask]
    assert (it.state(), it.used) == (State.STOPPED, Resources())


def test_what_waited_for_one_that_was_cut_off_starts_when_that_has_ended() -> None:
    it = running(Book(job_spec(Type="service", Disconnect={"StopAfter": 30})))
    assert StopTask(it.key(), CUT_OFF) in it.pass_(36.0)
    it.award(SECOND, now=37.0)
    assert it.state(SECOND) is State.PENDING
    started = it.end(None, now=38.0)
    assert [e.execution for e in started if isinstance(e, StartTask)] == [it.key(SECOND)]


# ---- ending -----------------------------------------------------------------------------------


def test_a_result_is_on_disk_before_it_is_offered() -> None:
    it = running()
    event = TaskEnded(it.key(), 3, "exited", 1500, b"o" * 5000, b"e" * 5000)
    save, tell, offer = it.executor.lifecycle.on_ended(event, at(2.0))
    assert isinstance(save, Save)
    assert isinstance(tell, Tell)
    assert tell.text == "job slot 0 failed here with exit code 3: exited"
    peer, result = offered([offer])
    assert peer == A
    assert (result.verdict, result.exit_code, result.reason) == (Verdict.FAILURE, 3, "exited")
    assert (result.stdout_tail, result.stderr_tail) == (b"o" * TAIL_BYTES, b"e" * TAIL_BYTES)
    assert (result.executor, result.fence, result.revision) == (ME, FIRST, it.book.revision)
    assert (result.started_ms, result.ended_ms) == (at(0.0).wall_ms, at(2.0).wall_ms)
    assert result.duration_ms == 1500
    assert it.used == Resources()


def test_a_results_message_is_saved_with_it_and_goes_out_behind() -> None:
    it = publishing_to_a_broker()
    it.award()
    it.executor.publishing.on_event(BrokerChanged("home", True), at(0.5))
    event = TaskEnded(it.key(), 0, stdout=b"21.5\n", stdout_bytes=5)
    effects = it.executor.lifecycle.on_ended(event, at(1.0))
    save, publish = effects[0], next(e for e in effects if isinstance(e, Publish))
    assert isinstance(save, Save)
    assert [row[0] for row in save.rows] == ["execution", "outbox"]
    assert publish.id == it.key() and b"21.5" in publish.payload


def test_a_task_ends_once() -> None:
    it = running()
    assert len(it.end()) == 1
    assert it.end(7) == []
    assert it.state() is State.COMPLETED
    assert it.end(of=SECOND) == []  # nothing is known of it


def test_a_success_counts_even_while_it_is_stopped_for_being_cut_off() -> None:
    it = running(CUT)
    it.pass_(30.0)
    _, result = offered(it.end(0, now=30.1))
    assert result.verdict == Verdict.SUCCESS
    assert it.state() is State.COMPLETED


def saved(disk: Mapping[Bucket, Mapping[str, bytes]]) -> list[str]:
    return sorted(disk.get("execution", {}))


def test_the_wall_clock_may_say_anything() -> None:
    it = device()
    it.award()
    it.executor.lifecycle.on_started(it.key(), Now(0.0, 5.0, wall_trusted=False))
    it.does(it.executor.lifecycle.on_ended(TaskEnded(it.key(), 0, duration_ms=9000), Now(1.0, 0.0)))
    assert it.executor.executions[it.key()].ended_ms == 0
    assert saved(it.disk) == [it.key()]


# ---- publishing -------------------------------------------------------------------------------


def test_while_results_are_published_the_device_is_free_for_others_and_the_lease_goes_on() -> None:
    it = publishing()
    assert it.state() is State.PUBLISHING
    assert it.used == Resources()
    assert it.executor.deadline <= 1.0, "its coordinator hears of it at once"
    (send,) = it.pass_(1.0)
    assert isinstance(send, Send) and isinstance(send.message, Renew)
    assert [item.state for item in send.message.items] == ["publishing"]
    assert it.does(it.executor.lifecycle.on_publishing(it.key(), at(2.0))) == []
    assert it.state() is State.PUBLISHING


def test_a_restart_in_the_midst_of_publishing_goes_on_with_it() -> None:
    it = publishing()
    it.does([Save((it.executor.executions[it.key()].row(),))])
    it.boots()
    it.does(it.executor.boot(Booted((TaskFound(it.key(), running=True),)), at(5.0)))
    assert it.used.cpu_m == 100, "until its engine says that it has ended"
    it.does(it.executor.lifecycle.on_publishing(it.key(), at(5.0)))
    assert (it.state(), it.used) == (State.PUBLISHING, Resources())
    again = TaskFound(it.key(), False, 0, published="s3://results/a.tar.gz")
    it.boots()
    _, result = offered(it.does(it.executor.boot(Booted((again,)), at(6.0))))
    assert result.published == "s3://results/a.tar.gz"
