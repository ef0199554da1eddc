"""The executions of a device: all that are kept, and the few that still want something."""

from __future__ import annotations

from collections import UserDict

from protocol.execution import Execution, State
from protocol.ids import ExecutionId, JobId


class Executions(UserDict[ExecutionId, Execution]):
    """By id, in the order in which they came.

    Ended ones are kept by the hundred for people to read; what happens looks at the live ones.
    """

    def __init__(self) -> None:
        self._live: dict[ExecutionId, Execution] = {}
        super().__init__()

    def __setitem__(self, key: ExecutionId, execution: Execution) -> None:
        self.data[key] = execution
        self._live[key] = execution

    def __delitem__(self, key: ExecutionId) -> None:
        del self.data[key]
        self._live.pop(key, None)

    @property
    def live(self) -> list[Execution]:
        """Those that run or owe a result."""
        over = [key for key, execution in self._live.items() if not execution.live]
        for key in over:  # what has ended and is delivered never comes back
            del self._live[key]
        return list(self._live.values())

    @property
    def open(self) -> list[Execution]:
        """Those that have not ended."""
        return [execution for execution in self.live if not execution.ended]

    @property
    def pending(self) -> list[Execution]:
        """Those of services that wait for their time, or for room, to begin."""
        return [execution for execution in self.open if execution.state is State.PENDING]

    def open_of(self, job: JobId, slot: int) -> list[Execution]:
        return [each for each in self.open if (each.job, each.slot) == (job, slot)]

    def same_slot(self, of: Execution) -> list[Execution]:
        """Those of its slot that have not ended."""
        return self.open_of(of.job, of.slot)

    def earlier_runs(self, of: Execution) -> list[Execution]:
        """Of the same award, those that ended, the latest last."""
        runs = [e for e in self.values() if e.ended and e.assignment == of.assignment]
        return sorted(runs, key=lambda execution: execution.run)

    @property
    def keeping(self) -> dict[tuple[JobId, int], Execution]:
        """Slots of one-off jobs that have volumes here, and the latest execution of each."""
        found: dict[tuple[JobId, int], Execution] = {}
        for execution in self.values():
            if not execution.keeps_volumes:
                continue
            known = found.setdefault((execution.job, execution.slot), execution)
            if execution.fence > known.fence:
                found[(execution.job, execution.slot)] = execution
        return found

    def surplus(self, keep: int, before_ms: int) -> list[ExecutionId]:
        """Of those that ended, which are more than to `keep` or ended before then, oldest first.

        A result still owed counts for nothing but its age: by then nobody keeps its job any more.
        Nor does the latest of a slot that has volumes, which would go with it: it may come back.
        """
        spared = {execution.id: None for execution in self.keeping.values()}
        ended = [execution for execution in self.values() if execution.ended]
        ended.sort(key=lambda execution: (execution.ended_ms, execution.id))
        delivered = [each for each in ended if not each.owes and each.id not in spared]
        over = delivered[: max(0, len(delivered) - keep)]
        old = (execution for execution in ended if execution.ended_ms < before_ms)
        return list(dict.fromkeys(execution.id for execution in (*over, *old)))
