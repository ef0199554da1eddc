"""Leaves: how news travels to and from peers that are outside the gossip mesh.

A leaf tells its neighbours, who gossip it; what is gossiped it learns by comparing. Leaves among
themselves, and one other peer among leaves, have no mesh: there each tells all its neighbours.
"""

from __future__ import annotations

from protocol.effects import Effect, Gossip, Send
from protocol.roster import Roster


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
