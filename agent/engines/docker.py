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
import re
import shutil
import threading
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from agent.archives import FREE_BYTES_MIN
from agent.engines.container import ContainerLaunch, create_options, host_options, with_ports
from agent.engines.container_exit import exit_of, lost
from agent.engines.container_files import (
    RESULT_BYTES_MAX,
    fetch_files,
    open_up,
    open_volumes,
    put_files,
)
from agent.engines.directories import Directories
from agent.engines.docker_client import (
    KILL,
    DockerClient,
    EngineFailed,
    NotAnswering,
    NotThere,
)
from agent.engines.docker_flood import POLL_S, Flooded, Flow, Readings, flood_of, pieces
from agent.engines.docker_link import LATE_S, DockerLink
from agent.engines.docker_live import READERS_MAX, check_place, live
from agent.engines.docker_log import (
    Places,
    before,
    before_last,
    begins_late,
    chunks,
    has_dropped,
    keep_logs,
    kept_lines,
    kept_log,
    read_kept,
    second_of,
    whole_chunk,
)
from agent.engines.docker_repeats import Repeats, tells_lines_apart
from agent.engines.engine import FoundExecution
from agent.engines.execution_dir import ExecutionDir
from agent.engines.images import Images
from agent.engines.ports import NOTE, Ports, note_of
from agent.engines.presence import Presence
from agent.engines.removal import remove_tree
from agent.engines.supervisor import boot_id, spec_field
from agent.engines.task import ExecutionRunningError, TaskExit, is_execution_id
from agent.engines.task_log import STREAMS, LogChunk, Stream
from agent.threads import abandonable

if TYPE_CHECKING:
    from trio_typing import TaskStatus

PRESENCE_S: Final = 15.0  # between looks at whether docker is there
ADOPT_S: Final = 20.0  # for docker's word on what earlier lives left; without it, it runs for us
KILL_S: Final = 10.0  # for docker to carry out a KILL, before it is told again
GIVE_UP_S: Final = 90.0  # past the grace: docker hangs, and what it runs is given up
SAID_BYTES_MAX: Final = 4096
KNOWN_BYTES_MAX: Final = 64 << 10  # of an execution, held from its end until it is kept
TAILS_S: Final = 20.0  # for the last lines of a stream, before its end is told without
PORT_TRIES: Final = 8  # ports that others took a moment before
_TAKEN: Final = re.compile(r"port is already allocated|address already in use", re.IGNORECASE)
AGAIN_S: Final = 0.5  # before output is asked for again that docker broke off
RUNS: Final = ("running", "paused", "restarting")
_log = logging.getLogger("shoal.docker")


