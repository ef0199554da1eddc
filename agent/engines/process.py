"""The process engine: starts tasks under supervisors of their own, finds and ends them again."""

import contextlib
import errno
import logging
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import trio

from agent.engines.beside import Place, run_beside
from agent.engines.cgroups import Cgroups
from agent.engines.changes import Changes
from agent.engines.directories import Directories
from agent.engines.engine import FoundExecution
from agent.engines.execution_dir import ExecutionDir, closed_parent
from agent.engines.outputs import Outputs
from agent.engines.rlimits import limited
from agent.engines.sandbox import Sandbox, Status, inside_only
from agent.engines.spawner import Spawner
from agent.engines.supervisor import encode_spec, spec_field
from agent.engines.task import (
    ExecutionRunningError,
    ExitReason,
    TaskExit,
    TaskLaunch,
    TaskUser,
)
from agent.engines.task_log import LogChunk, Stream, offset_since, read_chunk, read_tail
from agent.engines.wasm_end import why
from agent.engines.watch import Watch, sight, spawn

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

TASK_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CHUNK_BYTES_MAX = 64 << 10
FOLLOW_POLL_S = 0.2  # where the kernel does not tell of output; shorter than an eye notices
TERM_AGAIN_S = 0.005
TERM_TRIES = 400
NOT_PREPARED = 4  # supervise.c's exit status when the disk is full


