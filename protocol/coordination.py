"""The coordinator: accepts jobs, decides which results count, hands over and takes over.

Any peer may be one; the job's records say which one is. Two that both think so (a partition) each
keep their word to those they can reach, and the merge of `heldjob` settles it when they meet.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.authority import verified_result
from protocol.bounds import clipped
from protocol.catalogue import Catalogue
from protocol.clock import NEVER, Now
from protocol.config import CoordinationConfig
from protocol.effects import Effect, Reply, Send, Tell
from protocol.errors import RemoteProtocolError
from protocol.heldjob import HeldJob, Merged, Slot
from protocol.ids import JobId, PeerId, rendezvous
from protocol.led import Confirmation, Led, Phase, Plan
from protocol.messages import (
    Renew,
    RenewAck,
    Renewal,
    RenewAnswer,
    ResultAck,
    ResultOffer,
)
from protocol.placement import Fleet, Placement
from protocol.records import (
    Acceptance,
    Assignment,
    Desired,
    Fence,
    Keyring,
    Result,
    Verdict,
)
from protocol.retry import RetryOn
from protocol.story import Stories
from protocol.wire import open_sealed, seal


@dataclass(slots=True)
class Coordination:
    """What this peer does for the jobs it coordinates, and for those whose coordinator is gone."""

    keyring: Keyring
    config: CoordinationConfig
    catalogue: Catalogue
    placement: Placement
    fleet: Fleet
    stories: Stories
    booted_at: float = 0.0
    _orphaned: dict[JobId, float] = field(default_factory=dict)  # since when, monotonic

    @property
    def led(self) -> dict[JobId, Led]:
        return self.placement.led

    # ---- beginning to lead -------------------------------------------------------------------

    def boot(self, now: Now) -> list[Effect]:
        """Take up again what this peer coordinated in its last life."""
        self.booted_at = now.mono
        effects: list[Effect] = []
        for held in self.catalogue.jobs.values():
            if held.coordinator == self.keyring.peer and not held.done:
                effects += self._lead(held, now, now.mono + self.config.boot_grace_s)
        return effects

    def accept(self, held: HeldJob, request: int, now: Now) -> list[Effect]:
        """Take on a job just submitted; the reply goes out when it is durable (DESIGN 5)."""
        effects = self.catalogue.add(held, now)
        effects += self._lead(held, now, now.mono)
        effects.append(Tell("job.accepted", f"{held.job.name} accepted", held.id))
        led = self.led[held.id]
        version = self.catalogue.version(held)
        due = now.mono + self.config.standby_ack_s
        led.confirmations.append(Confirmation(version, due, [], request))
        return [*effects, *self.confirmed(held.id, now), *self.placement.open(led, now)]

    def _lead(self, held: HeldJob, now: Now, place_at: float) -> list[Effect]:
        """Make plans for every slot from what the records say; `place_at` for those with none."""
        plans = [self._plan(slot, now, place_at) for slot in held.slots]
        led = Led(held, plans)
        timeouts = held.job.task.timeouts
        elapsed = max(0.0, now.wall - held.accepted_ms / 1000) if now.wall_trusted else 0.0
        if timeouts.total_s:
            led.total_due = now.mono + max(0.0, timeouts.total_s - elapsed)
        led.queue_due = now.mono + max(0.0, timeouts.queue_s - elapsed)
        self.led[held.id] = led
        self._orphaned.pop(held.id, None)
        effects = self._replenish(led, now)
        if held.desired is not Desired.RUNNING:
            effects += self.stop_slots(led, now)
        return effects

    def _led(self, held: HeldJob | None, now: Now) -> Led | None:
        """The job in hand; one that ended is taken in hand again for a latecomer."""
        if held is None or held.coordinator != self.keyring.peer:
            return None
        if held.id not in self.led:
            self._lead(held, now, now.mono)
        return self.led[held.id]

    def _retire(self) -> None:
        """Let go of jobs that ended and owe nobody an answer: their records say all there is."""
        over = [job for job, led in self.led.items() if led.held.done and not led.confirmations]
        for job in over:
            del self.led[job]

    def standbys_of(self, job: JobId) -> tuple[PeerId, ...]:
        """This peer first, then the standbys that a new job of it gets."""
        me = self.keyring.peer
        others = (advert.peer for advert in self.fleet.adverts() if advert.peer != me)
        return (me, *rendezvous(job, others)[: self.config.standbys])

    def _plan(self, slot: Slot, now: Now, place_at: float) -> Plan:
        if slot.acceptance is not None:
            return Plan(Phase.DONE, NEVER, now.mono)
        if slot.assignment is None:
            return Plan(Phase.WAITING, place_at, now.mono)
        until = now.mono + self.config.lease_s
        return Plan(Phase.RUNNING, until, now.mono, slot.assignment.failures)

    def _replenish(self, led: Led, now: Now) -> list[Effect]:
        """Keep as many live standbys as there should be: next by rendezvous among live peers."""
        held, me = led.held, self.keyring.peer
        if held.done:
            return []
        missing = self.config.standbys - len(self._standbys(held))
        if missing <= 0:
            return []
        others = [advert.peer for advert in self.fleet.adverts() if advert.peer != me]
        ranked = rendezvous(held.id, (peer for peer in others if peer not in held.holders))
        if not held.add_holders(tuple(ranked[:missing])):
            return []
        return self.catalogue.changed(held, [], now)

    def _standbys(self, held: HeldJob) -> list[PeerId]:
        me = self.keyring.peer
        return [peer for peer in held.holders if peer != me and self.fleet.alive(peer)]

    # ---- confirmations -----------------------------------------------------------------------

    def _confirm(self, led: Led, effects: list[Effect], now: Now) -> list[Effect]:
        """Hold `effects` until one live standby has the present state on disk, or a second."""
        version = self.catalogue.version(led.held)
        if not effects or not self._standbys(led.held):
            return effects
        if self.catalogue.replicated(led.held, version):
            return effects
        due = now.mono + self.config.standby_ack_s
        led.confirmations.append(Confirmation(version, due, effects))
        return []

    def confirmed(self, job: JobId, now: Now) -> list[Effect]:
        """A holder acknowledged, or time passed: release what it was waited for."""
        led = self.led.get(job)
        if led is None:
            return []
        effects: list[Effect] = []
        waiting: list[Confirmation] = []
        for confirmation in led.confirmations:
            replicated = self.catalogue.replicated(led.held, confirmation.version)
            alone = not self._standbys(led.held)
            if replicated or alone or confirmation.due <= now.mono:
                effects += confirmation.effects
                if confirmation.request is not None:
                    answer = submitted(led.held, 1 + replicated, repeated=False)
                    effects.append(Reply(confirmation.request, answer))
            else:
                waiting.append(confirmation)
        led.confirmations = waiting
        if led.held.done and not led.confirmations:
            self.led.pop(job, None)
        return effects

    # ---- results -----------------------------------------------------------------------------

    def on_result(self, sender: PeerId, offer: ResultOffer, now: Now) -> list[Effect]:
        """Decide about a result. Raises RemoteProtocolError if its executor did not sign it."""
        result = verified_result(offer.result, self.keyring)
        held = self.catalogue.jobs.get(result.job)
        led = self._led(held, now)
        if held is None or led is None:
            coordinator = None if held is None else self._coordinator_of(held)
            return [Send(sender, _ack(result, "unknown", coordinator))]
        if result.revision != held.revision or not 0 <= result.slot < len(held.slots):
            return [Send(sender, _ack(result, "superseded", None))]
        accepted = held.slots[result.slot].acceptance
        if accepted is not None and not _improves(result, accepted):
            same = accepted.fence == result.fence and accepted.result == offer.result
            status = "accepted" if same else "superseded"
            return self._confirm(led, [Send(sender, _ack(result, status, None))], now)
        if result.verdict == Verdict.SUCCESS:
            return self._accept_result(led, result, offer.result, sender, now)
        return self._on_failure(led, result, offer.result, sender, now)

    def _on_failure(
        self, led: Led, result: Result, data: bytes, sender: PeerId, now: Now
    ) -> list[Effect]:
        """A failure counts for the current attempt only (DESIGN 5, acceptance of results)."""
        plan = led.plans[result.slot]
        if not led.current(result.slot, result.fence) or plan.phase is Phase.DONE:
            return [Send(sender, _ack(result, "superseded", None))]
        if plan.phase in (Phase.WAITING, Phase.BIDDING):  # counted when its lease ended
            return [Send(sender, _ack(result, "superseded", None))]
        failure = result.verdict == Verdict.FAILURE
        reason = result.reason or f"exit code {result.exit_code}"
        cause = RetryOn.FAILURE if failure else RetryOn.SYSTEM
        where = f"{reason} on {self.fleet.name(result.executor)}"
        effects = self.placement.failed(led, result.slot, cause, where, data, now)
        story, slot = self.stories.of(led.held.id), led.held.slots[result.slot]
        story.update(
            led.held.execution_of(slot), "failed", now.wall_ms, result.exit_code, result.reason
        )
        acknowledged = self._confirm(led, [Send(sender, _ack(result, "accepted", None))], now)
        return [*effects, *acknowledged, *self.placement.open(led, now)]

    def _accept_result(
        self, led: Led, result: Result, data: bytes, sender: PeerId, now: Now
    ) -> list[Effect]:
        """The first success, from whichever attempt it comes."""
        slot = led.held.slots[result.slot]
        stop: list[Effect] = []
        if not led.current(result.slot, result.fence):
            stop = self.placement.stop(led, result.slot, "superseded: another attempt succeeded")
        acceptance = self._acceptance(led.held, slot, Verdict.SUCCESS, result.fence, data, "")
        effects = self._settle_slot(led, slot, acceptance, now)
        answer: list[Effect] = [Send(sender, _ack(result, "accepted", None))]
        return [*effects, *stop, *self._confirm(led, answer, now), *self._finish(led, now)]

    def give_up(
        self, led: Led, index: int, verdict: Verdict, reason: str, data: bytes, now: Now
    ) -> list[Effect]:
        """The slot is not tried again: this is how it ended."""
        slot = led.held.slots[index]
        fence = self._fence(slot)
        acceptance = self._acceptance(led.held, slot, verdict, fence, data, reason[:500])
        return [*self._settle_slot(led, slot, acceptance, now), *self._finish(led, now)]

    def _fence(self, slot: Slot) -> Fence:
        """Of the slot's latest award; below every award where there was none."""
        if slot.assignment is not None:
            return slot.assignment.fence
        return Fence(0, self.keyring.peer, 0)

    def _acceptance(
        self,
        held: HeldJob,
        slot: Slot,
        verdict: Verdict,
        fence: Fence,
        result: bytes,
        reason: str,
    ) -> Acceptance:
        return Acceptance(
            job=held.id,
            revision=held.revision,
            slot=slot.index,
            fence=fence,
            verdict=verdict,
            result=result,
            reason=clipped(reason),
        )

    def _settle_slot(self, led: Led, slot: Slot, acceptance: Acceptance, now: Now) -> list[Effect]:
        slot.offer_acceptance(acceptance, seal(acceptance, self.keyring))
        plan = led.plans[slot.index]
        plan.phase, plan.due = Phase.DONE, NEVER
        held = led.held
        head = held.done and not held.ended_ms
        if head:
            held.ended_ms = now.wall_ms
        effects = self.catalogue.changed(held, [slot.index], now, head)
        exit_code, executor = result_of(acceptance, self.keyring)
        states = {Verdict.SUCCESS: "completed", Verdict.STOPPED: "stopped"}
        state = states.get(Verdict(acceptance.verdict), "failed")
        self.stories.of(held.id).update(
            held.execution_of(slot), state, now.wall_ms, exit_code, acceptance.reason
        )
        place = f"slot {slot.index} " if len(led.plans) > 1 else ""
        where = f" on {self.fleet.name(executor)}" if executor else ""
        code = f" with exit code {exit_code}" if exit_code is not None else ""
        why = f": {acceptance.reason}" if acceptance.reason else ""
        fields: dict[str, object] = {
            "slot": slot.index,
            "exit_code": exit_code,
            "state": state,
            "execution": held.execution_of(slot),
            "peer": executor or "",
        }
        text = f"{place}{state}{where}{code}{why}"
        told: list[Effect] = [Tell("execution.ended", text, held.id, executor, fields)]
        return effects + self._confirm(led, told, now)

    def _finish(self, led: Led, now: Now) -> list[Effect]:
        """Tell how the job ended, once it has, and once that is at a standby too."""
        held = led.held
        if not held.done:
            return []
        effects = self.placement.close(led)
        state, code = outcome_of(held, self.keyring)
        self.stories.of(held.id).waiting = ""
        told: list[Effect] = [
            Tell(
                f"job.{state}",
                f"{held.job.name} {state}",
                held.id,
                fields={"exit_code": code, "name": held.job.name},
            )
        ]
        return effects + self._confirm(led, told, now)

    # ---- leases ------------------------------------------------------------------------------

    def on_renew(self, sender: PeerId, renew: Renew, now: Now) -> list[Effect]:
        effects: list[Effect] = []
        answers: list[RenewAnswer] = []
        for item in renew.items:
            verdict, more = self._renewed(sender, item, now)
            effects += more
            held = self.catalogue.jobs.get(item.job)
            coordinator = None if held is None else self._coordinator_of(held)
            holders = held.holders if held is not None and verdict == "kept" else ()
            answers.append(
                RenewAnswer(item.job, item.slot, item.fence, verdict, coordinator, holders)
            )
        return [*effects, Send(sender, RenewAck(tuple(answers)))]

    def _coordinator_of(self, held: HeldJob) -> PeerId | None:
        """Whom to turn to, unless that peer is gone."""
        mine = held.coordinator == self.keyring.peer
        return held.coordinator if mine or self.fleet.alive(held.coordinator) else None

    def _renewed(self, sender: PeerId, item: Renewal, now: Now) -> tuple[str, list[Effect]]:
        led = self.led.get(item.job)
        if led is None:
            return "unknown", []
        if item.revision != led.held.revision or not 0 <= item.slot < len(led.plans):
            return "over", []
        slot, plan = led.held.slots[item.slot], led.plans[item.slot]
        if slot.acceptance is not None:
            return "over", []
        known = self._fence(slot)
        if item.fence < known:
            return "over", []
        if item.fence > known:
            return self._adopted(led, slot, plan, item, now)
        if slot.assignment is None or slot.assignment.executor != sender:
            return "over", []
        if plan.phase is Phase.BIDDING:  # its lease had ended and somebody else is being sought
            return "kept", []
        if plan.phase is not Phase.RUNNING:
            return "kept", self.placement.running(led, item.slot, now)
        plan.lease(now.mono + self.config.lease_s)
        return "kept", []

    def _adopted(
        self, led: Led, slot: Slot, plan: Plan, item: Renewal, now: Now
    ) -> tuple[str, list[Effect]]:
        """An award of a predecessor that its standbys never heard of: keep it, it runs."""
        if not item.assignment or plan.phase not in (Phase.WAITING, Phase.RUNNING):
            return "unknown", []
        sealed = open_sealed(item.assignment, self.keyring)
        assignment = sealed.record
        if not isinstance(assignment, Assignment) or assignment.job != led.held.id:
            raise RemoteProtocolError("a renewal with another job's assignment")
        right = (assignment.revision, assignment.slot, assignment.fence) == (
            led.held.revision,
            slot.index,
            item.fence,
        )
        if not right or sealed.author != assignment.fence.coordinator:
            raise RemoteProtocolError("a renewal with an assignment that is not its own")
        slot.offer_assignment(assignment, item.assignment)
        plan.failures = max(plan.failures, assignment.failures)
        effects = self.catalogue.changed(led.held, [slot.index], now, head=False)
        return "kept", effects + self.placement.running(led, slot.index, now)

    # ---- control -----------------------------------------------------------------------------

    def stop_slots(self, led: Led, now: Now) -> list[Effect]:
        """The job is to stop: every slot that has no result ends here."""
        effects: list[Effect] = []
        for slot, plan in led.pairs():
            if plan.phase is Phase.DONE:
                continue
            effects += self.placement.stop(led, slot.index, "the job was stopped")
            plan.phase = Phase.DONE
            fence = self._fence(slot)
            acceptance = self._acceptance(
                led.held, slot, Verdict.STOPPED, fence, b"", "the job was stopped"
            )
            effects += self._settle_slot(led, slot, acceptance, now)
        return effects + self._finish(led, now)

    # ---- other holders' news -----------------------------------------------------------------

    def on_merged(self, held: HeldJob, merged: Merged, now: Now) -> list[Effect]:
        """Another holder's copy changed ours: step down, take up, or follow."""
        effects: list[Effect] = []
        for before in merged.superseded:
            text = f"slot {before.slot}: another result counts since two coordinators met"
            effects.append(Tell("job.result-changed", text, held.id))
        led = self.led.get(held.id)
        if held.coordinator != self.keyring.peer:
            self._watch(held, now)
            return effects + (self._step_down(led, now) if led is not None else [])
        if led is None:
            if held.done:
                return effects
            return effects + self._lead(held, now, now.mono + self.config.lease_s)
        for index in merged.slots:
            slot, plan = led.held.slots[index], led.plans[index]
            if slot.acceptance is not None and plan.phase is not Phase.DONE:
                effects += self.placement.stop(led, index, "superseded: a result is known")
                plan.phase, plan.due = Phase.DONE, NEVER
            elif slot.acceptance is None and plan.phase is Phase.WAITING:
                plan.lease(now.mono + self.config.lease_s)
        if held.desired is not Desired.RUNNING and not held.done:
            effects += self.stop_slots(led, now)
        return effects + (self._finish(led, now) if merged.slots else [])

    def _step_down(self, led: Led, now: Now) -> list[Effect]:
        """Somebody with a higher term answers for the job now."""
        held = led.held
        effects = self.placement.close(led)
        for confirmation in led.confirmations:
            confirmation.due = now.mono
        effects += self.confirmed(held.id, now)
        self.led.pop(held.id, None)
        if held.done:
            return effects
        name = self.fleet.name(held.coordinator)
        return [*effects, Tell("job.handed-over", f"{name} coordinates it now", held.id)]

    def on_peer_gone(self, peer: PeerId, now: Now) -> list[Effect]:
        """A peer died or left: its slots are placed again, its jobs find another coordinator."""
        effects: list[Effect] = []
        for led in list(self.led.values()):
            effects += self.placement.on_peer_gone(led, peer, now)
            if peer in led.held.holders:
                effects += self._replenish(led, now)
        for held in self.catalogue.jobs.values():
            self._watch(held, now)
        return effects

    def on_peer_alive(self, peer: PeerId, now: Now) -> list[Effect]:
        """Somebody is there that was not: it may be a standby's better, or take what waits."""
        effects: list[Effect] = []
        for held in self.catalogue.jobs.values():
            self._watch(held, now)
            if held.coordinator == self.keyring.peer:
                effects += self._hand_on(held, peer, now)
        for led in list(self.led.values()):
            effects += self._replenish(led, now)
            for plan in led.plans:
                if plan.phase is Phase.WAITING and plan.dry_rounds:
                    plan.due = min(plan.due, now.mono + self.config.requeue_first_s)
        return effects

    def _hand_on(self, held: HeldJob, peer: PeerId, now: Now) -> list[Effect]:
        """One that ranks first for the job gets it too: two islands that both accepted it have
        those ranks in common once they meet, and there the two become one."""
        if peer in held.holders:
            return []
        ranked = rendezvous(held.id, [*self._standbys(held), peer])
        if peer not in ranked[: self.config.standbys] or not held.add_holders((peer,)):
            return []
        return self.catalogue.changed(held, [], now)

    # ---- takeover ----------------------------------------------------------------------------

    def _watch(self, held: HeldJob, now: Now) -> None:
        """Note since when a job has no coordinator that is alive."""
        mine = held.coordinator == self.keyring.peer
        if held.done or mine or self.fleet.alive(held.coordinator):
            self._orphaned.pop(held.id, None)
        else:
            self._orphaned.setdefault(held.id, now.mono)

    def _takeover_due(self, job: JobId) -> float:
        """Rank r waits r x rank_delay_s, ranked among the holders that are alive."""
        held = self.catalogue.jobs[job]
        ranks = [p for p in held.holders if p == self.keyring.peer or self.fleet.alive(p)]
        if self.keyring.peer not in ranks:
            return NEVER
        wait = ranks.index(self.keyring.peer) * self.config.rank_delay_s
        grace = self.booted_at + self.config.orphan_grace_s
        return max(self._orphaned[job], grace) + wait

    def _take_over(self, held: HeldJob, now: Now) -> list[Effect]:
        """Raise the term, keep what is known to run on live peers, place again what is not."""
        name = self.fleet.name(held.coordinator)
        held.term, held.coordinator = held.term + 1, self.keyring.peer
        effects = self.catalogue.changed(held, [], now)
        # A slot that nothing is known of may run all the same: its award is waited for one lease.
        effects += self._lead(held, now, now.mono + self.config.lease_s)
        text = f"{name} is gone; this peer coordinates it now (term {held.term})"
        effects.append(Tell("job.taken-over", text, held.id, fields={"term": held.term}))
        led = self.led[held.id]
        for slot in held.slots:
            executor = slot.assignment.executor if slot.assignment is not None else None
            if executor not in (None, self.keyring.peer) and not self.fleet.alive(executor):
                effects += self.placement.on_peer_gone(led, executor, now)
        return effects

    # ---- time --------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        times = [led.deadline for led in self.led.values()]
        times += [self._takeover_due(job) for job in self._orphaned]
        return min(times, default=NEVER)

    def on_deadline(self, now: Now) -> list[Effect]:
        effects: list[Effect] = []
        for job, led in list(self.led.items()):
            if led.deadline <= now.mono:
                effects += self.confirmed(job, now)
                effects += self._timeouts(led, now)
                effects += self.placement.on_deadline(led, now)
        self._retire()
        for job in list(self._orphaned):
            if self._takeover_due(job) <= now.mono:
                del self._orphaned[job]
                effects += self._take_over(self.catalogue.jobs[job], now)
        return effects

    def _timeouts(self, led: Led, now: Now) -> list[Effect]:
        effects: list[Effect] = []
        if led.total_due <= now.mono and not led.held.done:
            timeout = led.held.job.task.timeouts.total_s
            for slot, plan in led.pairs():
                if plan.phase is Phase.DONE:
                    continue
                effects += self.placement.stop(led, slot.index, "TotalTimeout")
                reason = f"TotalTimeout of {timeout} s is over"
                effects += self.give_up(led, slot.index, Verdict.FAILURE, reason, b"", now)
        if led.queue_due <= now.mono:
            for index in led.queueing:
                plan = led.plans[index]
                if plan.dry_rounds:  # it was asked for at least once
                    timeout = led.held.job.task.timeouts.queue_s
                    reason = f"QueueTimeout of {timeout} s is over: {plan.reason}"
                    effects += self.give_up(led, index, Verdict.FAULT, reason, b"", now)
        return effects

    def forget_old(self, now: Now) -> list[Effect]:
        """Forget jobs that ended longer ago than they are kept; never on an untrusted clock."""
        if not now.wall_trusted:
            return []
        before = now.wall_ms - int(self.config.retain_s * 1000)
        effects: list[Effect] = []
        for held in list(self.catalogue.jobs.values()):
            if held.done and 0 < held.ended_ms < before:
                self.led.pop(held.id, None)
                self._orphaned.pop(held.id, None)
                effects += self.catalogue.forget(held)
        return effects


