"""The fleet: who is there, who they are and who of them decides, as membership has it just now."""

from __future__ import annotations

import pytest

from protocol.config import NodeConfig
from protocol.events import PeerDisconnected, ShutdownRequested
from protocol.fleet import Fleet
from protocol.ids import PeerId
from protocol.records import Advert, Role
from protocol.roster import State
from tests.protocol.nodenet import NodeNet
from tests.protocol.test_roster import advert

A, B, C = PeerId("a"), PeerId("b"), PeerId("c")


@pytest.fixture
def net() -> NodeNet:
    return NodeNet("a", "b", "c", configs={"a": NodeConfig(name="attic")})


def enter(net: NodeNet, peer: PeerId, state: State) -> None:
    roster = net["a"].membership._roster
    roster.move(roster.peers[peer], state, net.now)


def test_adverts_are_of_all_that_are_alive_and_ours(net: NodeNet) -> None:
    fleet = net["a"].fleet
    assert [advert.peer for advert in fleet.adverts()] == [A, B, C]
    enter(net, B, State.DEAD)
    assert [advert.peer for advert in fleet.adverts()] == [A, C]
    fleet.advert = None
    assert [advert.peer for advert in fleet.adverts()] == [C]


@pytest.mark.parametrize(
    ("state", "alive", "reachable", "absent"),
    [
        (State.ALIVE, True, True, False),
        (State.SUSPECT, True, True, False),
        (State.RESTARTING, True, False, True),
        (State.UNHEARD, False, False, True),
        (State.DEAD, False, False, True),
        (State.LEFT, False, False, False),
    ],
)
def test_what_each_state_means_for_jobs(
    net: NodeNet, state: State, alive: bool, reachable: bool, absent: bool
) -> None:
    enter(net, B, state)
    fleet = net["a"].fleet
    assert (fleet.alive(B), fleet.reachable(B)) == (alive, reachable)
    assert (B in fleet.absent()) is absent
    assert fleet.left(B) is (state is State.LEFT)
    assert fleet.alive(A) and fleet.reachable(A), "ourselves"
    assert not fleet.alive(PeerId("x")) and not fleet.reachable(PeerId("x"))
    assert not fleet.left(PeerId("x"))


def test_a_life_that_ended_without_a_goodbye_is_known_by_the_next_one(net: NodeNet) -> None:
    fleet = net["a"].fleet
    first = fleet.boot(B)
    assert first and not fleet.outlived(B, first)
    net.handle("a", PeerDisconnected(B))
    assert fleet.boot(B) == b"", "it may be in another by now, and be reached by others"
    net.kill("b")
    assert not fleet.outlived(B, first), "nobody has heard of another"
    net.boot("b")
    second = fleet.boot(B)
    assert second != first and fleet.outlived(B, first) and not fleet.outlived(B, second)
    net.handle("b", ShutdownRequested(back_in_s=60.0))
    net.run(0.1)
    net.boot("b")
    assert fleet.boot(B) != second and not fleet.outlived(B, second), "it has told of its end"
    assert not fleet.outlived(B, b""), "the life was not known"
    for unknown in (A, PeerId("x")):
        assert fleet.boot(unknown) == b"" and not fleet.outlived(unknown, first)


def test_neighbours_are_alive_and_connected(net: NodeNet) -> None:
    fleet = net["a"].fleet
    assert fleet.neighbours() == [B, C] and not fleet.connected(A)
    net.handle("a", PeerDisconnected(B))
    assert fleet.neighbours() == [C]


def test_names_are_what_people_gave(net: NodeNet) -> None:
    assert net["a"].fleet.name(A) == net["b"].fleet.name(A) == "attic"
    assert net["a"].fleet.name(B) == "b"
    assert net["a"].fleet.name(PeerId("x" * 20 + "12345678")) == "12345678"


def test_who_may_only_compute_decides_nothing() -> None:
    fleet = NodeNet("a", "b", roles={"b": (Role.COMPUTE,)})["a"].fleet
    assert fleet.may_coordinate(A) and not fleet.may_coordinate(B)
    assert not fleet.may_coordinate(PeerId("x")) and fleet.certificate_of(PeerId("x")) is None
    assert fleet.coordinators(but=A) == [] and fleet.leaders(A) == [A]


class Four(Fleet):
    """a, b and c are alive and may coordinate; d is alive and may not."""

    def __init__(self, *leaves: str) -> None:
        self.leaves = leaves

    def adverts(self) -> list[Advert]:
        return [advert(PeerId(name)) for name in "abcd"]

    def may_coordinate(self, peer_id: PeerId) -> bool:
        return peer_id != "d"

    def is_leaf(self, peer_id: PeerId) -> bool:
        return peer_id in self.leaves


def test_leaves_hold_and_lead_only_where_there_is_nobody_else() -> None:
    assert Four().coordinators(but=A) == [B, C]
    assert Four("b").coordinators(but=A) == [C]
    assert Four("b", "c").coordinators(but=A) == [B, C]
    for me in (A, B, C):
        assert sorted(Four().leaders(me)) == [A, B, C]
        assert sorted(Four().leaders(me, without=[C])) == sorted({me, A, B})
        assert sorted(Four("a").leaders(me)) == [B, C], "all name the same"
        assert sorted(Four("b", "c").leaders(me)) == [A]
        assert sorted(Four("a", "b", "c").leaders(me)) == [A, B, C]
