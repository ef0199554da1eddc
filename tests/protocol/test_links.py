"""Links: to everybody in a small shoal, to neighbours and a few others in a large one."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from random import Random

from protocol.config import MembershipConfig
from protocol.effects import Dial
from protocol.ids import PeerId
from protocol.links import (
    ABSENT_MAX,
    LINKS_MAX,
    LONELY_S,
    REVIEW_S,
    SPARSE_MAX,
    STRANDED_S,
    Links,
)
from protocol.roster import Peer, Roster, State
from tests.protocol.test_roster import advert, leaf_advert

ME = PeerId("me")


class Kept:
    """A roster and its links; follows the effects as the transport does."""

    def __init__(self, config: MembershipConfig | None = None) -> None:
        self.roster = Roster(ME, config or MembershipConfig())
        self.links = Links(Random(3))
        self.kept: dict[PeerId, tuple[str, ...]] = {}

    def add(self, name: str, state: State = State.ALIVE, leaf: bool = False) -> Peer:
        peer = self.roster.admit(PeerId(name), 0.0)
        assert peer is not None
        said = leaf_advert(peer.id) if leaf else advert(peer.id)
        self.roster.hold(peer, said, name.encode())
        self.roster.move(peer, state, 0.0)
        self.carry(self.links.learn(peer, self.roster, 0.0))
        return peer

    def carry(self, dials: Sequence[Dial]) -> None:
        for dial in dials:
            if dial.addresses:
                self.kept[dial.peer] = dial.addresses
            else:
                self.kept.pop(dial.peer, None)  # said of those that discovery may keep, too

    def review(self, now: float) -> list[PeerId]:
        near = [*self.roster.targets(), *self.roster.monitors(ME), *self.roster.ways]
        self.carry(self.links.review(self.roster, near, now))
        return list(dict.fromkeys(near))


def names(count: int) -> list[str]:
    return [f"p{index:03d}" for index in range(count)]


def test_a_small_shoal_is_dialled_whole() -> None:
    k = Kept()
    for name in names(LINKS_MAX):
        k.add(name)
    assert len(k.kept) == LINKS_MAX and k.links.deadline == inf
    k.links.stir(k.roster, 0.0)
    assert k.links.deadline == inf, "there is no choice"


def test_new_addresses_are_dialled_and_old_ones_are_not_dialled_again() -> None:
    k = Kept()
    peer = k.add("a")
    assert k.links.learn(peer, k.roster, 0.0) == []
    assert k.links.learn(peer, k.roster, 0.0, back=True) == [Dial(peer.id, peer.addresses)]
    peer.advert = None
    assert k.links.learn(peer, k.roster, 0.0) == []
    assert peer.id in k.links
    assert k.links.drop(peer.id) == [Dial(peer.id, ())]
    assert k.links.drop(peer.id) == []
    assert peer.id not in k.links


def test_a_large_shoal_is_not() -> None:
    k = Kept()
    for name in names(200):
        k.add(name)
    assert k.links.deadline == REVIEW_S
    k.review(0.5)
    assert len(k.kept) == LINKS_MAX, "not yet"
    near = k.review(REVIEW_S)
    assert len(k.kept) == SPARSE_MAX
    assert all(peer in k.kept for peer in near)
    assert k.links.deadline == inf


def test_whom_we_have_is_kept_when_others_come() -> None:
    k = Kept()
    for name in names(200):
        k.add(name)
    k.review(REVIEW_S)
    before = dict(k.kept)
    for name in names(210)[200:]:
        k.add(name)
    near = k.review(2 * REVIEW_S)
    gone = [peer for peer in before if peer not in k.kept]
    assert len(gone) <= len(near)
    assert len(k.kept) == SPARSE_MAX


def test_a_few_of_the_dead_are_dialled_so_that_islands_meet_again() -> None:
    k = Kept()
    for name in names(100):
        k.add(name)
    k.review(REVIEW_S)
    for name in names(100)[:50]:
        k.roster.move(k.roster.peers[PeerId(name)], State.DEAD, 1.0)
    k.links.stir(k.roster, 2.0)
    k.review(2.0 + REVIEW_S)
    dead = [peer for peer in k.kept if k.roster.peers[peer].state is State.DEAD]
    assert len(dead) == ABSENT_MAX
    assert len(k.kept) == SPARSE_MAX
    for name in names(100)[50:]:
        k.roster.move(k.roster.peers[PeerId(name)], State.DEAD, 5.0)
    k.links.stir(k.roster, 5.0)
    k.review(5.0 + REVIEW_S)
    assert len(k.kept) == SPARSE_MAX, "whoever is alone tries them all, in turn"


def test_who_has_no_address_cannot_be_dialled() -> None:
    k = Kept()
    for name in names(40):
        peer = k.add(name)
        if name < "p020":
            peer.advert = None
    k.links.stir(k.roster, 0.0)
    k.review(REVIEW_S)
    assert sorted(k.kept) == names(40)[20:]


# ---- leaves ----------------------------------------------------------------------------------

METERED = MembershipConfig.preset("metered")


def test_a_leaf_keeps_to_its_anchors_however_many_there_are() -> None:
    k = Kept(METERED)
    for name in names(20):
        k.roster.link(k.add(name), True)
    k.links.stir(k.roster, 0.0)
    k.review(REVIEW_S)
    assert sorted(k.kept) == sorted(k.roster.monitors(ME)) and len(k.kept) == 2
    k.roster.move(k.roster.peers[next(iter(k.kept))], State.DEAD, 2.0)
    k.links.stir(k.roster, 2.0)
    k.review(2.0 + REVIEW_S)
    assert sorted(k.kept) == sorted(k.roster.monitors(ME)) and len(k.kept) == 2


def test_nobody_but_its_anchors_keeps_to_a_leaf() -> None:
    k = Kept()
    for name in names(8):
        k.add(name)
    for name in ("l0", "l1", "l2", "l3"):
        peer = k.add(name, leaf=True)
        anchor = ME in k.roster.monitors(peer.id)
        assert (peer.id in k.kept) is anchor
        assert bool(k.links.spare(peer, k.roster)) is not anchor
    assert len(k.kept) >= 8, "the others are dialled as ever"


def test_what_discovery_keeps_to_a_leaf_is_let_go() -> None:
    k = Kept()
    for name in names(8):
        k.add(name)
    peer = k.add("l9", leaf=True)
    while ME in k.roster.monitors(peer.id):  # as the ring has it
        k.roster.move(peer, State.LEFT, 1.0)
        peer = k.add(f"{peer.id}9", leaf=True)
    assert k.links.learn(peer, k.roster, 2.0) == [Dial(peer.id, ())]


def test_a_leaf_that_knows_nobody_alive_tries_a_few_and_then_others() -> None:
    k = Kept(METERED)
    tried: dict[PeerId, None] = {}
    for name in names(20):
        k.add(name, State.UNHEARD)
    assert len(k.kept) == ABSENT_MAX
    k.links.stir(k.roster, 0.0)
    for turn in range(30):
        k.review(REVIEW_S + turn * LONELY_S)
        assert len(k.kept) == ABSENT_MAX
        tried |= dict.fromkeys(k.kept)
    assert len(tried) == 20
    found = k.roster.peers[next(iter(tried))]
    k.roster.move(found, State.ALIVE, 4000.0)
    k.roster.link(found, True)
    k.links.stir(k.roster, 4000.0)
    k.review(4000.0 + REVIEW_S)
    assert list(k.kept) == k.roster.alive(), "it is told of the others there"


def test_a_leaf_whose_anchors_are_both_out_of_reach_tries_others() -> None:
    k = Kept(METERED)
    for name in names(20):
        k.roster.link(k.add(name), True)
    k.links.stir(k.roster, 0.0)
    k.review(REVIEW_S)
    anchors = k.roster.monitors(ME)
    for name in names(20):
        k.roster.link(k.roster.peers[PeerId(name)], False)
    k.links.strand(k.roster, 10.0)
    assert k.links.deadline == 10.0 + STRANDED_S, "they may be back in a moment"
    k.review(k.links.deadline)
    tried = dict.fromkeys(k.kept)
    assert len(k.kept) == ABSENT_MAX and set(anchors) < set(k.kept)
    for _ in range(20):
        k.review(k.links.deadline)
        tried |= dict.fromkeys(k.kept)
    assert len(tried) > 15
    k.roster.link(k.roster.peers[PeerId("p019")], True)
    k.links.strand(k.roster, 5000.0)
    k.links.stir(k.roster, 5000.0)
    k.review(5000.0 + REVIEW_S)
    assert sorted(k.kept) == sorted(anchors)


def test_a_leaf_keeps_to_who_relays_to_its_anchor() -> None:
    k = Kept(METERED)
    for name in names(20):
        k.roster.link(k.add(name), True)
    way = next(PeerId(name) for name in names(20) if name not in k.roster.monitors(ME))
    k.roster.ways = (way,)
    k.links.stir(k.roster, 0.0)
    k.review(REVIEW_S)
    assert set(k.kept) == {*k.roster.monitors(ME), way}
    assert k.links.spare(k.roster.peers[way], k.roster) == []
