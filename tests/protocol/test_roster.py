"""The roster: what is derived from the states follows each change of one."""

from __future__ import annotations

from math import inf

import msgspec
import pytest

from protocol.config import MembershipConfig
from protocol.ids import PeerId
from protocol.messages import SyncRecords, SyncWant
from protocol.records import Advert, Certificate
from protocol.roster import Change, Peer, Roster, State
from protocol.rumours import digest_of
from protocol.suspicion import Case
from tests.protocol.fakes import FakeShoal

CONFIG = MembershipConfig(peers_max=3)
ME, A, B, C, D = map(PeerId, ("me", "a", "b", "c", "d"))


def advert(peer: PeerId, incarnation: int = 1, name: str = "") -> Advert:
    return Advert(
        peer=peer,
        incarnation=incarnation,
        addresses=("/ip4/10.0.0.1/tcp/4001",),
        labels={},
        engines=(),
        cpu_m=0,
        memory_bytes=0,
        disk_bytes=0,
        gpus=0,
        version="1",
        name=name,
    )


def leaf_advert(peer: PeerId, keepalive_s: int = 120, incarnation: int = 1) -> Advert:
    return msgspec.structs.replace(advert(peer, incarnation), keepalive_s=keepalive_s)


@pytest.fixture
def roster() -> Roster:
    return Roster(ME, CONFIG)


def admitted(roster: Roster, peer: PeerId, now: float = 10.0) -> Peer:
    entry = roster.admit(peer, now)
    assert entry is not None
    return entry


def test_only_the_present_count(roster: Roster) -> None:
    for peer in (B, A):
        entry = admitted(roster, peer)
        assert roster.alive() == ([] if peer == B else [B])
        roster.move(entry, State.ALIVE, 11.0)
    assert roster.alive() == [A, B]
    assert sorted(roster.targets()) == [A, B] == sorted(roster.monitors(ME))
    roster.move(roster.peers[A], State.SUSPECT, 12.0)
    assert roster.alive() == [A, B]
    assert roster.quorum(B) == 1, "a suspect's word is not waited for"
    roster.move(roster.peers[A], State.DEAD, 13.0)
    assert roster.alive() == [B] == roster.targets()
    assert roster.changes == [
        Change(B, State.UNHEARD, State.ALIVE),
        Change(A, State.UNHEARD, State.ALIVE),
        Change(A, State.ALIVE, State.SUSPECT),
        Change(A, State.SUSPECT, State.DEAD),
    ]
    assert [entry.id for entry in roster.sorted()] == [A, B]


def test_to_enter_a_state_again_is_no_change(roster: Roster) -> None:
    entry = admitted(roster, A)
    roster.move(entry, State.ALIVE, 11.0)
    roster.move(entry, State.ALIVE, 12.0)
    assert roster.changes == [Change(A, State.UNHEARD, State.ALIVE)]


def test_the_case_lives_as_long_as_the_suspicion(roster: Roster) -> None:
    entry = admitted(roster, A)
    roster.move(entry, State.SUSPECT, 11.0)
    entry.case = Case(1, 11.0)
    assert list(roster.suspects) == [A]
    roster.move(entry, State.ALIVE, 12.0)
    assert entry.case is None and roster.suspects == {}


def test_adverts_are_compared_of_the_present_only(roster: Roster) -> None:
    empty = roster.reconciler.root
    entry = admitted(roster, A)
    roster.hold(entry, advert(A), b"sealed")
    assert roster.reconciler.root == empty
    assert roster.holder(digest_of(b"sealed")) is entry
    roster.move(entry, State.ALIVE, 11.0)
    assert roster.reconciler.answer(SyncWant(0, (A,))) == [SyncRecords(0, (b"sealed",))]
    roster.hold(entry, advert(A, 2), b"newer")
    assert roster.holder(digest_of(b"sealed")) is None
    version = roster.reconciler.version(A)
    assert version is not None and roster.matches(entry, version)
    assert not roster.matches(entry, b"12345678")
    roster.move(entry, State.LEFT, 12.0)
    assert roster.reconciler.root == empty
    roster.hold_own(b"mine")
    assert roster.reconciler.answer(SyncWant(0, (ME,))) == [SyncRecords(0, (b"mine",))]


