"""The executions of a device: all that are kept, and the few that still want something."""

from __future__ import annotations

from collections import UserDict

from protocol.execution import Execution
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

    def open_of(self, job: JobId, slot: int) -> list[Execution]:
        return [each for each in self.open if (each.job, each.slot) == (job, slot)]
