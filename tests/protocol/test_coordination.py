"""coordination: jobs accepted and answered for, across deaths, returns and partitions."""

from __future__ import annotations

import pytest

from protocol.bounds import INT_MAX
from protocol.config import CoordinationConfig, MembershipConfig, NodeConfig
from protocol.effects import Save, Send
from protocol.events import DeadlinePassed
from protocol.heldjob import HOLDERS_MAX
from protocol.ids import PeerId
from protocol.led import Phase
from protocol.messages import (
    Award,
    Bid,
    JobSync,
    JobSyncAck,
    Message,
    Renew,
    ResultAck,
    ResultOffer,
    SlotState,
    Withdraw,
)
from protocol.records import Acceptance, Fence, Result, Verdict
from protocol.wire import seal
from tests.protocol.jobs import Book
from tests.protocol.nodenet import Box, NodeNet, batch, queue, retry


def holders_of(net: NodeNet) -> list[tuple[str, Box]]:
    return [(name, box) for name, box in net.boxes.items() if net.job() in net[name].jobs]


# ---- accepting a job


def test_a_job_is_answered_once_a_standby_has_it() -> None:
    net = NodeNet("a", "b", "c")
    request = net.submit("a", batch(on=["b"], task=queue(60)))
    assert not net.answered("a", request)
    net.run(0.02)
    answer = net.reply("a", request).value
    assert (answer["job"], answer["durable_on"], answer["warning"]) == (net.job(), 3, "") or (
        answer["durable_on"] == 2
    )
    assert net.held("b").coordinator == "a"
    assert [tell.text for tell in net.told("a", "job.accepted")] == ["job accepted"]


def test_a_lone_peer_answers_at_once_and_says_so() -> None:
    net = NodeNet("a")
    request = net.submit("a", batch(on=["b"], task=queue(60)))
    answer = net.reply("a", request).value
    assert (answer["durable_on"], answer["warning"]) == (1, "accepted, on this peer only")


def test_a_silent_standby_is_waited_for_a_second() -> None:
    net = NodeNet("a", "b")
    net.drop = lambda sender, to, message: isinstance(message, JobSyncAck)
    request = net.submit("a", batch(on=["a"]))
    net.run(0.9)
    assert not net.answered("a", request)
    net.run(0.2)
    assert net.reply("a", request).value["durable_on"] == 1


def test_what_was_not_answered_is_when_the_job_is_handed_over() -> None:
    net = NodeNet("a", "b")
    net.drop = lambda sender, to, message: isinstance(message, JobSyncAck)
    request = net.submit("a", batch(on=["b"], task=queue(60)))
    net.run(0.1)
    sync = net.held("a").sync(1, [], False)
    net.send(
        "b", "a", JobSync(9, sync.job, b"", b"", 2, PeerId("b"), sync.accepted_ms, (), (), b"")
    )
    assert net.reply("a", request).value["job"] == net.job()
    assert net.coordination("a").led == {}


# ---- a coordinator that dies and comes back


def test_a_restarted_coordinator_takes_up_what_runs() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["b"]))
    net.run(1.0)
    net.kill("a")
    net.run(0.1)
    net.boot("a")
    assert net.led("a").plans[0].phase is Phase.RUNNING
    net.run(20.0)
    net.end("b")
    net.run(0.1)
    assert net.told("a", "job.completed")
    assert len(net.boxes["b"].started) == 1


def test_a_restarted_coordinator_places_what_nobody_had_after_a_grace() -> None:
    net = NodeNet("a", "b", settle_s=0.0)
    net.drop = lambda sender, to, message: isinstance(message, Bid)
    net.submit("a", batch(on=["b"], task=queue(600)))
    net.kill("a")
    net.run(0.1)
    net.drop = lambda sender, to, message: False
    net.boot("a")
    assert net.led("a").plans[0].phase is Phase.WAITING
    net.run(2.0)
    assert net.executors() == []
    net.run(2.0)
    assert len(net.executors()) == 1


