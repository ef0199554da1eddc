"""The lifecycle of executions: started, adopted, ended; and again where it is a service's."""

from __future__ import annotations

from dataclasses import dataclass, replace

from protocol.bidding import Bidder
from protocol.clock import NEVER, Now
from protocol.config import CoordinationConfig
from protocol.delivery import Delivery
from protocol.effects import CheckTask, Effect, RemoveTask, Save, StartTask, StopTask, Tell
from protocol.events import HealthChanged, TaskEnded, TaskFound, TaskProgressed
from protocol.execution import Execution, Row, State, verdict_of
from protocol.executions import Executions
from protocol.ids import ExecutionId
from protocol.opsjournal import OpsJournal
from protocol.publishing import Publishing
from protocol.records import Keyring, Verdict
from protocol.restarts import Restarts
from protocol.results import how_it_ended, result_of, unpublished
from protocol.wire import seal

DOING_CHARS_MAX = 400  # a line on a terminal, with an image of the longest name
CUT_OFF = "cut off from its coordinator for longer than StopAfter"


@dataclass(slots=True)
class Lifecycle:
    """Moves executions from state to state, as their tasks go and as they are told to stop."""

    keyring: Keyring
    config: CoordinationConfig
    bidder: Bidder
    journal: OpsJournal
    restarts: Restarts
    publishing: Publishing
    executions: Executions
    delivery: Delivery

    # ---- starting ----------------------------------------------------------------------------

    def start(self, execution: Execution, now: Now) -> StartTask:
        """Its rows are saved before; from now on its engine has so long to start it."""
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

    def streams(self, execution: Execution) -> list[Row]:
        """What to save with its start where its output is sent line by line."""
        slot, spec = execution.slot, execution.spec
        return self.publishing.start(execution.id, execution.job, slot, spec)

    def make_due(self, execution: Execution, now: Now) -> list[Effect]:
        """A pending one is due at once, unless an older one of its slot has still to stop."""
        older = [e for e in self.executions.same_slot(execution) if e.id != execution.id]
        execution.start_at = NEVER if older else now.mono
        return [] if older else self.start_due(now)

    def start_due(self, now: Now) -> list[Effect]:
        """Start the pending ones whose time has come."""
        effects: list[Effect] = []
        for execution in self.executions.pending:
            if execution.start_at > now.mono:
                continue
            execution.move(State.STARTING)
            execution.start_at, execution.began_at = NEVER, now.mono
            self.bidder.adopt(execution.id, execution.spec.task.resources)
            rows = (execution.row(), *self.streams(execution))
            effects += [Save(rows), self.start(execution, now)]
        return effects

    def adopt(self, execution: Execution, task: TaskFound | None, now: Now) -> list[Effect]:
        """Take it up again after a boot; `task` is what its engine knows of it, if anything."""
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

    # ---- running -----------------------------------------------------------------------------

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
        return [
            self._tell(execution, "execution.publishing-here", text),
            *self.bidder.call(now.mono),
        ]

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

    def _check(self, execution: Execution) -> list[Effect]:
        check = execution.spec.check
        return [] if check is None else [CheckTask(execution.id, check)]

    # ---- ending ------------------------------------------------------------------------------

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
            event = unpublished(event)
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

    def never_started(self, execution: Execution, now: Now) -> list[Effect]:
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
        text = f"{self._label(execution)} ended here{how_it_ended(event)}; it is started again"
        gone = self.executions.earlier_runs(execution)[: -self.restarts.config.kept]
        for each in gone:
            del self.executions[each.id]
        removed: list[Row] = [("execution", each.id, None) for each in gone]
        return [
            Save((execution.row(), pending.row(), *removed)),
            self._tell(execution, "execution.ended-here", text),
            *self.publishing.begun(execution.id),
            *(RemoveTask(each.id) for each in gone),
        ]

    def _end(self, execution: Execution, state: State, event: TaskEnded, now: Now) -> list[Effect]:
        """Journal the result, then offer it to whoever answers for the job."""
        execution.move(state)
        self.bidder.free_up(execution.id)
        execution.started_ms = execution.started_ms or _before(now, event.duration_ms)
        execution.ended_ms = now.wall_ms
        result = result_of(execution, event, self.keyring.peer)
        execution.result_data = seal(result, self.keyring)
        execution.tries = 0  # of renewals; it is the coordinator that is asked first
        text = f"{self._label(execution)} {state.value} here{how_it_ended(event)}"
        journal = self.journal.end(result) if execution.listed else []
        outbox = self.publishing.result(execution.id, result, execution.spec, event)
        effects: list[Effect] = [
            Save((execution.row(), *journal, *outbox)),
            self._tell(execution, "execution.ended-here", text),
            *self.publishing.begun(execution.id),
            *self.publishing.due(now),
        ]
        follow = self._follow_on(execution, now)
        return [
            *effects,
            *self.delivery.offer(execution, now),
            *follow,
            *self.bidder.call(now.mono),
        ]

    # ---- being stopped -----------------------------------------------------------------------

    def halt(self, execution: Execution, reason: str, now: Now) -> tuple[Row, list[Effect]]:
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
        return effects + self._follow_on(execution, now) + self.bidder.call(now.mono)

    def _follow_on(self, ended: Execution, now: Now) -> list[Effect]:
        """A later one of its slot may have waited for it to end."""
        effects: list[Effect] = []
        for pending in self.executions.same_slot(ended):
            if pending.state is State.PENDING and pending.start_at == NEVER:
                effects += self.make_due(pending, now)
        return effects

    # ---- for people --------------------------------------------------------------------------

    def _label(self, execution: Execution) -> str:
        place = f" slot {execution.slot}" if execution.spec.count > 1 else ""
        return f"{execution.spec.name}{place}"

    def _tell(self, execution: Execution, kind: str, text: str) -> Tell:
        fields: dict[str, object] = {"slot": execution.slot, "execution": execution.id}
        return Tell(kind, text, execution.job, self.keyring.peer, fields)


def _before(now: Now, duration_ms: int) -> int:
    return max(0, now.wall_ms - duration_ms)
