"""Volumes: what slots of jobs keep on this device, and what of it may go.

A container's are docker's named volumes, a process's are directories below `root`, which it reaches
by a link. Those of a standing job stay until it is deleted, those of a one-off job as long as
anything is remembered of it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from agent.engines.directories import deleting
from agent.engines.docker import DockerEngine
from agent.engines.removal import remove_tree
from agent.engines.spawner import Spawner
from agent.engines.task import TaskUser
from agent.threads import in_thread
from protocol.effects import StartTask
from protocol.ids import JobId
from protocol.volumes import volume_id

if TYPE_CHECKING:
    from trio_typing import TaskStatus

LOOK_S: Final = 3600.0  # between looks that nobody asked for
FIRST_S: Final = 60.0  # after a start; what was to go may not have gone before
# What is deleted may run for as long as its grace, and more where docker hangs.
AGAIN_S: Final = (0.5, 2.0, 5.0, 15.0, 30.0, 120.0)
DOCKER: Final = ".docker"  # there where docker has some of ours: else it is not even asked
STANDING: Final = "standing-"
ONE_OFF: Final = "one-off-"
ASIDE: Final = ".removed-"
_log = logging.getLogger("shoal.volumes")


class Volumes:
    """`keeps` says whether a job's volumes are wanted, or in use; told job and whether it is a
    standing one."""

    def __init__(
        self,
        root: Path,
        user: TaskUser | None,
        docker: DockerEngine,
        spawner: Spawner | None = None,
    ) -> None:
        """`spawner`: what makes directories `user`'s where the agent is not root."""
        self._root = root
        self._user = user
        self._spawner = spawner
        self._docker = docker
        self.keeps: Callable[[JobId, bool], bool] = lambda job, standing: True
        self._asked = trio.Event()
        self._told: set[str] = set()  # of what cannot be removed

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Remove what nobody wants any more, until cancelled."""
        task_status.started()
        pause_s = FIRST_S
        while True:
            with trio.move_on_after(pause_s):
                await self._asked.wait()
            pause_s = LOOK_S
            pauses = AGAIN_S if self._asked.is_set() else ()
            self._asked = trio.Event()
            await self.prune()
            for pause_s in pauses:
                await trio.sleep(pause_s)
                await self.prune()

    def drop(self) -> None:
        """Something was deleted: look soon."""
        self._asked.set()

    async def prune(self) -> None:
        """What cannot be removed now, because it is in use or docker is away, is so later."""
        self._set_aside()
        try:
            await in_thread(self._remove_aside)
            if (self._root / DOCKER).exists():
                await self._docker.prune_volumes(self._wanted)
        except OSError as error:
            _log.debug("volumes: %s", error)

    async def prepare(self, task: StartTask, work: Path) -> None:
        """Have its volumes ready: of a process, linked into its directory. Raises OSError."""
        engine = task.spec.task.engine.type
        if engine == "docker":
            await in_thread(self._note_docker)
        elif engine == "process":
            await in_thread(self._link, task, work)

    def directories(self, task: StartTask) -> dict[str, Path]:
        """Of a process, by the names of its volumes."""
        kind = STANDING if task.spec.standing else ONE_OFF
        own = self._root / f"{kind}{task.job}"
        names = [volume.name for volume in task.spec.task.volumes]
        return {name: own / volume_id(task.job, task.slot, name) for name in names}

    def _note_docker(self) -> None:
        self._make_root()
        (self._root / DOCKER).touch()

    def _make_root(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        self._root.chmod(0o711 if self._user else 0o700)

    def _link(self, task: StartTask, work: Path) -> None:
        self._make_root()
        directories = self.directories(task)
        for volume in task.spec.task.volumes:
            path = directories[volume.name]
            path.parent.mkdir(exist_ok=True)
            path.parent.chmod(0o711 if self._user else 0o700)
            path.mkdir(mode=0o700, exist_ok=True)
            self._give(path)
            link = work / volume.target.lstrip("/")
            link.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(link):
                raise OSError(f"the volume {volume.name} finds {volume.target} taken by its inputs")
            link.symlink_to(path)

    def _give(self, directory: Path) -> None:
        """Tasks write there. Raises OSError."""
        if self._user is None or directory.lstat().st_uid == self._user.uid:
            return
        if self._spawner is None:
            os.chown(directory, self._user.uid, self._user.gid, follow_symlinks=False)
        elif not self._spawner.give(directory):
            raise OSError(f"the volume {directory} cannot be given to the user of tasks")

    def _set_aside(self) -> None:
        """Whether a job is wanted is asked just before its name is given up, and not in a thread:
        it may be run again under the same id at any moment, and begins with none then."""
        try:
            names = os.listdir(self._root)
        except OSError:
            return
        for name in names:
            for kind in (STANDING, ONE_OFF):
                job = name.removeprefix(kind)
                if job != name and not self._wanted(job, kind == STANDING):
                    aside = f"{ASIDE}{name}.{time.monotonic_ns()}"
                    with contextlib.suppress(OSError):
                        (self._root / name).rename(self._root / aside)

    def _wanted(self, job: str, standing: bool) -> bool:
        return self.keeps(JobId(job), standing)

    def _remove_aside(self) -> None:
        for path in self._root.glob(f"{ASIDE}*"):
            try:
                deleting(path, partial(remove_tree, path), self._spawner)
            except OSError as error:  # immutable, a mount, another's: said once, tried each time
                if path.name not in self._told:
                    self._told.add(path.name)
                    _log.warning("volumes in %s cannot be removed: %s", path, error)
            else:
                _log.info("volumes in %s are removed: nobody wants them any more", path.name)