def test_timeouts_count_from_acceptance_across_a_restart() -> None:
    net = NodeNet("a", "b")
    task = {"Timeouts": {"TotalTimeout": "60s", "QueueTimeout": "0s"}}
    net.submit("a", batch(on=["b"], task=task))
    net.run(50.0)
    net.kill("a")
    net.run(0.1)
    net.boot("a")
    net.run(9.0)
    assert not net.held("a").done
    net.run(2.0)
    acceptance = net.slot("a").acceptance
    assert acceptance is not None
    assert (acceptance.verdict, acceptance.reason) == (
        Verdict.FAILURE,
        "TotalTimeout of 60 s is over",
    )
    net.run(0.1)
    assert net.executors() == []  # and its task was stopped


@pytest.mark.parametrize("trusted", [True, False])
def test_timeouts_count_anew_where_the_time_of_acceptance_cannot_be(trusted: bool) -> None:
    """Accepted under a clock in 1970, or looked at under one."""
    net = NodeNet("a", "b", "c")
    task = {"Timeouts": {"TotalTimeout": "60s", "QueueTimeout": "0s"}}
    net.submit("a", batch(on=["b"], task=task))
    net.run(1.0)
    if trusted:
        for name in "abc":
            net.held(name).accepted_ms = 1000
    else:
        net.boxes["b"].trusted = net.boxes["c"].trusted = False
    net.kill("a")
    net.run(10.0)
    successor = net.held("b").coordinator
    assert successor in ("b", "c")
    due = net.led(successor).total_due - net.now
    assert 45.0 < due <= 60.0


# ---- takeover


def test_a_dead_coordinators_job_is_taken_over_by_rank() -> None:
    net = NodeNet("a", "b", "c", "d")
    net.submit("a", batch(on=["a", "b", "c", "d"]))
    net.run(0.5)
    first, second = net.held("a").holders[1:]
    executor = net.executor()
    net.drop = lambda sender, to, message: False
    net.kill("a")
    net.run(20.0)
    held = net.held(first)
    assert (held.coordinator, held.term) == (first, 2)
    assert net.held(second).coordinator == first
    (told,) = net.told(first, "job.taken-over")
    assert told.fields["term"] == 2
    assert net.told(second, "job.taken-over") == []
    if executor != "a":
        assert net.executors() == [executor]


def test_the_second_rank_waits_for_the_first() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b"]))
    net.run(9.5)  # past the grace after a start
    first, second = net.held("a").holders[1:]
    silent = net.boxes[first]
    net.drop = lambda sender, to, message: sender == first and isinstance(message, JobSync)
    net.kill("a")
    net.until(lambda: net.held(second).coordinator == second, 10.0)
    (mine,) = net.told(second, "job.taken-over")
    assert silent.node is not None
    assert net.told(first, "job.taken-over")
    # Both think so now; the higher id of the same term wins, and the other steps down.
    net.drop = lambda sender, to, message: False
    net.run(40.0)
    winner = max(first, second)
    assert {net.held(name).coordinator for name in (first, second)} == {winner}
    assert net.executors() == ["b"]
    assert mine.fields["term"] == 2


def test_the_successor_learns_of_awards_from_their_executors() -> None:
    """No standby ever heard of the award: it is waited for, and not made again."""
    net = NodeNet("a", "b", "c", "d")
    net.drop = lambda sender, to, message: (
        isinstance(message, JobSync) and any(state.assignment for state in message.slots)
    )
    net.submit("a", batch(on=["b", "c", "d"]))
    net.run(0.3)
    executor = net.executor()
    standbys = net.held("a").holders[1:]
    net.kill("a")
    net.drop = lambda sender, to, message: False
    net.run(30.0)
    assert net.executors() == [executor]
    assert sum(len(box.started) for box in net.boxes.values()) == 1
    successor = net.held(standbys[0]).coordinator
    assignment = net.slot(successor).assignment
    assert assignment is not None
    assert assignment.fence == Fence(1, PeerId("a"), 1)
    net.end(executor)
    net.run(3.0)
    assert net.told(successor, "job.completed")


