"""Retention: how many of the executions that ended are kept, and for how long."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.clock import Now
from protocol.config import CoordinationConfig
from protocol.effects import DropVolumes, Effect, RemoveTask, Save
from protocol.execution import Row
from protocol.executions import Executions
from protocol.ids import ExecutionId, JobId
from protocol.publishing import Publishing


@dataclass(slots=True)
class Retention:
    """Forgets what is old, or one too many; what it published and its volumes go with it."""

    config: CoordinationConfig
    executions: Executions
    publishing: Publishing
    unread: dict[ExecutionId, None] = field(default_factory=dict)  # on disk; another version's

    def make_room(self, now: Now) -> list[Effect]:
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
