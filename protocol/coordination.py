"""The coordinator: accepts jobs, decides which results count, hands over and takes over.

Any peer may be one; the job's records say which one is. Two that both think so (a partition) each
keep their word to those they can reach, and the merge of `heldjob` settles it when they meet.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.acceptance import Acceptances, ack, outcome_of, status_of, told_end
from protocol.authority import verified_result
from protocol.bounds import INT_MAX
from protocol.catalogue import Catalogue
from protocol.clock import NEVER, Now
from protocol.config import CoordinationConfig
from protocol.derived import is_pressed
from protocol.direct import Direct
from protocol.effects import Effect, Send, Tell
from protocol.fleet import Fleet
from protocol.heldjob import HeldJob, Merged, Slot
from protocol.heldservice import HeldService
from protocol.ids import JobId, PeerId, rendezvous
from protocol.leases import Leases
from protocol.led import Led, Phase, Plan
from protocol.messages import Declined, ResultOffer
from protocol.placement import Placement
from protocol.records import Desired, Keyring, Result, Verdict
from protocol.rollout import Rollout
from protocol.story import Stories
from protocol.succession import Succession


@dataclass(slots=True)
class Coordination:
    """What this peer does for the jobs it coordinates, and for those whose coordinator is gone."""

    keyring: Keyring
    config: CoordinationConfig
    catalogue: Catalogue
    placement: Placement
    fleet: Fleet
    stories: Stories
    rollout: Rollout
    disk_full: bool = False  # neither a message nor a slot of time becomes a job here
    acceptances: Acceptances = field(init=False)
    direct: Direct = field(init=False)
    leases: Leases = field(init=False)
    succession: Succession = field(init=False)

    def __post_init__(self) -> None:
        self.acceptances = Acceptances(
            self.keyring, self.config, self.catalogue, self.placement, self.fleet, self.stories
        )
        self.direct = Direct(
            self.keyring,
            self.config,
            self.catalogue,
            self.placement,
            self.fleet,
            self.stories,
            self.acceptances,
        )
        self.leases = Leases(
            self.keyring,
            self.config,
            self.catalogue,
            self.placement,
            self.fleet,
            self.acceptances,
            self._led,
            self._step_down,
            self.rollout.review,
            self.direct.learn,
        )
        self.succession = Succession(self.keyring.peer, self.config, self.fleet.alive)

    @property
    def led(self) -> dict[JobId, Led]:
        return self.placement.led

    def _planner(self, led: Led) -> Placement | Direct:
        """Who plans the job's slots: by bidding, or by its list."""
        return self.direct if led.held.listed else self.placement

    # ---- beginning to lead -------------------------------------------------------------------

    def boot(self, now: Now) -> list[Effect]:
        """Take up again what this peer coordinated in its last life."""
        self.succession.booted_at = now.mono
        effects: list[Effect] = []
        for held in self.catalogue.jobs.values():
            if held.coordinator == self.keyring.peer and not held.done:
                effects += self._lead(held, now, now.mono + self.config.boot_grace_s)
            # Its coordinator may have died while we were away, and never be heard of.
            self.succession.watch(held, now)
        return effects

    def accept(self, held: HeldJob, request: int | None, now: Now) -> list[Effect]:
        """Take on a job just submitted; the reply goes out when it is durable (DESIGN 5). For what
        a schedule fires nobody waits, except that no award of a list goes out before that."""
        self._retire()  # a device alone is woken by nothing else, and looks at all it has in hand
        effects = self.catalogue.add(held, now)
        effects += self._lead(held, now, now.mono)
        effects.append(Tell("job.accepted", f"{held.job.name} accepted", held.id))
        led = self.led[held.id]
        if held.listed:
            self.direct.hold_back(led)
        if request is not None or held.listed:
            effects += self.acceptances.submitted(led, request, now)
        return effects + self._planner(led).open(led, now)

    def _lead(self, held: HeldJob, now: Now, place_at: float) -> list[Effect]:
        """Make plans for every slot from what the records say; `place_at` for those with none."""
        plans = {slot.index: self._plan(held, slot, now, place_at) for slot in held.slots}
        led = Led(held, plans, look_at=now.mono)
        if held.service:
            self.led[held.id] = led
            self.succession.forget(held)
            effects = [*self._replenish(led, now), *self.rollout.review(led, now)]
            return effects + self.placement.move_off(led, now)
        if held.done:  # taken in hand for a latecomer; what became of it has been told
            led.told = outcome_of(held, self.keyring)
        timeouts = held.job.task.timeouts
        elapsed = self._elapsed_s(held, now)
        if timeouts.total_s:
            led.total_due = now.mono + max(0.0, timeouts.total_s - elapsed)
        led.queue_due = now.mono + max(0.0, timeouts.queue_s - elapsed)
        self.led[held.id] = led
        self.succession.forget(held)
        effects = self._replenish(led, now)
        if held.desired is not Desired.RUNNING:
            effects += self.acceptances.stop_slots(led, now)
        return effects

    def _elapsed_s(self, held: HeldJob, now: Now) -> float:
        """Since the job was accepted; its timeouts count from there, whoever coordinates it."""
        elapsed = now.wall - held.accepted_ms / 1000
        timeouts = held.job.task.timeouts
        # Longer ago than such a job is even kept: a clock that stood in 1970 when it was accepted.
        absurd = elapsed > max(timeouts.total_s, timeouts.queue_s) + self.config.retain_s
        return 0.0 if absurd or not now.wall_trusted else max(0.0, elapsed)

    def _led(self, held: HeldJob | None, now: Now) -> Led | None:
        """The job in hand; one that ended is taken in hand again for a latecomer."""
        if held is None or held.coordinator != self.keyring.peer:
            return None
        if held.id not in self.led and held.done:
            self._lead(held, now, now.mono)
        return self.led.get(held.id)

    def _retire(self) -> None:
        """Let go of jobs that ended and owe nobody an answer: their records say all there is."""
        over = [job for job, led in self.led.items() if led.held.done and not led.confirmations]
        for job in over:
            del self.led[job]

    def standbys_of(self, job: JobId) -> tuple[PeerId, ...]:
        """This peer first, then the standbys that a new job of it gets."""
        me = self.keyring.peer
        return (me, *rendezvous(job, self.fleet.coordinators(but=me))[: self.config.standbys])

    def _plan(self, held: HeldJob, slot: Slot, now: Now, place_at: float) -> Plan:
        beyond = held.service and slot.index >= held.job.count
        if slot.acceptance is not None or beyond:
            return Plan(Phase.DONE, NEVER, now.mono)
        if held.listed:
            at = min(place_at, now.mono + self.config.boot_grace_s)
            return self.direct.plan_again(at, now)
        if slot.assignment is None:
            return Plan(Phase.WAITING, place_at, now.mono)
        until = now.mono + self.config.lease_s
        award = slot.assignment
        plan = Plan(Phase.RUNNING, until, now.mono, award.failures, award.untaken)
        plan.begin(award.fence, now.mono)
        return plan

    def _replenish(self, led: Led, now: Now) -> list[Effect]:
        """Keep as many live standbys as there should be: next by rendezvous among live peers."""
        held, me = led.held, self.keyring.peer
        if held.done or not self.fleet.may_coordinate(me):  # whose word nobody else takes
            return []
        self._make_room(held)
        missing = self.config.standbys - len(self.acceptances.standbys(held))
        if missing <= 0:
            return []
        others = self.fleet.coordinators(but=me)
        ranked = rendezvous(held.id, (peer for peer in others if peer not in held.holders))
        if not held.add_holders(tuple(ranked[:missing])):
            return []
        return self.catalogue.changed(held, [], now)

    # ---- results -----------------------------------------------------------------------------

    def on_result(self, sender: PeerId, offer: ResultOffer, now: Now) -> list[Effect]:
        """Decide about a result. Raises RemoteProtocolError for one of nobody who was to run it."""
        result = verified_result(offer.result, self.keyring)
        held = self.catalogue.jobs.get(result.job)
        led = self._led(held, now)
        if held is None:
            return [Send(sender, ack(result, "unknown", None))]
        if not held.matches(result.revision):
            return [Send(sender, ack(result, "superseded", None))]
        learnt: list[Effect] = []
        if held.listed:
            held.require_own(result.executor, result.slot)
            learnt = self.direct.learn(led, offer.assignment, now) if led is not None else []
            if result.slot not in held.slots:
                unknown = ack(result, "unknown", self.leases.coordinator_of(held))
                return [Send(sender, unknown)]
        stopped = held.service and held.done  # it wants to know of nothing
        if result.slot not in held.slots or stopped:
            return [Send(sender, ack(result, "superseded", None))]
        if led is None:
            return self._on_result_for_another(held, sender, result, offer, now)
        answer = self.acceptances.answer(led, sender, result, offer.result, now)
        if answer is not None:
            return answer
        if held.listed:  # its peer's one execution, whoever awarded it
            return learnt + self.acceptances.take(led, sender, result, offer.result, now)
        effects = self.leases.heed(led, result, offer.assignment, now)
        if effects is None or held.coordinator != self.keyring.peer:
            unknown = ack(result, "unknown", self.leases.coordinator_of(held))
            return [*(effects or []), Send(sender, unknown)]
        effects += self.acceptances.take(led, sender, result, offer.result, now)
        return effects + self.rollout.review(led, now)

    def _on_result_for_another(
        self, held: HeldJob, sender: PeerId, result: Result, offer: ResultOffer, now: Now
    ) -> list[Effect]:
        """Another peer coordinates the job. Once it is gone and the slot has ended nobody would
        ever take over, so any holder says what became of it, and the first one what is new."""
        coordinator = self.leases.coordinator_of(held)
        if coordinator is not None:
            return [Send(sender, ack(result, "unknown", coordinator))]
        status = status_of(held, result, offer.result)
        if status is not None:
            return [Send(sender, ack(result, status, None))]
        first = self.succession.first(held)
        if not held.done or first != self.keyring.peer:
            hint = first if held.done else None
            return [Send(sender, ack(result, "unknown", hint))]
        effects = self._take_over(held, now)
        if held.coordinator != self.keyring.peer:  # its term is such that nobody can
            return [Send(sender, ack(result, "unknown", None))]
        return effects + self.on_result(sender, offer, now)

    # ---- other holders' news -----------------------------------------------------------------

    def on_merged(self, held: HeldJob, merged: Merged, now: Now) -> list[Effect]:
        """Another holder's copy changed ours: step down, take up, or follow."""
        effects: list[Effect] = []
        if merged.ended:
            self.acceptances.ended.append(held.id)
        for before in merged.superseded:
            text = f"slot {before.slot}: another result counts since two coordinators met"
            effects.append(Tell("job.result-changed", text, held.id))
        led = self.led.get(held.id)
        if held.coordinator != self.keyring.peer:
            self.succession.watch(held, now)
            if led is not None:
                effects += self._step_down(led, now)
            if merged.ended and held.holders[0] == self.keyring.peer:
                # Whoever waits for the job waits here, where it was accepted.
                effects.append(told_end(held, outcome_of(held, self.keyring)))
            return effects
        if led is None:
            if held.done:
                return effects
            return effects + self._lead(held, now, now.mono + self.config.lease_s)
        effects += self.rollout.fit(led, now)
        for index in merged.slots:
            slot = led.held.slots[index]
            if index not in led.plans:  # another island's coordinator listed a peer more
                led.plans[index] = self._plan(held, slot, now, now.mono)
            plan = led.plans[index]
            if slot.acceptance is not None and plan.phase is not Phase.DONE:
                if not slot.acceptance.lost:
                    why = "superseded: a result is known"
                    effects += self.placement.awarding.stop(led, index, why)
                plan.phase, plan.due = Phase.DONE, NEVER
            elif slot.acceptance is None and plan.phase is Phase.WAITING and not held.listed:
                plan.lease(now.mono + self.config.lease_s)
        if held.desired is not Desired.RUNNING:
            effects += self.acceptances.stop_slots(led, now)
        effects += self.rollout.review(led, now)
        return [*effects, *self.acceptances.finish(led, now), *self._planner(led).open(led, now)]

    def on_acked(self, job: JobId, now: Now) -> list[Effect]:
        """Another holder has more of a job on disk: what waited for that happens."""
        effects = self.acceptances.confirmed(job, now)
        led = self.led.get(job)
        return (
            effects + self.direct.open(led, now) if led is not None and led.held_back else effects
        )

    def on_declined(self, sender: PeerId, declined: Declined, now: Now) -> list[Effect]:
        led = self.led.get(declined.job)
        if led is not None and led.held.listed:
            return self.direct.on_declined(sender, declined, led, now)
        return self.placement.on_declined(sender, declined, now)

    def _step_down(self, led: Led, now: Now) -> list[Effect]:
        """Somebody with a higher term answers for the job now."""
        held = led.held
        self.succession.watch(held, now)
        effects = self.placement.rounds.close(led)
        for confirmation in led.confirmations:
            confirmation.due = now.mono
        effects += self.acceptances.confirmed(held.id, now)
        self.led.pop(held.id, None)
        if held.done:
            return effects
        name = self.fleet.name(held.coordinator)
        return [*effects, Tell("job.handed-over", f"{name} coordinates it now", held.id)]

    def on_peer_gone(self, peer: PeerId, now: Now) -> list[Effect]:
        """A peer died or left: its slots are placed again, its jobs find another coordinator."""
        effects: list[Effect] = []
        for led in list(self.led.values()):
            effects += self._planner(led).on_peer_gone(led, peer, now)
            if peer in led.held.holders:
                effects += self._replenish(led, now)
        for held in self.catalogue.jobs.values():
            self.succession.watch(held, now)
        return effects

    def on_peer_alive(self, peer: PeerId, now: Now) -> list[Effect]:
        """Somebody is there that was not: it may be a standby's better, or take what waits."""
        effects: list[Effect] = []
        for held in self.catalogue.jobs.values():
            self.succession.watch(held, now)
            if held.coordinator == self.keyring.peer:
                effects += self._hand_on(held, peer, now)
        for led in list(self.led.values()):
            effects += self._replenish(led, now)
            if led.held.listed:
                self.direct.on_peer_alive(led, peer, now)
        return effects + self.on_peer_changed(now)

    def on_peer_changed(self, now: Now) -> list[Effect]:
        """Somebody has other labels or offers more: ask again soon for what nobody took."""
        effects: list[Effect] = []
        for led in list(self.led.values()):
            for plan in () if led.held.listed else led.plans.values():
                if plan.phase is Phase.WAITING and plan.dry_rounds:
                    plan.due = min(plan.due, now.mono + self.config.requeue_first_s)
            if led.held.service:
                effects += self.placement.move_off(led, now)
        return effects

    def _hand_on(self, held: HeldJob, peer: PeerId, now: Now) -> list[Effect]:
        """One that ranks first for the job gets it too: two islands that both accepted it have
        those ranks in common once they meet, and there the two become one."""
        both = (peer, self.keyring.peer)
        if peer in held.holders or not all(self.fleet.may_coordinate(each) for each in both):
            return []
        if self.fleet.is_leaf(peer) and peer not in self.fleet.coordinators(but=both[1]):
            return []
        self._make_room(held)
        ranked = rendezvous(held.id, [*self.acceptances.standbys(held), peer])
        if peer not in ranked[: self.config.standbys] or not held.add_holders((peer,)):
            return []
        return self.catalogue.changed(held, [], now)

    # ---- services ----------------------------------------------------------------------------

    def begin(self, held: HeldService, now: Now, place_at: float) -> list[Effect]:
        """Take on a service that nobody coordinates; its slots are placed at `place_at`."""
        effects = self.catalogue.add(held, now)
        effects += self._lead(held, now, place_at)
        return effects + self.placement.open(self.led[held.id], now)

    def steer(self, held: HeldService, now: Now) -> list[Effect]:
        """What a service is to run has changed: more slots, fewer, another revision."""
        led = self.led.get(held.id)
        effects = self.catalogue.changed(held, [], now)
        if led is None:
            return effects
        return [*effects, *self.rollout.review(led, now), *self.placement.open(led, now)]

    def rest(self, held: HeldService, reason: str, now: Now) -> list[Effect]:
        """A service was stopped: nobody coordinates it until it is run again."""
        led = self.led.pop(held.id, None)
        effects: list[Effect] = []
        if led is not None:
            for slot, _ in led.pairs():
                effects += self.placement.awarding.stop(led, slot.index, reason)
            effects += self.placement.rounds.close(led)
            effects += [each for confirmation in led.confirmations for each in confirmation.effects]
        self.succession.forget(held)
        held.ended_ms = max(1, now.wall_ms)
        return [*self.catalogue.changed(held, [], now), *effects]

    def resume(self, held: HeldService, term: int, now: Now) -> list[Effect]:
        """It is run again. All that ran of it was to stop, so its slots wait for nobody."""
        held.ended_ms, held.term = 0, max(held.term, term)
        effects = self.catalogue.changed(held, [], now)
        if held.coordinator != self.keyring.peer:
            self.succession.watch(held, now)
            return effects
        effects += self._lead(held, now, now.mono)
        led = self.led[held.id]
        for slot, plan in led.pairs():
            stale = slot.assignment is not None and slot.assignment.revision != held.revision
            if stale and plan.phase is Phase.RUNNING:
                plan.wait(now.mono)
        return effects + self.placement.open(led, now)

    def drop(self, held: HeldService) -> list[Effect]:
        """A service was deleted: nothing is kept of it."""
        led = self.led.pop(held.id, None)
        effects = self.placement.rounds.close(led) if led is not None else []
        self.succession.forget(held)
        return [*self.catalogue.forget(held), *effects]

    def _make_room(self, held: HeldJob) -> None:
        """For holders to come, of a service that has had many."""
        if isinstance(held, HeldService):
            me = self.keyring.peer
            held.make_room(lambda peer: peer != me and not self.fleet.alive(peer))

    # ---- takeover ----------------------------------------------------------------------------

    def _take_over(self, held: HeldJob, now: Now) -> list[Effect]:
        """Raise the term, keep what is known to run on live peers, place again what is not."""
        if held.term >= INT_MAX:  # forged: nobody could read a higher one
            return []
        name = self.fleet.name(held.coordinator)
        held.term, held.coordinator = held.term + 1, self.keyring.peer
        effects = self.catalogue.changed(held, [], now)
        # A slot that nothing is known of may run all the same: its award is waited for one lease.
        effects += self._lead(held, now, now.mono + self.config.lease_s)
        text = f"{name} is gone; this peer coordinates it now (term {held.term})"
        effects.append(Tell("job.taken-over", text, held.id, fields={"term": held.term}))
        led = self.led[held.id]
        for slot in () if held.listed else held.slots:
            executor = slot.assignment.executor if slot.assignment is not None else None
            if executor not in (None, self.keyring.peer) and not self.fleet.alive(executor):
                effects += self.placement.on_peer_gone(led, executor, now)
        return effects

    # ---- time --------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        times = [led.deadline for led in self.led.values()]
        return min([*times, self.succession.deadline])

    def on_deadline(self, now: Now) -> list[Effect]:
        effects: list[Effect] = []
        for job, led in list(self.led.items()):
            if led.deadline <= now.mono:
                effects += self.acceptances.confirmed(job, now)
                effects += self._timeouts(led, now)
                if led.review_at <= now.mono:
                    effects += self.rollout.review(led, now)
                effects += self._planner(led).on_deadline(led, now)
        self._retire()
        for held in self.succession.due(now):
            effects += self._take_over(held, now)
        return effects

    def _timeouts(self, led: Led, now: Now) -> list[Effect]:
        effects: list[Effect] = []
        if led.total_due <= now.mono and not led.held.done:
            effects += self.acceptances.close(led, now)
            timeout = led.held.job.task.timeouts.total_s
            for slot, plan in led.pairs():
                if plan.phase is Phase.DONE:
                    continue
                effects += self.placement.awarding.stop(led, slot.index, "TotalTimeout")
                reason = f"TotalTimeout of {timeout} s is over"
                effects += self.acceptances.give_up(
                    led, slot.index, Verdict.FAILURE, reason, b"", now
                )
            effects += self.acceptances.finish(led, now)
        if led.queue_due <= now.mono:
            for index in led.queueing:
                plan = led.plans[index]
                if plan.dry_rounds:  # it was asked for at least once
                    timeout = led.held.job.task.timeouts.queue_s
                    reason = f"QueueTimeout of {timeout} s is over: {plan.reason}"
                    effects += self.acceptances.give_up(led, index, Verdict.FAULT, reason, b"", now)
        return effects

    def forget_old(self, now: Now) -> list[Effect]:
        """Forget jobs that ended longer ago than they are kept; never on an untrusted clock."""
        if not now.wall_trusted:
            return []
        before = now.wall_ms - int(self.config.retain_s * 1000)
        effects: list[Effect] = []
        for held in list(self.catalogue.jobs.values()):
            if held.done and 0 < held.ended_ms < before:
                effects += self._forget(held)
        return effects

    def runs_over(self, keep: int) -> list[HeldJob]:
        """The ended runs of triggers and presses beyond so many, the oldest first: a sensor makes
        60,000 in a week, and the catalogue holds 10,000 jobs of all kinds."""
        found = [
            held
            for held in self.catalogue.jobs.values()
            if (held.job.fired is not None or is_pressed(held.spec)) and held.done and held.ended_ms
        ]
        found.sort(key=lambda held: (held.ended_ms, held.id))
        return found[: max(0, len(found) - keep)]

    def forget_runs(self, keep: int) -> list[Effect]:
        return [effect for held in self.runs_over(keep) for effect in self._forget(held)]

    def _forget(self, held: HeldJob) -> list[Effect]:
        self.led.pop(held.id, None)
        self.succession.forget(held)
        return self.catalogue.forget(held)
