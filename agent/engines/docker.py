"""The docker engine: starts containers, hears of their ends, finds them again.

What runs is docker's: while the agent is away the containers go on, and nothing of the agent runs
for one that runs. One stream of events tells of ends; where it breaks, all of them are looked at.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import shutil
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from agent.archives import FREE_BYTES_MIN
from agent.engines.container import ContainerLaunch
from agent.engines.container_files import RESULT_BYTES_MAX, fetch_files, open_up
from agent.engines.directories import Directories
from agent.engines.docker_client import DockerClient, EngineFailed, NotAnswering
from agent.engines.docker_ends import GIVE_UP_S, RUNS, DockerEnds
from agent.engines.docker_held import Held, note_start, read_start
from agent.engines.docker_link import AGAIN_S, DockerLink
from agent.engines.docker_log import (
    before,
    begins_late,
    kept_lines,
    kept_log,
    read_kept,
    whole_chunk,
)
from agent.engines.docker_output import DockerOutput
from agent.engines.docker_start import start_container, why_not_started
from agent.engines.engine import FoundExecution
from agent.engines.images import Images
from agent.engines.ports import Ports
from agent.engines.presence import Presence
from agent.engines.removal import remove_tree
from agent.engines.supervisor import boot_id
from agent.engines.task import ExecutionRunningError, TaskExit, is_execution_id
from agent.engines.task_log import STREAMS, LogChunk, Stream
from agent.threads import abandonable

if TYPE_CHECKING:
    from trio_typing import TaskStatus

PRESENCE_S: Final = 15.0  # between looks at whether docker is there
ADOPT_S: Final = 20.0  # for docker's word on what earlier lives left; without it, it runs for us
SAID_BYTES_MAX: Final = 4096
TAILS_S: Final = 20.0  # for the last lines of a stream, before its end is told without
_log = logging.getLogger("shoal.docker")


class DockerEngine:
    """Executions as containers, with a directory each under `root` for what is kept of them.

    As engine.Engine has it. Where docker does not answer, OSError says so.
    """

    def __init__(self, root: Path, socket: Path, owner: str) -> None:
        """`owner`: the peer whose containers these are; two agents may share one docker."""
        self.directories = Directories(root, None)
        expected = any(
            is_execution_id(name) and self.directories.of(name).unfinished()
            for name in os.listdir(root)
        )
        self.presence = Presence(socket, expected=expected)
        self._link = DockerLink(
            lambda: DockerClient(socket, owner), self._on_event, self._look_at_all
        )
        self.images = Images(self._link, self.presence, root.parent / "images.json")
        self.ports = Ports()
        self._volumes = trio.Lock()  # of those being made or removed
        self._held: dict[str, Held] = {}
        self._output = DockerOutput(self.directories, self._link, self._held)
        self._ends = DockerEnds(self.directories, self._link)
        self._collecting = trio.CapacityLimiter(1)  # the card's whole width, as for packing
        self._turns: dict[str, trio.Lock] = {}  # of those being started
        self._adopted = False  # what is not held then is a stray

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; containers go on."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._link.run)
            nursery.start_soon(self.images.run)
            await self.presence.look()
            task_status.started()
            while True:
                await trio.sleep(PRESENCE_S)
                await self.presence.look()
                if not self.presence.trouble:
                    self._link.look_again()

    # ---- lives -------------------------------------------------------------------------------

    async def hand_over(self, execution_id: str) -> None:
        """A container's user is anybody: all may read what is mounted into it."""
        work = self.directories.of(execution_id).work
        await self.directories.in_thread(lambda: open_up(work))

    async def start(self, launch: ContainerLaunch) -> None:
        """Start it, unless it was ever started. Failures are told by `wait`."""
        name, directory = launch.execution_id, self.directories.of(launch.execution_id)
        async with self._alone(name):
            if name in self._held:
                return
            held = self._held[name] = Held(
                launch.stop_grace_s, launch.memory_bytes, boot_id(), 2 * launch.log_bytes_max
            )
            asking = False
            try:
                # Before docker is asked: whatever becomes of it, this execution is docker's.
                await self.directories.in_thread(lambda: note_start(directory, launch))
                client = await self._link.client()
                asking = True
                start = partial(start_container, client, directory, launch, self.ports)
                async with self._volumes if launch.volumes else contextlib.nullcontext():
                    await self._link.ask(start)
            except (OSError, ValueError) as failure:
                ended = directory.fail_start(why_not_started(failure))
                asked = asking and isinstance(failure, NotAnswering)
                held.end(replace(ended, may_begin=asked))
                self._link.spawn(self._discard, name)
                return
            held.started = True
        if launch.timeout_s is not None:
            self._link.spawn(self._ends.end_in_time, name, held, launch.timeout_s)

    async def wait(self, execution_id: str) -> TaskExit:
        held = self._known(execution_id)
        await held.ended.wait()
        assert held.exit is not None
        return held.exit

    async def stop(self, execution_id: str, grace_s: float | None = None) -> None:
        """A later, shorter grace counts; one that has ended stays as it is."""
        async with self._alone(execution_id):  # it may be about to start
            held = self._known(execution_id)
        if held.exit is None:
            held.stopping = True
            self._ends.bring_down(execution_id, held, held.grace_s if grace_s is None else grace_s)

    async def run_beside(self, execution_id: str, argv: Sequence[str]) -> tuple[int, str]:
        """Cancelled, what was started is left to its end in the container."""
        held, client = self._known(execution_id), await self._link.client()
        code, said = await abandonable(
            lambda: client.run_beside(execution_id, list(argv), SAID_BYTES_MAX), held.beside
        )
        lines = said.decode("utf-8", "replace").strip().splitlines()
        return code, (lines[-1] if lines else "")

    async def collect(self, execution_id: str, paths: Sequence[str]) -> Path:
        """Take its files out of the container, regular ones only, within bounds."""
        self._known(execution_id)
        out = self.directories.of(execution_id).tmp / "out"
        given_up, give_up_at = threading.Event(), math.inf

        def fetch(client: DockerClient) -> None:
            left = RESULT_BYTES_MAX
            for path in paths:
                left -= fetch_files(client, execution_id, path, out, left, given_up)

        try:
            while True:
                try:
                    client = await self._link.client()
                    await abandonable(partial(fetch, client), self._collecting)
                    return out
                except NotAnswering:  # its container stays, so docker may be there again
                    await self.directories.in_thread(lambda: remove_tree(out))
                    give_up_at = min(give_up_at, trio.current_time() + GIVE_UP_S)
                    if trio.current_time() >= give_up_at:
                        raise
                    await trio.sleep(AGAIN_S)
        except BaseException:  # what is no result shall not fill the disk either
            with trio.CancelScope(shield=True):
                await self.directories.in_thread(lambda: remove_tree(out))
            raise
        finally:
            given_up.set()

    async def settle_output(self, execution_id: str) -> str:
        """Little output stays with its container until it is cleared, after its end was told. Of
        more, docker may have dropped some, and so may a disk with little room: it is kept first, so
        that its loss is told as well."""
        held = self._known(execution_id)
        tight = await self.directories.in_thread(self._is_tight)
        if tight:
            with contextlib.suppress(OSError), trio.move_on_after(TAILS_S) as scope:
                await self._link.client()
                scope.deadline = math.inf  # the calls have bounds of their own
                await self.clear(execution_id)
        elif held.told and held.output is None:  # else there may be more to come
            # It is not broken off where it takes longer: whoever clears waits for it, and finds it.
            done = trio.Event()
            self._link.spawn(self._keep, execution_id, done)
            with trio.move_on_after(TAILS_S):
                await done.wait()
        return held.lost_output

    async def _keep(self, execution_id: str, done: trio.Event) -> None:
        try:
            async with self._alone(execution_id):
                if self.directories.of(execution_id).read_exit() is None:
                    await self._output.keep(execution_id)
        finally:
            done.set()

    def _is_tight(self) -> bool:
        return shutil.disk_usage(self.directories.root).free < FREE_BYTES_MIN

    async def clear(self, execution_id: str) -> None:
        """Keep its output and how it ended, and let the container go."""
        held, directory = self._known(execution_id), self.directories.of(execution_id)
        assert held.exit is not None, execution_id
        held.clearing, ended = True, held.exit
        known, held.output = held.output, None
        async with self._alone(execution_id):  # who looks at all of them clears as well
            await self.directories.clear(execution_id)  # first: it may be what fills the disk
            if directory.read_exit() is not None:
                return  # its container went, or is left over
            await self._output.keep(execution_id, known)
            ended = replace(ended, lost_output=held.lost_output)
            try:
                await self.directories.in_thread(lambda: directory.record(ended))
            except OSError:  # what the container wrote may be what fills the disk
                await self._discard(execution_id)
                self._link.doubt()  # should it be full even so
                await self.directories.in_thread(lambda: directory.record(ended))
                return
            await self._link.trying(self._discard, execution_id)

    async def cleared(self, execution_id: str) -> bool:
        """Whether that was done, as far as it could be."""
        return self.directories.of(execution_id).read_exit() is not None

    async def remove(self, execution_id: str) -> None:
        """Delete all of it; unknown is fine. Raises ExecutionRunningError."""
        self.directories.of(execution_id)  # ValueError for what is no id
        held = self._held.get(execution_id)
        if held is not None:
            if held.exit is None:
                raise ExecutionRunningError(execution_id)
            if self.directories.of(execution_id).read_exit() is None:
                await self._discard(execution_id)  # else that was done, or is a stray's to be
        await self.directories.remove(execution_id)
        self._held.pop(execution_id, None)

    async def prune_volumes(self, keeps: Callable[[str, bool], bool]) -> None:
        """Remove volumes of jobs that want none any more, told job and whether it is a standing
        one. Raises EngineFailed."""
        client = await self._link.client()
        for name, job, standing in await self._link.ask(client.volumes):
            async with self._volumes:  # what is being started may have been deleted and run again
                if not keeps(job, standing):
                    await self._remove_volume(client, name)

    async def _remove_volume(self, client: DockerClient, name: str) -> None:
        try:
            await self._link.ask(partial(client.remove_volume, name))
        except NotAnswering:
            raise
        except EngineFailed as error:  # its container is not gone yet
            _log.debug("volume %s stays: %s", name, error)
        else:
            _log.info("volume %s is removed: nobody wants it any more", name)

    async def of_this_boot(self, execution_id: str) -> bool:
        return await self.directories.in_thread(self.directories.of(execution_id).of_this_boot)

    # ---- earlier lives -----------------------------------------------------------------------

    async def adopt(self) -> list[FoundExecution]:
        """Where docker does not answer in time, what has not ended runs for all we know; the truth
        comes with `wait`."""
        names = await self.directories.in_thread(self.directories.sweep)
        statuses: dict[str, str] | None = {}
        fresh = [name for name in names if name not in self._held]
        if any(self.directories.of(name).read_exit() is None for name in fresh):
            statuses = None
            with contextlib.suppress(EngineFailed), trio.move_on_after(ADOPT_S):
                client = await self._link.client()
                statuses = await self._link.ask(client.all)
        found = []
        for name in names:
            try:
                if name not in self._held:
                    await self._adopt(name, statuses)
            except OSError as error:  # it runs for all we know, until docker says more
                _log.warning("adopting %s: %s", name, error)
                self._link.doubt()
            if name in self._held:
                found.append(FoundExecution(name, self._held[name].exit))
        self._adopted = True
        if statuses is not None and any(each.exit is None for each in found):
            # One that ended since docker was asked, and before it was held, is heard of by nobody.
            self._link.spawn(self._look_at_all)
        return found

    async def _adopt(self, name: str, statuses: dict[str, str] | None) -> None:
        directory = self.directories.of(name)
        held, left_s = await self.directories.in_thread(lambda: read_start(directory))
        self._held[name] = held
        if (ended := directory.read_exit()) is not None:
            held.lost_output = ended.lost_output
            held.end(ended)
            return
        if statuses is None:
            self._link.spawn(self._link.when_there)
        elif statuses.get(name) not in RUNS:
            await self._ends.settle(name, held)
        if held.exit is None and left_s is not None:
            self._link.spawn(self._ends.end_in_time, name, held, left_s)

    # ---- output ------------------------------------------------------------------------------

    async def tails(self, execution_id: str, lines_max: int) -> tuple[LogChunk, LogChunk]:
        """Empty where docker or the disk does not give it: that is no reason not to tell of an
        end."""
        found: dict[Stream, Iterable[bytes]] = {}
        with contextlib.suppress(OSError, KeyError, ValueError), trio.move_on_after(TAILS_S):
            directory = self.directories.of(execution_id)
            if directory.read_exit() is None:
                await self._output.last_lines(execution_id, lines_max, found)
            else:
                found = await self.directories.in_thread(lambda: kept_lines(directory, lines_max))
        out, err = (whole_chunk(found.get(stream, ())) for stream in STREAMS)
        return out, err

    async def log(
        self,
        execution_id: str,
        stream: Stream,
        offset: int,
        tail: int,
        follow: bool,
        since_ms: int = 0,
        single: bool = False,
    ) -> AsyncGenerator[LogChunk, None]:
        """Offsets are docker_log's. Raises KeyError while it has not started.

        Docker drops its oldest output and tells nobody. With `single` a chunk says where that may
        be so, as far as it can be seen; not what docker drops from before a slow reader."""
        directory, lines = self.directories.of(execution_id), tail if offset == 0 else -1
        if since_ms and lines < 0 and offset == 0:
            offset = before(since_ms)
        if directory.read_exit() is None:
            if not self._known(execution_id).started:
                raise KeyError(execution_id)
            found = self._output.read(execution_id, stream, offset, lines, follow, single)
            async with aclosing(found) as came:
                async for chunk in came:
                    yield chunk
                    offset, lines = max(offset, chunk.end), -1
        if (known := directory.read_exit()) is None:
            return
        if offset == 0 and known.lost_output and not kept_log(directory, stream).exists():
            raise OSError(errno.ENODATA, known.lost_output)
        gap = single and offset == 0 and begins_late(known.lost_output)
        kept = read_kept(kept_log(directory, stream), offset, lines, single)
        while (more := await self.directories.in_thread(lambda: next(kept, None))) is not None:
            yield replace(more, gap=True) if gap else more
            gap = False

    # ---- docker's word -----------------------------------------------------------------------

    def _on_event(self, execution_id: str, action: str) -> None:
        held = self._held.get(execution_id)
        if held is not None:
            self._ends.hear(execution_id, held, action)

    async def _look_at_all(self) -> None:
        """What docker has, against what is held: ends that nobody heard, strays, leftovers."""
        client = await self._link.client()
        statuses = await self._link.ask(client.all)
        for name, held in list(self._held.items()):
            if held.exit is None and held.started and statuses.get(name) not in RUNS:
                await self._link.trying(self._ends.settle, name, held)
        for name, held in list(self._held.items()):
            if held.clearing and self.directories.of(name).read_exit() is None:
                # Docker was not there when it was to be cleared.
                await self._link.trying(self.clear, name)
        for name in statuses:
            if self._is_left_over(name):
                await self._link.trying(self._discard, name)

    def _is_left_over(self, name: str) -> bool:
        """A container that nobody asks for any more: of a removed execution, of one that could not
        be started for all we heard, or that docker was not there to remove."""
        if name in self._held:
            return self.directories.of(name).read_exit() is not None
        return self._adopted and name not in self._turns

    # ---- of one execution --------------------------------------------------------------------

    def _known(self, execution_id: str) -> Held:
        self.directories.of(execution_id)  # ValueError for what is no id
        return self._held[execution_id]

    async def _discard(self, execution_id: str) -> None:
        client = await self._link.client()
        await self._link.ask(lambda: client.remove(execution_id))
        self.images.container_went()

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        turn = self._turns.setdefault(name, trio.Lock())
        try:
            async with turn:
                yield
        finally:
            if not turn.locked():  # nobody waits for it
                self._turns.pop(name, None)