def test_the_successor_places_again_what_ran_on_the_dead() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["a", "b", "c"], **retry(5, "lost")))
    net.until(lambda: net.executors() != [])
    net.run(0.5)
    executor = net.executor()
    net.kill("a", *([] if executor == "a" else [executor]))
    for box in net.boxes.values():
        if box.node is None:
            box.running.clear()
    net.run(30.0)
    (home,) = net.executors()
    assert net.boxes[home].node is not None


def test_attempts_already_used_count_after_a_takeover() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b", "c"], **retry(2, "failure", "lost")))
    net.run(0.1)
    net.end(net.executor(), 1)
    net.until(lambda: net.executors() != [])
    net.run(0.5)
    net.kill("a")
    net.run(20.0)
    successor = net.held("b").coordinator
    assert net.led(successor).plans[0].failures == 1
    net.end(net.executor(), 1)
    net.run(5.0)
    assert net.told(successor, "job.failed")


@pytest.mark.parametrize("returns", [True, False])
def test_awards_that_counted_as_no_loss_are_known_after_a_restart_or_takeover(
    returns: bool,
) -> None:
    net = NodeNet("a", *"bcdef")
    ended: list[str] = []

    def end(by: str, to: str, message: Message) -> bool:
        if isinstance(message, Award) and len(ended) < 2:
            ended.append(to)
            net.kill(to)
        return to in ended

    net.drop = end
    net.submit("a", batch(on=list("bcdef")))
    net.until(lambda: net.executors() != [])
    net.run(0.5)
    net.kill("a")
    if returns:
        net.boot("a")
    alive = [name for name, box in net.boxes.items() if box.node is not None]
    net.until(lambda: any(net.coordination(name).led for name in alive))
    (lead,) = [name for name in alive if net.coordination(name).led]
    assert (lead == "a") is returns
    assert (net.led(lead).plans[0].untaken, net.led(lead).plans[0].failures) == (2, 0)


def test_a_coordinator_that_returns_steps_down_and_says_how_it_ended() -> None:
    """Who waits for the job waits at the peer that accepted it, whoever answers for it now."""
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b"]))
    net.run(11.0)
    net.part(["a"], ["b", "c"])
    net.run(10.0)
    successor = net.held("b").coordinator
    assert successor != "a"
    assert net.led("a").plans[0].phase is Phase.WAITING  # b is gone, as a has it
    net.heal()
    net.run(3.0)
    assert net.held("a").coordinator == successor
    assert net.coordination("a").led == {}
    assert net.told("a", "job.handed-over")[0].text == f"{successor} coordinates it now"
    net.end("b")
    net.run(3.0)
    assert [tell.fields["exit_code"] for tell in net.told("a", "job.completed")] == [0]
    assert net.told(successor, "job.completed")
    (bystander,) = {"b", "c"} - {successor}
    assert net.told(bystander, "job.completed") == []


def test_who_returns_to_a_job_that_has_ended_hears_of_its_end_alone() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b"]))
    net.run(11.0)
    net.part(["a"], ["b", "c"])
    net.run(10.0)
    net.end("b")
    net.run(3.0)
    net.heal()
    net.run(3.0)
    assert len(net.told("a", "job.completed")) == 1
    assert net.told("a", "job.handed-over") == []


def test_a_job_whose_coordinator_never_comes_back_is_taken_over_after_a_start() -> None:
    """Both go down, and only the standby comes back: nothing is ever heard of the other."""
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["b"]))
    net.run(1.0)
    net.kill("a", "b")
    net.run(1.0)
    net.boot("b")
    net.run(9.0)
    assert net.held("b").coordinator == "a"
    net.run(2.0)
    assert (net.held("b").coordinator, net.held("b").term) == ("b", 2)
    net.end("b")
    net.run(1.0)
    assert net.told("b", "job.completed")


def test_a_standby_with_a_stale_copy_keeps_the_result_it_hears_of() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b"]))
    net.run(11.0)
    net.drop = lambda sender, to, message: isinstance(message, JobSync) and to == "c"
    net.end("b")
    net.run(0.5)
    net.drop = lambda sender, to, message: False
    assert not net.held("c").done
    net.kill("a")
    net.run(10.0)
    assert net.held("c").done
    assert len(net.boxes["b"].started) == 1