def test_the_table_is_bounded_and_the_longest_absent_makes_room(roster: Roster) -> None:
    for peer, now in ((A, 12.0), (B, 11.0), (C, 13.0)):
        assert roster.victim() is None
        admitted(roster, peer, now)
    assert roster.admit(D, 14.0) is None
    assert roster.admit(A, 14.0) is roster.peers[A]
    roster.move(roster.peers[B], State.ALIVE, 14.0)
    victim = roster.victim()
    assert victim is not None and victim.id == A
    roster.link(victim, True)
    victim = roster.victim()
    assert victim is not None and victim.id == C
    roster.forget(victim)
    assert roster.admit(D, 15.0) is not None


def test_the_linked_are_listed_in_order(roster: Roster) -> None:
    for peer in (B, A):
        roster.link(admitted(roster, peer), True)
        roster.link(roster.peers[peer], True)
    assert roster.linked == [A, B]
    roster.link(roster.peers[A], False)
    roster.link(roster.peers[A], False)
    assert roster.linked == [B] and not roster.peers[A].connected


def test_a_restart_ends_and_the_dead_are_forgotten_in_time(roster: Roster) -> None:
    kept = CONFIG.dead_kept_s
    for peer in (A, B, C):
        roster.move(admitted(roster, peer), State.ALIVE, 10.0)
    roster.peers[A].until = 50.0
    roster.move(roster.peers[A], State.RESTARTING, 20.0)
    roster.move(roster.peers[B], State.DEAD, 20.0)
    assert roster.overdue(roster.deadline - 1) == ([], [])
    assert roster.deadline == 50.0
    assert roster.overdue(50.0) == ([roster.peers[A]], [])
    roster.move(roster.peers[A], State.DEAD, 50.0)
    assert roster.deadline == 20.0 + kept
    assert roster.overdue(20.0 + kept) == ([], [roster.peers[B]])
    roster.hold(roster.peers[B], advert(B), b"sealed")
    roster.forget(roster.peers[B])
    assert roster.holder(digest_of(b"sealed")) is None
    assert roster.deadline == 50.0 + kept


def test_who_is_alone_forgets_nobody(roster: Roster) -> None:
    admitted(roster, A)
    late = 10.0 + CONFIG.dead_kept_s
    assert roster.overdue(late) == ([], [])
    assert late < roster.deadline < inf
    roster.move(admitted(roster, B), State.ALIVE, late)
    assert roster.overdue(roster.deadline) == ([], [roster.peers[A]])


def test_a_name_is_what_is_known_best(roster: Roster) -> None:
    entry = Peer(PeerId("12D3KooWabcdefgh"), State.UNHEARD, 0.0)
    assert entry.name == "abcdefgh" and entry.addresses == ()
    certificate = FakeShoal().keyring("attic")
    assert certificate.peer == "attic"
    entry.certificate = Certificate(
        shoal=certificate.shoal,
        peer=entry.id,
        name="attic",
        roles=(),
        namespaces=(),
        issued_ms=0,
        expires_ms=0,
    )
    assert entry.name == "attic"
    entry.advert = advert(entry.id, name="attic-pi")
    assert entry.name == "attic-pi" and entry.addresses == ("/ip4/10.0.0.1/tcp/4001",)


# ---- leaves ----------------------------------------------------------------------------------

METERED = MembershipConfig.preset("metered")


def shoal(full: int, leaves: int) -> dict[PeerId, Roster]:
    """Everybody's roster, all knowing all."""
    kinds = {PeerId(f"f{n}"): 0 for n in range(full)} | {
        PeerId(f"l{n}"): 120 for n in range(leaves)
    }
    rosters: dict[PeerId, Roster] = {}
    for me, mine in kinds.items():
        roster = rosters[me] = Roster(me, METERED if mine else MembershipConfig())
        for other, keepalive_s in kinds.items():
            if other != me:
                entry = admitted(roster, other)
                roster.hold(entry, leaf_advert(other, keepalive_s), other.encode())
                roster.move(entry, State.ALIVE, 11.0)
    return rosters


