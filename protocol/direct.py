"""Direct placement: the list of an ops job, and one award for each peer that is on it (DESIGN 6).

The list is the awards: they are written when the job is accepted, each names its peer, and they
travel with the job's slots. So whoever takes the job over has the same list, and sends the same
awards again, which the executors answer with what they know; nobody ever writes a second one.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.acceptance import Acceptances
from protocol.auction import Answer, Auction
from protocol.authority import signed_assignment
from protocol.bidding import why_unfit
from protocol.bounds import SLOTS_MAX
from protocol.catalogue import Catalogue
from protocol.clock import NEVER, Now
from protocol.config import CoordinationConfig
from protocol.effects import Effect, Tell
from protocol.errors import RemoteProtocolError
from protocol.fleet import Fleet
from protocol.heldjob import HeldJob, Slot
from protocol.ids import PeerId, peer_slot
from protocol.labels import matched_labels
from protocol.led import Led, Phase, Plan, requirements_of
from protocol.messages import Declined
from protocol.moment import format_moment
from protocol.placement import Placement
from protocol.records import Advert, Assignment, Fence, Keyring, Verdict
from protocol.resources import Resources
from protocol.story import Attempt, Stories
from protocol.wire import seal

MAYBE = "it may have run there, or still run"
ADVERT_S = 0.5  # whoever is there is known before what it is; its advert is on its way
SILENCES_MAX = 3  # leases in a row without a word from a peer that seems to be alive


@dataclass(slots=True)
class Direct:
    """Plans the slots of ops jobs, as `Placement` does those that are bid for."""

    keyring: Keyring
    config: CoordinationConfig
    catalogue: Catalogue
    placement: Placement
    fleet: Fleet
    stories: Stories
    acceptances: Acceptances

    # ---- the list ----------------------------------------------------------------------------

    def freeze(self, held: HeldJob, now: Now) -> str:
        """Write the list of a job that is about to be accepted: who matches and is alive.

        Returns why that is nobody, where it is and nobody may join later; else nothing.
        """
        survey = Auction(0, self.placement.auction_config, 0, [], now.mono, now.wall_ms)
        for advert in self.fleet.adverts():
            reason = self._unfit(held, advert)
            if reason:
                survey.filtered(advert.peer, reason)
            elif len(held.slots) < SLOTS_MAX and self._list(held, advert) is not None:
                survey.answers[advert.peer] = Answer("listed")
        if not held.slots and held.closed:
            reasons = survey.reasons(self.config.asked_max)
            return f"no peer that is alive matches: {self.placement.rounds.summary(reasons)}"
        self.stories.of(held.id).add_round(survey)
        return ""

    def _unfit(self, held: HeldJob, advert: Advert) -> str:
        if not advert.memory:
            return "its version runs no ops jobs"
        offers = Resources(advert.cpu_m, advert.memory_bytes, advert.disk_bytes, advert.gpus)
        labels = matched_labels(advert.labels, advert.peer, advert.name)
        return why_unfit(requirements_of(held), advert.engines, labels, offers)

    def _list(self, held: HeldJob, advert: Advert) -> Slot | None:
        """Put a peer on the list, with the award that names it; None where it is there already."""
        index = peer_slot(held.id, advert.peer)
        if index in held.slots:
            return None
        assignment = Assignment(
            job=held.id,
            revision=held.revision,
            slot=index,
            fence=Fence(held.term, self.keyring.peer, 1),
            executor=advert.peer,
            lease_ms=int(self.config.lease_s * 1000),
            memory=advert.memory,
        )
        slot = held.slots.add(index)
        slot.offer_assignment(assignment, seal(assignment, self.keyring))
        return slot

    def learn(self, led: Led, data: bytes, now: Now) -> list[Effect]:
        """An executor shows an award that another coordinator took to its grave: it is listed.

        Raises RemoteProtocolError for one that is not of this job.
        """
        held = led.held
        assignment = signed_assignment(data, self.keyring) if data else None
        if assignment is None or assignment.slot in held.slots:
            return []
        if (assignment.job, assignment.revision) != (held.id, held.revision):
            raise RemoteProtocolError("an assignment of something else")
        held.require_own(assignment.executor, assignment.slot)
        if assignment.fence.coordinator not in held.holders or len(held.slots) >= SLOTS_MAX:
            return []
        held.slots.add(assignment.slot).offer_assignment(assignment, data)
        held.ended_ms = 0
        until = now.mono + self.config.lease_s
        led.plans[assignment.slot] = Plan(Phase.RUNNING, until, now.mono)
        return self.catalogue.changed(held, [assignment.slot], now)

    def _look(self, led: Led, now: Now) -> list[Effect]:
        """While the job is open: add to the list whoever matches by now, until NotAfter."""
        held = led.held
        if held.closed or now.mono < led.look_at:
            return []
        until_s = held.job.not_after_s or 0
        left_s = until_s - now.wall if now.wall_trusted else NEVER
        if left_s <= 0:
            return self.close(led, now)
        led.look_at = now.mono + min(self.config.renew_s, left_s)
        added: list[int] = []
        effects: list[Effect] = []
        for advert in self.fleet.adverts():
            full = len(held.slots) >= SLOTS_MAX
            slot = None if full or self._unfit(held, advert) else self._list(held, advert)
            if slot is None:
                continue
            led.plans[slot.index] = Plan(Phase.WAITING, now.mono, now.mono)
            added.append(slot.index)
            text = f"{self.fleet.name(advert.peer)} matches, and is on the list now"
            effects.append(Tell("job.listed", text, held.id, advert.peer))
        return [*self.catalogue.changed(held, added, now), *effects] if added else []

    def close(self, led: Led, now: Now) -> list[Effect]:
        """Nobody is added any more; whoever was not reached is given up."""
        held = led.held
        if held.closed:
            return []
        effects = self.acceptances.close(led, now)
        for slot, plan in led.pairs():
            if plan.phase is Phase.WAITING and not self.fleet.alive(_peer(slot)):
                until = format_moment(held.job.not_after_s or 0)
                reason = f"{self._name(slot)} was not there again until {until}"
                effects += self._lose(led, slot, reason, now)
        return [*effects, *self.acceptances.finish(led, now)]

    # ---- awards ------------------------------------------------------------------------------

    def hold_back(self, led: Led) -> None:
        """Of a list just frozen no award was sent, and none is before a standby has it too."""
        led.held_back = True
        for plan in led.plans.values():
            plan.repeated = False

    def plan_again(self, at: float, now: Now) -> Plan:
        """For a slot whose award may have been sent, by a predecessor or in an earlier life.

        It is sent again: that starts nothing twice, and is answered with what is known.
        """
        return Plan(Phase.WAITING, at, now.mono, repeated=True)

    def open(self, led: Led, now: Now) -> list[Effect]:
        """Send the awards that are due, once the list is at a standby too, or none is there."""
        if led.held_back:
            if any(confirmation.of_acceptance for confirmation in led.confirmations):
                return []
            led.held_back = False
        effects: list[Effect] = []
        for slot, plan in led.pairs():
            if plan.phase is Phase.WAITING and plan.due <= now.mono:
                effects += self._award(led, slot, plan, now)
        return effects

    def _award(self, led: Led, slot: Slot, plan: Plan, now: Now) -> list[Effect]:
        peer, held = _peer(slot), led.held
        if not self.fleet.alive(peer):
            heard_by = plan.since + self.config.lease_s  # after a start nobody was heard of yet
            if now.mono < heard_by and held.closed:
                plan.due = heard_by
                return []
            return self._absent(led, slot, plan, now)
        effects: list[Effect] = []
        if not plan.repeated:
            effects = self._tell_award(led, slot, now)
        plan.phase, plan.repeated = Phase.OFFERED, True
        plan.due = now.mono + self._pause(
            plan, self.config.resend_first_s, self.config.resend_max_s
        )
        return [*effects, *self.placement.awarding.send(led, peer, 0, [slot.index])]

    def _pause(self, plan: Plan, first_s: float, most_s: float) -> float:
        """Longer each time in a row; so many are counted in `dry_rounds`."""
        wait = min(first_s * 2.0 ** min(plan.dry_rounds, 16), most_s)
        plan.dry_rounds += 1
        return wait * self.placement.rng.uniform(0.8, 1.2)

    def _tell_award(self, led: Led, slot: Slot, now: Now) -> list[Effect]:
        held, peer, name = led.held, _peer(slot), self._name(slot)
        assert slot.assignment is not None
        fence, execution = slot.assignment.fence, held.execution_of(slot)
        self.stories.of(held.id).add_attempt(
            Attempt(execution, slot.index, peer, fence.term, 1, "awarded", now.wall_ms)
        )
        fields: dict[str, object] = {"slot": slot.index, "name": name, "execution": execution}
        return [Tell("job.awarded", f"awarded to {name}", held.id, peer, fields)]

    def on_declined(self, sender: PeerId, declined: Declined, led: Led, now: Now) -> list[Effect]:
        """The peer will not have it: that is its answer, unless it is only busy."""
        held = led.held
        plan = led.plans.get(declined.slot)
        if plan is None or plan.phase is not Phase.OFFERED:
            return []
        slot = held.slots[declined.slot]
        if _peer(slot) != sender or not led.current(declined.slot, declined.fence):
            return []
        plan.reason = f"declined: {declined.reason}"
        patience = plan.since + held.job.task.timeouts.queue_s if not held.closed else led.queue_due
        if declined.final or patience <= now.mono:
            reason = f"{self._name(slot)} declined: {declined.reason}"
            return self.acceptances.give_up(led, slot.index, Verdict.FAULT, reason, b"", now)
        pause = self._pause(plan, self.config.requeue_first_s, self.config.requeue_max_s)
        plan.wait(now.mono, min(pause, patience - now.mono))
        return []

    # ---- who does not answer -----------------------------------------------------------------

    def on_deadline(self, led: Led, now: Now) -> list[Effect]:
        """Awards not answered, leases that ended, peers that are due, a list that is open."""
        effects = self._look(led, now)
        for slot, plan in led.pairs():
            if plan.due > now.mono or plan.phase not in (Phase.OFFERED, Phase.RUNNING):
                continue
            effects += self._silent(led, slot, plan, now)
        return effects + self.open(led, now)

    def _silent(self, led: Led, slot: Slot, plan: Plan, now: Now) -> list[Effect]:
        """Nothing was heard: ask again with the same award, which starts nothing twice."""
        name, alive = self._name(slot), self.fleet.alive(_peer(slot))
        offered = plan.phase is Phase.OFFERED
        over = now.mono >= plan.since + self.config.patience_s
        if alive and not (over if offered else plan.dry_rounds >= SILENCES_MAX):
            pause = self._pause(plan, self.config.resend_first_s, self.config.resend_max_s)
            plan.due = now.mono + (pause if offered else self.config.lease_s)
            return self.placement.awarding.send(led, _peer(slot), 0, [slot.index])
        if not alive and (offered or not led.held.closed):
            return self._absent(led, slot, plan, now)
        told = f"{name} did not answer" if offered else f"no word from {name} since it started"
        return self._lose(led, slot, f"{told}; {MAYBE}", now)

    def on_peer_gone(self, led: Led, peer: PeerId, now: Now) -> list[Effect]:
        """Who was not reached is not waited for; who has started has its lease to come back."""
        slot, plan = self._of(led, peer)
        if slot is None or plan is None or plan.phase not in (Phase.OFFERED, Phase.WAITING):
            return []
        return self._absent(led, slot, plan, now)

    def _absent(self, led: Led, slot: Slot, plan: Plan, now: Now) -> list[Effect]:
        """Its peer is gone; an open job waits for it, and hears what became of it then."""
        name = self._name(slot)
        if not led.held.closed:
            plan.wait(now.mono)
            plan.due, plan.reason = NEVER, f"{name} is gone; it is asked again when it is back"
            return []
        sent = f"{name} is gone, and had not answered; {MAYBE}"
        return self._lose(led, slot, sent if plan.repeated else f"not reached: {name} is gone", now)

    def on_peer_alive(self, led: Led, peer: PeerId, now: Now) -> None:
        """Somebody is there that was not: it may match, or have been waited for."""
        if not led.held.closed:
            led.look_at = min(led.look_at, now.mono + ADVERT_S)
        _, plan = self._of(led, peer)
        if plan is not None and plan.phase in (Phase.OFFERED, Phase.WAITING):
            plan.wait(now.mono)
            plan.since, plan.dry_rounds = now.mono, 0

    def _lose(self, led: Led, slot: Slot, reason: str, now: Now) -> list[Effect]:
        return self.acceptances.give_up(led, slot.index, Verdict.FAULT, reason, b"", now, lost=True)

    # ---- reading -----------------------------------------------------------------------------

    def _of(self, led: Led, peer: PeerId) -> tuple[Slot | None, Plan | None]:
        index = peer_slot(led.held.id, peer)
        if index not in led.held.slots:
            return None, None
        return led.held.slots[index], led.plans[index]

    def _name(self, slot: Slot) -> str:
        return self.fleet.name(_peer(slot))


def _peer(slot: Slot) -> PeerId:
    assert slot.assignment is not None  # it is on the list by its award
    return slot.assignment.executor