def submitted(held: HeldJob, durable_on: int, repeated: bool) -> dict[str, object]:
    """The answer to a submission; `durable_on` counts the peers that have it on disk."""
    alone = durable_on < 2 and not repeated
    return {
        "job": held.id,
        "name": held.job.name,
        "revision": held.revision,
        "unchanged": repeated,
        "durable_on": durable_on,
        "warning": "accepted, on this peer only" if alone else "",
    }


def _ack(result: Result, status: str, coordinator: PeerId | None) -> ResultAck:
    return ResultAck(result.job, result.slot, result.fence, status, coordinator)


def _improves(result: Result, accepted: Acceptance) -> bool:
    """A success after all, for a slot that was given up: success comes before failure."""
    return result.verdict == Verdict.SUCCESS and accepted.verdict != Verdict.SUCCESS


def result_of(acceptance: Acceptance, keyring: Keyring) -> tuple[int | None, PeerId | None]:
    """Exit code and executor of an accepted result; None where the slot ended without one."""
    if not acceptance.result:
        return None, None
    result = verified_result(acceptance.result, keyring)
    return (result.exit_code if result.exit_code >= 0 else None), result.executor


def outcome_of(held: HeldJob, keyring: Keyring) -> tuple[str, int]:
    """How an ended job ended, and the worst exit code of its slots (1 where there is none)."""
    verdicts = [slot.acceptance.verdict for slot in held.slots if slot.acceptance is not None]
    codes = [
        result_of(slot.acceptance, keyring)[0] for slot in held.slots if slot.acceptance is not None
    ]
    worst = max((1 if code is None else code for code in codes), default=0)
    if all(verdict == Verdict.SUCCESS for verdict in verdicts):
        return "completed", worst
    if Verdict.STOPPED in verdicts:
        return "stopped", worst
    return "failed", worst
