"""Placing slots: rounds of bidding, awards with a fence, leases, the next best when one fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from protocol.auction import Auction
from protocol.bidding import DRAINING, why_unfit
from protocol.catalogue import Catalogue
from protocol.clock import NEVER, Now
from protocol.config import AuctionConfig, CoordinationConfig
from protocol.derived import heard_by
from protocol.effects import Effect, Send, Tell
from protocol.fleet import Fleet
from protocol.heldjob import HeldJob, Slot
from protocol.ids import JobId, PeerId
from protocol.labels import matched_labels
from protocol.led import Confirmation, Led, Phase, Plan
from protocol.messages import (
    Accepted,
    Announce,
    Award,
    Bid,
    Declined,
    Refusal,
    Release,
    Vacancy,
    Withdraw,
)
from protocol.pins import away, group_of, home_of, homes_of, kept_of
from protocol.records import Assignment, Fence, Keyring, Verdict
from protocol.resources import Resources
from protocol.retry import RetryOn
from protocol.story import Attempt, Stories
from protocol.volumes import lost_on
from protocol.wire import seal

AWARDS_PER_MESSAGE = 16  # of 3 KiB at most, beside a spec of 66: a frame is 128
CANDIDATES_MAX = 1024
TERM_MAX = 2**62  # as standingjob.NUMBER_MAX
NEAR_PER_FAR = 5


# A slot that can be placed no more: led job, slot index, verdict, reason, sealed result or b"".
GiveUp = Callable[[Led, int, Verdict, str, bytes, Now], list[Effect]]


@dataclass(slots=True)
class Placement:
    """Auctions and awards of all jobs that this peer coordinates."""

    keyring: Keyring
    auction_config: AuctionConfig
    config: CoordinationConfig
    catalogue: Catalogue
    fleet: Fleet
    stories: Stories
    rng: Random
    give_up: GiveUp
    led: dict[JobId, Led] = field(default_factory=dict)
    _auctions: dict[int, Led] = field(default_factory=dict)

    # ---- rounds of bidding -------------------------------------------------------------------

    def open(self, led: Led, now: Now) -> list[Effect]:
        """Start a round for the slots that wait, unless one is under way."""
        effects: list[Effect] = []
        if led.auction is not None and led.auction.awarding:
            effects = self._close_if_settled(led, led.auction)
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
        auction.candidates = self._candidates(led, auction, homes)
        first, led.invited_by = led.invited_by, None
        invited = first is not None and auction.begin_with(first)
        for slot in slots:
            led.plans[slot].phase = Phase.BIDDING
        led.auction = auction
        self._auctions[auction.id] = led
        self.stories.of(led.held.id).add_round(auction)
        count = 1 if invited else self.auction_config.ask_first
        return effects + self._ask(led, auction, count, now)

    def _candidates(self, led: Led, auction: Auction, homes: dict[int, PeerId]) -> list[PeerId]:
        """Whom to ask, in order: mostly peers connected already, some at random among the rest.

        A connection made to ask one question costs ten times the question (simulated); asking
        some strangers all the same keeps work from staying in one neighbourhood.
        """
        near: list[PeerId] = []
        far: list[PeerId] = []
        me, needs = self.keyring.peer, led.needs
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
            auction.filtered(auction.home, away(led.held, self._kept(led)))
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
        led = self._auctions.get(answer.auction)
        auction = led.auction if led is not None else None
        if led is None or auction is None or auction.id != answer.auction:
            return [Send(sender, Release(answer.auction))] if isinstance(answer, Bid) else []
        if isinstance(answer, Bid):
            auction.on_bid(sender, answer, now.mono)
        else:
            auction.on_refusal(sender, answer)
        for plan in led.plans.values():
            plan.silent.pop(sender, None)
        return self.settle(led, now)

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
        effects += self._award(led, auction, now)
        return effects + self._close_if_settled(led, auction)

    def _tell_bids(self, led: Led, auction: Auction) -> Tell:
        bids = auction.bidders()
        asked = sum(1 for answer in auction.answers.values() if answer.kind != "filtered")
        fields: dict[str, object] = {"bids": len(bids), "asked": asked}
        plural = "" if len(bids) == 1 else "s"
        return Tell("job.bids", f"{len(bids)} bid{plural}", led.held.id, fields=fields)

    def _close_if_settled(self, led: Led, auction: Auction) -> list[Effect]:
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

    # ---- awards ------------------------------------------------------------------------------

    def _award(self, led: Led, auction: Auction, now: Now) -> list[Effect]:
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
            effects += self._assign(led, index, peer, now)
            awards.setdefault(peer, []).append(index)
        if awards:
            slots = sorted(slot for given in awards.values() for slot in given)
            wait_s = 0.0 if led.held.job.task.volumes else self.config.assignment_wait_s
            saved = self.catalogue.changed(led.held, slots, now, head=False, wait_s=wait_s)
            effects = saved + effects
        sent: list[Effect] = []
        for peer, slots in awards.items():
            sent += self.send_award(led, peer, auction.id, slots)
        effects += self._once_known(led, sent, now)
        return effects + self._leave(led, auction, left, now)

    def _once_known(self, led: Led, awards: list[Effect], now: Now) -> list[Effect]:
        """Where volumes begin to exist, or exist, a successor has to know it: the award waits until
        a standby has it on disk, as far as one answers before the award would be repeated."""
        if not awards or not led.held.job.task.volumes:
            return awards
        version, due = self.catalogue.version(led.held), now.mono + self.auction_config.accept_s / 2
        others = [peer for peer in led.held.holders if peer != self.keyring.peer]
        alone = not any(self.fleet.reachable(peer) for peer in others)
        if alone or self.catalogue.replicated(led.held, version):
            return awards
        led.confirmations.append(Confirmation(version, due, awards))
        return []

    def _penalty(self, led: Led, plan: Plan) -> Callable[[PeerId], int]:
        each, bonus = self.auction_config.failed_penalty, self.auction_config.near_bonus
        near = near_trigger(led.held)
        return lambda peer: each * plan.failed_on.get(peer, 0) - bonus * (peer == near)

    def _assign(self, led: Led, index: int, peer: PeerId, now: Now) -> list[Effect]:
        """Write the award of one slot; an older executor of it is told that it is superseded."""
        slot, plan = led.held.slots[index], led.plans[index]
        before = slot.assignment
        attempt = before.fence.attempt + 1 if before is not None else 1
        home = home_of(led.held, slot, plan, self.fleet.name)
        names = tuple(volume.name for volume in led.held.job.task.volumes)
        assert home in (None, peer), (led.held.id, index, home, peer)
        assignment = Assignment(
            job=led.held.id,
            revision=led.held.revision,
            slot=index,
            fence=Fence(led.held.term, self.keyring.peer, attempt),
            executor=peer,
            lease_ms=int(self.config.lease_s * 1000),
            failures=plan.failures,
            volumes=names,
            fresh=bool(names) and home is None,
            kept=kept_of(slot, plan, names),
            untaken=plan.untaken,
        )
        taken = slot.offer_assignment(assignment, seal(assignment, self.keyring))
        assert taken, (led.held.id, index, before, assignment)
        plan.phase, plan.repeated, plan.late = Phase.OFFERED, False, False
        plan.ports, plan.doing = (), ""
        plan.silent.pop(peer, None)
        plan.offered, plan.due = now.mono, now.mono + self.auction_config.accept_s / 2
        self.stories.of(led.held.id).add_attempt(
            Attempt(
                led.held.execution_of(slot),
                index,
                peer,
                assignment.fence.term,
                attempt,
                "awarded",
                now.wall_ms,
            )
        )
        name = self.fleet.name(peer)
        place = f" slot {index}" if len(led.plans) > 1 else ""
        effects: list[Effect] = [
            Tell(
                "job.awarded",
                f"awarded{place} to {name}",
                led.held.id,
                peer,
                {"slot": index, "name": name, "execution": led.held.execution_of(slot)},
            )
        ]
        if before is not None and before.executor not in (peer, plan.leaving):
            effects.append(self._withdraw(slot, before.executor, "superseded by a later award"))
        return effects

    def _withdraw(self, slot: Slot, executor: PeerId, reason: str) -> Send:
        assert slot.assignment is not None
        assignment = slot.assignment
        return Send(executor, Withdraw(assignment.job, slot.index, assignment.fence, reason))

    def send_award(self, led: Led, peer: PeerId, auction: int, slots: list[int]) -> list[Effect]:
        held = led.held
        return [
            Send(
                peer,
                Award(
                    auction,
                    tuple(
                        held.slots[slot].assignment_data
                        for slot in slots[at : at + AWARDS_PER_MESSAGE]
                    ),
                    held.spec_data,
                    held.control_data,
                    held.holders,
                ),
            )
            for at in range(0, len(slots), AWARDS_PER_MESSAGE)
        ]

    def _leave(self, led: Led, auction: Auction, left: list[int], now: Now) -> list[Effect]:
        """Nobody takes these slots now: wait and ask again, or give up as the job says."""
        if not left:
            return []
        reasons = auction.reasons(self.config.asked_max)
        summary = self.summary(reasons)
        if auction.home is not None:
            there = f"{self._kept(led)} is on {self.fleet.name(auction.home)}"
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

    def on_accepted(self, sender: PeerId, accepted: Accepted, now: Now) -> list[Effect]:
        self._heard(sender, accepted.job, accepted.slot)
        led, plan = self._awarded(sender, accepted.job, accepted.slot, accepted.fence)
        # It may come when the answer is no longer waited for: it runs, and need not be placed.
        if led is None or plan is None or plan.phase not in (Phase.OFFERED, Phase.WAITING):
            return []
        return self.running(led, accepted.slot, now)

    def running(self, led: Led, index: int, now: Now) -> list[Effect]:
        """The executor has it on disk and starts it: its lease begins."""
        plan, slot = led.plans[index], led.held.slots[index]
        plan.lease(now.mono + self.config.lease_s)
        assert slot.assignment is not None
        plan.begin(slot.assignment.fence, now.mono)
        plan.answered = slot.assignment.fence
        plan.silent.clear()
        executor = slot.assignment.executor
        moved = self._moved(slot, plan)
        self.stories.of(led.held.id).update(led.held.execution_of(slot), "running")
        self.stories.of(led.held.id).waiting = ""
        led.waits.pop(executor, None)
        fields: dict[str, object] = {"slot": index, "execution": led.held.execution_of(slot)}
        text = f"running on {self.fleet.name(executor)}"
        tell = Tell("execution.started", text, led.held.id, executor, fields)
        if led.auction is not None and led.auction.awarding:
            return [tell, *moved, *self._close_if_settled(led, led.auction)]
        return [tell, *moved]

    def _moved(self, slot: Slot, plan: Plan) -> list[Effect]:
        """Who drained may stop it: it runs elsewhere."""
        leaving, plan.leaving = plan.leaving, None
        assert slot.assignment is not None
        if leaving in (None, slot.assignment.executor):
            return []
        return [self._withdraw(slot, leaving, "superseded: moved off this peer")]

    def move_off(self, led: Led, now: Now) -> list[Effect]:
        """Seek other peers for a service's slots on those that drain; they run there until then."""
        draining = {advert.peer: None for advert in self.fleet.adverts() if advert.draining}
        for slot, plan in led.pairs():
            executor = slot.assignment.executor if slot.assignment is not None else None
            stays = home_of(led.held, slot, plan, self.fleet.name) is not None
            if executor in draining and plan.phase is Phase.RUNNING and not stays:
                plan.leaving = executor
                plan.wait(now.mono)
                plan.reason = f"{self.fleet.name(executor)} drains"
            elif plan.leaving not in (None, *draining) and self._stays(led, slot, plan):
                if plan.phase is Phase.WAITING and executor == plan.leaving:
                    plan.lease(now.mono + self.config.lease_s)
                plan.leaving = None
        return self.open(led, now)

    def _stays(self, led: Led, slot: Slot, plan: Plan) -> bool:
        """Whether one that was to leave a peer that does not drain need not any more."""
        assert plan.leaving is not None
        home = home_of(led.held, slot, plan, self.fleet.name)
        return home in (None, plan.leaving) and not self.given_up(led, plan.leaving)

    def on_declined(self, sender: PeerId, declined: Declined, now: Now) -> list[Effect]:
        self._heard(sender, declined.job, declined.slot)
        led, plan = self._awarded(sender, declined.job, declined.slot, declined.fence)
        if led is None or plan is None or plan.phase is not Phase.OFFERED:
            return []
        if declined.known is None:  # it has never begun this award, nor a later one
            plan.untouched = declined.fence
        else:
            plan.answered = declined.fence
        effects = self._outrank(led, plan, declined.known, now) if led.held.service else []
        return effects + self._next_best(led, declined.slot, f"declined: {declined.reason}", now)

    def _outrank(self, led: Led, plan: Plan, known: Fence | None, now: Now) -> list[Effect]:
        """Everybody who held a service was gone for a while: its slots' fences go on from what
        executors remember; unless who awarded that is there, and will be heard of within a lease.
        """
        held = led.held
        # One forged so high that nobody could count on is not believed.
        if known is None or not held.term <= known.term < TERM_MAX:
            return []
        plan.outranked = min(plan.outranked, now.mono)
        other = known.coordinator != self.keyring.peer and self.fleet.alive(known.coordinator)
        if other and now.mono - plan.outranked < self.config.lease_s:
            return []
        held.term = known.term + 1
        return self.catalogue.changed(held, [], now)

    def _heard(self, sender: PeerId, job: JobId, slot: int) -> None:
        """It answers an award of the slot, perhaps one that is long past: it did not die of it."""
        led = self.led.get(job)
        if led is not None and slot in led.plans:
            led.plans[slot].silent.pop(sender, None)

    def _awarded(
        self, sender: PeerId, job: JobId, slot: int, fence: Fence
    ) -> tuple[Led, Plan] | tuple[None, None]:
        """The plan that an executor's answer is about, if it answers our latest award to it."""
        led = self.led.get(job)
        if led is None or slot not in led.plans or not led.current(slot, fence):
            return None, None
        assignment = led.held.slots[slot].assignment
        if assignment is None or assignment.executor != sender:
            return None, None
        return led, led.plans[slot]

    def _next_best(self, led: Led, index: int, reason: str, now: Now) -> list[Effect]:
        """The award came to nothing: the next best bidder of the round, else a new round."""
        plan = led.plans[index]
        auction = self._refused(led, index, "declined", reason, now)
        if auction is None:
            # One that was asked again and was silent may be so for long, or is heard of just now.
            plan.wait(now.mono, self._pause(plan) if plan.dry_rounds or plan.late else 0.0)
            return self.open(led, now)
        plan.wait(now.mono)
        plan.phase = Phase.BIDDING
        return [*self._award(led, auction, now), *self._close_if_settled(led, auction)]

    def _refused(self, led: Led, index: int, state: str, reason: str, now: Now) -> Auction | None:
        """Note what became of an award; its round, if somebody else of it may have the slot."""
        slot, plan = led.held.slots[index], led.plans[index]
        assert slot.assignment is not None
        execution = led.held.execution_of(slot)
        self.stories.of(led.held.id).update(execution, state, now.wall_ms, reason=reason)
        plan.reason = reason
        auction = self._round_of(led, slot)
        if auction is None or plan.late:  # what others have bid is over
            return None
        answer = auction.answers[slot.assignment.executor]
        answer.out, answer.reason = True, reason
        home = home_of(led.held, slot, plan, self.fleet.name)
        return auction if home in (None, auction.home) else None  # else it may have begun there

    def _round_of(self, led: Led, slot: Slot) -> Auction | None:
        """The round under way that its award is of."""
        auction = led.auction
        if auction is None or not auction.awarding or slot.assignment is None:
            return None
        answer = auction.answers.get(slot.assignment.executor)
        return auction if answer is not None and slot.index in answer.given else None

    # ---- time --------------------------------------------------------------------------------

    def on_deadline(self, led: Led, now: Now) -> list[Effect]:
        """Windows that closed, awards not answered, leases that ended, slots that are due."""
        effects = self.settle(led, now) if led.auction and not led.auction.awarding else []
        for slot, plan in led.pairs():
            if plan.due > now.mono:
                continue
            if plan.phase is Phase.OFFERED:
                effects += self._unanswered(led, slot, plan, now)
            elif plan.phase is Phase.RUNNING:
                effects += self._lease_ended(led, slot, plan, now)
        return effects + self.open(led, now)

    def _unanswered(self, led: Led, slot: Slot, plan: Plan, now: Now) -> list[Effect]:
        """Send it once more; then, where its executor lives, wait for that for a while, and for
        nobody else of its round."""
        assert slot.assignment is not None
        executor, config = slot.assignment.executor, self.auction_config
        waited_s = now.mono - plan.offered
        auction = self._round_of(led, slot)
        sent = self.send_award(
            led, executor, auction.id if auction is not None else 0, [slot.index]
        )
        if not plan.repeated:
            plan.repeated, plan.due = True, now.mono + config.accept_s / 2
            return sent
        if waited_s < config.patience_s and self.fleet.reachable(executor):
            plan.late = True
            plan.due = now.mono + min(waited_s, config.patience_s - waited_s)  # twice as long
            closed = self._close_if_settled(led, auction) if auction is not None else []
            return [*sent, *closed]
        if plan.late:  # it may bid again, and be as silent
            plan.failed_on[executor] = plan.failed_on.get(executor, 0) + 1
        if self.fleet.alive(executor):
            plan.silent[executor] = now.mono
        elif not self._spared(led, plan):  # a job that stays where it is was not taken from it
            return self._lost(led, slot.index, f"{self.fleet.name(executor)} is gone", now)
        reason = f"{self.fleet.name(executor)} did not answer the award"
        return self._next_best(led, slot.index, reason, now)

    def _lease_ended(self, led: Led, slot: Slot, plan: Plan, now: Now) -> list[Effect]:
        assert slot.assignment is not None
        if not led.held.job.disconnect.replace:
            plan.due = now.mono + self.config.lease_s
            return []
        executor = self.fleet.name(slot.assignment.executor)
        return self.failed(led, slot.index, RetryOn.LOST, f"no word from {executor}", b"", now)

    def failed(
        self, led: Led, index: int, cause: RetryOn, reason: str, result: bytes, now: Now
    ) -> list[Effect]:
        """An attempt failed: place the slot again if the job allows it, else give it up."""
        slot, plan = led.held.slots[index], led.plans[index]
        assert slot.assignment is not None
        executor, retry = slot.assignment.executor, led.held.job.retry
        if plan.counted != slot.assignment.fence:
            plan.counted = slot.assignment.fence
            plan.failures += 1
            plan.failed_on[executor] = plan.failed_on.get(executor, 0) + 1
        plan.reason = reason
        if cause is not RetryOn.LOST:
            plan.ended = slot.assignment.fence
        if not self.retries(led, index, cause):
            verdict = Verdict.FAILURE if cause is RetryOn.FAILURE else Verdict.FAULT
            return self.give_up(led, index, verdict, reason, result, now)
        self.stories.of(led.held.id).update(
            led.held.execution_of(slot), "lost", now.wall_ms, reason=reason
        )
        pause = 0.0
        if cause is not RetryOn.LOST:  # a lost peer is no reason to wait: the others are well
            pause = min(retry.backoff_s * 2 ** min(plan.failures - 1, 10), 600.0)
            pause *= self.rng.uniform(0.8, 1.2)
        plan.wait(now.mono, pause)
        return [self._tell_again(led, index, executor, reason)]

    def _tell_again(self, led: Led, index: int, executor: PeerId, reason: str) -> Tell:
        which = f"slot {index} is " if len(led.plans) > 1 else ""
        fields: dict[str, object] = {"slot": index, "reason": reason}
        text = f"{which}placed again: {reason}"
        return Tell("job.placed-again", text, led.held.id, executor, fields)

    def replace(self, led: Led, index: int, now: Now) -> list[Effect]:
        """Award a slot that runs to its very executor once more, of another revision; elsewhere
        where what it keeps is there, or is given up here."""
        slot, plan = led.held.slots[index], led.plans[index]
        assert slot.assignment is not None
        executor = slot.assignment.executor
        home = home_of(led.held, slot, plan, self.fleet.name)
        if home not in (None, executor) or self.given_up(led, executor):
            plan.leaving = executor
            plan.wait(now.mono)
            plan.reason = f"it does not stay on {self.fleet.name(executor)}"
            return self.open(led, now)
        effects = self._assign(led, index, executor, now)
        saved = self.catalogue.changed(led.held, [index], now, head=False)
        sent = self.send_award(led, executor, 0, [index])
        return [*saved, *effects, *self._once_known(led, sent, now)]

    def given_up(self, led: Led, peer: PeerId) -> bool:
        """Whether a person said that what the job kept there is lost."""
        return lost_on(led.held.job.task.volumes, peer, self.fleet.name(peer))

    def retries(self, led: Led, index: int, cause: RetryOn) -> bool:
        """Whether the job allows another attempt after those that failed."""
        retry, failures = led.held.job.retry, led.plans[index].failures
        return cause in retry.on and (not retry.attempts or failures < retry.attempts)

    def on_peer_gone(self, led: Led, peer: PeerId, now: Now) -> list[Effect]:
        """A peer died or left: what it was to run is placed elsewhere, and nobody waits for it."""
        effects: list[Effect] = []
        if led.auction is not None:
            led.auction.on_gone(peer)
        why = f"{self.fleet.name(peer)} is gone"
        untaken: list[int] = []
        for slot, plan in led.pairs():
            theirs = slot.assignment is not None and slot.assignment.executor == peer
            if plan.leaving == peer:
                plan.leaving, plan.due = None, min(plan.due, now.mono)
            if self._of_its_award(plan, peer, now) and plan.phase is not Phase.DONE:
                effects += self._died_silent(led, slot.index, peer, why, now)
            if not theirs or plan.phase not in (Phase.OFFERED, Phase.RUNNING):
                continue
            if not led.held.job.disconnect.replace:
                continue
            if plan.phase is Phase.RUNNING:
                effects += self.failed(led, slot.index, RetryOn.LOST, why, b"", now)
            elif self._spared(led, plan):
                untaken.append(slot.index)
            else:
                effects += self._lost(led, slot.index, why, now)
        effects += self._untaken(led, untaken, peer, why, now)
        return effects + self.settle(led, now) + self.open(led, now)

    def _of_its_award(self, plan: Plan, peer: PeerId, now: Now) -> bool:
        """Whether it may have died of an award that is waited for no more; asked once. Who leaves
        has not died, and who dies long after died of something else."""
        since = plan.silent.pop(peer, -NEVER)
        return now.mono - since <= self.config.silence_s and not self.fleet.left(peer)

    def _spared(self, led: Led, plan: Plan) -> bool:
        """Whether an award whose executor died before it answered is no failure: nothing was lost.
        Only the first few are spared, for it may be the job that ends whatever it goes to."""
        few = plan.untaken < self.config.untaken_max
        if not few or RetryOn.LOST not in led.held.job.retry.on:
            return False
        plan.untaken += 1
        return True

    def _lost(self, led: Led, index: int, why: str, now: Now) -> list[Effect]:
        """An award that was not answered counts as a failure; one that was sent again, to where its
        volumes are, each time."""
        led.plans[index].counted = None
        return self.failed(led, index, RetryOn.LOST, why, b"", now)

    def _died_silent(self, led: Led, index: int, peer: PeerId, why: str, now: Now) -> list[Effect]:
        """Its award was waited for no more before its death was known. If that is one too many the
        slot ends, whoever else it is offered to by now."""
        award, plan = led.held.slots[index].assignment, led.plans[index]
        if self._spared(led, plan):
            return []
        plan.failures += 1
        if award is not None and award.executor == peer:
            plan.counted = award.fence
        if self.retries(led, index, RetryOn.LOST):
            return []
        stopped = self.stop(led, index, why)
        return [*stopped, *self.give_up(led, index, Verdict.FAULT, why, b"", now)]

    def _untaken(
        self, led: Led, slots: list[int], peer: PeerId, why: str, now: Now
    ) -> list[Effect]:
        """Awards that are spared: their peer is gone, and never took them for all we know. The next
        best of the round, while there is one."""
        effects: list[Effect] = []
        for index in slots:
            plan = led.plans[index]
            plan.failed_on[peer] = plan.failed_on.get(peer, 0) + 1
            auction = self._refused(led, index, "lost", why, now)
            plan.wait(now.mono)
            if auction is not None and auction.spare(now.mono):
                plan.phase = Phase.BIDDING
            effects.append(self._tell_again(led, index, peer, why))
        if any(led.plans[index].phase is Phase.BIDDING for index in slots):
            assert led.auction is not None
            effects += self._award(led, led.auction, now)
        return effects

    # ---- volumes -----------------------------------------------------------------------------

    def _taken(self, led: Led, auction: Auction, homes: dict[int, PeerId]) -> dict[PeerId, str]:
        """Who is asked for no slot of this round, and why."""
        taken = _running(led)
        wanted = led.held.job.task.volumes
        for advert in self.fleet.adverts() if wanted else ():
            if self.given_up(led, advert.peer):
                taken[advert.peer] = "the job file says that what it kept there is lost (Without)"
        for index, peer in homes.items() if led.held.job.spread else ():
            if peer != auction.home:  # its own slot comes back to it
                taken.setdefault(peer, f"slot {index} of it keeps its volumes there")
        return taken

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
            plan.dry_rounds += 1
            plan.due = now.mono + self.auction_config.accept_s
        return self.send_award(led, home, 0, slots)

    def recalled(self, led: Led, index: int, now: Now) -> list[Effect]:
        """Asked again, its executor has told of an end that was counted before."""
        plan = led.plans[index]
        if plan.phase is not Phase.OFFERED:
            return []
        plan.wait(now.mono)
        return self.open(led, now)

    def _kept(self, led: Led) -> str:
        """For people."""
        names = [volume.name for volume in led.held.job.task.volumes]
        return f"volume {names[0]}" if len(names) == 1 else f"volumes {', '.join(names)}"

    def stop(self, led: Led, index: int, reason: str) -> list[Effect]:
        """Tell the slot's executor, if there may be one, to stop."""
        slot, plan = led.held.slots[index], led.plans[index]
        if slot.assignment is None or plan.phase is Phase.DONE:
            return []
        fence = slot.assignment.fence
        above = Fence(led.held.term, self.keyring.peer, fence.attempt + 1)
        above = max(above, Fence(fence.term, fence.coordinator, fence.attempt + 1))
        withdraw = Withdraw(led.held.id, index, above, reason)
        return [Send(slot.assignment.executor, withdraw)]


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
