"""Leases: what becomes of the awards whose executors say that they still run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from protocol.acceptance import Acceptances
from protocol.authority import signed_assignment
from protocol.catalogue import Catalogue
from protocol.clock import Now
from protocol.config import CoordinationConfig
from protocol.effects import Effect, Send, Tell
from protocol.errors import RemoteProtocolError
from protocol.execution import CHECKING, State
from protocol.fleet import Fleet
from protocol.heldjob import HeldJob, Slot
from protocol.ids import PeerId
from protocol.led import Led, Phase, Plan
from protocol.messages import Renew, RenewAck, Renewal, RenewAnswer
from protocol.placement import Placement
from protocol.records import Assignment, Fence, Keyring, Result

# Twice what an executor puts into one message. An answer may list sixteen holders, about 1 KB of
# them, and all answers together must stay below the frame's 128 KiB.
RENEWALS_MAX = 64

PROGRESS = "execution.progress"


@dataclass(slots=True)
class Leases:
    """Renews, and learns from executors of awards that their coordinator took to its grave."""

    keyring: Keyring
    config: CoordinationConfig
    catalogue: Catalogue
    placement: Placement
    fleet: Fleet
    acceptances: Acceptances
    led_of: Callable[[HeldJob | None, Now], Led | None]
    step_down: Callable[[Led, Now], list[Effect]]
    reviewed: Callable[[Led, Now], list[Effect]]  # what follows for a service's update
    learn_listed: Callable[[Led, bytes, Now], list[Effect]]

    def on_renew(self, sender: PeerId, renew: Renew, now: Now) -> list[Effect]:
        """Answer each renewal; of more than a message's worth the rest may be asked again."""
        effects: list[Effect] = []
        answers: list[RenewAnswer] = []
        for item in renew.items[:RENEWALS_MAX]:
            verdict, more = self._renewed(sender, item, now)
            effects += more
            held = self.catalogue.jobs.get(item.job)
            coordinator = None if held is None else self.coordinator_of(held)
            holders = held.holders if held is not None and verdict == "kept" else ()
            answers.append(
                RenewAnswer(item.job, item.slot, item.fence, verdict, coordinator, holders)
            )
        return [*effects, Send(sender, RenewAck(tuple(answers)))]

    def coordinator_of(self, held: HeldJob) -> PeerId | None:
        """Whom to turn to, unless that peer is gone."""
        mine = held.coordinator == self.keyring.peer
        return held.coordinator if mine or self.fleet.alive(held.coordinator) else None

    def _renewed(self, sender: PeerId, item: Renewal, now: Now) -> tuple[str, list[Effect]]:
        held = self.catalogue.jobs.get(item.job)
        led = self.led_of(held, now)
        if led is None:
            return "over" if held is not None and _superseded(held, item) else "unknown", []
        over = led.held.service and led.held.done  # it was stopped
        if over or not led.held.matches(item.revision):
            return "over", []
        if led.held.listed:
            return self._renewed_listed(sender, led, item, now)
        if item.slot not in led.plans:
            return "over", []
        slot, plan = led.held.slots[item.slot], led.plans[item.slot]
        if slot.acceptance is not None or (led.held.service and plan.phase is Phase.DONE):
            return "over", []
        known = self.acceptances.fence(slot)
        if item.fence < known and plan.leaving == sender:
            return "kept", []
        if item.fence < known:
            here = slot.assignment is not None and slot.assignment.executor == sender
            # An update takes the place of what ran on the same device, which had not heard of it.
            return "over", [] if here else self._surplus(sender, led, plan, item)
        if item.fence > known:
            return self._adopted(sender, led, slot, plan, item, now)
        if slot.assignment is None or slot.assignment.executor != sender:
            return "over", []
        said = self._said(sender, led, plan, item)
        # Its lease had ended, or its peer drains, and somebody else is being sought.
        sought = plan.phase is Phase.BIDDING and not led.held.job.task.volumes
        if sought or plan.leaving == sender:
            return "kept", said
        if plan.phase is not Phase.RUNNING:
            return "kept", [*said, *self.placement.running(led, item.slot, now)]
        plan.lease(now.mono + self.config.lease_s)
        plan.begin(item.fence, now.mono)
        plan.answered = item.fence
        noted = self._noted(sender, led, item, plan)
        if item.restarts != plan.restarts or item.state == CHECKING:
            plan.restarts, plan.began = item.restarts, now.mono
        return "kept", [*said, *noted, *self.reviewed(led, now)]

    def _said(self, sender: PeerId, led: Led, plan: Plan, item: Renewal) -> list[Effect]:
        """What it says of its execution for people, of which nothing is kept."""
        before, plan.ports, plan.doing = plan.doing, item.ports, item.doing
        if not item.doing or item.doing == before:
            return []
        place = f"slot {item.slot} " if len(led.plans) > 1 and not led.held.listed else ""
        text = f"{place}on {self.fleet.name(sender)}: {item.doing}"
        fields: dict[str, object] = {"slot": item.slot, "doing": item.doing}
        return [Tell(PROGRESS, text, led.held.id, sender, fields, fleeting=True)]

    def _surplus(self, sender: PeerId, led: Led, plan: Plan, item: Renewal) -> list[Effect]:
        """What ran beside the slot's present execution is told of, once."""
        if not led.held.service or plan.surplus == item.fence:
            return []
        plan.surplus = item.fence
        name = self.fleet.name(sender)
        text = f"slot {item.slot} ran on {name} as well, and is stopped there"
        return [Tell("service.ran-twice", text, led.held.id, sender, {"slot": item.slot})]

    def _renewed_listed(
        self, sender: PeerId, led: Led, item: Renewal, now: Now
    ) -> tuple[str, list[Effect]]:
        """A peer that is on the list runs its one execution, whoever awarded it."""
        effects = self.learn_listed(led, item.assignment, now)
        led.held.require_own(sender, item.slot)
        if item.slot not in led.plans:
            return "unknown", effects
        plan, acceptance = led.plans[item.slot], led.held.slots[item.slot].acceptance
        effects += self._said(sender, led, plan, item)
        if acceptance is not None:  # one given up for lost is let run on: it may succeed after all
            return ("kept" if acceptance.lost else "over"), effects
        if plan.phase is not Phase.RUNNING:
            return "kept", [*effects, *self.placement.running(led, item.slot, now)]
        plan.lease(now.mono + self.config.lease_s)
        return "kept", [*effects, *self._noted(sender, led, item, plan)]

    def _noted(self, sender: PeerId, led: Led, item: Renewal, plan: Plan) -> list[Effect]:
        """Whether its task has ended, and its results are on their way; told of once."""
        before, plan.publishing = plan.publishing, item.state == State.PUBLISHING
        if before or not plan.publishing:
            return []
        execution = led.held.execution_of(led.held.slots[item.slot])
        self.placement.stories.of(led.held.id).update(execution, State.PUBLISHING.value)
        fields: dict[str, object] = {"slot": item.slot, "execution": execution}
        text = f"results are being published by {self.fleet.name(sender)}"
        return [Tell("execution.publishing", text, led.held.id, sender, fields)]

    def _adopted(
        self, sender: PeerId, led: Led, slot: Slot, plan: Plan, item: Renewal, now: Now
    ) -> tuple[str, list[Effect]]:
        """An award that this peer never heard of: a predecessor's, or even a successor's."""
        held = led.held
        # All who held a service may be gone, and then any of them is as good as another.
        known = held.service or item.fence.coordinator in held.holders
        if not item.assignment or not known:
            return "unknown", []
        assignment = self._award(held, slot, item.fence, sender, item.assignment)
        effects = self._learn(led, assignment, item.assignment, now)
        kept = held.coordinator == self.keyring.peer and plan.phase is Phase.RUNNING
        return "kept" if kept else "unknown", effects

    def _award(
        self, held: HeldJob, slot: Slot, fence: Fence, executor: PeerId, data: bytes
    ) -> Assignment:
        """The award in `data` of just this to just this peer. Raises RemoteProtocolError."""
        assignment = signed_assignment(data, self.keyring)
        place = (assignment.job, assignment.slot, assignment.fence)
        if place != (held.id, slot.index, fence) or not held.matches(assignment.revision):
            raise RemoteProtocolError("an assignment of something else")
        if assignment.executor != executor:
            raise RemoteProtocolError("an assignment to somebody else")
        return assignment

    def _learn(self, led: Led, assignment: Assignment, data: bytes, now: Now) -> list[Effect]:
        """Keep an award that is later than those known: a predecessor's, or a successor's."""
        held, plan = led.held, led.plans[assignment.slot]
        slot, fence = held.slots[assignment.slot], assignment.fence
        outranked = held.follow(fence.term, fence.coordinator)
        if not outranked and plan.phase not in (Phase.WAITING, Phase.RUNNING):
            return []  # a slot that is just being awarded anew
        slot.offer_assignment(assignment, data)
        if outranked and held.service:  # it need not hold the job here to answer for it
            held.add_holders((fence.coordinator,))
        effects = self.catalogue.changed(held, [slot.index], now, head=outranked)
        if outranked:  # it took the job over while we were cut off, and we still are
            return effects + self.step_down(led, now)
        plan.failures = max(plan.failures, assignment.failures)
        plan.untaken = max(plan.untaken, assignment.untaken)
        return effects + self.placement.running(led, slot.index, now)

    def heed(self, led: Led, result: Result, award: bytes, now: Now) -> list[Effect] | None:
        """What follows from the award of a result; None where it is not known to be one.

        Raises RemoteProtocolError where it was awarded to somebody else.
        """
        slot = led.held.slots[result.slot]
        if led.current(result.slot, result.fence):
            assert slot.assignment is not None
            if slot.assignment.executor != result.executor:
                raise RemoteProtocolError("a result of an award to somebody else")
            return []
        known = led.held.service or result.fence.coordinator in led.held.holders
        if not award or not known:
            return None
        assignment = self._award(led.held, slot, result.fence, result.executor, award)
        if result.fence < self.acceptances.fence(slot):
            return []
        return self._learn(led, assignment, award, now)


def _superseded(held: HeldJob, item: Renewal) -> bool:
    """Whether a later award of the slot is known: that is enough, whoever leads the job. An
    executor may reach its holders and for long not its coordinator."""
    if held.listed or item.slot not in held.slots:
        return False
    award = held.slots[item.slot].assignment
    return award is not None and item.fence < award.fence
