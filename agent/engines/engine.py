"""An engine: what runs tasks. What all of them do, and which of them has an execution."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agent.engines.directories import Directories
from agent.engines.task import TaskExit
from agent.engines.task_log import LogChunk, Stream

if TYPE_CHECKING:
    from agent.engines.docker import DockerEngine
    from agent.engines.process import ProcessEngine
    from agent.engines.wasm import Wasm


class Crowded(OSError):
    """As many read there as may or can, as the sentence says; in a while there may be a place."""


@dataclass(frozen=True, slots=True)
class FoundExecution:
    """An execution of an earlier agent; it runs while `exit` is None."""

    execution_id: str
    exit: TaskExit | None


class Engine(Protocol):
    """Nothing that a task does raises here. Every method raises ValueError for an id that is no
    plain name, KeyError for one that it does not know, OSError where disk or engine fail."""

    directories: Directories

    async def hand_over(self, execution_id: str) -> None:
        """Its inputs are complete: make them the task's."""

    async def wait(self, execution_id: str) -> TaskExit:
        """Its exit, as soon as it is known; any number may wait."""

    async def stop(self, execution_id: str, grace_s: float | None = None) -> None:
        """Ask for its end: TERM, then KILL after the grace (the launch's own by default)."""

    async def run_beside(self, execution_id: str, argv: Sequence[str]) -> tuple[int, str]:
        """Run a command where the task runs; its exit code, and the last line it wrote."""

    async def adopt(self) -> list[FoundExecution]:
        """All that earlier lives of the agent left."""

    async def collect(self, execution_id: str, paths: Sequence[str]) -> Path:
        """The directory below which its files at these paths can be read, once it has ended."""

    async def settle_output(self, execution_id: str) -> str:
        """Once it has ended: what of its output is not kept, and why, in a sentence."""

    async def clear(self, execution_id: str) -> None:
        """Delete the files of a task that has ended; its output stays."""

    async def cleared(self, execution_id: str) -> bool:
        """Whether that was done: its end was told, or its output read to be, by then."""

    async def remove(self, execution_id: str) -> None:
        """Delete all of it; unknown is fine. Raises ExecutionRunningError."""

    async def of_this_boot(self, execution_id: str) -> bool:
        """Whether it was started since the device booted."""

    def log(
        self,
        execution_id: str,
        stream: Stream,
        offset: int,
        tail: int,
        follow: bool,
        since_ms: int = 0,
        single: bool = False,
    ) -> AsyncGenerator[LogChunk, None]:
        """Its output from `offset` on. Where that is 0, the last `tail` lines if that is not
        negative, else what was written since that Unix time. With `follow` what comes, until its
        end. With `single` each chunk ends at a place that is the same whenever it is read, so that
        its end is an offset to keep; and a container's say where output before them may be gone.
        Raises Crowded where it cannot be followed just now."""

    async def tails(self, execution_id: str, lines_max: int) -> tuple[LogChunk, LogChunk]:
        """The last lines of stdout and of stderr."""


@dataclass(frozen=True, slots=True)
class Engines:
    """All engines of this agent."""

    process: ProcessEngine
    docker: DockerEngine | None = None
    wasm: Wasm | None = None  # whose tasks are processes

    def of(self, execution_id: str) -> Engine:
        """The one that has it; where none has, one that says so."""
        with suppress(ValueError):
            if self.docker is not None and self.docker.directories.has(execution_id):
                return self.docker
        return self.process

    @property
    def directories(self) -> tuple[Directories, ...]:
        """Of all that have some."""
        found = (self.process.directories,)
        return found if self.docker is None else (*found, self.docker.directories)

    def named(self, name: str) -> Engine:
        """Raises KeyError for one that is not here."""
        if name == "process" or (name == "wasm" and self.wasm is not None):
            return self.process
        if name == "docker" and self.docker is not None:
            return self.docker
        raise KeyError(name)

    async def adopt(self) -> list[FoundExecution]:
        found = await self.process.adopt()
        return found + await self.docker.adopt() if self.docker is not None else found
