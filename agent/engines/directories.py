"""The directories of an engine's executions: one each below its root, made and read in threads."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import trio

from agent.engines.execution_dir import ExecutionDir
from agent.engines.removal import remove_tree
from agent.engines.spawner import Spawner
from agent.engines.task import TaskUser, check_execution_id, is_execution_id
from agent.threads import in_thread

_T = TypeVar("_T")
_TRASH: Final = ".removed-"
_log = logging.getLogger(__name__)
TAKES_MAX: Final = 64
THREADS_MAX: Final = 8  # an SD card gains nothing from more


def take_back(tree: Path, spawner: Spawner) -> None:
    if not spawner.take(tree):
        _log.debug("%s: not all of it could be taken back", tree)


def deleting(tree: Path, delete: Callable[[], None], spawner: Spawner | None) -> None:
    """Where what is in `tree` is the task user's, take it back first: the spawner goes down a
    thousand levels at a time, and deleting brings what is further down nearer.

    Blocks; raises OSError.
    """
    for _ in range(TAKES_MAX):
        try:
            return delete()
        except PermissionError:
            if spawner is None:
                raise
        take_back(tree, spawner)
    raise PermissionError(errno.EACCES, "too many directories within each other", str(tree))


class Directories:
    """Every method takes ids from the network and raises ValueError for one that is no plain name,
    and OSError where the disk does not do it."""

    def __init__(self, root: Path, user: TaskUser | None, spawner: Spawner | None = None) -> None:
        """`user`: whom their work directories belong to; None is the agent's own. With a `spawner`
        that is so while a task runs: before and after, they are the agent's."""
        self.root = root.resolve()
        self.user = user
        self.spawner = spawner
        self._limiter = trio.CapacityLimiter(THREADS_MAX)
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o711 if user else 0o700)

    def of(self, execution_id: str) -> ExecutionDir:
        check_execution_id(execution_id)
        return ExecutionDir(self.root / execution_id)

    def all(self) -> list[ExecutionDir]:
        """Those on disk, also what was only prepared. Blocks."""
        return [self.of(name) for name in sorted(os.listdir(self.root)) if is_execution_id(name)]

    def has(self, execution_id: str) -> bool:
        return os.path.isdir(self.of(execution_id).path)

    async def in_thread(self, work: Callable[[], _T]) -> _T:
        return await in_thread(work, limiter=self._limiter)

    async def prepare(self, execution_id: str) -> Path:
        """Make the work directory, before start; whose it is does not change."""
        directory = self.of(execution_id)
        await self.in_thread(lambda: self.make(directory))
        return directory.work

    async def begin(self, execution_id: str) -> Path:
        """An empty work directory for its inputs. It is the agent's own until `hand_over`: other
        tasks are the same user, and could put a link where the agent is about to write."""
        directory = self.of(execution_id)

        def work() -> None:
            self.make(directory)
            if self.user is not None and directory.never_started():
                self._deleting(directory.path, lambda: remove_tree(directory.work))
                directory.work.mkdir(mode=0o700)

        await self.in_thread(work)
        return directory.work

    def make(self, directory: ExecutionDir) -> None:
        """Its directories, the agent's own until it is started. Blocks; raises OSError."""
        directory.create(self.user, give=False)

    @property
    def owner(self) -> int | None:
        """The user, by number, whose files a task's results are; None where all may be."""
        if self.user is None:
            return None
        return self.user.uid if self.spawner is None else os.geteuid()

    def take_back(self, tree: Path) -> None:
        """What a task that has ended left is the agent's again. Blocks; raises OSError."""
        if self.spawner is not None:
            take_back(tree, self.spawner)

    async def clear(self, execution_id: str) -> None:
        """Delete the files of a task that has ended; its output stays."""
        directory = self.of(execution_id)
        await self.in_thread(lambda: self.empty(directory))

    def empty(self, directory: ExecutionDir) -> None:
        """As `clear`; blocks."""
        self._deleting(directory.path, directory.clear)

    async def write_note(self, execution_id: str, name: str, data: bytes) -> None:
        """Keep something beside it until it is removed, out of its task's reach."""
        directory = self.of(execution_id)

        def write() -> None:
            self.make(directory)
            directory.write_note(name, data)

        await self.in_thread(write)

    async def read_note(self, execution_id: str, name: str) -> bytes | None:
        """What was kept under this name; None where nothing was."""
        directory = self.of(execution_id)
        return await self.in_thread(lambda: directory.read_note(name))

    async def remove(self, execution_id: str) -> None:
        """Delete all that is kept of it; unknown is fine."""
        directory = self.of(execution_id)
        await self.in_thread(lambda: self._remove(directory))

    def sweep(self) -> list[str]:
        """The ids on disk; finishes removals that a crash cut short. Blocks."""
        names = sorted(os.listdir(self.root))
        for name in names:
            if name.startswith(_TRASH):
                self._remove_quietly(self.root / name)
        return [name for name in names if is_execution_id(name) and self.of(name).known()]

    def _remove(self, directory: ExecutionDir) -> None:
        """Its name is free at once, and a crash half-way leaves no half of an execution."""
        trash = self.root / f"{_TRASH}{directory.path.name}.{time.monotonic_ns()}"
        try:
            directory.path.rename(trash)
        except FileNotFoundError:
            return
        self._remove_quietly(trash)

    def _deleting(self, tree: Path, delete: Callable[[], None]) -> None:
        deleting(tree, delete, self.spawner)

    def _remove_quietly(self, path: Path) -> None:
        try:
            self._deleting(path, lambda: remove_tree(path))
        except OSError:
            _log.warning("%s is not removed", path, exc_info=True)  # again at the next start
