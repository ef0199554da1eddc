"""The host of a simulated device: the tasks that run on it, whoever started them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from protocol.effects import StartTask
from protocol.events import HealthChanged, TaskEnded, TaskFound, TaskStarted
from protocol.ids import ExecutionId
from protocol.sim.tasks import KILLED, TERMINATED, Task
from protocol.sim.world import World

LOST_DIRECTORY = 0.3  # how often a power cut takes what a task left on disk as well


@dataclass(slots=True)
class Host:
    """Tasks outlive the agent, not the power. `tell` brings news to the agent if there is one."""

    world: World
    tell: Callable[[TaskStarted | HealthChanged | TaskEnded], None]
    tasks: dict[ExecutionId, Task] = field(default_factory=dict)
    swallows: bool = False  # its engine takes every task, and nothing is heard of one again

    @property
    def running(self) -> list[Task]:
        return [task for task in self.tasks.values() if task.running]

    def found(self) -> tuple[TaskFound, ...]:
        """What a new agent finds."""
        return tuple(task.found() for task in self.tasks.values())

    def start(self, start: StartTask) -> Task | None:
        """Start it; one that was ever started is not started again."""
        if start.execution in self.tasks:
            return None
        heap = self.world.heap
        rng = Random(f"{self.world.seed}/task/{start.execution}")
        task = Task.begin(start.execution, start.job, start.spec, start.timeout_s, heap.now, rng)
        if self.swallows:
            return None
        self.tasks[task.execution] = task
        if rng.random() < self.world.start_failures:
            task.untouched = True
            heap.after(0.01, self._finish, task, None, "start-failed")
            return task
        reason = "timeout" if task.code == KILLED else "exited"
        heap.after(rng.uniform(0.001, 0.02), self._started, task)
        heap.at(task.ends + 0.03, self._finish, task, task.code, reason)
        return task

    def check(self, execution: ExecutionId) -> None:
        """It is found well soon; one task in five is found unwell later on."""
        rng = Random(f"{self.world.seed}/health/{execution}")
        self.world.heap.after(rng.uniform(0.1, 2.0), self._found, execution, True)
        if rng.random() < 0.2:
            self.world.heap.after(rng.uniform(0.5, 10.0), self._found, execution, False)

    def _found(self, execution: ExecutionId, healthy: bool) -> None:
        task = self.tasks.get(execution)
        if task is not None and task.running:
            self.tell(HealthChanged(execution, healthy, "" if healthy else "no answer"))

    def stop(self, execution: ExecutionId) -> None:
        """Ask for its end; it takes a moment."""
        self.world.heap.after(self.world.rng.uniform(0.005, 0.2), self._stopped, execution)

    def remove(self, execution: ExecutionId) -> None:
        task = self.tasks.get(execution)
        if task is not None and not task.running:
            del self.tasks[execution]

    def power_gone(self) -> None:
        for task in self.running:
            task.end(None, "lost: the device went down", self.world.heap.now)
            if self.world.rng.random() < LOST_DIRECTORY:
                del self.tasks[task.execution]

    def _started(self, task: Task) -> None:
        if task.running:
            self.tell(TaskStarted(task.execution))

    def _stopped(self, execution: ExecutionId) -> None:
        task = self.tasks.get(execution)
        if task is not None:
            self._finish(task, TERMINATED, "stopped")

    def _finish(self, task: Task, code: int | None, reason: str) -> None:
        if task.running:
            self.tell(task.end(code, reason, self.world.heap.now))