@dataclass(slots=True)
class _Held:
    """What the agent holds of one execution."""

    grace_s: float
    memory_bytes: int
    boot: str
    started: bool = False  # docker has taken it
    ended: trio.Event = field(default_factory=trio.Event)
    exit: TaskExit | None = None
    stopping: bool = False
    timed_out: bool = False
    killed: bool = False  # through docker, by somebody else
    expected: bool = False  # docker may start it yet
    kill_at: float | None = None  # trio's clock; None while nobody brings it down
    clearing: bool = False  # whoever wanted its files has them
    told: bool = False  # docker has told of its end: nothing is written any more
    output: Mapping[Stream, Iterable[bytes]] | None = None  # all of it, where that is little
    kept: bool = False  # its output is, beside its container
    output_bytes: int = 0  # see Seen
    lost_output: str = ""
    beside: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))

    def end(self, exit: TaskExit) -> None:
        if self.exit is None:
            self.exit = exit
            self.ended.set()


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
        self._held: dict[str, _Held] = {}
        self._readers = trio.CapacityLimiter(READERS_MAX)
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
            held = self._held[name] = _Held(launch.stop_grace_s, launch.memory_bytes, boot_id())
            asking = False
            try:
                # Before docker is asked: whatever becomes of it, this execution is docker's.
                await self.directories.in_thread(lambda: _note(directory, launch))
                client = await self._link.client()
                asking = True
                start = partial(_start, client, directory, launch, self.ports)
                async with self._volumes if launch.volumes else contextlib.nullcontext():
                    await self._link.ask(start)
            except (OSError, ValueError) as failure:
                ended = directory.fail_start(_why_not_started(failure))
                asked = asking and isinstance(failure, NotAnswering)
                held.end(replace(ended, may_begin=asked))
                self._link.spawn(self._discard, name)
                return
            held.started = True
        if launch.timeout_s is not None:
            self._link.spawn(self._end_in_time, name, held, launch.timeout_s)

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
            self._bring_down(execution_id, held, held.grace_s if grace_s is None else grace_s)

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
                    await self._keep_output(execution_id)
        finally:
            done.set()

    async def _keep_output(
        self, execution_id: str, known: Mapping[Stream, Iterable[bytes]] | None = None
    ) -> None:
        """Once. Raises EngineFailed."""
        held, directory = self._known(execution_id), self.directories.of(execution_id)
        if held.kept:
            return
        client, bytes_max = await self._link.client(), held.output_bytes
        lost = await self._link.ask(lambda: keep_logs(client, directory, known, bytes_max))
        held.lost_output, held.kept = lost or held.lost_output, True

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
            await self._keep_output(execution_id, known)
            ended = replace(ended, lost_output=held.lost_output)
            try:
                await self.directories.in_thread(lambda: directory.record(ended))
            except OSError:  # what the container wrote may be what fills the disk
                await self._discard(execution_id)
                self._link.doubt()  # should it be full even so
                await self.directories.in_thread(lambda: directory.record(ended))
                return
            await self._trying(execution_id, self._discard(execution_id))

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
        held, left_s = await self.directories.in_thread(lambda: _read_spec(directory))
        self._held[name] = held
        if (ended := directory.read_exit()) is not None:
            held.lost_output = ended.lost_output
            held.end(ended)
            return
        if statuses is None:
            self._link.spawn(self._link.when_there)
        elif statuses.get(name) not in RUNS:
            await self._settle(name, held)
        if held.exit is None and left_s is not None:
            self._link.spawn(self._end_in_time, name, held, left_s)

    # ---- output ------------------------------------------------------------------------------

    async def tails(self, execution_id: str, lines_max: int) -> tuple[LogChunk, LogChunk]:
        """Empty where docker or the disk does not give it: that is no reason not to tell of an
        end."""
        found: dict[Stream, Iterable[bytes]] = {}
        with contextlib.suppress(OSError, KeyError, ValueError), trio.move_on_after(TAILS_S):
            directory = self.directories.of(execution_id)
            if directory.read_exit() is None:
                await self._last_lines(execution_id, lines_max, found)
            else:
                found = await self.directories.in_thread(lambda: kept_lines(directory, lines_max))
        out, err = (whole_chunk(found.get(stream, ())) for stream in STREAMS)
        return out, err

    async def _last_lines(
        self, execution_id: str, count: int, found: dict[Stream, Iterable[bytes]]
    ) -> None:
        """Into `found`, as it comes. Where that is all, it is remembered for when the container
        goes: a question to docker is as much work for a small device as most of the agent's own."""
        held, client = self._known(execution_id), await self._link.client()
        over = held.told

        async def ask(streams: Sequence[Stream], tail: int) -> bool:
            # Nobody who follows, for hours perhaps, keeps this waiting.
            work = partial(client.last_lines, execution_id, streams, tail, count)
            try:
                last, whole = await abandonable(work)
            except NotAnswering:
                self._link.doubt()
                raise
            found.update(last)
            size = sum(len(frame) for frames in last.values() for frame in frames)
            # So little of what docker keeps that it has dropped none.
            few = size <= min(KNOWN_BYTES_MAX, held.output_bytes // 4 or KNOWN_BYTES_MAX)
            if over and whole and few and streams == STREAMS and not held.clearing:
                held.output = last
            return whole

        if not await ask(STREAMS, count):
            for stream in STREAMS:  # docker has counted the lines of both
                if sum(1 for _ in found[stream]) < count:
                    await ask((stream,), -1)

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
            found = self._of_docker(execution_id, stream, offset, lines, follow, single)
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

    async def _of_docker(
        self,
        execution_id: str,
        stream: Stream,
        offset: int,
        lines: int,
        follow: bool,
        single: bool,
    ) -> AsyncGenerator[LogChunk, None]:
        """Until it is the directory's, or without `follow` to its end for now."""
        directory, gap, ended = self.directories.of(execution_id), False, False
        flood: Readings | None = None
        while not ended:
            held = self._known(execution_id)
            over = held.exit is not None
            follows = follow and not over and flood is None
            size, pause_s = 0, AGAIN_S
            if flood is not None:
                flood.begin()
            # Docker may end what is followed without the last lines where the container ends at
            # that moment, so once its end is known it is read once more, up to where it is now.
            try:
                if lines > 0:
                    offset = await self._before_last(execution_id, stream, lines, follow)
                    lines = -1
                gap = single and offset == 0 and await self._has_dropped(execution_id, follow)
                read = self._live(execution_id, stream, offset, lines, follows, single)
                async with aclosing(read) as found:
                    async for chunk in found:
                        came = trio.current_time()
                        yield replace(chunk, gap=True) if gap else chunk
                        offset, lines, gap = max(offset, chunk.end), -1, False
                        if flood is not None:
                            size += len(chunk.data)
                            flood.lent_s += trio.current_time() - came
            except Flooded:
                flood, pause_s = Readings(flood_of(held.output_bytes)), POLL_S
            except NotThere:
                if over or not follow:
                    raise
            except EngineFailed:
                if not follow:
                    raise
            else:
                if over or not follow:
                    break
                if flood is not None:
                    pause_s, flood = (0.0, None) if flood.calm(size) else (flood.pause_s(), flood)
            if over:  # docker is away
                await trio.sleep(AGAIN_S)
            with trio.move_on_after(pause_s):  # its end is about to be heard of
                await held.ended.wait()
            ended = directory.read_exit() is not None

    async def _has_dropped(self, execution_id: str, follow: bool) -> bool:
        """As by _before_last, all of the output is read for it."""
        if follow:
            check_place(self._readers)
        client = await self._link.client()
        work = partial(has_dropped, client, execution_id)
        return await abandonable(work, self._readers if follow else None)

    async def _before_last(
        self, execution_id: str, stream: Stream, lines: int, follow: bool
    ) -> int:
        """Docker's own tail counts the lines of both streams: mostly it has enough of this one, and
        else all of it is read. That may take long, and must keep nobody from a start or a stop; nor
        is it held in memory."""
        if follow:
            check_place(self._readers)
        client = await self._link.client()
        for tail in (2 * lines + 1, -1):
            frames, source = await self._link.ask(
                partial(client.log, execution_id, stream, 0, tail, False)
            )
            try:
                # Others who follow, for hours perhaps, keep no reader waiting who does not.
                found = await abandonable(
                    partial(before_last, frames, lines, tail > 0),
                    self._readers if follow else None,
                )
            finally:
                with contextlib.suppress(Exception):  # the socket under it may be gone
                    source.close()
            if found:
                break
        return found

    async def _live(
        self,
        execution_id: str,
        stream: Stream,
        offset: int,
        lines: int,
        follow: bool,
        single: bool,
    ) -> AsyncGenerator[LogChunk, None]:
        """To the end, or to where docker breaks off. Raises Flooded where it is followed."""
        client, since_s = await self._link.client(), second_of(offset)
        frames, source = await self._link.ask(
            lambda: client.log(execution_id, stream, since_s, lines, follow)
        )
        # Whoever follows may wait for hours, and must not keep the others from reading.
        readers = self._readers if follow else trio.CapacityLimiter(1)
        places = Places(lines >= 0, Repeats() if follow else None)
        known = self._held.get(execution_id)
        flow = None
        if follow and client.dates_exactly and tells_lines_apart():
            flow = Flow(flood_of(known.output_bytes if known is not None else 0), offset)
        async with aclosing(live(frames, source, readers, self._link.spawn)) as batches:
            began = trio.current_time()
            async for batch in batches:
                if flow is not None:
                    flow.waited(trio.current_time() - began)
                for piece in pieces(batch) if flow is not None else (batch,):
                    for chunk in chunks(piece, offset, places, single):
                        yield chunk
                        if flow is not None:
                            flow.came(len(chunk.data), chunk.end)
                began = trio.current_time()

    # ---- docker's word -----------------------------------------------------------------------

    def _on_event(self, execution_id: str, action: str) -> None:
        held = self._held.get(execution_id)
        if held is None:
            return
        if action == KILL:
            held.killed = held.killed or not (held.stopping or held.timed_out)
        else:
            self._link.spawn(self._trying, execution_id, self._settle(execution_id, held))

    async def _look_at_all(self) -> None:
        """What docker has, against what is held: ends that nobody heard, strays, leftovers."""
        client = await self._link.client()
        statuses = await self._link.ask(client.all)
        for name, held in list(self._held.items()):
            if held.exit is None and held.started and statuses.get(name) not in RUNS:
                await self._trying(name, self._settle(name, held))
        for name, held in list(self._held.items()):
            if held.clearing and self.directories.of(name).read_exit() is None:
                await self._trying(name, self.clear(name))  # docker was not there when it was to be
        for name in statuses:
            if self._is_left_over(name):
                await self._trying(name, self._discard(name))

    async def _trying(self, name: str, work: Awaitable[None]) -> None:
        """One that fails keeps the others from nothing, and is tried again."""
        try:
            await work
        except OSError as error:
            _log.warning("%s: %s", name, error)
            self._link.doubt()

    def _is_left_over(self, name: str) -> bool:
        """A container that nobody asks for any more: of a removed execution, of one that could not
        be started for all we heard, or that docker was not there to remove."""
        if name in self._held:
            return self.directories.of(name).read_exit() is not None
        return self._adopted and name not in self._turns

    async def _settle(self, name: str, held: _Held) -> None:
        """Find out how it ended, if it did. Raises EngineFailed."""
        client = await self._link.client()
        try:
            seen = await self._link.ask(lambda: client.inspect(name))
        except NotThere:
            held.end(lost("it has no container: somebody removed it, or it was never made"))
            self._link.doubt()  # docker may be making it just now
            return
        held.output_bytes = seen.output_bytes
        if seen.status in RUNS:
            held.killed = False  # whoever ended it has started it again
            return
        if seen.status == "created":
            if not held.expected:
                held.expected = True
                self._link.spawn(self._expect, name, held)
            return
        ended = exit_of(
            seen,
            stopping=held.stopping,
            timed_out=held.timed_out,
            rebooted=held.boot != boot_id(),
            unseen=self._link.was_away(seen.finished),
            killed=held.killed,
            cut_off=self._link.took_down(seen.finished),
            memory_bytes=held.memory_bytes,
        )
        held.told = True
        held.end(ended)

    async def _expect(self, name: str, held: _Held) -> None:
        """An agent that is gone may have asked docker to start it, which docker does yet: it never
        began if it has not after a while, and can be removed without force."""
        await trio.sleep(LATE_S)
        held.expected = False
        await self._trying(name, self._end_unstarted(name, held))

    async def _end_unstarted(self, name: str, held: _Held) -> None:
        client, directory = await self._link.client(), self.directories.of(name)
        seen = await self._link.ask(lambda: client.inspect(name))
        if seen.status != "created":
            await self._settle(name, held)
        elif held.exit is None:
            if not await self._link.ask(lambda: client.remove_unstarted(name)):
                held.end(lost("nobody saw it end: it was started as the agent came back"))
                return
            reason = "the agent ended before it was started"
            held.end(await self.directories.in_thread(lambda: directory.fail_start(reason)))

    # ---- ends that we bring ------------------------------------------------------------------

    async def _end_in_time(self, name: str, held: _Held, timeout_s: float) -> None:
        with trio.move_on_after(timeout_s):
            await held.ended.wait()
        if held.exit is None:
            held.timed_out = not held.stopping
            self._bring_down(name, held, held.grace_s)

    def _bring_down(self, name: str, held: _Held, grace_s: float) -> None:
        kill_at, begun = trio.current_time() + grace_s, held.kill_at is not None
        held.kill_at = kill_at if held.kill_at is None else min(held.kill_at, kill_at)
        if not begun:
            self._link.spawn(self._end_it, name, held)

    async def _end_it(self, name: str, held: _Held) -> None:
        """TERM, KILL after the grace, and again; a docker that does neither is given up."""
        assert held.kill_at is not None
        asked = False
        while held.exit is None and trio.current_time() < held.kill_at + GIVE_UP_S:
            killing = trio.current_time() >= held.kill_at
            if killing or not asked:
                try:
                    client = await self._link.client()
                    await self._link.ask(partial(_signal, client, name, killing))
                    asked = True
                except EngineFailed as error:  # not started yet, or docker is away
                    _log.debug("ending %s: %s", name, error)
            # Not past the moment of the KILL, which a later stop may bring forward.
            wait_s = KILL_S if killing else min(0.5, max(held.kill_at - trio.current_time(), 0.01))
            with trio.move_on_after(wait_s):
                await held.ended.wait()
        held.end(lost("docker does not answer; the container is ended once it does"))

    # ---- of one execution --------------------------------------------------------------------

    def _known(self, execution_id: str) -> _Held:
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


def _note(directory: ExecutionDir, launch: ContainerLaunch) -> None:
    directory.create(None)
    directory.write_spec(_spec(launch))


def _start(
    client: DockerClient, directory: ExecutionDir, launch: ContainerLaunch, ports: Ports
) -> None:
    """Ports are chosen here: somebody else may take one until docker has it, and then another is
    tried."""
    chosen = launch
    for left in reversed(range(PORT_TRIES if launch.chooses_ports else 1)):
        if launch.ports:
            chosen = with_ports(launch, ports.choose(launch.ports))
            directory.write_note(NOTE, note_of(chosen.ports))
        try:
            _start_once(client, directory, chosen)
        except EngineFailed as error:
            if not left or not _TAKEN.search(str(error)):
                raise
            client.remove(launch.execution_id)
        else:
            return


def _start_once(client: DockerClient, directory: ExecutionDir, launch: ContainerLaunch) -> None:
    host = host_options(launch, directory.work, client.log_driver, client.volume_name)
    for volume, _, _ in launch.volumes:
        client.make_volume(volume, launch.job, launch.standing)
    client.create(launch.execution_id, create_options(launch), host)
    put_files(client, launch, directory.work, directory.tmp)
    open_volumes(client, launch, directory.tmp)
    client.start(launch.execution_id)


def _spec(launch: ContainerLaunch) -> bytes:
    """What another life of the agent has to know, as execution_dir reads it."""
    fields: dict[str, object] = {
        "boot": boot_id(),
        "arg": launch.image,
        "uptime_ms": _uptime_ms(),
        "grace_ms": round(launch.stop_grace_s * 1000),
        "memory": launch.memory_bytes,
    }
    if launch.timeout_s is not None:
        fields["timeout_ms"] = round(launch.timeout_s * 1000)
    return b"".join(f"{key}={value}\0".encode() for key, value in fields.items())


def _read_spec(directory: ExecutionDir) -> tuple[_Held, float | None]:
    """And how long it may run from now on: by the time since boot, which nobody sets."""
    try:
        spec = (directory.path / "spec").read_bytes()
    except FileNotFoundError:  # on a full disk only its end may have been written
        spec = b""
    held = _Held(
        int(spec_field(spec, "grace_ms") or 10_000) / 1000,
        int(spec_field(spec, "memory") or 0),
        spec_field(spec, "boot") or "",
        started=True,
    )
    limit = spec_field(spec, "timeout_ms")
    if limit is None:
        return held, None
    ran_ms = _uptime_ms() - int(spec_field(spec, "uptime_ms") or 0)
    return held, max(0.0, (int(limit) - ran_ms) / 1000)


def _uptime_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def _signal(client: DockerClient, name: str, kill: bool) -> None:
    client.kill(name, "SIGKILL" if kill else client.inspect(name).stop_signal)


def _why_not_started(failure: Exception) -> str:
    if isinstance(failure, OSError) and failure.errno == errno.ENOSPC:
        return "it could not be started: the disk is full"
    return f"it could not be started: {failure}"
