"""direct: ops jobs, whose list is frozen when they are accepted, and started once on each peer."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from protocol import direct
from protocol.config import CoordinationConfig, NodeConfig, PolicyConfig
from protocol.effects import Send
from protocol.events import PublishingStarted, SelfDescribed, TaskEnded
from protocol.execution import State
from protocol.ids import PeerId, peer_slot
from protocol.led import Phase
from protocol.messages import (
    Accepted,
    Award,
    Declined,
    JobSyncAck,
    Message,
    Renew,
    Renewal,
    ResultAck,
    ResultOffer,
)
from protocol.moment import format_moment
from protocol.records import Assignment, Fence, Result, Role, Verdict
from protocol.tree import Plain
from protocol.wire import seal
from tests.protocol.nodenet import WALL, Box, NodeNet, batch, ops, queue

ONE_CPU: dict[str, Plain] = {"Resources": {"CPU": "1"}}
NONE = NodeConfig(coordination=CoordinationConfig(standbys=0))


def until(net: NodeNet, seconds: float) -> dict[str, Plain]:
    """The field of a job that is open so long."""
    return {"NotAfter": format_moment(int(WALL + net.now + seconds))}


def plan(net: NodeNet, coordinator: str, peer: str) -> direct.Plan:
    return net.led(coordinator).plans[peer_slot(net.job(), PeerId(peer))]


def starts(net: NodeNet) -> dict[str, int]:
    return {name: len(box.started) for name, box in net.boxes.items() if box.started}


# ---- the list


def test_it_runs_once_on_every_peer_and_ends_with_an_answer_of_each() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", ops())
    net.run(0.1)
    assert starts(net) == {"a": 1, "b": 1, "c": 1}
    assert net.boxes["b"].started[0].environment["SHOAL_PARTITION_COUNT"] == "1"
    net.end("a")
    net.end("b", 7)
    net.run(0.1)
    assert not net.held("a").done
    net.end("c")
    net.run(0.1)
    assert net.states("a") == {"a": "completed", "b": "failed", "c": "completed"}
    assert [tell.fields["exit_code"] for tell in net.told("a", "job.failed")] == [7]
    assert net.sent("a", Award) != [] and starts(net) == {"a": 1, "b": 1, "c": 1}
    (survey,) = net.coordination("a").stories.of(net.job()).rounds
    assert {answer.kind for answer in survey.answers.values()} == {"listed"}


def test_only_those_that_match_are_on_the_list() -> None:
    net = NodeNet("a", "b", "c", roles={"b": (Role.SUBMIT,)})
    net.submit("a", ops(on=["b", "c"]))
    net.run(0.1)
    assert starts(net) == {"c": 1}
    (survey,) = net.coordination("a").stories.of(net.job()).rounds
    assert {peer: answer.kind for peer, answer in survey.answers.items()} == {
        "a": "filtered",
        "b": "filtered",
        "c": "listed",
    }


def test_a_job_that_nobody_matches_is_refused_with_what_does_not_fit() -> None:
    net = NodeNet("a", "b")
    request = net.submit("a", ops(on=["nobody"]))
    assert "no peer that is alive matches: a: label name: wanted" in net.reply("a", request).error
    assert net["a"].jobs == {} and not net.coordination("a").stories


def test_a_peer_of_an_older_version_is_not_on_the_list() -> None:
    net = NodeNet("a", "b")
    net["a"].executor.journal.memory = b""
    net.handle("a", SelfDescribed((), {"name": "a"}, 4000, 1 << 30, 1 << 33))
    request = net.submit("a", ops(on=["a"]))
    assert "its version runs no ops jobs" in net.reply("a", request).error


def test_whoever_comes_later_is_not_on_the_list() -> None:
    net = NodeNet("a", "b", "c")
    net.kill("c")
    net.run(10.0)
    net.submit("a", ops())
    net.run(0.1)
    net.boot("c")
    net.run(40.0)
    assert starts(net) == {"a": 1, "b": 1}
    assert len(net.held("a").slots) == 2


def test_nobody_starts_before_the_list_is_at_a_standby_or_a_second_is_over() -> None:
    net = NodeNet("a", "b", "c")
    net.drop = lambda sender, to, message: isinstance(message, JobSyncAck)
    request = net.submit("a", ops())
    net.run(0.9)
    assert starts(net) == {} and not net.answered("a", request)
    net.run(0.2)
    assert starts(net) == {"a": 1, "b": 1, "c": 1} and net.answered("a", request)


def test_the_same_call_again_is_the_same_job() -> None:
    net = NodeNet("a", "b")
    net.submit("a", ops())
    net.run(0.1)
    request = net.submit("a", ops())
    assert net.reply("a", request).value["unchanged"] is True
    net.run(1.0)
    assert starts(net) == {"a": 1, "b": 1}


# ---- peers that do not answer, or will not


def test_an_award_that_is_lost_is_sent_again_and_starts_once() -> None:
    net = NodeNet("a", "b")
    lost: list[Message] = []

    def drop(sender: str, to: str, message: Message) -> bool:
        if isinstance(message, Award | Accepted) and type(message) not in map(type, lost):
            lost.append(message)
            return True
        return False

    net.drop = drop
    net.submit("a", ops(on=["b"]))
    net.run(10.0)
    assert [type(message) for message in lost] == [Award, Accepted]
    assert starts(net) == {"b": 1}
    assert plan(net, "a", "b").phase is Phase.RUNNING


def test_a_peer_that_declines_is_a_failure_with_its_reason() -> None:
    policy = NodeConfig(policy=PolicyConfig(namespaces=("other",)))
    net = NodeNet("a", "b", configs={"b": policy})
    net.submit("a", ops())
    net.run(0.1)
    net.end("a")
    net.run(0.1)
    assert net.states("a") == {"a": "completed", "b": "failed"}
    choice = net.place("a", "b").acceptance
    assert choice is not None and "b declined: policy: namespace default" in choice.reason
    assert net.told("a", "job.failed")[0].fields["exit_code"] == 1


def test_the_device_that_is_too_warm_declines_though_nobody_asked_for_a_bid() -> None:
    net = NodeNet("a", "b", configs={"b": NodeConfig(policy=PolicyConfig(temperature_max_c=-1))})
    net.submit("a", ops(on=["b"]))
    net.run(0.1)
    choice = net.place("a", "b").acceptance
    assert choice is not None and "temperature_max_c" in choice.reason


def busy(net: NodeNet) -> None:
    """b has no cpu left."""
    net.submit("a", batch("full", on=["b"], task={"Resources": {"CPU": "4"}}), "full")
    net.run(0.5)
    assert net.executors(job=net.job("full")) == ["b"]


def test_a_busy_peer_is_a_failure_where_the_job_does_not_queue() -> None:
    net = NodeNet("a", "b")
    busy(net)
    net.submit("a", ops(on=["b"], task={**ONE_CPU, **queue(0)}))
    net.run(0.1)
    choice = net.place("a", "b").acceptance
    assert choice is not None and "busy" in choice.reason and not choice.lost


def test_a_busy_peer_is_asked_again_until_the_queue_timeout() -> None:
    net = NodeNet("a", "b")
    busy(net)
    net.submit("a", ops(on=["b"], task={**ONE_CPU, **queue(8)}))
    net.run(5.0)
    assert not net.held("a").done
    net.run(4.0)
    choice = net.place("a", "b").acceptance
    assert choice is not None and "busy" in choice.reason
    assert len(net.sent("a", Award)) > 3


def test_a_busy_peer_that_is_free_in_time_starts() -> None:
    net = NodeNet("a", "b")
    busy(net)
    net.submit("a", ops(on=["b"], task={**ONE_CPU, **queue(30)}))
    net.run(2.0)
    net.end("b")
    net.run(10.0)
    assert net.executors() == ["b"]


def test_a_decline_that_answers_nothing_changes_nothing() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", ops(on=["b"]))
    net.run(0.1)
    slot = net.place("a", "b")
    assert slot.assignment is not None
    for sender, index, of in (
        ("b", slot.index, slot.assignment.fence),  # it has accepted
        ("b", 0, slot.assignment.fence),
    ):
        net.send(sender, "a", Declined(net.job(), index, of, "no"))
    plan(net, "a", "b").phase = Phase.OFFERED
    net.send("c", "a", Declined(net.job(), slot.index, slot.assignment.fence, "no"))
    net.send("b", "a", Declined(net.job(), slot.index, Fence(9, PeerId("a"), 1), "no"))
    assert slot.acceptance is None and plan(net, "a", "b").phase is Phase.OFFERED


def test_a_peer_that_dies_before_it_answers_is_lost_and_that_is_said() -> None:
    net = NodeNet("a", "b", "c")
    net.drop = lambda sender, to, message: isinstance(message, Award)
    net.submit("a", ops(on=["b", "c"]))
    net.run(0.1)
    net.kill("b")
    net.run(1.0)
    choice = net.place("a", "b").acceptance
    assert choice is not None and choice.lost
    assert choice.reason == "b is gone, and had not answered; it may have run there, or still run"
    assert net.states("a") == {"b": "lost", "c": "starting"}


def test_a_peer_that_dies_before_anything_was_sent_is_not_reached() -> None:
    net = NodeNet("a", "b", "c")
    net.drop = lambda sender, to, message: isinstance(message, JobSyncAck)
    net.submit("a", ops(on=["b"]))
    net.kill("b")
    net.run(2.0)
    choice = net.place("a", "b").acceptance
    assert choice is not None and choice.lost and "b is gone" in choice.reason


def test_a_peer_that_runs_and_dies_has_a_lease_to_come_back() -> None:
    net = NodeNet("a", "b")
    net.submit("a", ops(on=["b"]))
    net.run(0.1)
    net.kill("b")
    net.run(8.0)
    assert not net.held("a").done
    net.run(12.0)
    assert net.states("a") == {"b": "lost"}
    reason = "no word from b since it started; it may have run there, or still run"
    choice = net.place("a", "b").acceptance
    assert choice is not None and choice.reason == reason


def test_a_success_of_a_peer_that_was_given_up_counts_after_all() -> None:
    net = NodeNet("a", "b")
    net.submit("a", ops(on=["b"]))
    net.run(0.1)
    net.kill("b")
    net.run(20.0)
    assert net.states("a") == {"b": "lost"}
    net.boot("b")
    net.run(8.0)
    assert net.boxes["b"].stopping == {}  # it is let run on
    net.end("b")
    net.run(1.0)
    assert net.states("a") == {"b": "completed"}
    assert net.told("a", "job.completed")


def test_a_failure_of_a_peer_that_was_given_up_says_what_became_of_it() -> None:
    net = NodeNet("a", "b")
    net.submit("a", ops(on=["b"]))
    net.run(0.1)
    net.kill("b")
    net.end("b", 6)
    net.run(20.0)
    assert net.states("a") == {"b": "lost"}
    net.boot("b")
    net.run(3.0)
    assert net.states("a") == {"b": "failed"}
    assert [tell.fields["exit_code"] for tell in net.told("a", "job.failed")] == [1, 6]


def test_a_peer_that_never_answers_is_given_up() -> None:
    net = NodeNet("a", "b", "c")
    net.drop = lambda sender, to, message: isinstance(message, Award)
    net.submit("a", ops(on=["b"]))
    net.run(100.0)
    choice = net.place("a", "b").acceptance
    assert choice is not None and choice.lost and "b did not answer" in choice.reason
    assert len(net.sent("a", Award)) < 12


def test_a_peer_that_falls_silent_is_asked_again_and_then_given_up() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", ops(on=["b"]))
    net.run(0.1)
    net.drop = lambda sender, to, message: isinstance(message, Renew | Accepted)
    net.run(16.0)
    assert len(net.sent("a", Award)) == 2
    net.run(60.0)
    choice = net.place("a", "b").acceptance
    assert choice is not None and choice.lost and "no word from b" in choice.reason


# ---- crashes of the executor


def test_what_a_restarted_executor_finds_neither_running_nor_ended_is_unknown() -> None:
    net = NodeNet("a", "b")
    net.submit("a", ops(on=["b"]))
    net.run(0.1)
    net.kill("b")
    net.run(0.1)
    net.boot("b", lost=list(net.boxes["b"].running))
    net.run(2.0)
    assert net.states("a") == {"b": "unknown"}
    choice = net.place("a", "b").acceptance
    assert choice is not None and choice.verdict == Verdict.FAULT
    assert "unknown how it ended: the device lost it" in net.told("a", "execution.ended")[0].text
    net.run(60.0)
    assert starts(net) == {"b": 1}


def test_a_task_that_a_restarted_executor_finds_goes_on() -> None:
    net = NodeNet("a", "b")
    net.submit("a", ops(on=["b"]))
    net.run(0.1)
    net.kill("b")
    net.run(0.1)
    net.boot("b")
    net.run(2.0)
    net.end("b", 4)
    net.run(1.0)
    assert net.states("a") == {"b": "failed"}
    assert starts(net) == {"b": 1}


def test_a_task_that_never_began_has_failed() -> None:
    """As where there is no such command: that it left nothing half done is known."""
    net = NodeNet("a", "b")
    net.submit("a", ops(on=["b"]))
    net.run(0.1)
    net.end("b", None, reason="nosuch: no such command here", untouched=True)
    net.run(0.1)
    assert net.states("a") == {"b": "failed"}
    text = net.told("a", "execution.ended")[0].text
    assert "no such command here" in text and "unknown" not in text
    net.run(60.0)
    assert starts(net) == {"b": 1}


def test_a_task_that_ended_unseen_is_unknown() -> None:
    net = NodeNet("a", "b")
    net.submit("a", ops())
    net.run(0.1)
    net.end("b", None, reason="the supervisor was killed")
    net.run(0.1)
    assert net.states("a") == {"a": "running", "b": "unknown"}
    net.kill("a")
    (execution,) = net.boxes["a"].running
    del net.boxes["a"].running[execution]
    net.boxes["a"].ended[execution] = TaskEnded(execution, None, "the device went down")
    net.boot("a")
    net.run(5.0)
    assert net.states("a") == {"a": "unknown", "b": "unknown"}
    assert starts(net) == {"a": 1, "b": 1}


def test_a_task_whose_results_were_not_published_has_been_seen_to_end() -> None:
    net = NodeNet("a", "b")
    net.submit("a", ops(on=["b"]))
    net.run(0.1)
    (execution,) = net.boxes["b"].running
    net.handle("b", PublishingStarted(execution))
    net.run(0.1)
    assert net.states("a") == {"b": "publishing"}
    net.handle("b", TaskEnded(execution, 0, unpublished="its results: no such bucket"))
    net.run(0.1)
    assert net.states("a") == {"b": "failed"}
    assert "no such bucket" in net.told("a", "execution.ended")[0].text


def test_a_task_that_could_not_be_started_has_failed() -> None:
    net = NodeNet("a", "b")
    net.submit("a", ops(on=["b"]))
    net.run(0.1)
    (execution,) = net["b"].executor.executions.values()
    execution.state = State.STARTING  # it was not seen to run
    net.end("b", None, reason="no such file")
    net.run(0.1)
    assert net.states("a") == {"b": "failed"}


def test_after_a_lost_database_an_older_job_is_unknown_and_never_runs() -> None:
    net = NodeNet("a", "b")
    net.drop = lambda sender, to, message: isinstance(message, Award | Renew | ResultOffer)
    net.submit("a", ops())
    net.run(0.1)
    net.kill("b")
    net.forget("b")
    net.run(0.1)
    net.drop = lambda sender, to, message: False
    net.boot("b")
    net.run(5.0)
    assert starts(net) == {"a": 1}
    assert net.states("a") == {"a": "running", "b": "unknown"}
    request = net.submit("a", ops("later"), "later")
    net.run(2.0)
    assert net.reply("a", request).error == ""
    assert starts(net) == {"a": 2, "b": 1}


def test_what_ran_and_was_forgotten_is_answered_from_the_journal() -> None:
    net = NodeNet("a", "b")
    net.submit("a", ops(on=["b"]))
    net.run(0.1)
    award = net.sent("a", Award)[0][1]
    net.end("b", 5)
    net.run(1.0)
    assert net["b"].executor.retention.forget_ended(0, 0) != []
    effects = net.send("a", "b", award)
    (offer,) = [e.message for e in effects if isinstance(e, Send)]
    assert isinstance(offer, ResultOffer)
    assert starts(net) == {"b": 1}
    net.kill("b")
    net.boot("b")
    assert net["b"].executor.journal.entries != {}


def test_an_award_that_comes_again_is_answered_with_what_became_of_it() -> None:
    net = NodeNet("a", "b")
    net.submit("a", ops(on=["b"]))
    net.run(0.1)
    award = net.sent("a", Award)[0][1]
    assert said(net, award) == [Accepted]
    net.end("b", 5)
    net.run(1.0)
    assert said(net, award) == [Accepted, ResultOffer]
    assert net.states("a") == {"b": "failed"}


def test_an_award_of_what_was_stopped_is_declined() -> None:
    net = NodeNet("a", "b")
    net.submit("a", ops(on=["b"]))
    net.run(0.1)
    award = net.sent("a", Award)[0][1]
    net.stop("a", net.job())
    net.run(1.0)
    assert net.states("a") == {"b": "stopped"}
    assert said(net, award) == [Declined]
    net["b"].executor.retention.forget_ended(0, 0)
    assert said(net, award) == [ResultOffer]
    net["b"].executor.journal.entries.clear()
    assert said(net, award) == [Declined]  # its fence was raised
    assert starts(net) == {"b": 1}


def said(net: NodeNet, award: Message) -> list[type[Message]]:
    return [type(e.message) for e in net.send("a", "b", award) if isinstance(e, Send)]


# ---- coordinators that die


@pytest.mark.parametrize("dies_after_s", [0.0, 0.003, 0.005, 0.01, 0.1, 1.5])
def test_whoever_takes_over_goes_on_with_the_same_list(dies_after_s: float) -> None:
    net = NodeNet("a", "b", "c", "d")
    net.submit("a", ops(on=["b", "c", "d"]))
    net.run(dies_after_s)
    net.kill("a")
    net.run(15.0)
    holders = [name for name in "bcd" if net.job() in net[name].jobs]
    if not holders:  # it died before anybody heard of the job, and nobody was told of it
        assert starts(net) == {}
        return
    assert starts(net) == {"b": 1, "c": 1, "d": 1}
    for name in "bcd":
        net.end(name, 0 if name != "c" else 3)
    net.run(15.0)
    for name in holders:
        assert net.states(name) == {"b": "completed", "c": "failed", "d": "completed"}
    net.boot("a")
    net.run(10.0)
    assert net.states("a") == {"b": "completed", "c": "failed", "d": "completed"}
    assert starts(net) == {"b": 1, "c": 1, "d": 1}


def test_what_ended_while_nobody_coordinated_is_told_to_the_successor() -> None:
    net = NodeNet("a", "b", "c", "d")
    net.submit("a", ops(on=["b", "c", "d"]))
    net.run(0.5)
    net.kill("a")
    for name in "bcd":
        net.end(name, 2)
    net.run(30.0)
    holders = [name for name in "bcd" if net.job() in net[name].jobs]
    for name in holders:
        assert set(net.states(name).values()) == {"failed"}
    assert starts(net) == {"b": 1, "c": 1, "d": 1}


def test_a_restarted_coordinator_sends_the_same_awards_again() -> None:
    net = NodeNet("a", "b")
    net.drop = lambda sender, to, message: isinstance(message, Award)
    net.submit("a", ops(on=["b"]))
    net.run(0.1)
    before = net.place("a", "b").assignment_data
    net.kill("a")
    net.run(0.1)
    net.drop = lambda sender, to, message: False
    net.boot("a")
    net.run(6.0)
    assert net.place("a", "b").assignment_data == before
    assert starts(net) == {"b": 1}


def test_a_restarted_coordinator_gives_a_peer_a_lease_to_be_heard_of() -> None:
    net = NodeNet("a", "b", configs={"a": NONE})
    net.drop = lambda sender, to, message: isinstance(message, Award)
    net.submit("a", ops(on=["b"]))
    net.run(1.5)
    net.kill("a", "b")
    net.run(0.1)
    net.boot("a")
    net.run(12.0)
    assert not net.held("a").done
    net.run(5.0)
    choice = net.place("a", "b").acceptance
    assert choice is not None and choice.lost and "b is gone" in choice.reason


def shown(net: NodeNet, peer: str, by: str, **fields: object) -> tuple[Renewal, bytes]:
    """An execution of `peer` that `by` awarded and `a` has never heard of; and its award."""
    held, fence = net.held("a"), Fence(1, PeerId(by), 1)
    index = peer_slot(held.id, PeerId(peer))
    award = Assignment(
        job=held.id,
        revision=held.revision,
        slot=index,
        fence=fence,
        executor=PeerId(peer),
        lease_ms=15_000,
    )
    data = seal(replace(award, **fields), net.boxes[by].keyring)
    return Renewal(held.id, held.revision, index, fence, "running", data), data


def test_an_award_that_the_coordinator_took_to_its_grave_is_learnt_from_its_peer() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", ops(on=["b"]))
    net.run(0.1)
    renewal, _ = shown(net, "c", "c")
    bare = replace(renewal, assignment=b"")
    net.send("c", "a", Renew((bare,)))  # shows no award: it is not learnt
    assert len(net.held("a").slots) == 1
    net.send("c", "a", Renew((renewal, renewal)))
    assert net.states("a") == {"b": "running", "c": "running"}


def test_a_result_of_a_peer_that_was_not_known_to_be_listed_is_taken() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", ops(on=["b"]))
    net.run(0.1)
    renewal, award = shown(net, "c", "c")
    result = Result(
        job=renewal.job,
        revision=renewal.revision,
        slot=renewal.slot,
        fence=renewal.fence,
        executor=PeerId("c"),
        verdict=Verdict.FAILURE,
        exit_code=9,
        reason="",
        started_ms=0,
        ended_ms=0,
        duration_ms=0,
    )
    data = seal(result, net.boxes["c"].keyring)
    net.send("c", "a", ResultOffer(data))
    (*_, (_, answer)) = net.sent("a", ResultAck)
    assert isinstance(answer, ResultAck) and answer.status == "unknown"
    assert len(net.held("a").slots) == 1
    net.send("c", "a", ResultOffer(data, award))
    assert net.states("a") == {"b": "running", "c": "failed"}


def test_an_award_of_something_else_or_by_nobody_who_holds_the_job_lists_nobody() -> None:
    net = NodeNet("a", "b", "c", "d", configs={"a": NONE})
    net.submit("a", ops(on=["b"]))
    net.run(0.1)
    for renewal, _ in (
        shown(net, "c", "d"),
        shown(net, "c", "c", revision="z" * 32),
        shown(net, "c", "c", slot=3),
    ):
        net.send("c", "a", Renew((renewal,)))
    renewal, _ = shown(net, "b", "a")
    net.send("c", "a", Renew((renewal,)))  # another peer's
    assert len(net.held("a").slots) == 1


# ---- islands


def test_two_islands_that_list_their_own_peers_have_one_list_when_they_meet() -> None:
    net = NodeNet("a", "b", "c", "d")
    net.part("ab", "cd")
    net.run(1.0)
    net.submit("a", ops())
    net.submit("d", ops())
    net.run(1.0)
    assert starts(net) == {"a": 1, "b": 1, "c": 1, "d": 1}
    net.end("a")
    net.end("b", 3)
    net.run(1.0)
    assert net.held("a").done and net.held("a").ended_ms
    net.heal()
    net.run(20.0)
    assert not net.held("a").done  # there is more of it than it knew
    net.end("c")
    net.end("d")
    net.run(20.0)
    expected = {"a": "completed", "b": "failed", "c": "completed", "d": "completed"}
    assert net.states("a") == expected and net.states("d") == expected
    assert net.held("a").fingerprint() == net.held("d").fingerprint()
    assert starts(net) == {"a": 1, "b": 1, "c": 1, "d": 1}


def test_a_peer_that_both_islands_list_starts_once() -> None:
    net = NodeNet("a", "b", "c")
    net.drop = lambda sender, to, message: "c" not in (sender, to) and isinstance(message, Award)
    net.cut[frozenset(("a", "b"))] = None
    net.submit("a", ops(on=["c"]))
    net.submit("b", ops(on=["c"]))
    net.run(1.0)
    assert starts(net) == {"c": 1}
    net.end("c", 6)
    net.heal()
    net.run(30.0)
    assert net.states("a") == net.states("b") == {"c": "failed"}
    assert starts(net) == {"c": 1}


# ---- NotAfter


def test_an_open_job_reaches_peers_that_join_later_until_it_ends() -> None:
    net = NodeNet("a", "b")
    net.boxes["c"] = box_of("c")
    net.submit("a", ops(**until(net, 60)))
    net.run(1.0)
    net.end("a")
    net.end("b")
    net.run(1.0)
    assert net["a"].views.job(net.held("a"))["state"] == "running"
    assert "open until" in str(net["a"].views.job(net.held("a"))["reason"])
    net.boot("c")
    net.run(2.0)
    assert net.executors() == ["c"]
    assert [tell.text for tell in net.told("a", "job.listed")] == [
        "c matches, and is on the list now"
    ]
    net.end("c", 8)
    net.run(30.0)
    assert not net.held("a").done
    net.run(30.0)
    assert net.held("a").done and net.held("b").done
    assert net.states("b") == {"a": "completed", "b": "completed", "c": "failed"}
    net.boxes["d"] = box_of("d")
    net.boot("d")
    net.run(30.0)
    assert starts(net) == {"a": 1, "b": 1, "c": 1}


def box_of(name: str) -> Box:
    net = NodeNet(name, settle_s=0.0)
    net.kill(name)
    net.forget(name)
    return net.boxes[name]


def test_an_open_job_may_begin_with_nobody_on_its_list() -> None:
    net = NodeNet("a", "b")
    net.submit("a", ops(on=["nobody"], **until(net, 20)))
    net.run(10.0)
    assert not net.held("a").done
    net.run(15.0)
    assert net.held("a").done and net.held("b").done
    assert net.told("a", "job.completed")[0].fields["exit_code"] == 0


def test_an_open_job_finds_who_matches_only_now() -> None:
    net = NodeNet("a", "b")
    net.submit("a", ops(on=["camera"], **until(net, 200)))
    net.run(5.0)
    net.handle("b", SelfDescribed((), {"name": "camera"}, 4000, 1 << 30, 1 << 33))
    net.run(90.0)  # an advert a minute
    assert starts(net) == {"b": 1}


def test_an_open_job_waits_for_a_peer_that_died_before_it_answered() -> None:
    net = NodeNet("a", "b", "c")
    net.drop = lambda sender, to, message: isinstance(message, Award)
    net.submit("a", ops(on=["b"], **until(net, 300)))
    net.run(1.5)
    net.kill("b")
    net.run(60.0)
    assert plan(net, "a", "b").reason == "b is gone; it is asked again when it is back"
    net.drop = lambda sender, to, message: False
    net.boot("b")
    net.run(2.0)
    assert starts(net) == {"b": 1}


def test_an_open_job_hears_of_what_ran_on_a_peer_that_died() -> None:
    net = NodeNet("a", "b")
    net.submit("a", ops(on=["b"], **until(net, 300)))
    net.run(1.0)
    net.kill("b")
    net.run(60.0)
    assert net.place("a", "b").acceptance is None
    net.boot("b", lost=list(net.boxes["b"].running))
    net.run(2.0)
    assert net.states("a") == {"b": "unknown"}
    assert starts(net) == {"b": 1}


def test_who_was_not_there_again_until_the_end_is_lost() -> None:
    net = NodeNet("a", "b", "c")
    net.drop = lambda sender, to, message: isinstance(message, Award)
    net.submit("a", ops(on=["b"], **until(net, 60)))
    net.run(1.5)
    net.kill("b")
    net.run(70.0)
    choice = net.place("a", "b").acceptance
    assert choice is not None and choice.lost
    assert "b was not there again until 2027" in choice.reason


def test_a_stop_closes_an_open_job() -> None:
    net = NodeNet("a", "b")
    net.submit("a", ops(**until(net, 600)))
    net.run(1.0)
    net.end("a")
    net.run(1.0)
    net.stop("a", net.job())
    net.run(1.0)
    assert net.held("a").done and net.held("b").done
    assert net.states("a") == {"a": "completed", "b": "stopped"}


def test_the_total_timeout_closes_an_open_job() -> None:
    net = NodeNet("a", "b")
    limits: dict[str, Plain] = {"Timeouts": {"TotalTimeout": "20s", "ExecutionTimeout": "10s"}}
    net.submit("a", ops(task=limits, **until(net, 600)))
    net.run(1.0)
    net.end("a")
    net.run(25.0)
    assert net.states("a") == {"a": "completed", "b": "failed"}
    assert net.held("a").done and net.told("a", "job.failed")


def test_while_the_clock_is_not_trusted_a_job_stays_open() -> None:
    net = NodeNet("a", "b", configs={"a": NONE})
    net.boxes["a"].trusted = False
    net.submit("a", ops(on=["a"], **until(net, 5)))
    net.run(0.1)
    net.end("a")
    net.run(60.0)
    assert not net.held("a").done
    net.boxes["a"].trusted = True
    net.run(20.0)
    assert net.held("a").done


def test_a_successor_keeps_the_job_open_and_closes_it() -> None:
    net = NodeNet("a", "b", "c")
    net.boxes["d"] = box_of("d")
    net.submit("a", ops(**until(net, 60)))
    net.run(1.0)
    net.kill("a")
    net.run(20.0)
    net.boot("d")
    net.run(5.0)
    assert starts(net) == {"a": 1, "b": 1, "c": 1, "d": 1}
    for name in "bcd":
        net.end(name)
    net.run(50.0)
    held = net.held("b" if net.job() in net["b"].jobs else "c")
    assert held.done and held.closed


def test_a_job_that_is_over_before_it_began_is_refused() -> None:
    net = NodeNet("a", "b")
    request = net.submit("a", ops(**until(net, -1)))
    assert "is over; name a later moment" in net.reply("a", request).error


def test_a_list_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "SLOTS_MAX", 1)
    net = NodeNet("a", "b", configs={"a": NONE, "b": NONE})
    net.submit("a", ops(**until(net, 600)))
    net.run(30.0)
    assert len(net.held("a").slots) == 1
