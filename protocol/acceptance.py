"""Which results count: taken in, written down, and told once a standby has them too (DESIGN 5)."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.authority import verified_result
from protocol.bounds import clipped
from protocol.catalogue import Catalogue
from protocol.clock import NEVER, Now
from protocol.config import CoordinationConfig
from protocol.effects import Effect, Reply, Send, Tell
from protocol.fleet import Fleet
from protocol.heldjob import HeldJob, Slot
from protocol.ids import JobId, PeerId
from protocol.led import Confirmation, Led, Phase
from protocol.messages import ResultAck
from protocol.placement import Placement
from protocol.records import Acceptance, Fence, Keyring, Result, Verdict
from protocol.retry import RetryOn
from protocol.story import Stories
from protocol.wire import seal


@dataclass(slots=True)
class Acceptances:
    """How the slots of the jobs that this peer coordinates end."""

    keyring: Keyring
    config: CoordinationConfig
    catalogue: Catalogue
    placement: Placement
    fleet: Fleet
    stories: Stories
    ended: list[JobId] = field(default_factory=list)  # for the first time; drained by the node

    def standbys(self, held: HeldJob) -> list[PeerId]:
        """The other holders that are alive."""
        me = self.keyring.peer
        return [peer for peer in held.holders if peer != me and self.fleet.alive(peer)]

    # ---- confirmations -----------------------------------------------------------------------

    def confirm(self, led: Led, effects: list[Effect], now: Now) -> list[Effect]:
        """Hold `effects` until one live standby has the present state on disk, or a second."""
        version = self.catalogue.version(led.held)
        if not effects or not self.standbys(led.held):
            return effects
        if self.catalogue.replicated(led.held, version):
            return effects
        due = now.mono + self.config.standby_ack_s
        led.confirmations.append(Confirmation(version, due, effects))
        return []

    def confirmed(self, job: JobId, now: Now) -> list[Effect]:
        """A holder acknowledged, or time passed: release what it was waited for."""
        led = self.placement.led.get(job)
        if led is None:
            return []
        effects: list[Effect] = []
        waiting: list[Confirmation] = []
        for confirmation in led.confirmations:
            replicated = self.catalogue.replicated(led.held, confirmation.version)
            alone = not self.standbys(led.held)
            if replicated or alone or confirmation.due <= now.mono:
                effects += confirmation.effects
                if confirmation.request is not None:
                    answer = submitted(led.held, 1 + replicated, repeated=False)
                    effects.append(Reply(confirmation.request, answer))
            else:
                waiting.append(confirmation)
        led.confirmations = waiting
        if led.held.done and not led.confirmations:
            self.placement.led.pop(job, None)
        return effects

    def submitted(self, led: Led, request: int | None, now: Now) -> list[Effect]:
        """A job was just saved; whoever asked for it is answered when a standby has it, or in a
        second."""
        version = self.catalogue.version(led.held)
        due = now.mono + self.config.standby_ack_s
        led.confirmations.append(Confirmation(version, due, [], request))
        return self.confirmed(led.held.id, now)

    # ---- results -----------------------------------------------------------------------------

    def answer(
        self, led: Led, sender: PeerId, result: Result, data: bytes, now: Now
    ) -> list[Effect] | None:
        """The answer to a result of a slot that has ended; None where this one changes that."""
        status = status_of(led.held, result, data)
        if status is None:
            return None
        return self.confirm(led, [Send(sender, ack(result, status, None))], now)

    def take(self, led: Led, sender: PeerId, result: Result, data: bytes, now: Now) -> list[Effect]:
        """Decide about a result, sealed in `data`, of an attempt that was awarded."""
        if led.held.service:  # handed back: it is to run for ever
            return self._failure(led, result, data, sender, now)
        if led.held.listed:
            return self._answered(led, result, data, sender, now)
        if result.verdict == Verdict.SUCCESS:
            return self._success(led, result, data, sender, now)
        return self._failure(led, result, data, sender, now)

    def _answered(
        self, led: Led, result: Result, data: bytes, sender: PeerId, now: Now
    ) -> list[Effect]:
        """A peer that was on the list has answered: there is no other attempt to wait for."""
        slot, verdict = led.held.slots[result.slot], Verdict(result.verdict)
        acceptance = self._acceptance(led.held, slot, verdict, result.fence, data, "")
        effects = self._settle(led, slot, acceptance, now)
        answer = self.confirm(led, [Send(sender, ack(result, "accepted", None))], now)
        return [*effects, *answer, *self.finish(led, now)]

    def _failure(
        self, led: Led, result: Result, data: bytes, sender: PeerId, now: Now
    ) -> list[Effect]:
        """A failure counts for the current attempt only (DESIGN 5, acceptance of results)."""
        plan = led.plans[result.slot]
        failure = result.verdict == Verdict.FAILURE
        cause = RetryOn.FAILURE if failure else RetryOn.SYSTEM
        current = led.current(result.slot, result.fence)
        if current:  # for its volumes it matters whether it counts or not
            plan.answered = result.fence
            plan.untouched = result.fence if result.untouched else plan.untouched
        # Counted already when its lease ended: only that it is not to be tried again is news.
        counted = plan.counted == result.fence
        counted = counted and self.placement.failures.retries(led, result.slot, cause)
        if not current or plan.phase is Phase.DONE or counted:
            superseded = Send(sender, ack(result, "superseded", None))
            return [
                superseded,
                *(self.placement.recalled(led, result.slot, now) if current else []),
            ]
        reason = result.reason or f"exit code {result.exit_code}"
        where = f"{reason} on {self.fleet.name(result.executor)}"
        effects = self.placement.failures.failed(led, result.slot, cause, where, data, now)
        story, slot = self.stories.of(led.held.id), led.held.slots[result.slot]
        story.update(
            led.held.execution_of(slot), "failed", now.wall_ms, result.exit_code, result.reason
        )
        acknowledged = self.confirm(led, [Send(sender, ack(result, "accepted", None))], now)
        return [*effects, *acknowledged, *self.placement.open(led, now)]

    def _success(
        self, led: Led, result: Result, data: bytes, sender: PeerId, now: Now
    ) -> list[Effect]:
        """The first success, from whichever attempt it comes."""
        slot = led.held.slots[result.slot]
        stop: list[Effect] = []
        if not led.current(result.slot, result.fence):
            why = "superseded: another attempt succeeded"
            stop = self.placement.awarding.stop(led, result.slot, why)
        acceptance = self._acceptance(led.held, slot, Verdict.SUCCESS, result.fence, data, "")
        effects = self._settle(led, slot, acceptance, now)
        answer = self.confirm(led, [Send(sender, ack(result, "accepted", None))], now)
        over = [*self.finish(led, now), *self.placement.open(led, now)]
        return [*effects, *stop, *answer, *over]

    def give_up(
        self,
        led: Led,
        index: int,
        verdict: Verdict,
        reason: str,
        data: bytes,
        now: Now,
        *,
        lost: bool = False,
    ) -> list[Effect]:
        """The slot is not tried again: this is how it ended."""
        slot = led.held.slots[index]
        fence = self.fence(slot)
        acceptance = self._acceptance(led.held, slot, verdict, fence, data, reason[:500], lost)
        return [*self._settle(led, slot, acceptance, now), *self.finish(led, now)]

    def fence(self, slot: Slot) -> Fence:
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
        lost: bool = False,
    ) -> Acceptance:
        return Acceptance(
            job=held.id,
            revision=held.revision,
            slot=slot.index,
            fence=fence,
            verdict=verdict,
            result=result,
            reason=clipped(reason),
            lost=lost,
        )

    def _settle(self, led: Led, slot: Slot, acceptance: Acceptance, now: Now) -> list[Effect]:
        slot.offer_acceptance(acceptance, seal(acceptance, self.keyring))
        plan = led.plans[slot.index]
        plan.phase, plan.due = Phase.DONE, NEVER
        held = led.held
        effects = self.catalogue.changed(held, [slot.index], now, head=held.end(now.wall_ms))
        exit_code, executor = result_of(acceptance, self.keyring)
        state = state_of(acceptance, self.keyring)
        # The attempt that counts, which need not be the latest one.
        execution = held.execution_of(slot)
        if acceptance.result:
            execution = held.execution_at(slot, acceptance.fence)
        self.stories.of(held.id).update(execution, state, now.wall_ms, exit_code, acceptance.reason)
        place = f"slot {slot.index} " if len(led.plans) > 1 and not held.listed else ""
        where = f" on {self.fleet.name(executor)}" if executor else ""
        code = f" with exit code {exit_code}" if exit_code is not None else ""
        why = self._why_ended(acceptance)
        fields: dict[str, object] = {
            "slot": slot.index,
            "exit_code": exit_code,
            "state": state,
            "execution": execution,
            "peer": executor or "",
        }
        text = f"{place}{state}{where}{code}{why}"
        told: list[Effect] = [Tell("execution.ended", text, held.id, executor, fields)]
        return effects + self.confirm(led, told, now)

    def _why_ended(self, acceptance: Acceptance) -> str:
        """What place and exit code do not say already."""
        reason = acceptance.reason
        if acceptance.result:
            reason = verified_result(acceptance.result, self.keyring).reason
        return f": {reason}" if reason else ""

    def finish(self, led: Led, now: Now) -> list[Effect]:
        """Tell how the job ended, once it has, and once that is at a standby too."""
        held = led.held
        if not held.done:
            return []
        effects = self.placement.rounds.close(led)
        outcome = outcome_of(held, self.keyring)
        if led.told == outcome:
            return effects
        if led.told is None:
            self.ended.append(held.id)
        led.told = outcome
        self.stories.of(held.id).waiting = ""
        return effects + self.confirm(led, [told_end(held, outcome)], now)

    def close(self, led: Led, now: Now) -> list[Effect]:
        """Add no more slots; a job whose slots have all ended has ended then."""
        held = led.held
        if held.closed:
            return []
        held.closed = True
        held.end(now.wall_ms)
        return self.catalogue.changed(held, [], now)

    def stop_slots(self, led: Led, now: Now) -> list[Effect]:
        """The job is to stop: every slot that has no result ends here."""
        if led.held.done:
            return []
        effects = self.close(led, now)
        for slot, plan in led.pairs():
            if plan.phase is Phase.DONE:
                continue
            effects += self.placement.awarding.stop(led, slot.index, "the job was stopped")
            plan.phase = Phase.DONE
            fence = self.fence(slot)
            acceptance = self._acceptance(
                led.held, slot, Verdict.STOPPED, fence, b"", "the job was stopped"
            )
            effects += self._settle(led, slot, acceptance, now)
        return effects + self.finish(led, now)


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


def told_end(held: HeldJob, outcome: tuple[str, int]) -> Tell:
    """How the job ended, for people."""
    state, code = outcome
    name = held.job.name
    fields: dict[str, object] = {"exit_code": code, "name": name}
    return Tell(f"job.{state}", f"{name} {state}", held.id, fields=fields)


def status_of(held: HeldJob, result: Result, data: bytes) -> str | None:
    """What is to be said of a result, where the slot has ended; None where it changes that."""
    accepted = held.slots[result.slot].acceptance
    if accepted is None or _improves(result, accepted):
        return None
    same = accepted.fence == result.fence and accepted.result == data
    return "accepted" if same else "superseded"


def ack(result: Result, status: str, coordinator: PeerId | None) -> ResultAck:
    return ResultAck(result.job, result.slot, result.fence, status, coordinator)


def _improves(result: Result, accepted: Acceptance) -> bool:
    """A success after all, for a slot that was given up: success comes before failure. And of a
    peer that was given up for lost what it says itself counts, where the merge has it so too."""
    if result.verdict == Verdict.SUCCESS:
        return accepted.verdict != Verdict.SUCCESS
    said = result.verdict < accepted.verdict and result.fence <= accepted.fence
    return accepted.lost and said


def result_of(acceptance: Acceptance, keyring: Keyring) -> tuple[int | None, PeerId | None]:
    """Exit code and executor of an accepted result; None where the slot ended without one."""
    if not acceptance.result:
        return None, None
    result = verified_result(acceptance.result, keyring)
    return (result.exit_code if result.exit_code >= 0 else None), result.executor


def state_of(acceptance: Acceptance, keyring: Keyring) -> str:
    """How a slot ended, in a word: completed, failed, stopped, lost or unknown."""
    if acceptance.lost:
        return "lost"
    if acceptance.result and verified_result(acceptance.result, keyring).unknown:
        return "unknown"
    states = {Verdict.SUCCESS: "completed", Verdict.STOPPED: "stopped"}
    return states.get(Verdict(acceptance.verdict), "failed")


def outcome_of(held: HeldJob, keyring: Keyring) -> tuple[str, int]:
    """How an ended job ended, and the worst exit code of its slots (1 where there is none)."""
    codes = [
        result_of(slot.acceptance, keyring)[0] for slot in held.slots if slot.acceptance is not None
    ]
    return end_of(held), max((1 if code is None else code for code in codes), default=0)


def end_of(held: HeldJob) -> str:
    """How an ended job ended, in a word: completed, stopped or failed."""
    verdicts = [slot.acceptance.verdict for slot in held.slots if slot.acceptance is not None]
    if all(verdict == Verdict.SUCCESS for verdict in verdicts):
        return "completed"
    return "stopped" if Verdict.STOPPED in verdicts else "failed"