def test_a_term_that_cannot_be_raised_is_left_alone() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["b"]))
    net.run(11.0)
    forged = JobSync(1, net.job(), b"", b"", 2**63 - 1, PeerId("zz"), 10, (), (), b"")
    net.send("b", "a", forged)
    net.run(5.0)
    assert net.held("a").coordinator == "zz"
    assert net.coordination("a").led == {}


# ---- holders


def test_a_dead_standby_is_replaced() -> None:
    net = NodeNet("a", "b", "c", "d")
    net.submit("a", batch(on=["a"]))
    net.run(0.5)
    before = net.held("a").holders
    net.kill(before[1])
    net.run(1.0)
    (spare,) = set("bcd") - set(before)
    assert net.held("a").holders == (*before, spare)
    assert net.held(spare).coordinator == "a"


def test_a_standby_is_found_when_there_was_none() -> None:
    net = NodeNet("a", "b", settle_s=0.0)
    net.kill("b")
    net.run(1.0)
    net.submit("a", batch(on=["a"]))
    net.run(0.5)
    assert net.held("a").holders == ("a",)
    net.boot("b")
    net.run(1.0)
    assert net.held("b").holders == ("a", "b")


def test_an_ended_job_is_handed_to_who_ranks_first_and_to_nobody_else() -> None:
    net = NodeNet("a", *"bcdef")
    late = ["e", "f"]
    net.kill(*late)
    net.run(1.0)
    for key in "0123456789":
        net.submit("a", batch(on=["a"]), key)
        net.run(0.1)
        net.end("a")
        net.run(0.1)
    for name in late:
        net.boot(name)
    net.run(3.0)
    had = {key: [n for n in late if net.job(key) in net[n].jobs] for key in "0123456789"}
    assert any(had.values())
    assert not all(had.values())


def test_holders_stop_growing_at_their_bound() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["a"]))
    net.run(0.5)
    held = net.held("a")
    held.add_holders(tuple(PeerId(f"p{n}") for n in range(HOLDERS_MAX)))
    held.holders = tuple(peer for peer in held.holders if peer not in ("b", "c"))
    held.add_holders(tuple(PeerId(f"q{n}") for n in range(HOLDERS_MAX)))
    assert net.coordination("a").on_peer_alive(PeerId("b"), net.clock("a")) == []


# ---- other holders' news


def test_a_stop_that_reaches_a_standby_reaches_the_coordinator() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["b"]))
    net.run(0.5)
    book = Book(batch(on=["b"]), author="a", shoal=net.shoal)
    sync = net.held("b").sync(9, [], False)
    control = book.controlled("a")
    net.send(
        "b", "a", JobSync(9, sync.job, b"", control, 1, PeerId("a"), sync.accepted_ms, (), (), b"")
    )
    net.run(0.1)
    assert [tell.kind for tell in net.told("a", "job.stopped")] == ["job.stopped"]
    assert net.executors() == []


def test_two_coordinators_each_accept_a_result_and_one_counts() -> None:
    net = NodeNet("a", "b", "c", "d")
    net.submit("a", batch(on=["a", "b", "c", "d"], **retry(9, "lost")))
    net.run(11.0)
    net.part(["a", "b"], ["c", "d"])
    net.run(30.0)
    for name in net.executors():
        net.end(name)
    net.run(5.0)
    assert all(net.held(name).done for name, _ in holders_of(net))
    net.heal()
    net.run(5.0)
    chosen = {net.slot(name).acceptance_data for name, _ in holders_of(net)}
    assert len(chosen) == 1
    acceptance = net.slot("a").acceptance
    assert acceptance is not None
    assert acceptance.fence.attempt == 1
    assert [tell for name in "abcd" for tell in net.told(name, "job.result-changed")]


