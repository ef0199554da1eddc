"""Placement: what becomes of the awards of slots that are bid for, until somebody runs each."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from protocol.awarding import Awarding
from protocol.candidates import Candidates
from protocol.catalogue import Catalogue
from protocol.clock import Now
from protocol.config import AuctionConfig, CoordinationConfig
from protocol.effects import Effect, Tell
from protocol.failures import Failures
from protocol.fleet import Fleet
from protocol.heldjob import Slot
from protocol.ids import JobId, PeerId
from protocol.led import Led, Phase, Plan, Silence
from protocol.messages import Accepted, Bid, Declined, Refusal
from protocol.pins import home_of, said_lost
from protocol.records import Fence, Keyring
from protocol.retry import RetryOn
from protocol.rounds import GiveUp, Rounds
from protocol.story import Stories

TERM_MAX = 2**62  # as standingjob.NUMBER_MAX


@dataclass(slots=True)
class Placement:
    """Plans the slots that are bid for, of all jobs that this peer coordinates.

    Its parts hold the rounds of bidding, write the awards, and count what failed; here is what
    executors answer to awards, and what their silence and their end mean.
    """

    keyring: Keyring
    auction_config: AuctionConfig
    config: CoordinationConfig
    catalogue: Catalogue
    fleet: Fleet
    stories: Stories
    rng: Random
    give_up: GiveUp
    led: dict[JobId, Led] = field(default_factory=dict)
    awarding: Awarding = field(init=False)
    rounds: Rounds = field(init=False)
    failures: Failures = field(init=False)

    def __post_init__(self) -> None:
        self.awarding = Awarding(
            self.keyring,
            self.auction_config,
            self.config,
            self.catalogue,
            self.fleet,
            self.stories,
        )
        self.rounds = Rounds(
            self.auction_config,
            self.config,
            self.catalogue,
            self.fleet,
            self.stories,
            self.rng,
            self.give_up,
            self.led,
            Candidates(self.keyring.peer, self.config, self.fleet, self.rng),
            self.awarding,
        )
        self.failures = Failures(
            self.config,
            self.fleet,
            self.stories,
            self.rng,
            self.give_up,
            self.awarding,
            self.rounds,
        )

    def open(self, led: Led, now: Now) -> list[Effect]:
        """As `Direct.open`: for what waits a round begins, unless one is under way."""
        return self.rounds.open(led, now)

    def on_answer(self, sender: PeerId, answer: Bid | Refusal, now: Now) -> list[Effect]:
        led = self.rounds.under_way(answer.auction)
        effects = self.failures.heard(led, sender, now) if led is not None else []
        return effects + self.rounds.on_answer(sender, answer, now)

    # ---- answers to awards -------------------------------------------------------------------

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
            return [tell, *moved, *self.rounds.close_if_settled(led, led.auction)]
        return [tell, *moved]

    def _moved(self, slot: Slot, plan: Plan) -> list[Effect]:
        """Who drained may stop it: it runs elsewhere."""
        leaving, plan.leaving = plan.leaving, None
        assert slot.assignment is not None
        if leaving in (None, slot.assignment.executor):
            return []
        return [self.awarding.withdraw(slot, leaving, "superseded: moved off this peer")]

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
        reason = f"declined: {declined.reason}"
        return effects + self.rounds.next_best(led, declined.slot, reason, now)

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

    def recalled(self, led: Led, index: int, now: Now) -> list[Effect]:
        """Asked again, its executor has told of an end that was counted before."""
        plan = led.plans[index]
        if plan.phase is not Phase.OFFERED:
            return []
        plan.wait(now.mono)
        return self.rounds.open(led, now)

    # ---- to other peers ----------------------------------------------------------------------

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
        return self.rounds.open(led, now)

    def _stays(self, led: Led, slot: Slot, plan: Plan) -> bool:
        """Whether one that was to leave a peer that does not drain need not any more."""
        assert plan.leaving is not None
        if home_of(led.held, slot, plan, self.fleet.name) not in (None, plan.leaving):
            return False
        return not said_lost(led.held, plan.leaving, self.fleet.name)

    def replace(self, led: Led, index: int, now: Now) -> list[Effect]:
        """Award a slot that runs to its very executor once more, of another revision; elsewhere
        where what it keeps is there, or is given up here."""
        slot, plan = led.held.slots[index], led.plans[index]
        assert slot.assignment is not None
        executor = slot.assignment.executor
        home = home_of(led.held, slot, plan, self.fleet.name)
        if home not in (None, executor) or said_lost(led.held, executor, self.fleet.name):
            plan.leaving = executor
            plan.wait(now.mono)
            plan.reason = f"it does not stay on {self.fleet.name(executor)}"
            return self.rounds.open(led, now)
        effects = self.awarding.assign(led, index, executor, now)
        saved = self.catalogue.changed(led.held, [index], now, head=False)
        sent = self.awarding.send(led, executor, 0, [index])
        return [*saved, *effects, *self.awarding.once_known(led, sent, now)]

    # ---- silence -----------------------------------------------------------------------------

    def on_deadline(self, led: Led, now: Now) -> list[Effect]:
        """Windows that closed, awards not answered, leases that ended, slots that are due."""
        effects = self.rounds.settle(led, now) if led.auction and not led.auction.awarding else []
        for slot, plan in led.pairs():
            if plan.due > now.mono:
                continue
            if plan.phase is Phase.OFFERED:
                effects += self._unanswered(led, slot, plan, now)
            elif plan.phase is Phase.RUNNING:
                effects += self._lease_ended(led, slot, plan, now)
        return effects + self.rounds.open(led, now)

    def _unanswered(self, led: Led, slot: Slot, plan: Plan, now: Now) -> list[Effect]:
        """Send it once more; then, where its executor lives, wait for that for a while, and for
        nobody else of its round."""
        assert slot.assignment is not None
        executor, config = slot.assignment.executor, self.auction_config
        waited_s = now.mono - plan.offered
        auction = self.rounds.round_of(led, slot)
        round_id = auction.id if auction is not None else 0
        sent = self.awarding.send(led, executor, round_id, [slot.index])
        if not plan.repeated:
            plan.repeated, plan.due = True, now.mono + config.accept_s / 2
            return sent
        if waited_s < config.patience_s and self.fleet.reachable(executor):
            plan.late = True
            plan.due = now.mono + min(waited_s, config.patience_s - waited_s)  # twice as long
            closed = self.rounds.close_if_settled(led, auction) if auction is not None else []
            return [*sent, *closed]
        if plan.late:  # it may bid again, and be as silent
            plan.failed_on[executor] = plan.failed_on.get(executor, 0) + 1
        if self.fleet.alive(executor):
            plan.silent[executor] = Silence(now.mono, plan.boot)
        elif not self.failures.spared(led, plan):
            # A job that stays where it is was not taken from it as it died.
            return self.failures.lost(led, slot.index, f"{self.fleet.name(executor)} is gone", now)
        reason = f"{self.fleet.name(executor)} did not answer the award"
        return self.rounds.next_best(led, slot.index, reason, now)

    def _lease_ended(self, led: Led, slot: Slot, plan: Plan, now: Now) -> list[Effect]:
        assert slot.assignment is not None
        if not led.held.job.disconnect.replace:
            plan.due = now.mono + self.config.lease_s
            return []
        reason = f"no word from {self.fleet.name(slot.assignment.executor)}"
        return self.failures.failed(led, slot.index, RetryOn.LOST, reason, b"", now)

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
            if self.failures.of_its_award(plan, peer, now) and plan.phase is not Phase.DONE:
                effects += self.failures.died_silent(led, slot.index, peer, why, now)
            if not theirs or plan.phase not in (Phase.OFFERED, Phase.RUNNING):
                continue
            if not led.held.job.disconnect.replace:
                continue
            if plan.phase is Phase.RUNNING:
                effects += self.failures.failed(led, slot.index, RetryOn.LOST, why, b"", now)
            elif self.failures.spared(led, plan):
                untaken.append(slot.index)
            else:
                effects += self.failures.lost(led, slot.index, why, now)
        effects += self.failures.untaken(led, untaken, peer, why, now)
        return effects + self.rounds.settle(led, now) + self.rounds.open(led, now)
