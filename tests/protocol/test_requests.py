"""requests: each call of a person or program gets one answer, whoever holds the job."""

from __future__ import annotations

import pytest

from protocol.config import CoordinationConfig, NodeConfig
from protocol.effects import Reply, Send
from protocol.ids import JobId
from protocol.messages import (
    Announce,
    ControlAnswer,
    ControlRequest,
    JobQuery,
    JobReport,
    JobSync,
)
from protocol.records import Desired, Role
from protocol.requests import KEY_CHARS_MAX
from protocol.wire import dumps
from tests.protocol.jobs import Book
from tests.protocol.nodenet import NodeNet, batch, queue, reported
from tests.protocol.schedulenet import ScheduleNet
from tests.protocol.test_template import template

ALL = (Role.COMPUTE, Role.SUBMIT, Role.OPERATE)


def error(net: NodeNet, name: str, request: int) -> str:
    return net.reply(name, request).error


# ---- submitting


def test_who_lacks_the_role_is_told_what_to_do() -> None:
    net = NodeNet("a", roles={"a": (Role.COMPUTE,)})
    request = net.submit("a", batch())
    assert "invite it anew with --role compute,submit" in error(net, "a", request)
    assert net["a"].jobs == {}


@pytest.mark.parametrize("key", ["", "k" * (KEY_CHARS_MAX + 1), "\ud800"])
def test_a_key_that_no_record_can_hold_is_refused(key: str) -> None:
    net = NodeNet("a")
    assert "a key is 1 to 256 characters" in error(net, "a", net.submit("a", batch(), key))
    assert error(net, "a", net.submit("a", batch(), "k" * KEY_CHARS_MAX)) == ""


def test_a_full_peer_takes_no_more() -> None:
    config = NodeConfig(coordination=CoordinationConfig(jobs_max=1))
    net = NodeNet("a", configs={"a": config})
    net.submit("a", batch(), "one")
    assert "as many jobs as it can" in error(net, "a", net.submit("a", batch(), "two"))


def test_the_same_call_again_is_the_same_job() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["b"]))
    net.run(0.1)
    again = net.reply("a", net.submit("a", batch(on=["b"]), again=True))
    assert (again.value["job"], again.value["unchanged"], again.value["warning"]) == (
        net.job(),
        True,
        "",
    )
    other = net.submit("a", batch(on=["a"]))
    assert error(net, "a", other).endswith("use a new one")
    assert len(net.boxes["b"].started) == 1


def test_a_call_repeated_at_another_peer_is_the_same_job() -> None:
    net = NodeNet("a", "b", "c", "d", "e")
    net.submit("a", batch(on=["b"]))
    net.run(0.1)
    outsider = next(name for name in "bcde" if net.job() not in net[name].jobs)
    request = net.submit(outsider, batch(on=["b"]), again=True)
    net.run(0.1)
    answer = net.reply(outsider, request).value
    assert (answer["job"], answer["unchanged"]) == (net.job(), True)
    other = net.submit(outsider, batch(on=["a"]), again=True)
    net.run(0.1)
    assert "was used for another job" in error(net, outsider, other)
    assert net.job() not in net[outsider].jobs
    assert sum(len(box.started) for box in net.boxes.values()) == 1


def test_two_calls_at_once_with_one_key_make_one_job() -> None:
    net = NodeNet("a", "b")
    one = net.submit("a", batch(on=["b"]), again=True)
    two = net.submit("a", batch(on=["b"]), again=True)
    net.run(0.1)
    answers = [net.reply("a", request).value for request in (one, two)]
    assert [answer["unchanged"] for answer in answers] == [False, True]
    assert len(net.boxes["b"].started) == 1


def test_a_repeatable_call_does_not_wait_for_the_silent_for_long() -> None:
    net = NodeNet("a", "b")
    net.drop = lambda sender, to, message: isinstance(message, JobReport)
    request = net.submit("a", batch(on=["b"]), again=True)
    net.run(0.9)
    assert not net.answered("a", request)
    net.run(0.3)
    assert net.reply("a", request).value["unchanged"] is False


