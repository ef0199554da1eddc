"""Rollout: a service's slots go from one revision to the next, a few at a time (DESIGN 6).

A slot counts as updated once its task has run as long as `HealthyAfter` says without ending. One
that ends before that is what `OnFailure` is about: nobody else is touched, or all go back.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.catalogue import Catalogue
from protocol.clock import NEVER, Now
from protocol.config import StandingConfig
from protocol.effects import Effect, Tell
from protocol.heldjob import Slot
from protocol.heldservice import FAILED, SETTLED, HeldService
from protocol.led import Led, Phase, Plan
from protocol.pins import said_lost
from protocol.placement import Placement


@dataclass(slots=True)
class Rollout:
    """Decides for the services that this peer coordinates; without a word it changes nothing."""

    config: StandingConfig
    catalogue: Catalogue
    placement: Placement

    def review(self, led: Led, now: Now) -> list[Effect]:
        """Call it when a slot's state may have changed, and when `led.review_at` has come."""
        held = led.held
        led.review_at = NEVER
        if not isinstance(held, HeldService) or held.latest is None or held.done:
            return []
        effects = self.fit(led, now)
        self._forgive(led, now)
        over = held.failed or held.settled
        if not over:
            effects += self._judge(led, held, now)
            effects += self.fit(led, now)  # going back may be to more slots, or fewer
        return effects + self._go_on(led, held, now)

    def fit(self, led: Led, now: Now) -> list[Effect]:
        """Have a plan for each slot that is to run, and stop those that are not any more."""
        held = led.held
        effects: list[Effect] = []
        if not held.service:
            return effects
        for slot in held.slots:
            led.plans.setdefault(slot.index, Plan(Phase.DONE, NEVER, now.mono))
        for slot, plan in led.pairs():
            over = slot.index >= held.job.count
            if over and plan.phase is not Phase.DONE:
                why = "the service has fewer slots now"
                effects += self.placement.awarding.stop(led, slot.index, why)
                plan.phase, plan.due = Phase.DONE, NEVER
            elif not over and plan.phase is Phase.DONE:
                plan.phase, plan.due, plan.since = Phase.WAITING, now.mono, now.mono
        return effects

    def _forgive(self, led: Led, now: Now) -> None:
        """What a slot failed of long ago says nothing about where to place it next."""
        for plan in led.plans.values():
            settled = now.mono - plan.began >= self.config.settled_s
            failed = plan.failures or plan.untaken
            if failed and plan.phase is Phase.RUNNING and settled and not plan.restarts:
                plan.failures, plan.untaken, plan.failed_on = 0, 0, {}

    def _judge(self, led: Led, held: HeldService, now: Now) -> list[Effect]:
        """Whether the update is over, and how it went."""
        first = held.previous is None or held.previous.revision == held.revision
        ours = _slots_of(led, held)
        # Of the first there is nothing to go back to, and nothing to spare.
        if not first and any(_ended_early(held, slot, plan, now) for slot, plan in ours):
            return self._fail(held, now)
        pairs = led.pairs()[: held.job.count]
        assigned = [(slot, plan) for slot, plan in pairs if slot.assignment is not None]
        if assigned and all(_healthy(held, slot, plan, now) for slot, plan in assigned):
            held.conclude(SETTLED)
            effects = self.catalogue.changed(held, [], now)
            if first:
                return effects
            text = f"{held.job.name}: every slot runs generation {held.spec.generation}"
            return [*effects, self._tell(held, "service.updated", text)]
        return []

    def _fail(self, held: HeldService, now: Now) -> list[Effect]:
        number = held.spec.generation
        held.conclude(FAILED)
        effects = self.catalogue.changed(held, [], now)
        if held.paused:
            text = f"{held.job.name}: generation {number} ended early; the update stops here"
            return [*effects, self._tell(held, "service.update-failed", text)]
        text = f"{held.job.name}: generation {number} ended early; back to the one before"
        return [*effects, self._tell(held, "service.rolled-back", text)]

    def _go_on(self, led: Led, held: HeldService, now: Now) -> list[Effect]:
        """Replace as many as may be at a time, the ones that do not run well first."""
        old = [
            (slot, plan)
            for slot, plan in led.pairs()[: held.job.count]
            if plan.phase is Phase.RUNNING and not _runs(held, slot)
        ]
        ours = _slots_of(led, held)
        fresh = [(slot, plan) for slot, plan in ours if not _healthy(held, slot, plan, now)]
        due = [_healthy_at(held, plan) for slot, plan in fresh if _begun(slot, plan)]
        if old or not (held.settled or held.failed):
            led.review_at = min(due, default=NEVER)
        if not old or held.paused:
            return []
        given_up = [plan for _, plan in led.pairs() if self._is_left(led, plan)]
        room = max(0, held.job.update.max_parallel - len(fresh) - len(given_up))
        old.sort(key=lambda each: (not each[1].restarts, each[0].index))
        effects: list[Effect] = []
        for slot, _ in old[:room]:
            effects += self.placement.replace(led, slot.index, now)
        return effects

    def _is_left(self, led: Led, plan: Plan) -> bool:
        """Whether its slot is about to run elsewhere, and runs yet where its volumes are lost."""
        if plan.leaving is None or plan.phase not in (Phase.WAITING, Phase.BIDDING):
            return False
        return said_lost(led.held, plan.leaving, self.placement.fleet.name)

    def _tell(self, held: HeldService, kind: str, text: str) -> Tell:
        fields: dict[str, object] = {"name": held.job.name, "generation": held.spec.generation}
        return Tell(kind, text, held.id, fields=fields)


def _runs(held: HeldService, slot: Slot) -> bool:
    """Whether the slot was last awarded with what is to run now."""
    return slot.assignment is not None and slot.assignment.revision == held.revision


def _slots_of(led: Led, held: HeldService) -> list[tuple[Slot, Plan]]:
    return [(slot, plan) for slot, plan in led.pairs()[: held.job.count] if _runs(held, slot)]


def _begun(slot: Slot, plan: Plan) -> bool:
    """Whether this peer has heard of the award's execution from whoever runs it."""
    award = slot.assignment
    return award is not None and plan.begun == award.fence and plan.phase is Phase.RUNNING


def _healthy_at(held: HeldService, plan: Plan) -> float:
    return plan.began + held.job.update.healthy_after_s


def _healthy(held: HeldService, slot: Slot, plan: Plan, now: Now) -> bool:
    """It runs the revision, and has done so for long enough once; later restarts count for nothing
    any more."""
    award = slot.assignment
    if award is None or plan.phase is not Phase.RUNNING or not _runs(held, slot):
        return False
    if _begun(slot, plan) and now.mono >= _healthy_at(held, plan):
        plan.well = award.fence
    return plan.well == award.fence


def _ended_early(held: HeldService, slot: Slot, plan: Plan, now: Now) -> bool:
    """It was started again, or handed back, before it was healthy."""
    award = slot.assignment
    if award is None or _healthy(held, slot, plan, now) or plan.well == award.fence:
        return False
    handed_back = plan.ended == award.fence
    return handed_back or (plan.restarts > 0 and plan.begun == award.fence)