class ProcessEngine:
    """Executions under `root`, one directory each. Nothing that a task does raises here.

    Every method takes ids from the network and raises ValueError for one that is no plain name,
    KeyError for one that it does not know.
    """

    def __init__(
        self,
        root: Path,
        user: TaskUser | None = None,
        path: str = TASK_PATH,
        cgroups: Cgroups | None = None,
        sandbox: Sandbox | None = None,
        spawner: Spawner | None = None,
    ) -> None:
        """Tasks run as `user`; None means the agent's own user. `cgroups` hold them to their
        limits, where there are none rlimits do, as far as they go; `sandbox` keeps them to
        themselves, where there is one. The `spawner` starts them, where the agent is not root."""
        self.directories = Directories(root, user, spawner)
        self.spawner = spawner
        self.root = self.directories.root
        self.user = user
        self._path = path
        self.cgroups = cgroups
        self.sandbox = sandbox
        self.outputs = Outputs()
        self._watches: dict[str, Watch] = {}
        self._turns: dict[str, trio.Lock] = {}  # of those being started or looked for
        closed = closed_parent(self.root, user) if user else None
        self._reachable = closed is None  # by its path, which is what bubblewrap takes
        if closed:
            why = "they cannot reach HOME by its path, nor be kept from writing to what they read"
            _log.warning("%s is closed to tasks: %s", closed, why)

    async def hand_over(self, execution_id: str) -> None:
        """Its inputs are complete: make them the task user's. A spawner does it at the start."""
        if (user := self.user) is not None and self.spawner is None:
            work = self._directory(execution_id).work
            await self._in_thread(lambda: _give_away(work, (user.uid, user.gid)))

    async def start(self, launch: TaskLaunch) -> None:
        """Start it, or adopt it if it was ever started. Failures are told by `wait`."""
        directory = self._directory(launch.execution_id)
        async with self._alone(launch.execution_id):
            if launch.execution_id not in self._watches:
                watch = await self._in_thread(lambda: self._start(directory, launch))
                self._watches[launch.execution_id] = watch
                if watch.exit is not None:
                    self.outputs.end(directory, watch.exit)
        for other in self._watches.values():
            other.reap()

    async def wait(self, execution_id: str) -> TaskExit:
        """Its exit, as soon as its supervisor has recorded it; any number may wait."""
        watch = await self._watch(execution_id)
        while watch.exit is None:
            assert watch.pidfd is not None
            pidfd = os.dup(watch.pidfd)  # trio allows one waiter for each descriptor
            try:
                await trio.lowlevel.wait_readable(pidfd)
            finally:
                os.close(pidfd)
            if watch.exit is None:
                await self._supervisor_gone(execution_id, watch)
        return watch.exit

    async def stop(self, execution_id: str, grace_s: float | None = None) -> None:
        """Ask for its end: TERM, then KILL after the grace (the launch's own by default).

        A later, shorter grace counts; one that has ended stays as it is.
        """
        watch = await self._watch(execution_id)
        if watch.exit is not None:
            return
        directory = self._directory(execution_id)
        grace_ms = None if grace_s is None else max(0, round(grace_s * 1000))
        await self._in_thread(lambda: directory.ask_to_stop(grace_ms))
        if watch.pidfd is not None:
            await _send_term(watch.pidfd)

    async def run_beside(self, execution_id: str, argv: Sequence[str]) -> tuple[int, str]:
        """Run a command where the task runs; its exit code, and the last line it wrote.

        Raises OSError.
        """
        directory = self._directory(execution_id)
        spec = await self._in_thread((directory.path / "spec").read_bytes)
        place = Place.of(spec, directory.work, self.user, self.spawner)
        if (
            spec_field(spec, "sandbox") is not None
        ):  # never outside of it, whatever it told of itself
            place = replace(place, inside=Status.first_process(directory.sandbox))
        return await run_beside(place, argv)

    async def adopt(self) -> list[FoundExecution]:
        """Everything on disk, sorted by id: running, ended, or lost (for good: see look)."""
        found = []
        names = await self._in_thread(self.directories.sweep)
        if self.cgroups is not None:
            cgroups = self.cgroups
            await self._in_thread(lambda: cgroups.sweep(names))
        for execution_id in names:
            watch = await self._watch(execution_id)
            found.append(FoundExecution(execution_id, watch.exit))
        return found

    async def remove(self, execution_id: str) -> None:
        """Delete its directory; unknown is fine. Raises ExecutionRunningError."""
        with contextlib.suppress(KeyError):
            if (await self._watch(execution_id)).exit is None:
                raise ExecutionRunningError(execution_id)
        await self.directories.remove(execution_id)
        if watch := self._watches.pop(execution_id, None):
            watch.reap()

    async def collect(self, execution_id: str, paths: Sequence[str]) -> Path:
        """Its work directory: the files are where it left them."""
        work = self._directory(execution_id).work
        await self._in_thread(lambda: self.directories.take_back(work))
        return work

    async def settle_output(self, execution_id: str) -> str:
        """Its supervisor has counted what found no room."""
        return (await self.wait(execution_id)).lost_output

    async def clear(self, execution_id: str) -> None:
        """Delete the files of a task that has ended; its output stays."""
        directory = self._directory(execution_id)

        def work() -> None:
            self.directories.empty(directory)
            if self.cgroups is not None:
                self.cgroups.remove(execution_id)

        await self._in_thread(work)

    async def cleared(self, execution_id: str) -> bool:
        """Whether that was done."""
        return not await self._in_thread(self._directory(execution_id).work.exists)

    async def of_this_boot(self, execution_id: str) -> bool:
        """Whether it was started since the device booted."""
        return await self._in_thread(self._directory(execution_id).of_this_boot)

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
        """Offsets are bytes, so every place is the same whenever it is read. Raises KeyError for an
        unknown execution where it is followed."""
        path = self._directory(execution_id).path
        if since_ms and tail < 0 and offset == 0:
            offset = await self._in_thread(lambda: offset_since(path, stream, since_ms))
        elif tail >= 0 and offset == 0:
            chunk = await self.tail(execution_id, stream, tail)
            yield chunk
            offset = chunk.next_offset
        with Changes(path) if follow else contextlib.nullcontext() as changes:
            while True:
                if changes is None:
                    chunk = await self.read_log(execution_id, stream, offset)
                else:
                    chunk = await self._follow(execution_id, stream, offset, changes)
                if not chunk.data:
                    return
                yield chunk
                offset = chunk.next_offset

    async def read_log(
        self, execution_id: str, stream: Stream, offset: int, bytes_max: int = CHUNK_BYTES_MAX
    ) -> LogChunk:
        directory = self._directory(execution_id)
        bytes_max = min(bytes_max, CHUNK_BYTES_MAX)
        return await self._in_thread(lambda: read_chunk(directory.path, stream, offset, bytes_max))

    async def tail(self, execution_id: str, stream: Stream, lines_max: int) -> LogChunk:
        """The last lines, in at most 64 KiB; follow on from its `next_offset`."""
        directory = self._directory(execution_id)
        return await self._in_thread(
            lambda: read_tail(directory.path, stream, lines_max, CHUNK_BYTES_MAX)
        )

    async def tails(self, execution_id: str, lines_max: int) -> tuple[LogChunk, LogChunk]:
        """The last lines of stdout and of stderr, read in one go."""
        path = self._directory(execution_id).path
        return await self._in_thread(
            lambda: (
                read_tail(path, "stdout", lines_max, CHUNK_BYTES_MAX),
                read_tail(path, "stderr", lines_max, CHUNK_BYTES_MAX),
            )
        )

    async def _follow(
        self, execution_id: str, stream: Stream, offset: int, changes: Changes
    ) -> LogChunk:
        """Wait for output from `offset` on; no data means that it has ended and all was read."""
        watch = await self._watch(execution_id)
        while True:
            ended = watch.exit is not None  # asked before reading: what it wrote is then complete
            chunk = await self.read_log(execution_id, stream, offset)
            if chunk.data or ended:
                return chunk
            async with trio.open_nursery() as nursery:

                async def end(scope: trio.CancelScope) -> None:
                    await self.wait(execution_id)
                    scope.cancel()

                nursery.start_soon(end, nursery.cancel_scope)
                await changes.wait(FOLLOW_POLL_S)
                nursery.cancel_scope.cancel()

    def close(self) -> None:
        """Let go of all; tasks and their supervisors go on."""
        for watch in self._watches.values():
            watch.reap()
            watch.close()
        self._watches.clear()

    # ---- in the trio thread ----

    def _directory(self, execution_id: str) -> ExecutionDir:
        return self.directories.of(execution_id)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await self.directories.in_thread(work)

    async def _watch(self, execution_id: str) -> Watch:
        if execution_id not in self._watches:
            async with self._alone(execution_id):
                if execution_id not in self._watches:
                    directory = self._directory(execution_id)
                    watch = await self._in_thread(lambda: self._sight(directory))
                    if watch.exit is not None:
                        watch.exit = self._explained(execution_id, watch.exit)
                    self._watches[execution_id] = watch
        watch = self._watches[execution_id]
        if watch.exit is None and watch.over():
            await self._supervisor_gone(execution_id, watch)
        return watch

    @asynccontextmanager
    async def _alone(self, execution_id: str) -> AsyncIterator[None]:
        """Start it or look for it, one at a time: who looks between the spec and the supervisor
        of a start would give it up as lost."""
        turn = self._turns.setdefault(execution_id, trio.Lock())
        try:
            async with turn:
                yield
        finally:
            if not turn.locked():  # nobody waits for it
                self._turns.pop(execution_id, None)

    async def _supervisor_gone(self, execution_id: str, watch: Watch) -> None:
        directory = self._directory(execution_id)
        watch.reap()
        ended = directory.read_exit()  # one small file, just written: ~50 us
        if ended is None:
            if watch.line is not None:
                await self._in_thread(watch.ask_status)
            if watch.status == NOT_PREPARED:
                ended = directory.fail_start(f"its directory: {os.strerror(errno.ENOSPC)}")
            else:
                await self._look_again(directory, watch)
                return
        watch.exit = self._explained(execution_id, ended)
        self.outputs.end(directory, watch.exit)
        watch.close()

    def _explained(self, execution_id: str, ended: TaskExit) -> TaskExit:
        """With its reason where the kernel ended it, or part of it, for want of memory, or where
        a module's child says it."""
        directory = self._directory(execution_id)
        status = Status.read(directory.sandbox)
        if status is not None and ended.reason is ExitReason.EXITED and not status.ended:
            return self._sandbox_failed(execution_id, ended)
        if said := why(directory, ended):
            return replace(ended, detail=said)
        asked = ended.reason not in (ExitReason.EXITED, ExitReason.SIGNALLED)
        # Whatever its exit code: mostly it is a child that was ended, and the program makes its own
        # of that. One that did well without it has nothing to tell.
        well = ended.code == 0 or asked
        if self.cgroups is None or well or not self.cgroups.ran_out(execution_id):
            return ended
        try:
            spec = (directory.path / "spec").read_bytes()
        except OSError:
            return ended
        limit = int(spec_field(spec, "memory") or 0) >> 20
        return replace(
            ended, detail=f"out of memory: it may have {limit} MiB, see Resources.Memory"
        )

    def _sandbox_failed(self, execution_id: str, ended: TaskExit) -> TaskExit:
        """Bubblewrap ended, and the command never ran: another device may do better."""
        path = self._directory(execution_id).path
        said = read_tail(path, "stderr", 1, CHUNK_BYTES_MAX).data.decode("utf-8", "replace").strip()
        why = said.removeprefix("bwrap: ") or "bubblewrap did not say why"
        detail = f"it could not be started in its sandbox: {why}"
        return replace(ended, code=None, reason=ExitReason.START_FAILED, detail=detail)

    async def _look_again(self, directory: ExecutionDir, watch: Watch) -> None:
        """No exit: the supervisor was killed, or was a second one that left it to the first."""

        def look() -> Watch:
            self.outputs.look()  # nobody says any more what it had written
            return sight(directory)

        fresh = await self._in_thread(look)
        if watch.exit is not None:
            fresh.close()
            return
        watch.close()
        watch.pidfd, watch.exit = fresh.pidfd, fresh.exit
        if watch.exit is not None:
            self.outputs.end(directory, watch.exit)

    # ---- in a thread of its own: may block on the disk ----

    def _start(self, directory: ExecutionDir, launch: TaskLaunch) -> Watch:
        user = launch.user or self.user
        try:
            directory.create(user, give=self.spawner is None)
            if not directory.never_started():
                return self._sight(directory)
            groups: tuple[str, ...] = ()
            if self.cgroups is not None:
                groups = self.cgroups.create(launch.execution_id, launch.limits)
            else:
                uid = os.geteuid() if user is None else user.uid
                launch = replace(launch, limits=limited(launch.limits, uid))
            env = self._environment(directory, launch)
            who = None if launch.becomes_user else user
            sandbox = self._sandboxed(directory, launch, env)
            if sandbox:
                env = {name: env[name] for name in env if name not in inside_only(env)}
            directory.write_spec(encode_spec(launch, who, env, groups, sandbox))
            self.outputs.begin(directory, fresh=True)
            return spawn(directory, self.spawner)
        except (OSError, ValueError) as failure:
            return Watch(exit=directory.fail_start(f"it could not be started: {failure}"))

    def _sight(self, directory: ExecutionDir) -> Watch:
        """Raises KeyError if it never was."""
        watch = sight(directory)
        if watch.exit is None:
            self.outputs.begin(directory)
        return watch

    def _sandboxed(
        self, directory: ExecutionDir, launch: TaskLaunch, env: dict[str, str]
    ) -> tuple[str, ...]:
        """The words before its command. Raises OSError where it cannot have what it asked for.

        WebAssembly's child is not put into one: its modules reach nothing but what it hands them.
        Nor is a program that has a directory to read, where that cannot be: then it may write there
        if its user may, as it may anywhere else.
        """
        closed = not launch.network or (self.sandbox is not None and self.sandbox.always)
        reads = not all(launch.shared.values()) and self.sandbox is not None and self._reachable
        if launch.becomes_user or not (closed or reads):
            return ()
        if self.sandbox is None:
            raise OSError("a program without a network needs bubblewrap, which is not here")
        start = directory.work / (launch.cwd or "")
        own, within = (directory.work, directory.tmp), inside_only(env)
        return self.sandbox.prefix(
            start, own, launch.shared, within, network=launch.network, is_open=not closed
        )

    def _environment(self, directory: ExecutionDir, launch: TaskLaunch) -> dict[str, str]:
        """An allow-list: nothing else of the agent's own environment reaches a task."""
        base = {
            "PATH": self._path,
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "HOME": str(directory.work),
            "TMPDIR": str(directory.tmp),
        }
        return {**base, **launch.env}


async def _send_term(pidfd: int) -> None:
    """What the spawner has just begun is root's for a moment more, and not ours to signal."""
    for _ in range(TERM_TRIES):
        with contextlib.suppress(PermissionError):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            return
        await trio.sleep(TERM_AGAIN_S)
    raise PermissionError(errno.EPERM, "its supervisor is not ours to signal")


def _give_away(tree: Path, owner: tuple[int, int]) -> None:
    """Make everything below `tree` the task user's, itself last: until then no other task of that
    user comes in, and puts a link where a directory was."""
    for directory, names, files in os.walk(tree):
        for name in (*names, *files):
            os.chown(Path(directory) / name, *owner, follow_symlinks=False)
    os.chown(tree, *owner, follow_symlinks=False)