def test_views_of_other_jobs_say_nothing_of_a_repeated_call() -> None:
    net = NodeNet("a", "b")
    net.drop = lambda sender, to, message: isinstance(message, JobQuery)
    request = net.submit("a", batch(on=["b"]), again=True)
    (_, query), *_ = net.sent("a", JobQuery)
    assert isinstance(query, JobQuery)
    view = dumps(reported("x" * 32, revision="y" * 32))
    net.send("b", "a", JobReport(query.seq, (view,)))
    net.run(0.1)
    assert net.reply("a", request).value["unchanged"] is False


# ---- stopping


def test_a_job_is_stopped_where_it_is_coordinated() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["b"]))
    net.run(0.2)
    request = net.stop("a", net.job())
    assert net.reply("a", request).value == {"job": net.job()}
    net.run(0.1)
    assert net.executors() == []
    again = net.stop("a", net.job())
    assert net.reply("a", again).value["note"] == "it has ended already"


def test_a_job_is_stopped_from_wherever_its_author_may() -> None:
    net = NodeNet("a", "b", "c", "d", roles={"d": ALL})
    net.submit("a", batch(on=["b"]))
    net.run(0.2)
    request = net.stop("d", net.job())
    net.run(0.1)
    assert net.reply("d", request).value == {"job": net.job()}
    assert net.executors() == []
    again = net.stop("d", net.job())
    net.run(0.1)
    assert net.reply("d", again).value["note"] == "it has ended already"


def test_who_neither_submitted_nor_operates_may_not_stop_it() -> None:
    net = NodeNet("a", "b", "c", "d")
    net.submit("a", batch(on=["b"]))
    net.run(0.2)
    for name in "bcd":
        request = net.stop(name, net.job())
        net.run(0.1)
        assert error(net, name, request).startswith("only a, who submitted it,")
    assert net.executors() == ["b"]


def test_nor_may_a_successor_that_is_nobody_of_these() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b"]))
    net.run(11.0)
    net.kill("a")
    net.run(10.0)
    successor = net.held("b").coordinator
    request = net.stop(successor, net.job())
    assert error(net, successor, request).startswith("only a, who submitted it,")
    assert not net.held("b").done


def test_an_author_stops_its_job_at_the_successor() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b"]))
    net.run(11.0)
    net.part(["a"], ["b", "c"])
    net.run(10.0)
    net.heal()
    net.run(3.0)
    request = net.stop("a", net.job())
    net.run(0.1)
    assert net.reply("a", request) == Reply(request, {"job": net.job()})
    net.run(0.1)
    assert net.executors() == []


def test_a_second_wish_counts_above_the_first() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["b"]))
    net.run(0.2)
    net.stop("a", net.job(), Desired.RUNNING)
    assert net.held("a").control is not None
    assert net.executors() == ["b"]
    net.stop("a", net.job())
    control = net.held("a").control
    assert control is not None
    assert (control.number, control.desired) == (2, Desired.STOPPED)
    assert net.held("a").done


def test_a_one_off_job_is_not_deleted() -> None:
    net = NodeNet("a")
    net.submit("a", batch())
    request = net.stop("a", net.job(), Desired.DELETED)
    assert "a one-off job is not deleted: stop it" in net.reply("a", request).error
    assert net.held("a").control is None


def test_a_job_that_nobody_knows_is_not_stopped() -> None:
    net = NodeNet("a", "b")
    request = net.stop("a", net.job("nothing"))
    net.run(0.1)
    assert error(net, "a", request).startswith("no peer that answered knows job")
    alone = NodeNet("a")
    assert "no peer" in error(alone, "a", alone.stop("a", alone.job("nothing")))


