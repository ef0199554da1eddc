"""Simulated tasks: they outlive the agent that started them, and end with the power."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Final

from protocol.events import TaskEnded, TaskFound
from protocol.ids import ExecutionId, JobId
from protocol.job import JobSpec, JobType
from protocol.resources import Resources

PROGRAM: Final = "simulate"  # first word of a simulated task's command
TERMINATED: Final = 143  # 128 + SIGTERM
KILLED: Final = 137


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a simulated task does: its command is PROGRAM and these three."""

    shortest_ms: int
    longest_ms: int
    failures_permille: int

    @classmethod
    def of(cls, spec: JobSpec) -> Behaviour:
        _, shortest, longest, failures = spec.task.engine.process.command
        return cls(int(shortest), int(longest), int(failures))

    @property
    def command(self) -> list[str]:
        return [PROGRAM, str(self.shortest_ms), str(self.longest_ms), str(self.failures_permille)]


@dataclass(slots=True)
class Task:
    """One started task on one host; `ended` stays until the agent removes it."""

    execution: ExecutionId
    job: JobId
    resources: Resources
    began: float  # simulated time
    ends: float
    code: int | None
    daemon: bool = False
    service: bool = False
    untouched: bool = False  # it did not begin
    running: bool = True
    ended: TaskEnded | None = None

    @classmethod
    def begin(
        cls,
        execution: ExecutionId,
        job: JobId,
        spec: JobSpec,
        timeout_s: float | None,
        now: float,
        rng: Random,
    ) -> Task:
        """Draw how long it takes and how it ends."""
        behaviour = Behaviour.of(spec)
        lasts = rng.uniform(behaviour.shortest_ms, behaviour.longest_ms) / 1000
        failed = rng.randrange(1000) < behaviour.failures_permille
        code: int | None = rng.choice((1, 2, 139)) if failed else 0
        if timeout_s is not None and lasts > timeout_s:
            lasts, code = timeout_s, KILLED
        daemon, service = spec.type is JobType.DAEMON, spec.type is JobType.SERVICE
        ends = now + lasts
        return cls(execution, job, spec.task.resources, now, ends, code, daemon, service)

    def end(self, code: int | None, reason: str, now: float) -> TaskEnded:
        """It ends now; later ends change nothing."""
        if self.ended is None:
            self.running, self.code = False, code
            duration_ms = int((now - self.began) * 1000)
            self.ended = TaskEnded(self.execution, code, reason, duration_ms, b"out\n", b"")
            self.ended = replace(self.ended, untouched=self.untouched)
        return self.ended

    def found(self) -> TaskFound:
        """What a new agent is told of it."""
        if self.ended is None:
            return TaskFound(self.execution, True)
        ended = self.ended
        return TaskFound(self.execution, False, ended.exit_code, ended.reason, ended.duration_ms)
