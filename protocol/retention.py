"""Retention: how many of the executions that ended are kept, and for how long."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from protocol.clock import Now
from protocol.config import CoordinationConfig
from protocol.effects import DropVolumes, Effect, RemoveTask, Save
from protocol.errors import RemoteProtocolError
from protocol.execution import Row
from protocol.executions import Executions
from protocol.ids import ExecutionId, JobId
from protocol.publishing import Publishing
from protocol.wire import dumps, load_row

NOTICED: Final = "unread_executions"  # a row of meta: by execution, since when
ROW_BYTES_MAX: Final = 4 * 1024 * 1024  # a damaged database may have thousands, of 50 B each


@dataclass(slots=True)
class Retention:
    """Forgets what is old, or one too many; what it published and its volumes go with it."""

    config: CoordinationConfig
    executions: Executions
    publishing: Publishing
    # On disk, of another version or damaged, and when that was noticed: Unix milliseconds of a
    # trusted clock, 0 until there was one.
    unread: dict[ExecutionId, int] = field(default_factory=dict)
    _dates: dict[str, int] = field(default_factory=dict)  # as on disk

    def restore(self, meta: Mapping[str, bytes], unread: Iterable[str]) -> None:
        """From the rows of `meta`. Dates that cannot be read are taken anew: later, not earlier."""
        if NOTICED in meta:
            try:
                self._dates = load_row(meta[NOTICED], dict[str, int], ROW_BYTES_MAX)
            except RemoteProtocolError:
                self._dates = {}
        self.unread = {ExecutionId(key): max(0, self._dates.get(key, 0)) for key in unread}

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

    def forget_unread(self, now: Now) -> list[Effect]:
        """Remove what could not be read for as long as others are kept. Until then a person may go
        back to the version that reads it."""
        if not now.wall_trusted:
            return []
        before_ms = now.wall_ms - int(self.config.retain_s * 1000)
        unread = [each for each in self.unread.items() if each[0] not in self.executions]
        dates = {key: since_ms or now.wall_ms for key, since_ms in unread}
        old = [key for key, since_ms in dates.items() if since_ms < before_ms]
        self.unread = {key: since_ms for key, since_ms in dates.items() if since_ms >= before_ms}
        if self.unread == self._dates:
            return []
        self._dates = {str(key): since_ms for key, since_ms in self.unread.items()}
        noticed: Row = ("meta", NOTICED, dumps(self._dates) if self._dates else None)
        save = Save((*(("execution", key, None) for key in old), noticed))
        return [save, *map(RemoveTask, old), DropVolumes()] if old else [save]

    def keeps(self, job: JobId) -> bool:
        """Whether anything is remembered of a one-off job: so long its volumes are kept as well.
        What cannot be read may be of any job."""
        return bool(self.unread) or any(
            execution.job == job for execution in self.executions.values()
        )