def operator(net: NodeNet) -> int:
    """`c` asks to stop the job; `a`, who coordinates it, has not answered yet."""
    net.submit("a", batch(on=["b"]))
    net.run(0.2)
    net.drop = lambda sender, to, message: isinstance(message, ControlAnswer | ControlRequest)
    request = net.stop("c", net.job())
    net.run(0.1)
    assert net.sent("c", ControlRequest)
    return request


def test_only_whom_it_was_sent_to_answers_for_a_wish() -> None:
    net = NodeNet("a", "b", "c", roles={"c": ALL})
    request = operator(net)
    ((_, sent),) = net.sent("c", ControlRequest)
    assert isinstance(sent, ControlRequest)
    assert net.send("b", "c", ControlAnswer(sent.seq, "")) == []
    assert not net.answered("c", request)
    net.send("a", "c", ControlAnswer(sent.seq, "no"))
    assert net.reply("c", request) == Reply(request, {}, "no")
    assert net.send("a", "c", ControlAnswer(sent.seq, "no")) == []


def test_a_coordinator_that_does_not_answer_is_not_waited_for_for_ever() -> None:
    net = NodeNet("a", "b", "c", roles={"c": ALL})
    request = operator(net)
    net.run(5.0)
    assert "did not answer; try again" in error(net, "c", request)


def test_a_coordinator_that_is_not_there_is_not_asked() -> None:
    net = NodeNet("a", "b", roles={"a": ALL})
    net.drop = lambda sender, to, message: isinstance(message, JobQuery)
    request = net.stop("a", net.job())
    ((_, query),) = net.sent("a", JobQuery)
    assert isinstance(query, JobQuery)
    view = dumps(reported(net.job(), coordinator="nobody"))
    net.send("b", "a", JobReport(query.seq, (view,)))
    assert error(net, "a", request) == "the peer that coordinates this job is gone; try again"


def test_a_wish_is_refused_to_whoever_may_not_have_it() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b"], task=queue(60)))
    net.run(0.2)
    book = Book(batch(on=["b"], task=queue(60)), author="a", shoal=net.shoal)

    def answer(to: str, control: bytes) -> str:
        (send,) = [e for e in net.send("c", to, ControlRequest(4, control)) if isinstance(e, Send)]
        assert isinstance(send.message, ControlAnswer)
        assert send.message.seq == 4
        return send.message.error

    assert answer("a", book.controlled("c")) == "c may not control this job"
    assert "coordinated by another peer" in answer("b", book.controlled("a"))
    other = Book(batch(), key="other", author="a", shoal=net.shoal)
    assert "coordinated by another peer" in answer("a", other.controlled("a"))
    for data in (book.spec_data, b"garbage"):
        net.send("c", "a", ControlRequest(4, data))
    assert net["a"].messaging.malformed == {"c": 2}
    assert not net.held("a").done


def test_an_older_wish_changes_nothing_and_is_answered() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["b"]))
    net.run(0.2)
    book = Book(batch(on=["b"]), author="a", shoal=net.shoal)
    newer, older = book.controlled("a", 5, Desired.RUNNING), book.controlled("a", 4)
    net.send("b", "a", ControlRequest(1, newer))
    effects = net.send("b", "a", ControlRequest(2, older))
    assert effects == [Send(net.held("a").holders[1], ControlAnswer(2))]
    assert not net.held("a").done
    assert [answer.seq for _, answer in net.sent("a", ControlAnswer)] == [1, 2]  # type: ignore[union-attr]


# ---- finding


def test_jobs_are_found_wherever_they_are_newest_first() -> None:
    net = NodeNet("a", "b", "c", "d", "e")
    net.submit("a", batch("one", on=["a"]), "one")
    net.run(1.0)
    net.submit("b", batch("two", on=["b"]), "two")
    net.run(1.0)
    request = net.query("e")
    net.run(0.1)
    answer = net.reply("e", request).value
    assert [view["name"] for view in answer["jobs"]] == ["two", "one"]  # type: ignore[attr-defined]
    assert answer["silent"] == []


