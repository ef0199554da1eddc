"""The executor: takes awards, runs each once, keeps leases renewed, brings results home."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from protocol.asks import VOLUME, asks_of, lacking
from protocol.authority import signed_assignment, verified_assignment, verified_spec
from protocol.bidding import Bidder
from protocol.bounds import clipped
from protocol.clock import NEVER, Now
from protocol.config import CoordinationConfig
from protocol.constraints import explain_all
from protocol.effects import (
    Bucket,
    CheckTask,
    DropVolumes,
    Effect,
    RemoveTask,
    Save,
    Send,
    StartTask,
    StopTask,
    Tell,
)
from protocol.errors import RemoteProtocolError, UnreadableSpec
from protocol.events import Booted, HealthChanged, TaskEnded, TaskFound, TaskProgressed
from protocol.execution import (
    Execution,
    Fences,
    Row,
    State,
    restore_execution,
    verdict_of,
)
from protocol.executions import Executions
from protocol.ids import ExecutionId, JobId, PeerId
from protocol.jobtype import JobType
from protocol.messages import (
    Accepted,
    Announce,
    Award,
    Bid,
    Declined,
    Refusal,
    Release,
    Renew,
    RenewAck,
    Renewal,
    ResultAck,
    ResultOffer,
    Vacancy,
    Withdraw,
)
from protocol.opsjournal import OpsJournal
from protocol.publishing import Publishing
from protocol.records import Assignment, Keyring, Result, Verdict
from protocol.resources import Resources
from protocol.restarts import Restarts
from protocol.resultmessage import kept_output
from protocol.unread import Unread
from protocol.wire import Sealed, seal

DOING_CHARS_MAX = 400  # a line on a terminal, with an image of the longest name
TAIL_BYTES = 2048  # of each stream, kept in the result itself
RENEWALS_PER_MESSAGE = 32
BATCH_S = 0.5  # renewals due this soon go along: fewer, larger messages
HINTS_MAX = 4  # of another coordinator that one result follows at once; then it keeps its pauses
HOLDERS_MAX = 16  # that one execution knows
CUT_OFF = "cut off from its coordinator for longer than StopAfter"


@dataclass(slots=True)
class Executor:
    """All executions of this device. Ended ones are kept until their time or number is up."""

    keyring: Keyring
    config: CoordinationConfig
    bidder: Bidder
    reachable: Callable[[PeerId], bool]
    journal: OpsJournal
    restarts: Restarts
    over: Callable[[JobId, int], str]  # why a service of this generation is not to run (any more)
    first_rank: Callable[[JobId], PeerId | None]  # who would coordinate a service without holders
    alone_since: Callable[[], float]  # monotonic; NEVER while any other is connected, or none known
    publishing: Publishing
    executions: Executions = field(default_factory=Executions)
    fences: Fences = field(default_factory=Fences)
    unread: dict[ExecutionId, None] = field(default_factory=dict)  # on disk; another version's

    @property
    def reserved(self) -> Resources:
        return self.bidder.reserved

    def restore(self, disk: Mapping[Bucket, Mapping[str, bytes]]) -> list[Unread]:
        """Rebuild from disk; returns the rows that could not be read."""
        unreadable: list[Unread] = []
        self.fences = Fences.restore(disk.get("fence", {}), unreadable)
        self.journal.restore(disk.get("ops", {}), unreadable)
        rows = disk.get("execution", {})
        for key in sorted(rows):
            try:
                execution = restore_execution(rows[key], self.keyring)
            except (RemoteProtocolError, ValueError) as error:
                unreadable.append(Unread("execution", key, str(error)))
                self.unread[ExecutionId(key)] = None
                continue
            execution.touched = True  # for all that is known
            self.executions[execution.id] = execution
        return unreadable

    def boot(self, event: Booted, now: Now) -> list[Effect]:
        """Adopt what still runs, learn what ended meanwhile, say what was lost."""
        found = {task.execution: task for task in event.found}
        effects: list[Effect] = []
        for execution in self.executions.open:
            execution.next_at = execution.heard_at = execution.began_at = now.mono
        # What is not begun has nothing to adopt, and may begin by the end of an older one.
        begun = [e for e in self.executions.open if e.state is not State.PENDING or e.id in found]
        for execution in begun:
            effects += self._adopt(execution, found.pop(execution.id, None), now)
        for execution in self.executions.pending:
            effects += self._make_due(execution, now)
        for execution in self.executions.live:
            if execution.owes:
                execution.next_at = now.mono
        for task in found.values():
            if task.running:  # also one that was given up for lost in an earlier life
                effects.append(StopTask(task.execution, "nothing is known of it"))
            elif task.execution not in self.executions and task.execution not in self.unread:
                effects.append(RemoveTask(task.execution))
        return effects

    def _adopt(self, execution: Execution, task: TaskFound | None, now: Now) -> list[Effect]:
        if execution.state is State.PENDING:
            execution.move(State.STARTING)
        if task is None:
            reason = "the device lost it: a power cut, or its supervisor was killed"
            if execution.stopping:
                return self.on_ended(TaskEnded(execution.id, None, reason), now)
            return self._lost(execution, TaskEnded(execution.id, None, reason), now)
        if not task.running:
            ended = task.as_ended()
            if execution.listed and task.exit_code is None and not execution.stopping:
                return self._lost(execution, ended, now)
            return self.on_ended(ended, now)
        execution.started_ms = execution.started_ms or _before(now, task.duration_ms)
        execution.ports = task.ports
        self.bidder.adopt(execution.id, execution.spec.task.resources)
        if execution.state is State.STARTING:
            execution.move(State.RUNNING)
        tell = self._tell(execution, "execution.adopted", f"{self._label(execution)} still runs")
        if execution.stopping:
            return [tell, StopTask(execution.id, execution.stopping)]
        return [tell, *self._check(execution), *self.publishing.begun(execution.id)]

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
        return self._call(now)

    def _call(self, now: Now) -> list[Effect]:
        """Capacity may have become free: tell who waits for it."""
        waiters = self.bidder.vacancies(now.mono)
        return [Send(waiter.coordinator, Vacancy(waiter.job)) for waiter in waiters]

    # ---- awards ------------------------------------------------------------------------------

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
        return effects + self._make_room(now)

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
            rows += self._stream(execution)
        superseded, older = self._supersede(execution, now)
        self.executions[execution.id] = execution
        execution.next_at = now.mono + self.config.renew_s
        execution.heard_at = execution.began_at = now.mono
        taken = [Save((*rows, *superseded)), Send(sender, accepted), *older]
        if execution.state is State.PENDING:
            return taken + self._make_due(execution, now)
        return [*taken, self._start(execution, now)]

    def _decline(self, sender: PeerId, award: Assignment, reason: str, final: bool) -> Effect:
        known = self.fences.known.get((award.job, award.slot))
        later = known if known is not None and known >= award.fence else None
        words = clipped(reason)
        return Send(sender, Declined(award.job, award.slot, award.fence, words, final, later))

    def _reserve(self, sender: PeerId, auction: int, execution: Execution) -> bool:
        """Its capacity. A service starts once an older execution of its slot has made room: two of
        it beside each other would fight for the same port or file."""
        need = execution.spec.task.resources
        older = [e for e in self._same_slot(execution) if e.fence < execution.fence]
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

    def _start(self, execution: Execution, now: Now) -> StartTask:
        timeout = 0 if execution.service else execution.spec.task.timeouts.execution_s
        sources = (execution.fence.coordinator, execution.author, *execution.holders)
        execution.start_by = now.mono + self.config.start_max_s
        return StartTask(
            execution.id,
            execution.job,
            execution.spec,
            execution.environment(self.keyring.peer),
            float(timeout) if timeout else None,
            tuple(dict.fromkeys(sources)),
            execution.slot,
        )

    def _stream(self, execution: Execution) -> list[Row]:
        slot, spec = execution.slot, execution.spec
        return self.publishing.start(execution.id, execution.job, slot, spec)

    def _again(self, sender: PeerId, accepted: Accepted, known: Execution) -> list[Effect]:
        """An award that is known: it asks what became of it, for who took the job over has not
        heard of that. Told that it runs, it would wait for what has ended."""
        if not known.ended or any(e.assignment == known.assignment for e in self._same_slot(known)):
            return [Send(sender, accepted)]
        last = known if known.listed else self._earlier_runs(known)[-1]
        if last.result_data:
            offer = Send(sender, ResultOffer(last.result_data, last.assignment_data))
            return [Send(sender, accepted), offer] if known.listed else [offer]
        reason = clipped(f"it was stopped here: {last.stopping}")
        highest = None if known.listed else self.fences.known.get((accepted.job, accepted.slot))
        fence = accepted.fence
        return [Send(sender, Declined(accepted.job, accepted.slot, fence, reason, known=highest))]

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

    def _supersede(self, by: Execution, now: Now) -> tuple[list[Row], list[Effect]]:
        """Stop older executions of the slot that is awarded anew."""
        rows: list[Row] = []
        effects: list[Effect] = []
        for execution in self._same_slot(by):
            older = execution.fence < by.fence and not by.listed  # which has one here at most
            if older and not execution.stopping:
                row, stopped = self._halt(execution, "superseded by a later award", now)
                rows.append(row)
                effects += stopped
        return rows, effects

    def _halt(self, execution: Execution, reason: str, now: Now) -> tuple[Row, list[Effect]]:
        """Note that it is to stop, which the row has to say before its task is told."""
        execution.stopping = reason
        if execution.state is not State.PENDING:
            return execution.row(), [StopTask(execution.id, reason)]
        # Nothing runs of it, so it ends here and now.
        if reason == CUT_OFF:
            event = TaskEnded(execution.id, None, reason)
            effects = self._end(execution, State.STOPPED, event, now)
        else:
            effects = self._end_stopped(execution, now)
        return execution.row(), effects

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
                row, stopped = self._halt(execution, withdraw.reason or "withdrawn", now)
                rows.append(row)
                effects += stopped
        return [Save(tuple(rows)), *effects] if rows else effects

    # ---- the task's life ---------------------------------------------------------------------

    def on_started(
        self, key: ExecutionId, now: Now, ports: tuple[tuple[str, int], ...] = ()
    ) -> list[Effect]:
        execution = self.executions.get(key)
        if execution is not None and execution.ended:  # it was given up, and started after all
            return [StopTask(key, "it started too late")]
        if execution is None or execution.state is not State.STARTING:
            return []
        execution.move(State.RUNNING)
        execution.started_ms, execution.began_at = now.wall_ms, now.mono
        if ports or execution.doing:  # whoever looks on waits for that
            execution.next_at = now.mono
        execution.ports, execution.doing = ports, ""
        # The start itself was journaled with the award: this save may be lost without harm, so
        # there is none.
        tell = self._tell(execution, "execution.running", f"{self._label(execution)} runs here")
        return [tell, *self._check(execution), *self.publishing.begun(key)]

    def on_progress(self, event: TaskProgressed, now: Now) -> list[Effect]:
        """Whoever holds the job hears of it with a renewal; nothing of it is kept."""
        execution = self.executions.get(event.execution)
        if execution is not None and execution.state is State.STARTING and not execution.stopping:
            execution.doing, execution.next_at = event.text[:DOING_CHARS_MAX], now.mono
        return []

    def on_publishing(self, key: ExecutionId, now: Now) -> list[Effect]:
        """Its task has ended: what that had of the device is free. Nothing is saved: a later life
        of the agent publishes again, and is told so."""
        execution = self.executions.get(key)
        if execution is None or execution.state not in (State.RUNNING, State.PUBLISHING):
            return []
        if execution.state is State.RUNNING:
            execution.move(State.PUBLISHING)
        execution.next_at = now.mono  # its coordinator hears of it
        self.bidder.free_up(execution.id)
        text = f"{self._label(execution)} has ended here; its results are being published"
        return [self._tell(execution, "execution.publishing-here", text), *self._call(now)]

    def _check(self, execution: Execution) -> list[Effect]:
        check = execution.spec.check
        return [] if check is None else [CheckTask(execution.id, check)]

    def on_health(self, event: HealthChanged, now: Now) -> list[Effect]:
        """Its checks pass, or fail: what runs and is not well is started again."""
        execution = self.executions.get(event.execution)
        if execution is None or execution.ended or execution.stopping or execution.sick:
            return []
        execution.next_at = now.mono  # whoever waits for it to be well hears of it
        if event.healthy:
            execution.passing = True
            text = f"{self._label(execution)} is well"
            return [self._tell(execution, "execution.healthy", text)]
        execution.sick = f"unhealthy: {event.reason}"
        text = f"{self._label(execution)} is {execution.sick}"
        tell = self._tell(execution, "execution.unhealthy", text)
        return [tell, StopTask(execution.id, execution.sick)]

    def on_ended(self, event: TaskEnded, now: Now) -> list[Effect]:
        execution = self.executions.get(event.execution)
        if execution is None or execution.ended:
            return []
        execution.touched |= not event.untouched
        if execution.stopping == CUT_OFF and event.exit_code != 0:
            event = TaskEnded(event.execution, None, CUT_OFF, event.duration_ms)
            return self._end(execution, State.STOPPED, event, now)
        if execution.stopping and execution.stopping != CUT_OFF:
            return self._end_stopped(execution, now)
        if execution.service and not execution.stopping:
            return self._run_again(execution, event, now)
        if event.unpublished:
            event = _unpublished(event)
        unseen = event.exit_code is None and execution.state is State.RUNNING
        unseen = unseen and not (event.unpublished or event.untouched)
        if execution.listed and unseen and not execution.stopping:
            return self._lost(execution, event, now)
        verdict = verdict_of(event.exit_code)
        states = {Verdict.SUCCESS: State.COMPLETED, Verdict.FAILURE: State.FAILED}
        return self._end(execution, states.get(verdict, State.FAILED), event, now)

    def _lost(self, execution: Execution, event: TaskEnded, now: Now) -> list[Effect]:
        """Nobody saw its end. An ops job is not tried again, so that it says so."""
        if execution.service:
            return self._run_again(execution, event, now)
        if not execution.listed:
            return self._end(execution, State.LOST, event, now)
        event = TaskEnded(event.execution, None, f"unknown how it ended: {event.reason}")
        return self._end(execution, State.UNKNOWN, event, now)

    def _run_again(self, execution: Execution, event: TaskEnded, now: Now) -> list[Effect]:
        """A service's task ended: start it again after a pause, or hand the slot back."""
        if execution.sick:
            event = replace(event, reason=execution.sick)
        pending = self.restarts.next_run(execution, now)
        if pending is None:
            return self._end(execution, State.FAILED, event, now)
        states = {Verdict.SUCCESS: State.COMPLETED, Verdict.FAILURE: State.FAILED}
        execution.move(states.get(verdict_of(event.exit_code), State.LOST))
        execution.delivered, execution.ended_ms = True, now.wall_ms
        self.bidder.free_up(execution.id)
        self.bidder.adopt(pending.id, pending.spec.task.resources)
        self.executions[pending.id] = pending
        text = f"{self._label(execution)} ended here{_how(event)}; it is started again"
        gone = self._earlier_runs(execution)[: -self.restarts.config.kept]
        for each in gone:
            del self.executions[each.id]
        removed: list[Row] = [("execution", each.id, None) for each in gone]
        return [
            Save((execution.row(), pending.row(), *removed)),
            self._tell(execution, "execution.ended-here", text),
            *self.publishing.begun(execution.id),
            *(RemoveTask(each.id) for each in gone),
        ]

    def _earlier_runs(self, of: Execution) -> list[Execution]:
        """Of the same award, those that ended, the latest last."""
        runs = [e for e in self.executions.values() if e.ended and e.assignment == of.assignment]
        return sorted(runs, key=lambda execution: execution.run)

    def _make_due(self, execution: Execution, now: Now) -> list[Effect]:
        """A pending one is due at once, unless an older one of its slot has still to stop."""
        older = [e for e in self._same_slot(execution) if e.id != execution.id]
        execution.start_at = NEVER if older else now.mono
        return [] if older else self._start_due(now)

    def _start_due(self, now: Now) -> list[Effect]:
        effects: list[Effect] = []
        for execution in self.executions.pending:
            if execution.start_at > now.mono:
                continue
            execution.move(State.STARTING)
            execution.start_at, execution.began_at = NEVER, now.mono
            self.bidder.adopt(execution.id, execution.spec.task.resources)
            rows = (execution.row(), *self._stream(execution))
            effects += [Save(rows), self._start(execution, now)]
        return effects

    def _end(self, execution: Execution, state: State, event: TaskEnded, now: Now) -> list[Effect]:
        """Journal the result, then offer it to whoever answers for the job."""
        execution.move(state)
        self.bidder.free_up(execution.id)
        execution.started_ms = execution.started_ms or _before(now, event.duration_ms)
        execution.ended_ms = now.wall_ms
        verdict = verdict_of(event.exit_code)
        if execution.service and verdict is Verdict.SUCCESS:
            verdict = Verdict.FAILURE  # a service that ends has failed, however well it ended
        stdout = event.stdout_tail[-TAIL_BYTES:]
        if execution.asked:
            stdout = kept_output(event.stdout, event.stdout_bytes, stdout)
        result = Result(
            job=execution.job,
            revision=execution.revision,
            slot=execution.slot,
            fence=execution.fence,
            executor=self.keyring.peer,
            verdict=verdict,
            exit_code=-1 if event.exit_code is None else event.exit_code,
            reason=event.reason[:500],
            started_ms=execution.started_ms,
            ended_ms=execution.ended_ms,
            duration_ms=event.duration_ms,
            stdout_tail=stdout,
            stderr_tail=event.stderr_tail[-TAIL_BYTES:],
            unknown=state is State.UNKNOWN,
            archive=event.archive,
            archive_bytes=event.archive_bytes,
            archive_note=clipped(event.archive_note),
            untouched=not execution.touched,
            published=clipped(event.published),
            output_note=clipped(event.output_note),
        )
        execution.result_data = seal(result, self.keyring)
        execution.tries = 0  # of renewals; it is the coordinator that is asked first
        text = f"{self._label(execution)} {state.value} here{_how(event)}"
        journal = self.journal.end(result) if execution.listed else []
        outbox = self.publishing.result(execution.id, result, execution.spec, event)
        effects: list[Effect] = [
            Save((execution.row(), *journal, *outbox)),
            self._tell(execution, "execution.ended-here", text),
            *self.publishing.begun(execution.id),
            *self.publishing.due(now),
        ]
        follow = self._follow_on(execution, now)
        return [*effects, *self._offer(execution, now), *follow, *self._call(now)]

    def _end_stopped(self, execution: Execution, now: Now) -> list[Effect]:
        """It was withdrawn: nobody waits for its result."""
        superseded = execution.stopping.startswith("superseded")
        execution.move(State.SUPERSEDED if superseded else State.STOPPED)
        execution.delivered, execution.ended_ms = True, now.wall_ms
        self.bidder.free_up(execution.id)
        text = f"{self._label(execution)} stopped here: {execution.stopping}"
        journal = self.journal.stop(execution.revision) if execution.listed else []
        effects: list[Effect] = [
            Save((execution.row(), *journal)),
            self._tell(execution, "execution.stopped-here", text),
            *self.publishing.begun(execution.id),
        ]
        return effects + self._follow_on(execution, now) + self._call(now)

    def _follow_on(self, ended: Execution, now: Now) -> list[Effect]:
        """A later one of its slot may have waited for it to end."""
        effects: list[Effect] = []
        for pending in self._same_slot(ended):
            if pending.state is State.PENDING and pending.start_at == NEVER:
                effects += self._make_due(pending, now)
        return effects

    def review(self, job: JobId, now: Now) -> list[Effect]:
        """The records of a service changed: what is over stops, and owes nobody anything."""
        rows: list[Row] = []
        effects: list[Effect] = []
        for execution in [e for e in self.executions.values() if e.job == job and e.service]:
            reason = self.over(job, execution.generation)
            if reason and not execution.ended and not execution.stopping:
                row, stopped = self._halt(execution, reason, now)
                rows.append(row)
                effects += stopped
            elif reason and execution.owes:
                execution.delivered, execution.next_at = True, NEVER
                rows.append(execution.row())
        return [Save(tuple(rows)), *effects] if rows else effects

    # ---- leases and results ------------------------------------------------------------------

    def _offer(self, execution: Execution, now: Now) -> list[Effect]:
        target = self._target(execution)
        # Whoever awarded it knows that, unless its own memory fails it.
        known = target == execution.fence.coordinator and not execution.tries
        award = b"" if known else execution.assignment_data
        wait = min(self.config.resend_first_s * 2**execution.tries, self.config.resend_max_s)
        execution.tries = min(execution.tries + 1, 16)
        execution.next_at = now.mono + wait
        return [Send(target, ResultOffer(execution.result_data, award))]

    def _target(self, execution: Execution) -> PeerId:
        """Who is asked: the coordinator while it can be reached, else the holders in turn."""
        known = [execution.coordinator, *execution.holders]
        first = self.first_rank(execution.job) if execution.service else None
        if first is not None:  # who takes it up when everybody who held it is gone
            known.append(first)
        candidates = [peer for peer in dict.fromkeys(known) if self.reachable(peer)]
        if not candidates:
            return execution.coordinator
        # The first two tries go to the coordinator; after that somebody else may know better.
        return candidates[max(0, execution.tries - 1) % len(candidates)]

    def on_result_ack(self, sender: PeerId, ack: ResultAck) -> list[Effect]:
        """Its result has arrived, or is to go elsewhere; only whom it was offered to can say so."""
        effects: list[Effect] = []
        for execution in self.executions.live:
            mine = (execution.job, execution.slot, execution.fence) == (
                ack.job,
                ack.slot,
                ack.fence,
            )
            if not mine or not execution.owes or not execution.answers_to(sender):
                continue
            if ack.status in ("accepted", "superseded"):
                execution.delivered = True
                execution.next_at = NEVER
                effects.append(Save((execution.row(),), lazy=True))
            elif ack.coordinator not in (None, sender):
                execution.coordinator = ack.coordinator
                # Two who each hold the other for the coordinator would pass it to and fro.
                if execution.hints < HINTS_MAX:
                    execution.hints, execution.tries = execution.hints + 1, 0
                    execution.next_at = 0.0
        return effects

    def on_renew_ack(self, sender: PeerId, ack: RenewAck, now: Now) -> list[Effect]:
        """What became of leases; only whom they were to be renewed with can say so."""
        effects: list[Effect] = []
        for answer in ack.items:
            for execution in self.executions.open_of(answer.job, answer.slot):
                if execution.fence != answer.fence or execution.stopping:
                    continue
                if not execution.answers_to(sender):
                    continue
                if answer.verdict == "over":
                    why = "superseded: the slot was decided without it"
                    row, stopped = self._halt(execution, why, now)
                    effects += [Save((row,)), *stopped]
                    continue
                if answer.coordinator not in (None, execution.coordinator):
                    execution.coordinator, execution.tries = answer.coordinator, 0
                if answer.verdict == "kept":
                    execution.heard_at, execution.tries = now.mono, 0
                    execution.holders = answer.holders or execution.holders
        return effects

    # ---- time --------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        times = [self.bidder.deadline]
        for execution in self.executions.live:
            times.append(execution.next_at)
            if not execution.ended:
                times += [execution.start_at, self._cut_off_at(execution)]
            if execution.state is State.STARTING:
                times.append(execution.start_by)
        return min(times)

    def _cut_off_at(self, execution: Execution) -> float:
        """When it stops of itself because nobody renews its lease, if its job says so."""
        stop_after = execution.spec.disconnect.stop_after_s
        if stop_after is None or execution.stopping:
            return NEVER
        after_s = max(stop_after, 2 * self.config.renew_s)
        heard_at = execution.heard_at
        if execution.service:  # which may be coordinated here
            heard_at = min(heard_at, self.alone_since())
        return heard_at + after_s

    def on_deadline(self, now: Now) -> list[Effect]:
        self.bidder.expire(now.mono)
        effects: list[Effect] = []
        for execution in self.executions.live:
            if execution.owes and execution.next_at <= now.mono:
                effects += self._offer(execution, now)
        for execution in self.executions.open:
            if execution.state is State.STARTING and execution.start_by <= now.mono:
                effects += self._never_started(execution, now)
            elif self._cut_off_at(execution) <= now.mono:
                row, stopped = self._halt(execution, CUT_OFF, now)
                effects += [Save((row,)), *stopped]
        effects += self._start_due(now)
        return [*effects, *self._renew(now), *self._call(now)]

    def _never_started(self, execution: Execution, now: Now) -> list[Effect]:
        """The engine took it and nothing came of it: a device that swallows jobs is no use."""
        reason = f"the device did not start it within {self.config.start_max_s:.0f} s"
        execution.start_by, execution.touched = NEVER, True  # it may begin yet
        stop = StopTask(execution.id, reason)
        if execution.stopping and execution.stopping != CUT_OFF:
            return [*self._end_stopped(execution, now), stop]
        return [
            *self._end(execution, State.FAILED, TaskEnded(execution.id, None, reason), now),
            stop,
        ]

    def _renew(self, now: Now) -> list[Effect]:
        if all(execution.next_at > now.mono for execution in self.executions.open):
            return []
        by_target: dict[PeerId, list[Renewal]] = {}
        for execution in self.executions.open:
            if execution.next_at > now.mono + BATCH_S:
                continue
            target = self._target(execution)
            if not execution.answers_to(target):
                execution.holders = (*execution.holders[: HOLDERS_MAX - 1], target)
            known = target == execution.fence.coordinator
            renewal = Renewal(
                execution.job,
                execution.revision,
                execution.slot,
                execution.fence,
                execution.proves,
                b"" if known else execution.assignment_data,
                execution.run,
                execution.ports,
                execution.doing,
            )
            by_target.setdefault(target, []).append(renewal)
            execution.tries = min(execution.tries + 1, 16)
            execution.next_at = now.mono + self.config.renew_s
        return [
            Send(target, Renew(tuple(items[at : at + RENEWALS_PER_MESSAGE])))
            for target, items in by_target.items()
            for at in range(0, len(items), RENEWALS_PER_MESSAGE)
        ]

    def on_peer_lost(self, peer: PeerId, now: Now) -> list[Effect]:
        """The coordinator is gone: turn to the next holder at once."""
        for execution in self.executions.live:
            if execution.coordinator == peer:
                execution.next_at = min(execution.next_at, now.mono + BATCH_S)
        return []

    def on_peer_back(self, peer: PeerId, now: Now) -> list[Effect]:
        """What was sent while the coordinator was not connected is gone: say it again at once."""
        for execution in self.executions.live:
            if execution.coordinator == peer:
                execution.next_at, execution.tries = min(execution.next_at, now.mono + BATCH_S), 0
        return []

    def _make_room(self, now: Now) -> list[Effect]:
        """Forget between sweeps too: a busy device runs thousands of jobs until the next."""
        kept, number = self.config.executions_kept, len(self.executions)
        # Those that have volumes are none too many: without them nothing is to be sorted.
        if number <= 2 * kept or number - len(self.executions.keeping) <= 2 * kept:
            return []
        return [*self.forget_ended(kept, 0), *self.publishing.due(now)]

    def forget_ended(self, keep: int, before_ms: int) -> list[Effect]:
        """Remove what ended before then (Unix milliseconds), or is one too many, oldest first."""
        old = self.executions.surplus(keep, before_ms)
        kept = any(self.executions[key].spec.task.volumes for key in old)
        rows: list[Row] = []
        for key in old:
            execution = self.executions[key]
            if execution.result_data:  # one that was stopped has published nothing
                slot, spec = execution.slot, execution.spec
                rows += self.publishing.forget(key, execution.job, slot, spec, execution.ended_ms)
            del self.executions[key]
        rows += self.publishing.sweep(before_ms)
        rows += [("execution", key, None) for key in old]
        effects: list[Effect] = [Save(tuple(rows)), *map(RemoveTask, old)] if rows else []
        return [*effects, DropVolumes()] if kept else effects

    def keeps(self, job: JobId) -> bool:
        """Whether anything is remembered of a one-off job: so long its volumes are kept as well.
        What cannot be read may be of any job."""
        return bool(self.unread) or any(
            execution.job == job for execution in self.executions.values()
        )

    # ---- reading -----------------------------------------------------------------------------

    def _same_slot(self, of: Execution) -> list[Execution]:
        return self.executions.open_of(of.job, of.slot)

    def _label(self, execution: Execution) -> str:
        place = f" slot {execution.slot}" if execution.spec.count > 1 else ""
        return f"{execution.spec.name}{place}"

    def _tell(self, execution: Execution, kind: str, text: str) -> Tell:
        fields: dict[str, object] = {"slot": execution.slot, "execution": execution.id}
        return Tell(kind, text, execution.job, self.keyring.peer, fields)


def _unpublished(event: TaskEnded) -> TaskEnded:
    """What was to be published and is not has not succeeded. That is no failure of the task: the
    next device may reach what this one did not. A task that failed by itself has failed first."""
    if event.exit_code == 0:
        return replace(event, exit_code=None, reason=event.unpublished)
    note = f"{event.archive_note}; {event.unpublished}" if event.archive_note else event.unpublished
    return replace(event, archive_note=note)


def _how(event: TaskEnded) -> str:
    """How it ended, to be put behind that it did."""
    code = "" if event.exit_code is None else f" with exit code {event.exit_code}"
    return f"{code}: {event.reason}" if event.reason else code


def _before(now: Now, duration_ms: int) -> int:
    return max(0, now.wall_ms - duration_ms)
