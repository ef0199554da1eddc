"""Comparing: who begins, with whom, and when; a leaf beside what it has to say anyhow."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from protocol.comparing import BESIDE_PERIODS, SYNC_PAUSE_S, YOUNG_S, Comparer
from protocol.config import MembershipConfig
from protocol.effects import Effect, Send
from protocol.ids import PeerId
from protocol.roster import Roster, State
from tests.protocol.test_roster import leaf_advert

METERED = MembershipConfig.preset("metered")
LAN = MembershipConfig()
ME, A, L, Z = PeerId("me"), PeerId("a"), PeerId("leaf"), PeerId("z")


def comparer(config: MembershipConfig, *linked: PeerId) -> Comparer:
    roster = Roster(ME, config)
    for peer in linked:
        entry = roster.admit(peer, 0.0)
        assert entry is not None
        roster.hold(entry, leaf_advert(peer, 120 if peer == L else 0), peer.encode())
        roster.move(entry, State.ALIVE, 0.0)
        roster.link(entry, True)
    made = Comparer(config, ME, roster, Random(1))
    made.boot(100.0)
    return made


def opened(made: Comparer, now: float) -> list[PeerId]:
    return peers(made.due(now))


def peers(effects: list[Effect]) -> list[PeerId]:
    return [effect.peer for effect in effects if isinstance(effect, Send)]


@pytest.mark.parametrize(
    ("config", "peer", "begins"),
    [(LAN, Z, True), (LAN, A, False), (LAN, L, False), (METERED, A, True), (METERED, L, False)],
)
def test_one_of_two_begins_and_between_a_leaf_and_another_it_is_the_leaf(
    config: MembershipConfig, peer: PeerId, begins: bool
) -> None:
    made = comparer(config, peer)
    made.met(peer, 101.0)
    assert opened(made, 101.0) == [], "the first may settle what the second would"
    assert opened(made, 101.0 + 2 * SYNC_PAUSE_S) == ([peer] if begins else [])


def test_news_is_followed_by_more_but_never_asked_of_a_leaf() -> None:
    made = comparer(LAN, A, L, Z)
    made.learned(L, 101.0)
    (other,) = opened(made, 102.0)
    assert other in (A, Z)
    made.learned(A, 110.0)
    found = [*opened(made, 111.0), *opened(made, 112.0)]
    assert A in found and L not in found


def test_a_leaf_asks_only_whom_it_learned_from() -> None:
    made = comparer(METERED, A, Z)
    made.learned(A, 101.0)
    assert [*opened(made, 102.0), *opened(made, 103.0)] == [A]


def test_who_is_lost_is_not_compared_with() -> None:
    made = comparer(LAN, Z)
    made.met(Z, 101.0)
    made.lost(Z)
    assert opened(made, 102.0) == []


def test_a_leaf_begins_often_and_then_seldom() -> None:
    made = comparer(METERED, A)
    times: list[float] = [100.0]
    while times[-1] < 2000.0:
        now = made.deadline
        if made.due(now):
            times.append(now)
    pauses = [late - early for early, late in pairwise(times)]
    assert pauses[0] < (1.25 + BESIDE_PERIODS) * YOUNG_S + 1.0
    assert all(pause > 0.75 * METERED.sync_period_s for pause in pauses[5:])


def test_a_leaf_compares_beside_what_it_says_anyhow_and_then_not_for_a_while() -> None:
    made = comparer(METERED, A, L)
    due = made.deadline
    early = BESIDE_PERIODS * 2 * YOUNG_S
    assert made.beside(A, due - early - 1.0) == []
    assert made.beside(L, due) == [], "a leaf knows no more than we"
    assert made.beside(Z, due) == [], "a connection for the question alone costs more"
    assert peers(made.beside(A, due - 1.0)) == [A]
    assert made.beside(A, due) == []
    assert made.deadline > due + YOUNG_S


def test_who_is_no_leaf_compares_at_its_own_time() -> None:
    made = comparer(LAN, A)
    assert made.beside(A, made.deadline) == []