def test_who_did_not_answer_is_named() -> None:
    net = NodeNet("a", "b", "c")
    net.drop = lambda sender, to, message: sender == "b" and isinstance(message, JobReport)
    request = net.query("a")
    net.run(1.1)
    assert net.reply("a", request).value == {"jobs": [], "silent": ["b"]}


@pytest.mark.parametrize("prefix", ["ä", "\udc80", "x" * 33])
def test_what_no_id_begins_with_is_not_looked_for(prefix: str) -> None:
    net = NodeNet("a", "b")
    request = net.query("a", prefix)
    assert net.reply("a", request).value == {"jobs": [], "silent": []}
    assert net.sent("a", JobQuery) == []


def test_nothing_is_announced_before_the_answer_of_others() -> None:
    net = NodeNet("a", "b")
    net.drop = lambda sender, to, message: isinstance(message, JobReport | JobSync)
    net.submit("a", batch(on=["b"]), again=True)
    net.run(0.5)
    assert net.sent("a", Announce) == []


# ---- runs of a template -----------------------------------------------------------------------


def test_one_key_makes_one_run_at_whatever_peer() -> None:
    net = ScheduleNet("a", "b", "c")
    net.ran("a", template())
    first = net.template("b", {"what": "hello"})
    again = net.template("c", {"what": "hello"})
    same = net.template("b", {"what": "hello"})
    assert first.value["job"] == again.value["job"] == same.value["job"]
    assert first.value["unchanged"] is False
    assert again.value["unchanged"] is same.value["unchanged"] is True
    assert again.value["warning"] == ""
    assert len(net.starts()) == 1
    (run,) = net.runs()
    assert run.author == "a"
    assert run.job.task.engine.params["Command"][1] == "hello"


def test_a_key_used_for_other_parameters_says_so() -> None:
    net = ScheduleNet("a", "b")
    net.ran("a", template())
    net.template("a", {"what": "one"})
    assert "used before" in str(net.template("b", {"what": "two"}).value["warning"])
    assert len(net.runs()) == 1
    assert net.template("b", {"what": "two"}, "other").value["unchanged"] is False


def test_a_run_that_cannot_be_is_refused_with_the_reason() -> None:
    net = ScheduleNet("a", "w", roles={"w": (Role.COMPUTE,)})
    assert "no template" in net.template("a", {}).error
    net.ran("a", template())
    net.run(2.0)
    assert "missing parameter what" in net.template("a", {}).error
    assert "unknown parameter whom" in net.template("a", {"what": "", "whom": ""}).error
    assert "a key is" in net.template("a", {"what": ""}, "").error
    assert "may not submit" in net.template("w", {"what": ""}).error
    net["a"].catalogue._spec_bytes = 1 << 40
    assert "as many jobs" in net.template("a", {"what": ""}).error


def test_a_template_that_is_stopped_is_not_run() -> None:
    net = ScheduleNet("a")
    net.ran("a", template(NotAfter="2027-01-15T08:03:00Z"))
    net.run(300.0)
    assert "NotAfter is over" in net.template("a", {"what": ""}).error
    net.ran("a", template())
    job = next(iter(net["a"].steward.standing.jobs))
    net.stop("a", job, Desired.STOPPED)
    assert "stopped" in net.template("a", {"what": ""}).error


def test_whoever_may_run_a_template_may_stop_its_run_here_and_elsewhere() -> None:
    roles = (Role.COMPUTE, Role.SUBMIT)
    net = ScheduleNet("a", "b", "c", roles={"b": roles, "c": roles})
    net.ran("a", template())
    job = JobId(str(net.template("b", {"what": ""}).value["job"]))
    request = net.stop("c", job)
    net.until(lambda: net.answered("c", request))
    assert net.reply("c", request).error == ""
    net.run(2.0)
    assert net.runs()[0].done
    other = JobId(str(net.template("b", {"what": ""}, "k2").value["job"]))
    assert net.reply("b", net.stop("b", other)).error == ""
