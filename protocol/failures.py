"""Failures: what counts of attempts that failed and awards that were lost, and what follows."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from protocol.awarding import Awarding
from protocol.clock import Now
from protocol.config import CoordinationConfig
from protocol.effects import Effect, Tell
from protocol.fleet import Fleet
from protocol.ids import PeerId
from protocol.led import Led, Phase, Plan
from protocol.records import Verdict
from protocol.retry import RetryOn
from protocol.rounds import GiveUp, Rounds
from protocol.story import Stories


@dataclass(slots=True)
class Failures:
    """Counts what failed or was lost; a slot is placed again as its job allows, or given up."""

    config: CoordinationConfig
    fleet: Fleet
    stories: Stories
    rng: Random
    give_up: GiveUp
    awarding: Awarding
    rounds: Rounds

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

    def retries(self, led: Led, index: int, cause: RetryOn) -> bool:
        """Whether the job allows another attempt after those that failed."""
        retry, failures = led.held.job.retry, led.plans[index].failures
        return cause in retry.on and (not retry.attempts or failures < retry.attempts)

    # ---- awards that nobody answers any more -------------------------------------------------

    def of_its_award(self, plan: Plan, peer: PeerId, now: Now) -> bool:
        """Whether it may have died of an award that is waited for no more; asked once. Who leaves
        has not died, and who dies long after died of something else."""
        silence = plan.silent.pop(peer, None)
        lately = silence is not None and now.mono - silence.since <= self.config.silence_s
        return lately and not self.fleet.left(peer)

    def heard(self, led: Led, peer: PeerId, now: Now) -> list[Effect]:
        """It bids or refuses. What it never answered it has not died of, unless that was given to
        an earlier life of it, which nobody has missed."""
        effects: list[Effect] = []
        why = f"{self.fleet.name(peer)} did not answer the award, and has started anew since"
        for slot, plan in led.pairs():
            silence = plan.silent.get(peer)
            died = silence is not None and self.fleet.outlived(peer, silence.boot)
            if self.of_its_award(plan, peer, now) and died and plan.phase is not Phase.DONE:
                effects += self.died_silent(led, slot.index, peer, why, now)
        return effects

    def spared(self, led: Led, plan: Plan) -> bool:
        """Whether an award whose executor died before it answered is no failure: nothing was lost.
        Only the first few are spared, for it may be the job that ends whatever it goes to."""
        few = plan.untaken < self.config.untaken_max
        if not few or RetryOn.LOST not in led.held.job.retry.on:
            return False
        plan.untaken += 1
        return True

    def lost(self, led: Led, index: int, why: str, now: Now) -> list[Effect]:
        """An award that was not answered counts as a failure; one that was sent again, to where its
        volumes are, each time."""
        led.plans[index].counted = None
        return self.failed(led, index, RetryOn.LOST, why, b"", now)

    def died_silent(self, led: Led, index: int, peer: PeerId, why: str, now: Now) -> list[Effect]:
        """Its award was waited for no more before its death was known. If that is one too many the
        slot ends, whoever else it is offered to by now."""
        award, plan = led.held.slots[index].assignment, led.plans[index]
        if self.spared(led, plan):
            return []
        plan.failures += 1
        if award is not None and award.executor == peer:
            plan.counted = award.fence
        if self.retries(led, index, RetryOn.LOST):
            return []
        stopped = self.awarding.stop(led, index, why)
        return [*stopped, *self.give_up(led, index, Verdict.FAULT, why, b"", now)]

    def untaken(self, led: Led, slots: list[int], peer: PeerId, why: str, now: Now) -> list[Effect]:
        """Awards that are spared: their peer is gone, and never took them for all we know. The next
        best of the round, while there is one."""
        effects: list[Effect] = []
        for index in slots:
            plan = led.plans[index]
            plan.failed_on[peer] = plan.failed_on.get(peer, 0) + 1
            auction = self.rounds.refused(led, index, "lost", why, now)
            plan.wait(now.mono)
            if auction is not None and auction.spare(now.mono):
                plan.phase = Phase.BIDDING
            effects.append(self._tell_again(led, index, peer, why))
        if any(led.plans[index].phase is Phase.BIDDING for index in slots):
            assert led.auction is not None
            effects += self.rounds.award(led, led.auction, now)
        return effects