def test_a_result_that_another_holder_knows_ends_the_slot_here() -> None:
    """Its award is still open here: the round is closed, and whoever may run it is told."""
    net = NodeNet("a", "b")
    net.drop = lambda sender, to, message: isinstance(message, Award)
    net.submit("a", batch(on=["b"]))
    net.run(0.1)
    assignment = net.slot("a").assignment
    assert assignment is not None
    held = net.held("a")
    keyring = net.shoal.keyring("b")
    result = Result(
        job=held.id,
        revision=held.revision,
        slot=0,
        fence=assignment.fence,
        executor=PeerId("b"),
        verdict=0,
        exit_code=0,
        reason="",
        started_ms=1,
        ended_ms=2,
        duration_ms=1,
    )
    acceptance = Acceptance(
        job=held.id,
        revision=held.revision,
        slot=0,
        fence=assignment.fence,
        verdict=0,
        result=seal(result, keyring),
    )
    state = SlotState(0, b"", seal(acceptance, keyring))
    before = len(net.sent("a", Withdraw))
    net.send(
        "b", "a", JobSync(3, held.id, b"", b"", 1, PeerId("a"), held.accepted_ms, (state,), (), b"")
    )
    net.run(0.1)
    assert len(net.sent("a", Withdraw)) == before + 1
    assert net.told("a", "job.completed")
    assert net.coordination("a").placement.rounds._auctions == {}


def test_an_award_that_another_holder_knows_is_waited_for() -> None:
    """The coordinator lost its disk, and a standby brings the job back."""
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b"]))
    net.run(1.0)
    net.kill("a")
    net.boxes["a"].disk.clear()
    net.run(0.1)
    net.boot("a")
    net.run(3.0)
    assert net.held("a").coordinator == "a"
    assert net.led("a").plans[0].phase is Phase.RUNNING
    net.run(20.0)
    assert len(net.boxes["b"].started) == 1


def test_an_award_learnt_while_the_slot_waits_is_given_a_lease() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["nobody"], task=queue(600)))
    net.run(0.5)
    held = net.held("a")
    book = Book(batch(on=["nobody"], task=queue(600)), author="a", shoal=net.shoal)
    data = book.awarded(Fence(1, PeerId("a"), 1), 0, "b")
    state = SlotState(0, data, b"")
    net.send(
        "b", "a", JobSync(3, held.id, b"", b"", 1, PeerId("a"), held.accepted_ms, (state,), (), b"")
    )
    assert net.led("a").plans[0].phase is Phase.RUNNING


# ---- forgetting


def test_an_ended_job_is_forgotten_after_its_time_everywhere() -> None:
    short = NodeConfig(coordination=CoordinationConfig(retain_s=100.0))
    net = NodeNet("a", "b", "c", configs=dict.fromkeys("abc", short))
    net.submit("a", batch(on=["b"]))
    net.run(0.5)
    net.end("b")
    net.run(500.0)
    for name in "abc":
        assert net.job() in net[name].jobs
    net.run(800.0)
    for name in "abc":
        assert net[name].jobs == {}
        buckets = net.boxes[name].disk
        assert not any(buckets.get(bucket) for bucket in ("job", "spec", "slot", "control"))


def test_nothing_is_forgotten_while_the_clock_is_not_trusted() -> None:
    short = NodeConfig(coordination=CoordinationConfig(retain_s=100.0))
    net = NodeNet("a", configs={"a": short})
    net.boxes["a"].trusted = False
    net.submit("a", batch())
    net.run(0.5)
    net.end("a")
    net.run(1500.0)
    assert net.job() in net["a"].jobs


def test_a_job_under_way_is_never_forgotten() -> None:
    short = NodeConfig(coordination=CoordinationConfig(retain_s=1.0))
    net = NodeNet("a", configs={"a": short})
    net.submit("a", batch())
    net.run(1500.0)
    assert net.job() in net["a"].jobs


def test_a_job_in_hand_is_let_go_of_once_it_owes_nobody_anything() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["b"]))
    net.run(0.5)
    net.end("b")
    net.run(2.0)
    net.handle("a", DeadlinePassed())
    assert net.coordination("a").led == {}
    # A latecomer takes it in hand again, and is answered at once: nothing is news of it.
    data = net.slot("a").acceptance
    assert data is not None
    effects = net.send("b", "a", ResultOffer(data.result))
    (send,) = [effect for effect in effects if isinstance(effect, Send)]
    assert isinstance(send.message, ResultAck)
    assert send.message.status == "accepted"
    assert not any(isinstance(effect, Save) for effect in effects)
    net.handle("a", DeadlinePassed())
    assert net.coordination("a").led == {}
    assert len(net.told("a", "job.completed")) == 1