@pytest.mark.parametrize(
    ("full", "leaves"),
    [(7, 4), (3, 2), (2, 1), (2, 5), (1, 1), (1, 2), (1, 5), (0, 2), (0, 3), (0, 6)],
)
def test_whom_a_peer_monitors_agrees_with_who_says_that_it_does(full: int, leaves: int) -> None:
    rosters = shoal(full, leaves)
    for me, roster in rosters.items():
        assert me not in roster.targets() and me not in roster.monitors(me)
        for other in rosters:
            if other != me:
                assert (other in roster.targets()) is (me in roster.monitors(other)), (me, other)


def test_a_leaf_has_two_monitors_that_are_no_leaves_and_monitors_nobody() -> None:
    rosters = shoal(7, 4)
    for me, roster in rosters.items():
        for n in range(4):
            monitors = roster.monitors(PeerId(f"l{n}"))
            assert len(monitors) == 2 and not any(roster.is_leaf(peer) for peer in monitors)
            assert monitors == rosters[PeerId("f0")].monitors(PeerId(f"l{n}")), "all agree"
        if roster.is_own_leaf:
            assert roster.targets() == [] and roster.watched() == [], "no connection to look after"
            near, far = roster.monitors(me)
            roster.link(roster.peers[near], True)
            way = next(name for name in ("f0", "f1", "f2") if name not in (near, far))
            roster.ways = (PeerId(way),)
            assert roster.watched() == [near, way]


def test_where_too_few_others_are_leaves_step_in() -> None:
    rosters = shoal(1, 3)
    assert len(rosters[PeerId("l0")].monitors(PeerId("f0"))) == 2
    monitors = rosters[PeerId("f0")].monitors(PeerId("l0"))
    assert len(monitors) == 2 and monitors[0] == "f0"
    assert len(shoal(0, 4)[PeerId("l0")].monitors(PeerId("l0"))) == 2


def test_who_says_that_it_is_a_leaf_changes_places_and_that_is_news(roster: Roster) -> None:
    entry = admitted(roster, A)
    roster.move(entry, State.ALIVE, 11.0)
    assert not roster.is_leaf(A)
    turns = roster.turns
    roster.hold(entry, leaf_advert(A), b"1")
    assert roster.is_leaf(A) and roster.turns > turns and roster.leaves == 1
    assert roster.changes[-1] == Change(A, State.ALIVE, State.ALIVE)
    roster.hold(entry, advert(A, 2), b"2")
    assert not roster.is_leaf(A) and roster.leaves == 0
    roster.move(entry, State.DEAD, 12.0)
    assert roster.targets() == []


def test_a_leaf_is_judged_at_its_own_pace() -> None:
    roster = shoal(3, 1)[PeerId("f0")]
    leaf, other = roster.peers[PeerId("l0")], roster.peers[PeerId("f1")]
    assert roster.pace(other) == MembershipConfig()
    assert (roster.pace(leaf).probe_period_s, roster.pace(leaf).suspicion_s) == (120.0, 120.0)
    assert roster.quorum(leaf.id) == 2


def test_a_leaf_believes_what_several_told_of_those_it_does_not_monitor() -> None:
    roster = shoal(3, 2)[PeerId("l0")]
    for name in ("f0", "l1"):
        assert roster.quorum(PeerId(name)) == 2
        assert roster.pace(roster.peers[PeerId(name)]).suspicion_s == METERED.probe_timeout_s


def test_connections_are_kept_to_a_leaf_by_its_anchors_only() -> None:
    rosters = shoal(6, 2)
    for me, roster in rosters.items():
        assert roster.stranded is roster.is_own_leaf
        assert not roster.stranded or all(map(roster.may_link, roster.peers.values()))
        roster.link(next(iter(roster.peers.values())), True)
        for other in roster.peers.values():
            leafs = roster.is_own_leaf, other.leaf
            anchored = me in roster.monitors(other.id) or other.id in roster.monitors(me)
            assert roster.may_link(other) is (anchored or not any(leafs))
    roster = rosters[PeerId("f0")]
    roster.move(roster.peers[PeerId("l0")], State.DEAD, 20.0)
    assert not roster.may_link(roster.peers[PeerId("l0")]), "it comes by itself"


def test_what_anybody_can_do_is_asked_of_leaves_last() -> None:
    roster = shoal(2, 2)[PeerId("f0")]
    assert roster.partners(list(map(PeerId, ("f1", "l0", "l1")))) == ["f1"]
    assert roster.partners([PeerId("l0")]) == ["l0"]
