"""steward: standing jobs from one person's act to everybody's disk, through whole nodes."""

from __future__ import annotations

from protocol.records import Desired, Role
from tests.protocol.nodenet import NodeNet
from tests.protocol.standingbook import StandingBook, daemon

OPERATING = (Role.COMPUTE, Role.SUBMIT, Role.OPERATE)


def test_two_edits_on_two_islands_leave_one_and_tell_its_loser() -> None:
    net = NodeNet("a", "b", roles={"a": OPERATING, "b": OPERATING})
    net.submit("a", daemon())
    net.run(1.0)
    net.part("a", "b")
    net.submit("a", daemon(Priority=1))
    net.submit("b", daemon(Priority=2))
    net.run(1.0)
    net.heal()
    net.run(2.0)
    job = StandingBook(shoal=net.shoal).id
    winner = net["a"].steward.standing.jobs[job].author
    losers = [name for name in "ab" if net.told(name, "job.edit-superseded")]
    assert losers == [name for name in "ab" if name != winner]


def test_what_was_stopped_while_a_peer_was_away_is_stopped_there_too() -> None:
    net = NodeNet("a", "b")
    net.submit("a", daemon())
    net.run(1.0)
    net.kill("b")
    net.run(1.0)
    job = StandingBook(shoal=net.shoal).id
    net.stop("a", job, Desired.DELETED)
    net.boot("b")
    net.run(1.0)
    assert net["b"].steward.standing.jobs[job].desired is Desired.DELETED
    assert [tell.text for tell in net.told("b", "job.deleted")] == ["a deleted collect"]
