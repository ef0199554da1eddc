"""Tasks: carries StartTask and StopTask out on an engine, and reports back what became of them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from agent.archives import ArchiveError
from agent.engines import cards as graphics
from agent.engines.cards import Cards
from agent.engines.compiled import UnfitModule
from agent.engines.container import container_launch
from agent.engines.engine import Engine, Engines
from agent.engines.ports import NOTE, Ports, note_of, read_note, variables
from agent.engines.task import ExecutionRunningError, ExitReason, TaskExit, TaskLaunch, TaskLimits
from agent.engines.wasm import CANNOT_RUN, make_results, wasm_launch
from agent.inputs.inputs import Inputs
from agent.packing import Packed
from agent.publishing import Published, Publishing
from agent.results import Results
from agent.threads import in_thread
from agent.volumes import Volumes
from protocol.effects import RemoveTask, StartTask, StopTask
from protocol.events import (
    Event,
    PublishingStarted,
    TaskEnded,
    TaskFound,
    TaskProgressed,
    TaskStarted,
)
from protocol.ids import ExecutionId
from protocol.resultmessage import OUTPUT_BYTES_MAX
from protocol.sources import DirectorySource
from protocol.task import of_device

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # libp2p brings stubs that hide trio's own

TAIL_LINES: Final = 40
TAIL_BYTES: Final = 2048
OUTPUT_S: Final = 120.0  # for all output that is published: docker may be restarted meanwhile
FOUND_S: Final = 20.0  # likewise of all that an earlier life left: the agent's start waits for it
# After these the task's files are as it left them; what was stopped is nobody's result.
LEAVING: Final = (ExitReason.EXITED, ExitReason.SIGNALLED, ExitReason.TIMEOUT)
_log = logging.getLogger("shoal.tasks")


class Tasks:
    """All tasks of this agent. `post` hears of every start and end, exactly once per life."""

    def __init__(
        self,
        engines: Engines,
        inputs: Inputs,
        post: Callable[[Event], None],
        log_bytes_max: int,
        results: Results,
        publishing: Publishing,
        volumes: Volumes,
        cards: Cards,
    ) -> None:
        self._engines = engines
        self._cards = cards
        self._volumes = volumes
        # One for both: a port that was given to a program may not be bound by it yet.
        self._free = engines.docker.ports if engines.docker is not None else Ports()
        self._results = results
        self._publishing = publishing
        self._inputs = inputs
        self._post = post
        self._log_bytes_max = log_bytes_max
        self._nursery: trio.Nursery | None = None
        self._scopes: dict[ExecutionId, trio.CancelScope] = {}  # of tasks not started yet
        self._watched: set[ExecutionId] = set()
        # Where paths of the device lead that are given to what is being started, see Inputs.
        self._given: dict[ExecutionId, dict[str, str]] = {}
        # Of ports of a process that is being started, what it is told.
        self._told: dict[ExecutionId, dict[str, str]] = {}
        self._uploads: dict[ExecutionId, trio.CancelScope] = {}  # of ended ones, that are published
        self.publishes: Callable[[ExecutionId], bool] = _never  # whether its output is a result

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            nursery.start_soon(self._volumes.run)
            await self._results.run()

    async def found(self) -> tuple[TaskFound, ...]:
        """What earlier lives of this agent left: running tasks are watched from now on.

        For a node that is built anew in this life, what is being started is found as well.
        """
        found = {key: TaskFound(key, running=True) for key in self._scopes}
        ended: dict[ExecutionId, TaskExit] = {}
        for execution in await self._engines.adopt():
            key = ExecutionId(execution.execution_id)
            if key in self._scopes:
                continue
            if execution.exit is not None:
                ended[key] = execution.exit
            else:
                self._cards.hold(key, await self._gpus(key))
                found[key] = TaskFound(key, running=True, ports=await self._ports(key))
                self._watch(key)
        found |= await self._found_all(ended)
        return tuple(found[key] for key in sorted(found))

    async def _found_all(
        self, ended: Mapping[ExecutionId, TaskExit]
    ) -> dict[ExecutionId, TaskFound]:
        """Those whose end is known, beside each other: an engine that is away costs its time once.
        What was lost is told of by its absence."""
        found: dict[ExecutionId, TaskFound] = {}

        async def find(key: ExecutionId, exit: TaskExit) -> None:
            if exit.reason is not ExitReason.LOST:
                found[key] = await self._found_ended(key, exit)

        async with trio.open_nursery() as nursery:
            for key, exit in ended.items():
                nursery.start_soon(find, key, exit)
        assert self._nursery is not None
        for key in ended:
            if key not in self._watched:
                self._nursery.start_soon(self._clear, key)
        return found

    async def _found_ended(self, key: ExecutionId, ended: TaskExit) -> TaskFound:
        """One whose files are not packed and published yet counts as running until they are."""
        code, reason = told(ended)
        left = ended.reason in LEAVING
        packed = await self._results.kept(key) if left else Packed()
        published = await self._publishing.known(key) if left else Published()
        if packed is None or published is None:
            self._watch(key)
            return TaskFound(key, running=True)
        duration_ms = int(ended.duration_s * 1000)
        data, total = await self._stdout(key, FOUND_S)
        out, err = await self._untold_tails(key)
        lost_output = await self._settle_output(key, FOUND_S)
        return TaskFound(
            key,
            False,
            code,
            reason,
            duration_ms,
            archive=packed.digest,
            archive_bytes=packed.size_bytes,
            archive_note=packed.note,
            published=published.url,
            unpublished=published.problem,
            stdout=data,
            stdout_bytes=total,
            output_note=lost_output,
            stdout_tail=out,
            stderr_tail=err,
        )

    async def _untold_tails(self, key: ExecutionId) -> tuple[bytes, bytes]:
        """Of one whose end was not told yet; the others may be hundreds, on a slow card."""
        engine = self._engines.of(key)
        try:
            if await engine.cleared(key):
                return b"", b""
            out, err = await engine.tails(key, TAIL_LINES)
        except (KeyError, OSError, ValueError) as error:
            _log.warning("the output of %s: %s", key, error)
            return b"", b""
        return out.data[-TAIL_BYTES:], err.data[-TAIL_BYTES:]

    async def _stdout(self, key: ExecutionId, within_s: float) -> tuple[bytes, int]:
        """What a publisher sends of its output, and how many bytes there were."""
        if not self.publishes(key):
            return b"", 0
        data, total = b"", 0
        with trio.move_on_after(within_s) as scope:
            try:
                # Followed to its end, which is known: so its engine may be away for a while.
                output = self._engines.of(key).log(key, "stdout", 0, -1, True)
                async with aclosing(output) as chunks:
                    async for chunk in chunks:
                        data += chunk.data[: max(0, OUTPUT_BYTES_MAX - len(data))]
                        total += len(chunk.data)
            except (KeyError, OSError, ValueError) as error:
                _log.warning("the output of %s: %s", key, error)
        if scope.cancelled_caught:
            _log.warning("the output of %s was not had within %.0f s", key, within_s)
        return data, total

    # ---- effects -----------------------------------------------------------------------------

    def start(self, task: StartTask) -> None:
        assert self._nursery is not None
        self._scopes[task.execution] = trio.CancelScope()  # at once: the stop may be next
        self._nursery.start_soon(self._run, task)

    def stop(self, task: StopTask) -> None:
        assert self._nursery is not None
        scope = self._scopes.get(task.execution)
        if scope is not None:
            scope.cancel()  # its inputs are still being fetched
        elif task.execution in self._uploads:
            self._uploads[task.execution].cancel()
        else:
            self._nursery.start_soon(self._stop, task)

    def remove(self, task: RemoveTask) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._remove, task)

    def drop_volumes(self) -> None:
        self._volumes.drop()

    # ---- lives -------------------------------------------------------------------------------

    async def _run(self, task: StartTask) -> None:
        """Fetch, start, watch. Whatever goes wrong is the execution's end, never the agent's."""
        key = task.execution
        module: tuple[str, ...] = ()
        launching = False
        try:
            with self._scopes[key] as scope:
                await trio.lowlevel.checkpoint_if_cancelled()
                module = await self._prepare(task)
            del self._scopes[key]
            if scope.cancel_called:  # what is done in a thread as its last may not notice
                self._given.pop(key, None)
                self._forget(key)
                self._post(TaskEnded(key, None, "stopped before it started", untouched=True))
                await self._discard(key)
                return
            launching = True
            await self._launch(task, module)
            self._given.pop(key, None)
        except Exception as error:
            if not isinstance(error, ArchiveError | OSError | ValueError | UnfitModule):
                _log.exception("starting %s", key)
            self._scopes.pop(key, None)
            self._given.pop(key, None)
            self._forget(key)
            # Another device would fare no better with such a module: that is the task's failure.
            code = CANNOT_RUN if isinstance(error, UnfitModule) else None
            text = str(error) or type(error).__name__
            self._post(TaskEnded(key, code, text, untouched=not launching))
            await self._discard(key)
            return
        ports = await self._ports(key) if task.spec.task.network.ports else ()
        self._post(TaskStarted(key, ports))
        self._watch(key)

    async def _ports(self, key: ExecutionId) -> tuple[tuple[str, int], ...]:
        """Of this device that lead to it; a disk that does not tell is no reason to lose it."""
        with contextlib.suppress(OSError):
            return read_note(await self._engines.of(key).directories.read_note(key, NOTE))
        return ()

    async def _gpus(self, key: ExecutionId) -> tuple[int, ...]:
        """The cards that it was given."""
        with contextlib.suppress(OSError):
            directories = self._engines.of(key).directories
            return graphics.read_note(await directories.read_note(key, graphics.NOTE))
        return ()

    async def _prepare(self, task: StartTask) -> tuple[str, ...]:
        """All that may take minutes, and may be given up; the command line of a compiled module."""
        spec = task.spec.task
        engine = self._engines.named(spec.engine.type)
        if self._engines.docker is not None and engine is self._engines.docker:
            await engine.directories.prepare(task.execution)  # it is docker's from here on
            say = partial(self._say, task.execution)
            await self._engines.docker.images.fetch(spec.engine.container, say)
        if spec.input_sources or spec.volumes:
            await self._fetch_inputs(engine, task)
        await self._results.want(engine.directories, task.execution, spec.result_paths)
        await self._publishing.want(engine.directories, task)
        if spec.resources.gpu:  # noted at once: whoever finds it running knows them
            cards = self._cards.choose(task.execution, spec.resources.gpu)
            note = graphics.note_of(cards)
            await engine.directories.write_note(task.execution, graphics.NOTE, note)
        if spec.engine.type == "process":
            self._told[task.execution] = await self._choose_ports(task)
        if spec.engine.type != "wasm":
            return ()
        assert self._engines.wasm is not None, task
        work = await engine.directories.prepare(task.execution)
        return await self._engines.wasm.prepare(task, work, self._given.get(task.execution))

    def _say(self, key: ExecutionId, text: str) -> None:
        self._post(TaskProgressed(key, text))

    async def _launch(self, task: StartTask, module: tuple[str, ...]) -> None:
        if task.spec.task.engine.type == "docker":
            assert self._engines.docker is not None, task
            given, gpus = self._given.get(task.execution), self._cards.of(task.execution)
            container = container_launch(task, _environment(task), self._log_bytes_max, given, gpus)
            await self._engines.docker.start(container)
            return
        if module:
            launch = wasm_launch(task, _environment(task), module, self._log_bytes_max)
            await self._engines.process.start(launch)
            return
        params, need = task.spec.task.engine.process, task.spec.task.resources
        gpus = self._cards.of(task.execution)
        told = self._told.pop(task.execution, {}) | (graphics.variables(gpus) if gpus else {})
        launch = TaskLaunch(
            execution_id=task.execution,
            argv=params.command,
            env={**_environment(task), **told},
            cwd=params.working_directory.lstrip("/") or None,
            stdin=task.spec.task.stdin.lstrip("/") or None,
            timeout_s=task.timeout_s,
            log_bytes_max=self._log_bytes_max,
            limits=TaskLimits(memory_bytes=need.memory_bytes, cpu_m=need.cpu_m),
            network=task.spec.task.network.type != "none",
            shared=self._shared(task),
        )
        await self._engines.process.start(launch)

    async def _choose_ports(self, task: StartTask) -> dict[str, str]:
        """Of a process, which has the device's own network; what it is told of them."""
        if not task.spec.task.network.ports:
            return {}
        ports = await in_thread(self._free.choose, task.spec.task.network.ports)
        directories = self._engines.process.directories
        await directories.write_note(task.execution, NOTE, note_of(ports))
        return variables(ports, within=False)

    def _shared(self, task: StartTask) -> dict[str, bool]:
        """The directories that a process reaches by links, and whether it may write to them."""
        found = {str(path): True for path in self._volumes.directories(task).values()}
        for each in task.spec.task.input_sources:
            if isinstance(each.source, DirectorySource):
                path = self._given[task.execution][each.source.path]
                found[path] = found.get(path, False) or each.source.writable
        return found

    async def _fetch_inputs(self, engine: Engine, task: StartTask) -> None:
        work = await engine.directories.begin(task.execution)
        if task.spec.task.engine.type == "wasm":
            await in_thread(make_results, task.spec.task, work)
        self._given[task.execution] = await self._inputs.put(task, work)
        if task.spec.task.volumes:
            await self._volumes.prepare(task, work)
        await engine.hand_over(task.execution)

    def _watch(self, key: ExecutionId) -> None:
        assert self._nursery is not None
        if key not in self._watched:
            self._watched.add(key)
            self._nursery.start_soon(self._await_end, key)

    async def _await_end(self, key: ExecutionId) -> None:
        try:
            ended = await self._engines.of(key).wait(key)
            self._cards.free(key)  # before its share is anybody else's, as it is while it publishes
            code, reason = told(ended)
            out, err = await self._engines.of(key).tails(key, TAIL_LINES)
        except (KeyError, OSError, ValueError) as error:
            self._watched.discard(key)
            self._forget(key)
            self._post(TaskEnded(key, None, f"its directory is gone: {error}"))
            return
        stdout, stdout_bytes = await self._stdout(key, OUTPUT_S)
        left = ended.reason in LEAVING
        packed = await self._results.keep(key) if left else Packed()
        published = await self._publish(key, packed) if left else Published()
        lost_output = await self._settle_output(key, OUTPUT_S)
        self._watched.discard(key)
        self._forget(key)
        self._post(
            TaskEnded(
                key,
                code,
                reason,
                int(ended.duration_s * 1000),
                out.data[-TAIL_BYTES:],
                err.data[-TAIL_BYTES:],
                packed.digest,
                packed.size_bytes,
                packed.note,
                published=published.url,
                unpublished=published.problem,
                untouched=ended.reason is ExitReason.START_FAILED and not ended.may_begin,
                stdout=stdout,
                stdout_bytes=stdout_bytes,
                output_note=lost_output,
            )
        )
        await self._clear(key)

    async def _settle_output(self, key: ExecutionId, within_s: float) -> str:
        """That it cannot be found out, or not in time, is no reason not to tell of an end."""
        with contextlib.suppress(KeyError, OSError, ValueError), trio.move_on_after(within_s):
            return await self._engines.of(key).settle_output(key)
        return ""

    async def _publish(self, key: ExecutionId, packed: Packed) -> Published:
        """What it left, where its job wants that; once, and not if it is stopped meanwhile."""
        try:
            known = await self._publishing.known(key)
            if known is not None:
                return known
            self._post(PublishingStarted(key))
            with trio.CancelScope() as scope:
                self._uploads[key] = scope
                return await self._publishing.publish(key, packed)
            stopped = "it was stopped while its results were being published"
            return await self._publishing.settle(key, Published(problem=stopped))
        except (KeyError, OSError, ValueError) as error:
            return Published(problem=f"its results could not be published: {error}")
        finally:
            self._uploads.pop(key, None)

    def _forget(self, key: ExecutionId) -> None:
        """What is remembered of it only until its end is told."""
        self._cards.free(key)
        self._told.pop(key, None)
        self._results.forget(key)
        self._publishing.forget(key)

    async def _clear(self, key: ExecutionId) -> None:
        """Hundreds of ended ones keep their output, and no files."""
        try:
            await self._engines.of(key).clear(key)
        except (KeyError, OSError) as error:
            _log.warning("clearing %s: %s", key, error)

    async def _discard(self, key: ExecutionId) -> None:
        """It never started: of what was to be beside it a part may be there."""
        try:
            await self._engines.of(key).directories.clear(key)
        except (OSError, ValueError) as error:
            _log.warning("clearing %s: %s", key, error)

    async def _stop(self, task: StopTask) -> None:
        try:
            await self._engines.of(task.execution).stop(task.execution)
        except (KeyError, OSError, ValueError) as error:
            _log.warning("stopping %s: %s", task.execution, error)

    async def _remove(self, task: RemoveTask) -> None:
        try:
            await self._engines.of(task.execution).remove(task.execution)
        except (KeyError, ValueError, ExecutionRunningError):
            pass
        except OSError as error:  # the next start tries again
            _log.warning("removing %s: %s", task.execution, error)


