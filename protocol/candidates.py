"""Candidates: whom a round of bidding asks, in which order, and who is left out, and why."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from protocol.auction import Auction
from protocol.bidding import DRAINING, why_unfit
from protocol.config import CoordinationConfig
from protocol.derived import heard_by
from protocol.fleet import Fleet
from protocol.heldjob import HeldJob
from protocol.ids import PeerId
from protocol.labels import matched_labels
from protocol.led import Led, Phase
from protocol.pins import away, said_lost, volumes_named
from protocol.resources import Resources

CANDIDATES_MAX = 1024
NEAR_PER_FAR = 5


@dataclass(slots=True)
class Candidates:
    """Draws those who may take a slot, by what their adverts say of them."""

    me: PeerId
    config: CoordinationConfig
    fleet: Fleet
    rng: Random

    def draw(self, led: Led, auction: Auction, homes: dict[int, PeerId]) -> list[PeerId]:
        """Whom to ask, in order: mostly peers connected already, some at random among the rest.

        A connection made to ask one question costs ten times the question (simulated); asking
        some strangers all the same keeps work from staying in one neighbourhood.
        """
        near: list[PeerId] = []
        far: list[PeerId] = []
        me, needs = self.me, led.needs
        taken = self._taken(led, auction, homes)
        for advert in self.fleet.adverts():
            if auction.home not in (None, advert.peer):
                continue
            offers = Resources(advert.cpu_m, advert.memory_bytes, advert.disk_bytes, advert.gpus)
            labels = matched_labels(advert.labels, advert.peer, advert.name)
            reason = why_unfit(needs, advert.engines, labels, offers)
            reason = reason or (DRAINING if advert.draining else "") or taken.get(advert.peer, "")
            if reason and len(auction.answers) < self.config.asked_max:
                auction.filtered(advert.peer, reason)
            elif not reason:
                close = advert.peer == me or self.fleet.connected(advert.peer)
                (near if close else far).append(advert.peer)
        if auction.home is not None and auction.home not in (*near, *far, *auction.answers):
            auction.filtered(auction.home, away(led.held, volumes_named(led.held)))
        self.rng.shuffle(near)
        self.rng.shuffle(far)
        if me in near:  # costs no message
            near.remove(me)
            near.insert(0, me)
        ordered = _mixed(near, far)[:CANDIDATES_MAX]
        first = near_trigger(led.held)
        return (
            [first, *(each for each in ordered if each != first)] if first in ordered else ordered
        )

    def _taken(self, led: Led, auction: Auction, homes: dict[int, PeerId]) -> dict[PeerId, str]:
        """Who is asked for no slot of this round, and why."""
        taken = _running(led)
        wanted = led.held.job.task.volumes
        for advert in self.fleet.adverts() if wanted else ():
            if said_lost(led.held, advert.peer, self.fleet.name):
                taken[advert.peer] = "the job file says that what it kept there is lost (Without)"
        for index, peer in homes.items() if led.held.job.spread else ():
            if peer != auction.home:  # its own slot comes back to it
                taken.setdefault(peer, f"slot {index} of it keeps its volumes there")
        return taken


def near_trigger(held: HeldJob) -> PeerId | None:
    """Who heard the message of a run that wants to be near it, whoever coordinates it by now."""
    if held.job.fired is None or not held.job.fired.near:
        return None
    heard = heard_by(held.spec_data)
    return heard[0] if heard is not None else None


def _running(led: Led) -> dict[PeerId, str]:
    """Who runs a slot of a job whose slots are to be spread, and so is asked for no other."""
    if not led.held.job.spread:
        return {}
    running = (Phase.OFFERED, Phase.RUNNING)
    return {
        slot.assignment.executor: f"slot {slot.index} of it runs there"
        for slot, plan in led.pairs()
        if slot.assignment is not None and plan.phase in running
    }


def _mixed(near: list[PeerId], far: list[PeerId]) -> list[PeerId]:
    """One of `far` after each NEAR_PER_FAR of `near`; what is left of either follows."""
    order: list[PeerId] = []
    at = 0
    for stranger in far:
        order += near[at : at + NEAR_PER_FAR]
        order.append(stranger)
        at += NEAR_PER_FAR
    return order + near[at:]