def test_renewals_lost_for_a_while_do_no_harm() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["b"]))
    net.run(6.0)
    net.drop = lambda sender, to, message: isinstance(message, Renew)
    net.run(6.0)
    net.drop = lambda sender, to, message: False
    net.run(10.0)
    assert net.led("a").plans[0].failures == 0


def test_an_award_learnt_while_the_slot_runs_changes_no_lease() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b"]))
    net.run(1.0)
    due = net.led("a").plans[0].due
    book = Book(batch(on=["b"]), author="a", shoal=net.shoal)
    state = SlotState(0, book.awarded(Fence(1, PeerId("a"), 2), 0, "b"), b"")
    net.send("b", "a", book.sync(state, spec=b""))
    assert (net.led("a").plans[0].phase, net.led("a").plans[0].due) == (Phase.RUNNING, due)


def test_a_total_timeout_ends_what_has_not_ended() -> None:
    net = NodeNet("a", "b")
    task = {"Timeouts": {"TotalTimeout": "30s", "QueueTimeout": "0s"}}
    net.submit("a", batch(count=2, on=["b"], task=task))
    net.run(1.0)
    net.end("b", 0, slot=0)
    net.run(31.0)
    verdicts = [slot.acceptance.verdict for slot in net.held("a").slots if slot.acceptance]
    assert verdicts == [Verdict.SUCCESS, Verdict.FAILURE]
    assert net.executors(1) == []


def test_a_queue_timeout_ends_what_was_asked_for_in_vain() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(count=2, on=["nobody"], task=queue(20)))
    net.run(19.9)
    plan = net.led("a").plans[1]
    plan.dry_rounds, plan.due = 0, net.now + 5.0  # as after a start: nobody was asked yet
    net.run(1.0)
    assert [slot.acceptance is not None for slot in net.held("a").slots] == [True, False]
    net.run(10.0)
    assert net.held("a").done


# ---- ended jobs whose coordinator is gone


def ended_and_orphaned(verdict: Verdict) -> tuple[NodeNet, Book, str, str]:
    """A job that ended so, its coordinator dead; the first and the second of those that hold it."""
    net = NodeNet("a", "b", "c", "d")
    spec = batch(on=["d"])
    net.submit("a", spec)
    net.run(0.5)
    net.end("d", 0 if verdict is Verdict.SUCCESS else 3)
    net.run(1.0)
    first, second = net.held("a").holders[1:]
    net.kill("a")
    net.run(10.0)
    assert net.held(first).coordinator == "a"  # it has ended: nobody takes it over
    return net, Book(spec, author="a", shoal=net.shoal), first, second


def acks(net: NodeNet, to: str, data: bytes, award: bytes = b"") -> list[ResultAck]:
    net.boxes[to].sent.clear()
    net.send("d" if to != "d" else "b", to, ResultOffer(data, award))
    net.run(2.0)
    return [message for _, message in net.sent(to, ResultAck)]  # type: ignore[misc]


def test_any_holder_says_what_became_of_an_ended_job() -> None:
    net, book, first, second = ended_and_orphaned(Verdict.SUCCESS)
    acceptance = net.slot(first).acceptance
    assert acceptance is not None
    for name in (first, second):
        (ack,) = acks(net, name, acceptance.result)
        assert (ack.status, ack.coordinator) == ("accepted", None)
        failure = seal(
            book.result(Fence(1, PeerId("a"), 1), Verdict.FAILURE, executor="d"),
            net.shoal.keyring("d"),
        )
        (ack,) = acks(net, name, failure)
        assert ack.status == "superseded"
        assert net.held(name).coordinator == "a"


