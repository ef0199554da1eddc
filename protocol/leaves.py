"""Leaves: how news travels to and from peers that are outside the gossip mesh.

A leaf tells its neighbours, who gossip it; what is gossiped it learns by comparing. Leaves among
themselves, and one other peer among leaves, have no mesh: there each tells all its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocol.effects import Effect, Gossip, Send
from protocol.messages import Rumours
from protocol.roster import EVIDENCE_MAX, Peer, Roster


def covered(roster: Roster) -> bool:
    """Whether what others told us need not be passed on: a neighbour of this leaf gossips it."""
    return roster.is_own_leaf and any(not roster.is_leaf(peer) for peer in roster.linked)


def outward(effects: list[Effect], roster: Roster) -> list[Effect]:
    """`effects`, where gossip reaches nobody, with what is for all sent to each neighbour."""
    if not roster.leaves or roster.meshed:
        return effects
    done: list[Effect] = []
    for effect in effects:
        if not isinstance(effect, Gossip):
            done.append(effect)
            continue
        if not roster.is_own_leaf:
            done.append(effect)
        sends = [Send(peer, effect.message) for peer in roster.linked]
        done += [send for send in sends if send not in effects]
    return done


def doubts(roster: Roster, suspects: Sequence[Peer]) -> list[Effect]:
    """What a leaf has heard against `suspects` from too few to act upon: others than those who said
    it know whether it is so, or the accused hear of it from them."""
    sends: list[Effect] = []
    for peer in suspects if roster.is_own_leaf else ():
        accusers = {} if peer.case is None else peer.case.accusers
        records = Rumours(tuple(accusers.values())[:EVIDENCE_MAX])
        others = [other for other in roster.linked if other not in (peer.id, *accusers)]
        sends += [Send(other, records) for other in roster.partners(others)]
    return sends
