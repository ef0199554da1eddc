"""rounds: who is asked, who is awarded, and what waits while nobody takes it."""

from __future__ import annotations

from protocol.config import AuctionConfig, NodeConfig
from protocol.effects import Send
from protocol.ids import PeerId
from protocol.led import Phase
from protocol.messages import (
    Announce,
    Bid,
    Facts,
    Refusal,
    Release,
    Vacancy,
)
from protocol.records import Verdict
from tests.protocol.nodenet import NodeNet, batch, drop, keep, queue

# ---- a round of bidding


def test_a_slot_goes_to_the_peer_that_fits() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b"]))
    net.run(0.1)
    assert net.executor() == "b"
    assert net.led("a").plans[0].phase is Phase.RUNNING
    assert [to for to, _ in net.sent("a", Announce)] == ["b"]
    filtered = net.coordination("a").stories.of(net.job()).rounds[0].answers[PeerId("c")]
    assert filtered.kind == "filtered"
    assert "name" in filtered.reason


def test_everybody_who_bid_and_did_not_win_is_released() -> None:
    net = NodeNet("a", "b", "c", "d")
    net.submit("a", batch(on=["b", "c", "d"]))
    net.run(0.1)
    losers = [name for name in ("b", "c", "d") if name != net.executor()]
    assert sorted(to for to, _ in net.sent("a", Release)) == losers
    for name in "abcd":
        holds = net[name].executor.bidder.holds
        assert not holds, (name, holds)


def test_the_window_closes_on_the_silent() -> None:
    net = NodeNet("a", "b", "c")
    drop(net, Bid, sender="c")
    net.submit("a", batch(on=["b", "c"]))
    net.run(0.4)
    assert net.executors() == []
    net.run(0.2)
    assert net.executor() == "b"


def test_a_bid_after_its_round_is_released_at_once() -> None:
    net = NodeNet("a", "b")
    effects = net.send("b", "a", Bid(77, 500, 1, 5000, Facts()))
    assert effects == [Send(PeerId("b"), Release(77))]
    assert net.send("b", "a", Refusal(77, "no")) == []


def test_who_dies_during_the_window_is_not_waited_for() -> None:
    net = NodeNet("a", "b", "c", configs={"a": NodeConfig(auction=AuctionConfig(window_s=60.0))})
    drop(net, Bid, sender="c")
    net.submit("a", batch(on=["b", "c"]))
    net.run(1.0)
    net.kill("c")
    net.run(1.0)
    assert net.executor() == "b"


def test_more_are_asked_until_enough_have_bid() -> None:
    few = NodeConfig(auction=AuctionConfig(ask_first=1))
    net = NodeNet("a", *"bcdefg", configs={"a": few}, cpu_m=dict.fromkeys("bcdefg", 1000))
    net.submit("a", batch(count=4, on="bcdefg", task={"Resources": {"CPU": "800m"}}))
    net.run(0.2)
    assert sorted(net.executors(index)[0] for index in range(4)) == sorted(
        {net.executors(index)[0] for index in range(4)}
    )
    asked = [to for to, _ in net.sent("a", Announce)]
    assert len(asked) == len(set(asked)) >= 4


def test_slots_are_spread_but_may_share_a_peer() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(count=6, on=["a", "b"]))
    net.run(0.1)
    homes = [net.executor(index) for index in range(6)]
    assert sorted(set(homes)) == ["a", "b"]


# ---- nobody fits


def test_without_patience_a_job_that_fits_nobody_fails_with_the_reasons() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["nobody"], task=queue(0)))
    net.run(0.1)
    (told,) = net.told("a", "execution.ended")
    assert "no peer took it: a: label name: wanted one of nobody, found 'a'; b: " in told.text
    assert net.held("a").done


def test_a_job_waits_and_says_why_once() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["late"], task=queue(300)))
    net.run(60.0)
    (told,) = net.told("a", "job.waiting")
    assert {reason["peer"] for reason in told.fields["reasons"]} == {"a", "b"}
    assert net.led("a").plans[0].dry_rounds > 3


def test_a_waiting_job_is_placed_soon_after_a_peer_comes_that_fits() -> None:
    net = NodeNet("a", "b", "late", settle_s=0.0)
    net.kill("late")
    net.run(5.0)
    net.submit("a", batch(on=["late"], task=queue(600)))
    net.run(100.0)
    net.boot("late")
    net.run(2.0)
    assert net.executor() == "late"


