"""Awards: taken once each or declined with a reason, and taken back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from protocol.asks import VOLUME, asks_of, lacking
from protocol.authority import signed_assignment, verified_assignment, verified_spec
from protocol.bidding import Bidder
from protocol.bounds import clipped
from protocol.clock import NEVER, Now
from protocol.config import CoordinationConfig
from protocol.constraints import explain_all
from protocol.effects import Effect, Save, Send
from protocol.errors import RemoteProtocolError, UnreadableSpec
from protocol.execution import Execution, Fences, Row, State
from protocol.executions import Executions
from protocol.ids import JobId, PeerId
from protocol.jobtype import JobType
from protocol.lifecycle import Lifecycle
from protocol.messages import (
    Accepted,
    Announce,
    Award,
    Bid,
    Declined,
    Refusal,
    Release,
    ResultOffer,
    Withdraw,
)
from protocol.opsjournal import OpsJournal
from protocol.records import Assignment, Keyring
from protocol.retention import Retention
from protocol.wire import Sealed, seal


@dataclass(slots=True)
class Awards:
    """What coordinators ask of this device: a bid, an execution, that it ends."""

    keyring: Keyring
    config: CoordinationConfig
    bidder: Bidder
    journal: OpsJournal
    over: Callable[[JobId, int], str]  # why a service of this generation is not to run (any more)
    alone_since: Callable[[], float]  # monotonic; NEVER while any other is connected, or none known
    executions: Executions
    lifecycle: Lifecycle
    retention: Retention
    fences: Fences = field(default_factory=Fences)

    # ---- bidding -----------------------------------------------------------------------------

    def on_announce(self, sender: PeerId, announce: Announce, now: Now) -> list[Effect]:
        asks = any(ask.startswith(f"{VOLUME} ") for ask in announce.needs.asks)
        full = self._full_of_volumes(announce.job, None) if asks else ""
        if full and announce.job_type != JobType.SERVICE:
            return [Send(sender, Refusal(announce.auction, full, final=False))]
        answer: Bid | Refusal = self.bidder.on_announce(sender, announce, now.mono)
        return [Send(sender, answer)]

    def _full_of_volumes(self, job: JobId, slot: int | None) -> str:
        """Why volumes of one more slot of a batch job are not kept here; empty where they are, or
        are here already. Without a slot, any of the job may come back."""
        keeping, most = self.executions.keeping, self.config.volume_slots_max
        here = (job, slot) in keeping if slot is not None else any(job == j for j, _ in keeping)
        if here or len(keeping) < most:
            return ""
        days = round(self.config.retain_s / 86_400)
        return f"it keeps volumes of {most} slots of batch jobs already, each for {days} days"

    def on_release(self, sender: PeerId, release: Release, now: Now) -> list[Effect]:
        self.bidder.release(sender, release.auction)
        if release.job is not None:
            self.bidder.queue.leave(sender, release.job)
        return self.bidder.call(now.mono)

    # ---- taking ------------------------------------------------------------------------------

    def on_award(self, sender: PeerId, award: Award, now: Now) -> list[Effect]:
        """Take each assignment or decline it. Raises RemoteProtocolError for a forged one."""
        try:
            spec, begun = self._begun(award)
        except UnreadableSpec as unreadable:  # another peer may have the later version
            signed = [signed_assignment(data, self.keyring) for data in award.assignments]
            mine = [each for each in signed if each.executor == self.keyring.peer]
            return [self._decline(sender, each, str(unreadable), True) for each in mine]
        effects: list[Effect] = []
        for execution in begun:
            effects += self._take(sender, award.auction, execution, spec, now)
        return effects + self.retention.make_room(now)

    def _begun(self, award: Award) -> tuple[Sealed, list[Execution]]:
        """Nothing is taken before all of it was read: half of a refused award would be neither
        saved nor started, and would hold its capacity for ever."""
        spec = verified_spec(award.spec, self.keyring)
        checked = [
            (verified_assignment(data, spec, self.keyring), data) for data in award.assignments
        ]
        if any(assignment.executor != self.keyring.peer for assignment, _ in checked):
            raise RemoteProtocolError("an award to somebody else")
        return spec, [Execution.begin(each, data, spec, award.holders) for each, data in checked]

    def _take(
        self, sender: PeerId, auction: int, execution: Execution, spec: Sealed, now: Now
    ) -> list[Effect]:
        assignment = execution.assignment
        accepted = Accepted(assignment.job, assignment.slot, assignment.fence)
        if execution.id in self.executions:
            return self._again(sender, accepted, self.executions[execution.id])
        if execution.listed:
            answer = self.journal.answer(assignment, self.keyring.peer)
            if answer is not None:
                return [Send(sender, ResultOffer(seal(answer, self.keyring)))]
        reason = self._objection(execution, spec) or self._unfit(execution)
        reason = reason or self.bidder.drains(execution.spec.type)
        reason = reason or self.bidder.full or self.bidder.unwell()
        final = bool(reason)
        reason = reason or self.bidder.hindered(execution.spec)
        if not reason and not self._reserve(sender, auction, execution):
            reason = "busy: the capacity was given to somebody else"
        if reason:
            return [self._decline(sender, assignment, reason, final)]
        rows: list[Row] = [execution.row()]
        if execution.listed:
            rows += self.journal.start(execution.revision)
        rows += self.fences.raise_to(assignment.job, assignment.slot, assignment.fence)
        if execution.state is not State.PENDING:
            rows += self.lifecycle.streams(execution)
        superseded, older = self._supersede(execution, now)
        self.executions[execution.id] = execution
        execution.next_at = now.mono + self.config.renew_s
        execution.heard_at = execution.began_at = now.mono
        taken = [Save((*rows, *superseded)), Send(sender, accepted), *older]
        if execution.state is State.PENDING:
            return taken + self.lifecycle.make_due(execution, now)
        return [*taken, self.lifecycle.start(execution, now)]

    def _decline(self, sender: PeerId, award: Assignment, reason: str, final: bool) -> Effect:
        known = self.fences.known.get((award.job, award.slot))
        later = known if known is not None and known >= award.fence else None
        words = clipped(reason)
        return Send(sender, Declined(award.job, award.slot, award.fence, words, final, later))

    def _reserve(self, sender: PeerId, auction: int, execution: Execution) -> bool:
        """Its capacity. A service starts once an older execution of its slot has made room: two of
        it beside each other would fight for the same port or file."""
        need = execution.spec.task.resources
        older = [e for e in self.executions.same_slot(execution) if e.fence < execution.fence]
        waits = execution.service or bool(execution.spec.task.volumes)
        if not waits or not older:
            return self.bidder.take(sender, auction, execution.id, need)
        for each in older:
            if self.bidder.inherit(each.id, execution.id, need):
                break
        else:
            if not self.bidder.take(sender, auction, execution.id, need):
                return False
        execution.state = State.PENDING
        return True

    def _again(self, sender: PeerId, accepted: Accepted, known: Execution) -> list[Effect]:
        """An award that is known: it asks what became of it, for who took the job over has not
        heard of that. Told that it runs, it would wait for what has ended."""
        if not known.ended or any(
            e.assignment == known.assignment for e in self.executions.same_slot(known)
        ):
            return [Send(sender, accepted)]
        last = known if known.listed else self.executions.earlier_runs(known)[-1]
        if last.result_data:
            offer = Send(sender, ResultOffer(last.result_data, last.assignment_data))
            return [Send(sender, accepted), offer] if known.listed else [offer]
        reason = clipped(f"it was stopped here: {last.stopping}")
        highest = None if known.listed else self.fences.known.get((accepted.job, accepted.slot))
        fence = accepted.fence
        return [Send(sender, Declined(accepted.job, accepted.slot, fence, reason, known=highest))]

    def _supersede(self, by: Execution, now: Now) -> tuple[list[Row], list[Effect]]:
        """Stop older executions of the slot that is awarded anew."""
        rows: list[Row] = []
        effects: list[Effect] = []
        for execution in self.executions.same_slot(by):
            older = execution.fence < by.fence and not by.listed  # which has one here at most
            if older and not execution.stopping:
                row, stopped = self.lifecycle.halt(execution, "superseded by a later award", now)
                rows.append(row)
                effects += stopped
        return rows, effects

    # ---- objections --------------------------------------------------------------------------

    def _objection(self, execution: Execution, spec: Sealed) -> str:
        """Why it is declined before capacity is looked at; empty where there is nothing."""
        assignment = execution.assignment
        running = self.executions.open_of(assignment.job, assignment.slot)
        newer = any(each.fence > assignment.fence for each in running)
        if newer or self.fences.stale(assignment.job, assignment.slot, assignment.fence):
            return "superseded: a later award of this slot is known here"
        objection = self._objection_to_service(execution) if execution.service else ""
        if execution.keeps_volumes and not objection:
            objection = self._full_of_volumes(execution.job, execution.slot)
        if objection:
            return objection
        certificate = spec.certificate
        roles, name = (certificate.roles, certificate.name) if certificate is not None else ((), "")
        return self.bidder.unwelcome(execution.spec, spec.author, roles, name)

    def _objection_to_service(self, execution: Execution) -> str:
        over = self.over(execution.job, execution.generation)
        stop_after = execution.spec.disconnect.stop_after_s
        if not over and stop_after is not None and self.alone_since() < NEVER:
            over = "cut off from all others: what has StopAfter starts when it meets somebody"
        others = [
            e
            for e in self.executions.open
            if e.job == execution.job and e.slot != execution.slot and not e.stopping
        ]
        if not over and execution.spec.spread and others:
            return f"slot {others[0].slot} of it runs here, and its slots are to be spread"
        return over

    def _unfit(self, execution: Execution) -> str:
        """Why this device may not run it, whatever it was announced as; empty where it may."""
        spec = execution.spec
        engine = spec.task.engine.type
        if engine not in self.bidder.engines:
            return f"engine {engine} is not here"
        reason = explain_all(spec.constraints, self.bidder.labels)
        reason = reason or lacking(asks_of(spec.task), self.bidder.labels)
        if execution.listed and not reason:  # nobody asked it for a bid
            return spec.task.resources.shortfall(self.bidder.capacity) or ""
        return reason

    # ---- withdrawals -------------------------------------------------------------------------

    def on_withdraw(self, sender: PeerId, withdraw: Withdraw, now: Now) -> list[Effect]:
        """Stop what is below the fence; and take nothing below it any more.

        Raises RemoteProtocolError where the sender speaks for somebody else.
        """
        mine = self.executions.open_of(withdraw.job, withdraw.slot)
        # A successor may be nobody that was heard of here, but then the fence is its own.
        if sender != withdraw.fence.coordinator and not any(e.answers_to(sender) for e in mine):
            raise RemoteProtocolError("a withdrawal of another coordinator's")
        rows = self.fences.raise_to(withdraw.job, withdraw.slot, withdraw.fence)
        effects: list[Effect] = []
        for execution in mine:
            if execution.fence < withdraw.fence and not execution.stopping:
                row, stopped = self.lifecycle.halt(execution, withdraw.reason or "withdrawn", now)
                rows.append(row)
                effects += stopped
        return [Save(tuple(rows)), *effects] if rows else effects