def test_a_success_after_all_makes_the_first_holder_take_the_job_over() -> None:
    net, book, first, second = ended_and_orphaned(Verdict.FAILURE)
    award = net.slot(first).assignment_data
    of = Fence(1, PeerId("a"), 1)
    success = seal(book.result(of, executor="d"), net.shoal.keyring("d"))
    (ack,) = acks(net, second, success, award)
    assert (ack.status, ack.coordinator) == ("unknown", first)
    (ack,) = acks(net, first, success, award)
    assert (ack.status, ack.coordinator) == ("accepted", None)
    assert (net.held(first).coordinator, net.held(first).term) == (first, 2)
    for name in (first, second):
        acceptance = net.slot(name).acceptance
        assert acceptance is not None
        assert acceptance.verdict == Verdict.SUCCESS
    assert len(net.told(first, "job.completed")) == 1


def test_a_result_of_a_job_under_way_waits_for_its_successor() -> None:
    net = NodeNet("a", "b", "c", "d")
    spec = batch(on=["d"])
    net.submit("a", spec)
    net.run(0.5)
    first = net.held("a").holders[1]
    net.kill("a")
    net.run(0.6)
    assert net.held(first).coordinator == "a"
    book = Book(spec, author="a", shoal=net.shoal)
    result = book.result(Fence(1, PeerId("a"), 1), executor="d")
    net.boxes[first].sent.clear()
    net.send("d" if first != "d" else "b", first, ResultOffer(seal(result, net.shoal.keyring("d"))))
    answers = [message for _, message in net.sent(first, ResultAck)]
    assert [(ack.status, ack.coordinator) for ack in answers] == [("unknown", None)]  # type: ignore[union-attr]


def test_an_ended_job_of_an_absurd_term_is_taken_over_by_nobody() -> None:
    net, book, first, _ = ended_and_orphaned(Verdict.FAILURE)
    held = net.held(first)
    held.term, held.coordinator = INT_MAX, PeerId("zz")
    success = book.result(Fence(1, PeerId("a"), 1), executor="d")
    (ack,) = acks(
        net, first, seal(success, net.shoal.keyring("d")), net.slot(first).assignment_data
    )
    assert (ack.status, ack.coordinator) == ("unknown", None)


# ---- devices on metered links

METERED = NodeConfig(membership=MembershipConfig.preset("metered"))


def test_a_leaf_holds_no_job_of_others_while_another_can() -> None:
    net = NodeNet("a", "b", "c", "d", configs={"b": METERED, "d": METERED})
    net.submit("a", batch(on=["b"], task=queue(60)))
    net.run(1.0)
    assert net.held("a").holders == ("a", "c")
    assert sorted(name for name, _ in holders_of(net)) == ["a", "c"]


def test_leaves_hold_jobs_where_there_is_nobody_else() -> None:
    net = NodeNet("a", "b", configs={"b": METERED})
    net.submit("a", batch(on=["b"], task=queue(60)))
    net.run(1.0)
    assert net.held("a").holders == ("a", "b") == net.held("b").holders


def test_a_job_of_a_leaf_is_led_by_it_and_held_by_others() -> None:
    net = NodeNet("a", "b", "c", configs={"a": METERED, "b": METERED})
    net.submit("a", batch(on=["c"], task=queue(60)))
    net.run(1.0)
    assert net.held("c").coordinator == "a"
    assert net.held("a").holders == ("a", "c")


def test_a_leaf_that_comes_is_handed_no_job_that_others_hold() -> None:
    for name in "defgh":  # one of them ranks before c
        net = NodeNet("a", "b", "c", name, configs={name: METERED})
        net.kill(name)
        net.run(5.0)
        net.submit("a", batch(on=["b"], task=queue(600)))
        net.run(1.0)
        net.boot(name)
        net.run(5.0)
        assert name not in net.held("a").holders


def test_a_device_alone_lets_go_of_what_ended_as_it_takes_on_more() -> None:
    """Nothing wakes it: each look at its deadline would be at all jobs that it ever had."""
    net = NodeNet("a")
    for number in range(5):
        net.submit("a", batch(), f"key{number}")
        net.until(lambda: len(net.boxes["a"].running) == 1)
        net.end("a")
        net.run(0.01)
        assert len(net.coordination("a").led) == 1