def test_the_queue_timeout_ends_the_wait() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["nobody"], task=queue(20)))
    net.run(19.0)
    assert not net.held("a").done
    net.run(2.0)
    acceptance = net.slot("a").acceptance
    assert acceptance is not None
    assert acceptance.verdict == Verdict.FAULT
    assert "QueueTimeout of 20 s is over" in acceptance.reason


def test_busy_peers_are_asked_again() -> None:
    net = NodeNet("a", "b", cpu_m={"b": 1000})
    full = {"Resources": {"CPU": "900m"}}
    net.submit("a", batch("one", on=["b"], task=full), "one")
    net.run(0.1)
    net.submit("a", batch("two", on=["b"], task=full), "two")
    net.run(0.1)
    assert net.executors(0, net.job("two")) == []
    net.end("b")
    net.run(3.0)
    assert net.executors(0, net.job("two")) == ["b"]


def test_a_device_with_room_again_takes_the_most_urgent_that_waits() -> None:
    """Each of two coordinators has jobs in line; neither knows of the other's."""
    net = NodeNet("a", "b", "c", cpu_m={"c": 1000})
    full = {"Resources": {"CPU": "900m"}}
    net.submit("a", batch("now", on=["c"], task=full), "now")
    net.run(0.1)
    order = [("a", "low", 10), ("b", "high", 80), ("a", "middle", 50), ("b", "last", 10)]
    for at, name, priority in order:
        net.submit(at, batch(name, on=["c"], task=full, Priority=priority), name)
        net.run(0.1)
    placed = []
    for _ in order:
        net.end("c")
        net.run(0.2)  # well before anybody asks again of itself
        placed += [
            name
            for _, name, _ in order
            if name not in placed and net.executors(0, net.job(name)) == ["c"]
        ]
    assert placed == ["high", "middle", "low", "last"]


def test_a_vacancy_counts_once_and_only_from_who_refused_as_busy() -> None:
    net = NodeNet("a", "b", "c", cpu_m={"b": 1000})
    full = {"Resources": {"CPU": "900m"}}
    net.submit("a", batch("one", on=["b"], task=full), "one")
    net.run(0.1)
    net.submit("a", batch("two", on=["b"], task=full), "two")
    net.run(0.1)
    asked = len(net.sent("a", Announce))
    vacancy = Vacancy(net.job("two"))
    assert net.send("c", "a", vacancy) == []
    one = net.job("one")  # it has found its place: the room is for somebody else
    assert net.send("b", "a", Vacancy(one)) == [Send(PeerId("b"), Release(0, one))]
    net.send("b", "a", vacancy)
    assert len(net.sent("a", Announce)) == asked + 1
    net.run(0.2)
    assert net.send("b", "a", vacancy) != []  # it refused once more, and may tell once more


def test_who_has_room_is_asked_before_all_others() -> None:
    net = NodeNet("a", *"bcdefgh", cpu_m=dict.fromkeys("bcdefgh", 1000))
    full = {"Resources": {"CPU": "900m"}}
    for number, name in enumerate("bcdefgh"):
        net.submit("a", batch(f"n{number}", on=[name], task=full), f"n{number}")
    net.run(0.2)
    net.submit("a", batch("next", on=list("bcdefgh"), task=full), "next")
    net.run(0.3)
    asked = len(net.sent("a", Announce))
    net.end("e")
    net.run(0.2)
    assert net.executors(0, net.job("next")) == ["e"]
    assert [to for to, _ in net.sent("a", Announce)[asked:]] == ["e"]
    # The others keep no room for what has found its place.
    for name in "bcdfgh":
        assert net[name].executor.bidder.queue.waiters == {}


def test_room_that_comes_while_others_are_waited_for_counts_in_the_same_round() -> None:
    net = NodeNet("a", "b", "c", cpu_m={"b": 1000})
    full = {"Resources": {"CPU": "900m"}}
    net.submit("a", batch("one", on=["b"], task=full), "one")
    net.run(0.1)
    drop(net, Bid, sender="c")
    net.submit("a", batch("two", on=["b", "c"], task=full), "two")
    net.run(0.1)
    net.end("b")
    net.run(0.1)
    keep(net)
    net.run(0.5)
    assert net.executors(0, net.job("two")) == ["b"]


def test_the_summary_tells_the_commonest_reasons_first() -> None:
    net = NodeNet("a", "b")
    rounds = net.coordination("a").placement.rounds
    assert rounds.summary([]) == "no other peer is known"
    reasons = [(PeerId(f"p{i}"), f"r{i}") for i in range(6)] + [(PeerId("q"), "r5")]
    assert rounds.summary(reasons) == ("2 peers: r5; p0: r0; p1: r1; p2: r2; and 2 other reasons")
