"""Rounds of bidding: who waits is asked for, the best get the slots, and then the next best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from protocol.auction import Auction
from protocol.awarding import Awarding
from protocol.candidates import Candidates, near_trigger
from protocol.catalogue import Catalogue
from protocol.clock import NEVER, Now
from protocol.config import AuctionConfig, CoordinationConfig
from protocol.effects import Effect, Send, Tell
from protocol.fleet import Fleet
from protocol.heldjob import Slot
from protocol.ids import JobId, PeerId
from protocol.led import Led, Phase, Plan
from protocol.messages import Announce, Bid, Refusal, Release, Vacancy
from protocol.pins import group_of, home_of, homes_of, volumes_named
from protocol.records import Verdict
from protocol.story import Stories

# A slot that can be placed no more: led job, slot index, verdict, reason, sealed result or b"".
GiveUp = Callable[[Led, int, Verdict, str, bytes, Now], list[Effect]]


@dataclass(slots=True)
class Rounds:
    """The auctions of all jobs that this peer coordinates, one of a job at a time."""

    auction_config: AuctionConfig
    config: CoordinationConfig
    catalogue: Catalogue
    fleet: Fleet
    stories: Stories
    rng: Random
    give_up: GiveUp
    led: dict[JobId, Led]  # of the placement that this is a part of
    candidates: Candidates
    awarding: Awarding
    _auctions: dict[int, Led] = field(default_factory=dict)

    # ---- from the first asked to the end -----------------------------------------------------

    def open(self, led: Led, now: Now) -> list[Effect]:
        """Start a round for the slots that wait, unless one is under way."""
        effects: list[Effect] = []
        if led.auction is not None and led.auction.awarding:
            effects = self.close_if_settled(led, led.auction)
        if led.auction is not None or not (waiting := led.waiting(now.mono)):
            return effects
        homes = homes_of(led, self.fleet.name)
        slots = group_of(led, waiting, homes)
        unsure = [index for index in slots if self._unsure(led, index, homes)]
        if unsure:
            return effects + self._ask_again(led, homes[unsure[0]], unsure, now)
        auction = Auction(
            id=self.rng.getrandbits(48),
            config=self.auction_config,
            wanted=len(slots),
            candidates=[],
            closes_at=now.mono,
            started_ms=now.wall_ms,
            home=homes.get(slots[0]),
        )
        auction.candidates = self.candidates.draw(led, auction, homes)
        first, led.invited_by = led.invited_by, None
        invited = first is not None and auction.begin_with(first)
        for slot in slots:
            led.plans[slot].phase = Phase.BIDDING
        led.auction = auction
        self._auctions[auction.id] = led
        self.stories.of(led.held.id).add_round(auction)
        count = 1 if invited else self.auction_config.ask_first
        return effects + self._ask(led, auction, count, now)

    def _ask(self, led: Led, auction: Auction, count: int, now: Now) -> list[Effect]:
        asked = auction.ask(count, now.mono)
        if not asked:
            return self.settle(led, now)
        announce = self._announcement(led, auction)
        text = f"asking {len(asked)} peer{'s' if len(asked) > 1 else ''}"
        fields: dict[str, object] = {"peers": [self.fleet.name(peer) for peer in asked[:16]]}
        tell = Tell("job.asking", text, led.held.id, fields=fields)
        return [tell, *(Send(peer, announce) for peer in asked)]

    def _announcement(self, led: Led, auction: Auction) -> Announce:
        return Announce(
            auction.id,
            led.held.id,
            led.held.revision,
            led.held.spec.namespace,
            led.held.author,
            1 if led.held.job.spread else auction.wanted,
            led.needs,
            int(self.auction_config.window_s * 1000),
            led.held.job.priority,
            led.held.job.type,
        )

    def on_answer(self, sender: PeerId, answer: Bid | Refusal, now: Now) -> list[Effect]:
        """A bid or refusal; one that comes when its round is over is released at once."""
        led = self.under_way(answer.auction)
        auction = led.auction if led is not None else None
        if led is None or auction is None:
            return [Send(sender, Release(answer.auction))] if isinstance(answer, Bid) else []
        if isinstance(answer, Bid):
            auction.on_bid(sender, answer, now.mono)
        else:
            auction.on_refusal(sender, answer)
        return self.settle(led, now)

    def under_way(self, auction: int) -> Led | None:
        """The job that this round is of; None where the round is over."""
        led = self._auctions.get(auction)
        known = led is not None and led.auction is not None and led.auction.id == auction
        return led if known else None

    def on_vacancy(self, sender: PeerId, vacancy: Vacancy, now: Now) -> list[Effect]:
        """Somebody that was busy has room now: what waits is asked for again, once a refusal."""
        led = self.led.get(vacancy.job)
        phases = [plan.phase for plan in led.plans.values()] if led is not None else []
        if led is None or not (Phase.WAITING in phases or Phase.BIDDING in phases):
            return [Send(sender, Release(0, vacancy.job))]  # the room is for somebody else
        if led.auction is not None and led.auction.ask_again(sender):
            return [Send(sender, self._announcement(led, led.auction))]
        if sender not in led.busy:
            return []
        del led.busy[sender]
        led.invited_by = sender
        for plan in led.plans.values():
            if plan.phase is Phase.WAITING and plan.dry_rounds:
                plan.due = now.mono
        return self.open(led, now)

    def settle(self, led: Led, now: Now) -> list[Effect]:
        """Award what can be awarded once the round is decided, or ask more peers."""
        auction = led.auction
        if auction is None or not auction.decided(now.mono):
            return []
        effects: list[Effect] = []
        if not auction.awarding:
            if auction.offered < auction.wanted and auction.candidates:
                return self._ask(led, auction, 2 * len(auction.answers), now)
            auction.awarding = True
            effects.append(self._tell_bids(led, auction))
        effects += self.award(led, auction, now)
        return effects + self.close_if_settled(led, auction)

    def _tell_bids(self, led: Led, auction: Auction) -> Tell:
        bids = auction.bidders()
        asked = sum(1 for answer in auction.answers.values() if answer.kind != "filtered")
        fields: dict[str, object] = {"bids": len(bids), "asked": asked}
        plural = "" if len(bids) == 1 else "s"
        return Tell("job.bids", f"{len(bids)} bid{plural}", led.held.id, fields=fields)

    def close_if_settled(self, led: Led, auction: Auction) -> list[Effect]:
        """The round is over once none of its awards is open; what is still held is released."""
        open_slots = [
            slot for answer in auction.answers.values() for slot in answer.given if not answer.out
        ]
        plans = [led.plans[slot] for slot in open_slots]
        if any(plan.phase is Phase.OFFERED and not plan.late for plan in plans):
            return []
        return self.close(led)

    def close(self, led: Led) -> list[Effect]:
        """End the round under way, whatever came of it."""
        auction = led.auction
        if auction is None:
            return []
        led.auction = None
        self._auctions.pop(auction.id, None)
        released = [Send(peer, Release(auction.id)) for peer in auction.holding()]
        return [*released, *self._wait_no_more(led)]

    def _wait_no_more(self, led: Led) -> list[Send]:
        """Once nothing of a job waits, those who keep a place in their lines for it are told."""
        if not led.busy or any(plan.phase is Phase.WAITING for plan in led.plans.values()):
            return []
        busy, led.busy = list(led.busy), {}
        return [Send(peer, Release(0, led.held.id)) for peer in busy]

    # ---- who gets the slots ------------------------------------------------------------------

    def award(self, led: Led, auction: Auction, now: Now) -> list[Effect]:
        """Give each slot of the round to the best that is left; the rest waits or is given up."""
        awards: dict[PeerId, list[int]] = {}
        effects: list[Effect] = []
        left: list[int] = []
        for index, plan in led.plans.items():
            if plan.phase is not Phase.BIDDING:
                continue
            home = home_of(led.held, led.held.slots[index], plan, self.fleet.name)
            peer = None
            if home in (None, auction.home):  # else it is another's since this round began
                peer = auction.best(self._penalty(led, plan), now.mono, self.rng)
            if peer is None:
                left.append(index)
                continue
            auction.answers[peer].given.append(index)
            effects += self.awarding.assign(led, index, peer, now)
            awards.setdefault(peer, []).append(index)
        if awards:
            slots = sorted(slot for given in awards.values() for slot in given)
            wait_s = 0.0 if led.held.job.task.volumes else self.config.assignment_wait_s
            saved = self.catalogue.changed(led.held, slots, now, head=False, wait_s=wait_s)
            effects = saved + effects
        sent: list[Effect] = []
        for peer, slots in awards.items():
            sent += self.awarding.send(led, peer, auction.id, slots)
        effects += self.awarding.once_known(led, sent, now)
        return effects + self._leave(led, auction, left, now)

    def _penalty(self, led: Led, plan: Plan) -> Callable[[PeerId], int]:
        each, bonus = self.auction_config.failed_penalty, self.auction_config.near_bonus
        near = near_trigger(led.held)
        return lambda peer: each * plan.failed_on.get(peer, 0) - bonus * (peer == near)

    def next_best(self, led: Led, index: int, reason: str, now: Now) -> list[Effect]:
        """The award came to nothing: the next best bidder of the round, else a new round."""
        plan = led.plans[index]
        auction = self.refused(led, index, "declined", reason, now)
        if auction is None:
            # One that was asked again and was silent may be so for long, or is heard of just now.
            plan.wait(now.mono, self._pause(plan) if plan.dry_rounds or plan.late else 0.0)
            return self.open(led, now)
        plan.wait(now.mono)
        plan.phase = Phase.BIDDING
        return [*self.award(led, auction, now), *self.close_if_settled(led, auction)]

    def refused(self, led: Led, index: int, state: str, reason: str, now: Now) -> Auction | None:
        """Note what became of an award; its round, if somebody else of it may have the slot."""
        slot, plan = led.held.slots[index], led.plans[index]
        assert slot.assignment is not None
        execution = led.held.execution_of(slot)
        self.stories.of(led.held.id).update(execution, state, now.wall_ms, reason=reason)
        plan.reason = reason
        auction = self.round_of(led, slot)
        if auction is None or plan.late:  # what others have bid is over
            return None
        answer = auction.answers[slot.assignment.executor]
        answer.out, answer.reason = True, reason
        home = home_of(led.held, slot, plan, self.fleet.name)
        return auction if home in (None, auction.home) else None  # else it may have begun there

    def round_of(self, led: Led, slot: Slot) -> Auction | None:
        """The round under way that its award is of."""
        auction = led.auction
        if auction is None or not auction.awarding or slot.assignment is None:
            return None
        answer = auction.answers.get(slot.assignment.executor)
        return auction if answer is not None and slot.index in answer.given else None

    # ---- whom nobody takes -------------------------------------------------------------------

    def _leave(self, led: Led, auction: Auction, left: list[int], now: Now) -> list[Effect]:
        """Nobody takes these slots now: wait and ask again, or give up as the job says."""
        if not left:
            return []
        reasons = auction.reasons(self.config.asked_max)
        summary = self.summary(reasons)
        if auction.home is not None:
            there = f"{volumes_named(led.held)} is on {self.fleet.name(auction.home)}"
            summary = f"{there}: {reasons[0][1]}" if reasons else there
        effects: list[Effect] = []
        for index in left:
            plan = led.plans[index]
            plan.dry_rounds, plan.reason = plan.dry_rounds + 1, summary
            plan.wait(now.mono, self._pause(plan))
            if now.mono >= self._patience_ends(led, index):
                reason = f"no peer took it: {summary}"
                effects += self.give_up(led, index, Verdict.FAULT, reason, b"", now)
        still = [index for index in left if led.plans[index].phase is Phase.WAITING]
        if not still:
            return effects
        led.busy.update(dict.fromkeys(auction.busy()))
        story = self.stories.of(led.held.id)
        before, story.waiting = story.waiting, summary
        if auction.home is not None:  # slots that wait for others are told of in turn
            before, led.waits[auction.home] = led.waits.get(auction.home, ""), summary
        if before == summary:  # told before; a job may wait for days
            return effects
        fields: dict[str, object] = {
            "reasons": [{"peer": self.fleet.name(peer), "reason": why} for peer, why in reasons]
        }
        count = f"{len(still)} slots wait" if len(still) > 1 else "waiting"
        return [*effects, Tell("job.waiting", f"{count}: {summary}", led.held.id, fields=fields)]

    def _pause(self, plan: Plan) -> float:
        """Until it is asked for again, after so many rounds in vain."""
        doubled = self.config.requeue_first_s * 2 ** min(max(0, plan.dry_rounds - 1), 16)
        pause_s: float = min(doubled, self.config.requeue_max_s)
        return pause_s * self.rng.uniform(0.8, 1.2)

    def _patience_ends(self, led: Led, index: int) -> float:
        """Until when a slot waits for a peer: QueueTimeout at first, a while after a loss."""
        slot, plan = led.held.slots[index], led.plans[index]
        home = home_of(led.held, slot, plan, self.fleet.name)
        if led.held.service or home is not None:  # nobody else has what it kept
            return NEVER
        if slot.assignment is None:
            return led.queue_due
        queue_s = led.held.job.task.timeouts.queue_s
        return plan.since + max(queue_s, self.config.patience_s)

    def summary(self, reasons: list[tuple[PeerId, str]]) -> str:
        """The commonest reasons first, each with how many peers gave it or whose it is."""
        if not reasons:
            return "no other peer is known"
        by_reason: dict[str, list[PeerId]] = {}
        for peer, reason in reasons:
            by_reason.setdefault(reason, []).append(peer)
        ranked = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
        parts = [
            f"{self.fleet.name(peers[0])}: {reason}"
            if len(peers) == 1
            else f"{len(peers)} peers: {reason}"
            for reason, peers in ranked[:4]
        ]
        more = len(ranked) - 4
        return "; ".join(parts) + (f"; and {more} other reasons" if more > 0 else "")

    # ---- awards that may have begun to keep volumes ------------------------------------------

    def _unsure(self, led: Led, index: int, homes: dict[int, PeerId]) -> bool:
        """Whether its volumes may not have begun at all: nobody has heard what became of the award
        with which they were to."""
        plan, award = led.plans[index], led.held.slots[index].assignment
        if index not in homes or award is None or not award.fresh:
            return False
        if award.revision != led.held.revision:  # its spec is not here any more
            return False
        unheard = award.fence not in (plan.answered, plan.ended)
        return unheard and self.fleet.reachable(homes[index])

    def _ask_again(self, led: Led, home: PeerId, slots: list[int], now: Now) -> list[Effect]:
        """Send the very award once more. Who declines it has never begun it: it remembers the
        fences of what it began."""
        for index in slots:
            plan = led.plans[index]
            plan.phase, plan.repeated, plan.offered = Phase.OFFERED, True, -NEVER
            plan.boot = self.fleet.boot(home)
            plan.dry_rounds += 1
            plan.due = now.mono + self.auction_config.accept_s
        return self.awarding.send(led, home, 0, slots)