def _never(key: ExecutionId) -> bool:
    return False


def _environment(task: StartTask) -> dict[str, str]:
    """The job's and the agent's variables; what is the device's own is known here alone.

    Raises ValueError for one that is not set.
    """
    own = {}
    for name, value in task.spec.task.env.items():
        if referred := of_device(value):
            if referred not in os.environ:
                raise ValueError(f"the agent of this device has no variable {referred}")
            value = os.environ[referred]
        own[name] = value
    return {**own, **task.environment}


def told(ended: TaskExit) -> tuple[int | None, str]:
    """Exit code and reason as the protocol takes them: 128 + n for signal n, None for no exit."""
    match ended.reason:
        case ExitReason.EXITED:
            return ended.code, ended.detail
        case ExitReason.SIGNALLED:
            number = ended.signal or 0
            return 128 + number, ended.detail or f"ended by {_signal_name(number)}"
        case ExitReason.TIMEOUT:
            return 124, ended.detail or "ran longer than its ExecutionTimeout"
        case ExitReason.STOPPED:
            return None, ended.detail or "it was stopped on this device"
        case ExitReason.INTERRUPTED:
            return None, ended.detail or "the device was shut down"
        case ExitReason.START_FAILED | ExitReason.LOST:
            return None, ended.detail or ended.reason.value


def _signal_name(number: int) -> str:
    """Real-time signals have numbers alone."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
