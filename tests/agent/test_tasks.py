"""Tasks: real processes, started, stopped and found again; whatever happens is an event."""

from __future__ import annotations

import base64
import errno
import os
import shutil
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from agent.archives import Archives, ByteStream
from agent.config import S3 as Settings
from agent.engines.cards import Cards
from agent.engines.directories import Directories
from agent.engines.docker import DockerEngine
from agent.engines.engine import Engines
from agent.engines.execution_dir import ExecutionDir
from agent.engines.ports import FIRST, LAST
from agent.engines.process import ProcessEngine
from agent.engines.sandbox import Sandbox
from agent.engines.task import ExitReason, TaskExit, TaskUser
from agent.inputs.downloads import Downloads
from agent.inputs.inputs import Inputs
from agent.inputs.objects import Objects
from agent.publishing import Publishing, waiting
from agent.results import Results
from agent.s3 import S3
from agent.tasks import TAIL_BYTES, Tasks, told
from agent.transport.errors import NotReachable
from agent.volumes import Volumes
from protocol.config import PolicyConfig
from protocol.effects import RemoveTask, StartTask, StopTask
from protocol.events import Event, TaskEnded, TaskFound, TaskStarted
from protocol.ids import ExecutionId, JobId, PeerId
from protocol.job import JobSpec
from protocol.resultmessage import OUTPUT_BYTES_MAX
from tests.agent.test_archives import packed, pieces
from tests.agent.whole import open_directory, until
from tests.lab import process_job

E1 = ExecutionId("e1")
WALL = 1_800_000_000.0  # 2027-01-15 08:00:00


@pytest.fixture
def root() -> Iterator[Path]:
    made = open_directory()
    yield made
    shutil.rmtree(made)


class Running:
    """Tasks of one life of an agent, and what it was told of them."""

    def __init__(
        self, root: Path, sandbox: Sandbox | None = None, directory: str = "shared"
    ) -> None:
        self.events: list[Event] = []
        self.engine = ProcessEngine(root / "executions", TaskUser.default(), sandbox=sandbox)
        self.archives = Archives(root / "archives")
        self.may_dial = trio.Event()
        engines = Engines(self.engine)
        self.kept = Archives(root / "results", 1 << 30, spared=partial(waiting, engines))
        containers = root / "containers"
        containers.mkdir(exist_ok=True)
        docker = DockerEngine(containers, root / "no.sock", "me")
        self.volumes = Volumes(root / "volumes", TaskUser.default(), docker)
        self.tasks = self.tasks_of(engines, root, str(root / directory))

    def tasks_of(self, engines: Engines, root: Path, directory: str) -> Tasks:
        """`directory` may be given to tasks; keys for S3 are expected in `root`."""
        files, me = Archives(root / "downloads"), PeerId("me")
        s3 = S3(Settings(credentials=root / "credentials"))
        policy = PolicyConfig(directories=(directory,))
        web, objects = Downloads(files), Objects(files, s3)
        self.publishing = Publishing(engines, self.kept, s3, me, lambda: WALL)
        return Tasks(
            engines,
            Inputs(self.archives, self.kept, web, objects, policy, self.dial, list),
            self.events.append,
            100_000,
            Results(self.kept, engines, self.dial, me),
            self.publishing,
            self.volumes,
            Cards(lambda: 2),
        )

    async def dial(self, peer: PeerId) -> ByteStream:
        await self.may_dial.wait()
        raise NotReachable("nobody there")

    async def until(self, kind: type[Event]) -> Any:
        await until(lambda: any(isinstance(event, kind) for event in self.events))
        return next(event for event in self.events if isinstance(event, kind))

    async def engine_has_ended(self) -> None:
        await until(lambda: any(isinstance(event, TaskStarted) for event in self.events))
        await self.engine.wait(E1)

    async def ended(self, task: StartTask) -> TaskEnded:
        self.tasks.start(task)
        found: TaskEnded = await self.until(TaskEnded)
        return found


@asynccontextmanager
async def running(
    root: Path, sandbox: Sandbox | None = None, directory: str = "shared"
) -> AsyncIterator[Running]:
    it = Running(root, sandbox, directory)
    async with trio.open_nursery() as nursery:
        await nursery.start(it.tasks.run)
        yield it
        nursery.cancel_scope.cancel()
    it.engine.close()


def task(*command: str, execution: ExecutionId = E1, **more: Any) -> StartTask:
    timeout_s = more.pop("timeout_s", None)
    spec = JobSpec.from_plain(process_job(*command, Task=more))
    environment = {"SHOAL_JOB_ID": "j"}
    return StartTask(execution, JobId("j"), spec, environment, timeout_s, (PeerId("p"),))


def shell(script: str, **more: Any) -> StartTask:
    return task("sh", "-c", script, **more)


def keeping(script: str, name: str, **more: Any) -> StartTask:
    volumes = [{"Name": "data", "Target": "kept", **more}]
    return shell(script, execution=ExecutionId(name), Volumes=volumes)


def source(kind: str, target: str, **params: Any) -> dict[str, Any]:
    return {"Source": {"Type": kind, "Params": params}, "Target": target}


# ---- starting ---------------------------------------------------------------------------------


async def test_a_task_starts_and_ends_with_the_tails_of_its_output(root: Path) -> None:
    async with running(root) as it:
        ended = await it.ended(shell("echo out; echo err >&2; exit 3"))
        assert it.events[0] == TaskStarted(E1)
        assert (ended.exit_code, ended.reason) == (3, "")
        assert (ended.stdout_tail, ended.stderr_tail) == (b"out\n", b"err\n")
        assert ended.duration_ms >= 0


async def test_a_variable_of_the_device_is_filled_in_where_the_task_runs(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", "of this device")
    async with running(root) as it:
        ended = await it.ended(shell("echo $T", Env={"T": "env:API_TOKEN"}))
        assert ended.stdout_tail == b"of this device\n"
    async with running(root) as it:
        absent = task("true", execution=ExecutionId("e2"), Env={"T": "env:NO_SUCH_THING"})
        refused = await it.ended(absent)
        assert refused.reason == "the agent of this device has no variable NO_SUCH_THING"


async def test_what_is_in_a_volume_is_there_at_the_next_start(root: Path) -> None:
    async with running(root) as it:
        first = await it.ended(keeping("ls kept; echo one >> kept/log", "e1"))
        assert (first.exit_code, first.stdout_tail) == (0, b""), first
        it.events.clear()
        second = await it.ended(keeping("echo two >> kept/log; cat kept/log", "e2"))
        assert second.stdout_tail == b"one\ntwo\n"
        it.tasks.remove(RemoveTask(ExecutionId("e2")))
        await until(lambda: not it.engine.directories.has("e2"))
        assert [path.read_text() for path in (root / "volumes").glob("*/*/log")] == ["one\ntwo\n"]


async def test_a_volume_goes_when_its_job_is_wanted_no_more(root: Path) -> None:
    async with running(root) as it:
        asked = []
        it.volumes.keeps = lambda job, standing: bool(asked.append((job, standing)))
        await it.ended(keeping("echo one >> kept/log", "e1"))
        it.tasks.drop_volumes()
        await until(lambda: not list((root / "volumes").glob("*/*")))
        assert asked[0] == (JobId("j"), False)


async def test_a_volume_where_inputs_are_is_refused(root: Path) -> None:
    async with running(root) as it:
        digest, size = await it.archives.put(pieces(packed(("kept/file", b"shipped"))))
        inputs = [source("archive", ".", Digest=digest, Size=size)]
        volumes = [{"Name": "data", "Target": "kept"}]
        ended = await it.ended(shell("true", InputSources=inputs, Volumes=volumes))
        assert ended.reason == "the volume data finds kept taken by its inputs"
        assert ended.untouched


async def test_a_task_that_was_never_begun_has_touched_nothing(root: Path) -> None:
    async with running(root) as it:
        absent = await it.ended(task("no-such-program"))
        assert (absent.exit_code, absent.untouched) == (None, True), absent
        it.events.clear()
        assert not (await it.ended(task("false", execution=ExecutionId("e2")))).untouched


async def test_a_port_that_no_file_names_is_chosen_and_told(root: Path) -> None:
    ports = [{"Name": "my web"}, {"Name": "fixed", "Static": 8080}]
    script = "env | grep -E '^(SHOAL|BACALHAU)_(HOST_)?PORT_' | sort; sleep 1000"
    async with running(root) as it:
        it.tasks.start(shell(script, Network={"Ports": ports}))
        started = await it.until(TaskStarted)
        (_, chosen), fixed = started.ports
        assert FIRST <= chosen <= LAST and fixed == ("fixed", 8080)

        def lines() -> list[str]:
            logs = sorted((root / "executions/e1").glob("stdout.*"))
            return "".join(path.read_text() for path in logs).splitlines()

        await until(lambda: len(lines()) == 8)
        assert f"BACALHAU_HOST_PORT_my_web={chosen}" in lines()
        assert f"SHOAL_PORT_my_web={chosen}" in lines()
        assert "BACALHAU_PORT_fixed=8080" in lines()
    async with running(root) as later:
        (found,) = await later.tasks.found()
        assert found.ports == started.ports, "the agent's next life knows them too"
        later.tasks.stop(StopTask(E1, "over"))
        await later.until(TaskEnded)


def with_gpu(name: str, script: str = "sleep 1000", gpus: int = 1) -> StartTask:
    text = f'echo "$NVIDIA_VISIBLE_DEVICES $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER"; {script}'
    need = {"GPU": gpus}
    env = {"CUDA_VISIBLE_DEVICES": "0,1"}
    return shell(text, execution=ExecutionId(name), Resources=need, Env=env)


async def test_each_task_is_told_graphics_cards_of_its_own_also_by_a_later_life(
    root: Path,
) -> None:
    def said(name: str) -> str:
        logs = sorted((root / "executions" / name).glob("stdout.*"))
        return "".join(path.read_text() for path in logs)

    async with running(root) as it:
        it.tasks.start(with_gpu("e1"))
        it.tasks.start(with_gpu("e2"))
        await until(lambda: said("e1").endswith("\n") and said("e2").endswith("\n"))
        assert sorted((said("e1"), said("e2"))) == ["0 0 PCI_BUS_ID\n", "1 1 PCI_BUS_ID\n"]
        refused = await it.ended(with_gpu("e3"))
        assert (refused.exit_code, refused.untouched) == (None, True)
        assert refused.reason == "gpu: needs 1, 0 of 2 free on this device"
    async with running(root) as later:
        assert len(await later.tasks.found()) == 2
        assert (await later.ended(with_gpu("e4"))).reason == refused.reason
        later.events.clear()
        later.tasks.stop(StopTask(ExecutionId("e1"), "over"))
        await later.until(TaskEnded)
        later.events.clear()
        assert (await later.ended(with_gpu("e5", "true"))).stdout_tail.decode() == said("e1")
        later.events.clear()
        later.tasks.stop(StopTask(ExecutionId("e2"), "over"))
        await later.until(TaskEnded)
        later.events.clear()
        both = await later.ended(with_gpu("e6", "true", gpus=2))
        assert both.stdout_tail == b"0,1 0,1 PCI_BUS_ID\n"


async def test_one_that_is_stopped_as_it_gets_its_cards_gives_them_back(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes, write = trio.Event(), Directories.write_note

    async def slowly(self: Directories, *arguments: Any) -> None:
        await write(self, *arguments)
        writes.set()
        await trio.sleep(0.2)

    monkeypatch.setattr(Directories, "write_note", slowly)
    async with running(root) as it:
        it.tasks.start(with_gpu("e1", gpus=2))
        await writes.wait()
        it.tasks.stop(StopTask(E1, "withdrawn"))
        assert (await it.until(TaskEnded)).reason == "stopped before it started"
        it.events.clear()
        both = await it.ended(with_gpu("e2", "true", gpus=2))
        assert both.stdout_tail == b"0,1 0,1 PCI_BUS_ID\n"


async def test_one_that_cannot_be_started_gives_its_cards_back(root: Path) -> None:
    async with running(root) as it:
        for number in range(3):
            it.events.clear()
            absent = {"T": "env:NO_SUCH_THING"}  # which is found out once the cards are chosen
            key = ExecutionId(f"e{number}")
            more = {"Resources": {"GPU": 2}, "Env": absent}
            refused = await it.ended(task("true", execution=key, **more))
            assert refused.reason == "the agent of this device has no variable NO_SUCH_THING"


async def test_a_directory_of_the_device_is_an_input_where_its_owner_allows_it(root: Path) -> None:
    shared = root / "shared"
    shared.mkdir(mode=0o755)
    (shared / "reading").write_text("21.5\n")
    own = source("localDirectory", "in", SourcePath=str(shared))
    other = source("localDirectory", "in", SourcePath=str(root))
    async with running(root) as it:
        ended = await it.ended(shell("cat in/reading", InputSources=[own]))
        assert ended.stdout_tail == b"21.5\n", ended
    async with running(root) as it:
        refused = await it.ended(task("true", execution=ExecutionId("e2"), InputSources=[other]))
        assert "which its owner does not allow" in refused.reason


async def test_a_directory_that_is_to_be_read_is_not_written_to_though_its_modes_allow_it(
    root: Path,
) -> None:
    shared = root / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    own = source("localDirectory", "in", SourcePath=str(shared))
    sandbox = Sandbox.find(TaskUser.default(), False, (), ())
    assert sandbox is not None, "bubblewrap is needed (scripts/setup --docker)"
    async with running(root, sandbox) as it:
        script = f"touch in/new || touch {shared}/new || echo kept"
        ended = await it.ended(shell(script, InputSources=[own]))
        assert (ended.exit_code, ended.stdout_tail) == (0, b"kept\n"), ended
        assert os.listdir(shared) == []


@pytest.mark.parametrize("writable", [(True, False), (False, True)])
async def test_a_directory_that_is_given_twice_is_written_to_if_it_is_to_be_once(
    root: Path, writable: tuple[bool, bool]
) -> None:
    shared = root / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    given = [
        source("localDirectory", f"in{number}", SourcePath=str(shared), ReadWrite=each)
        for number, each in enumerate(writable)
    ]
    sandbox = Sandbox.find(TaskUser.default(), False, (), ())
    assert sandbox is not None, "bubblewrap is needed (scripts/setup --docker)"
    async with running(root, sandbox, "shared:rw") as it:
        ended = await it.ended(shell("touch in0/a in1/b", InputSources=given))
        assert ended.exit_code == 0, ended
        assert sorted(os.listdir(shared)) == ["a", "b"]


async def test_tails_are_bounded(root: Path) -> None:
    async with running(root) as it:
        ended = await it.ended(shell("head -c 90000 /dev/zero | tr '\\0' x; echo END"))
        assert len(ended.stdout_tail) == TAIL_BYTES and ended.stdout_tail.endswith(b"xEND\n")


async def test_environment_and_directory_are_the_jobs(root: Path) -> None:
    script = 'echo "$A $SHOAL_JOB_ID"; basename "$PWD"'
    async with running(root) as it:
        ended = await it.ended(shell(script, Env={"A": "1"}))
        assert ended.stdout_tail == b"1 j\nwork\n"


async def test_what_cannot_start_has_ended_with_the_reason(root: Path) -> None:
    async with running(root) as it:
        ended = await it.ended(task("no-such-command"))
        assert ended.exit_code is None and "no such command" in ended.reason


async def test_a_task_that_runs_too_long_is_ended_as_timeout_does(root: Path) -> None:
    async with running(root) as it:
        ended = await it.ended(shell("sleep 60", timeout_s=0.1))
        assert ended.exit_code == 124 and "ExecutionTimeout" in ended.reason


async def test_a_signal_is_128_and_its_number_also_a_nameless_one(root: Path) -> None:
    for number, name in ((9, "SIGKILL"), (42, "signal 42")):
        async with running(root) as it:
            key = ExecutionId(f"s{number}")
            ended = await it.ended(shell(f"kill -{number} $$", execution=key))
            assert (ended.exit_code, ended.reason) == (128 + number, f"ended by {name}")


def test_an_end_without_an_exit_has_no_code() -> None:
    for reason in (ExitReason.STOPPED, ExitReason.INTERRUPTED, ExitReason.LOST):
        code, text = told(TaskExit(None, None, reason, 0.0, 0.0))
        assert code is None and text


# ---- inputs -----------------------------------------------------------------------------------


async def test_inputs_are_there_and_the_tasks_own(root: Path) -> None:
    inner = base64.b64encode(packed(("x", b"inner"))).decode()
    async with running(root) as it:
        digest, size = await it.archives.put(pieces(packed(("bin/go.sh", b"echo shipped"))))
        sources = [
            source("archive", ".", Digest=digest, Size=size),
            source("inline", "conf/text", URL="data:,hello"),
            source("inline", "tree", URL=f"data:application/gzip;base64,{inner}"),
        ]
        script = "sh bin/go.sh; cat conf/text tree/x; touch bin/mine conf/mine tree/mine && ls bin"
        ended = await it.ended(shell(script, InputSources=sources))
        assert ended.stdout_tail == b"shipped\nhelloinnergo.sh\nmine\n", ended


async def test_inputs_that_cannot_be_had_are_the_end(root: Path) -> None:
    async with running(root) as it:
        it.may_dial.set()
        sources = [source("archive", ".", Digest="0" * 64, Size=5)]
        ended = await it.ended(shell("true", InputSources=sources))
        assert ended.exit_code is None and "could not be fetched" in ended.reason
        assert not [event for event in it.events if isinstance(event, TaskStarted)]
        await until(lambda: not (root / "executions" / E1 / "work").exists())


# ---- stopping ---------------------------------------------------------------------------------


async def test_a_stop_right_behind_its_start_is_not_lost(root: Path) -> None:
    """Both leave together when the save that they waited for is durable."""
    async with running(root) as it:
        for number in range(20):
            key = ExecutionId(f"e{number}")
            it.events.clear()
            it.tasks.start(shell("sleep 60", execution=key))
            it.tasks.stop(StopTask(key, "withdrawn"))
            ended = await it.until(TaskEnded)
            assert ended.exit_code is None and "stopped" in ended.reason


async def test_a_stop_while_ports_are_chosen_is_not_lost(root: Path) -> None:
    async with running(root) as it:
        for number in range(20):
            key = ExecutionId(f"e{number}")
            it.events.clear()
            it.tasks.start(shell("sleep 60", execution=key, Network={"Ports": [{"Name": "a"}]}))
            await trio.sleep(number / 2000)
            it.tasks.stop(StopTask(key, "withdrawn"))
            ended = await it.until(TaskEnded)
            assert ended.exit_code is None and "stopped" in ended.reason


async def test_a_stop_while_inputs_are_fetched_ends_it_before_it_starts(root: Path) -> None:
    async with running(root) as it:
        sources = [source("archive", ".", Digest="0" * 64, Size=5)]
        it.tasks.start(shell("true", InputSources=sources))
        await trio.testing.wait_all_tasks_blocked()
        it.tasks.stop(StopTask(E1, "withdrawn"))
        assert (await it.until(TaskEnded)).reason == "stopped before it started"


async def test_a_running_task_is_stopped_and_what_it_left_is_removed(root: Path) -> None:
    async with running(root) as it:
        it.tasks.start(shell("sleep 60"))
        await it.until(TaskStarted)
        it.tasks.remove(RemoveTask(E1))  # it runs: nothing happens
        it.tasks.stop(StopTask(E1, "withdrawn"))
        it.tasks.stop(StopTask(E1, "again"))
        assert (await it.until(TaskEnded)).exit_code is None
        it.tasks.remove(RemoveTask(E1))
        it.tasks.remove(RemoveTask(E1))
        await until(lambda: not os.path.exists(root / "executions" / E1))


async def test_stopping_or_removing_what_never_was_is_no_event(root: Path) -> None:
    async with running(root) as it:
        for key in (E1, ExecutionId("../../etc")):
            it.tasks.stop(StopTask(key, "x"))
            it.tasks.remove(RemoveTask(key))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert it.events == []


# ---- the next life ----------------------------------------------------------------------------


async def test_the_next_life_finds_what_runs_and_what_ended_meanwhile(root: Path) -> None:
    async with running(root) as it:
        for name, script in (("e1", "cat fifo; exit 4"), ("e2", "exit 5"), ("e3", "kill -42 $$")):
            it.tasks.start(shell(f"mkfifo fifo; {script}", execution=ExecutionId(name)))
        await until(lambda: sum(isinstance(event, TaskEnded) for event in it.events) == 2)
        await until((root / "executions/e1/work/fifo").exists)
    async with running(root) as again:
        e1, e2, e3 = await again.tasks.found()
        assert e1 == TaskFound(E1, running=True)
        assert (e2.running, e2.exit_code) == (False, 5)
        assert (e3.running, e3.exit_code, e3.reason) == (False, 170, "ended by signal 42")
        await until(lambda: not (root / "executions/e2/work").exists())
        (root / "executions/e1/work/fifo").write_text("go on\n")
        ended = await again.until(TaskEnded)
        assert (ended.execution, ended.exit_code, ended.stdout_tail) == (E1, 4, b"go on\n")


async def test_what_ended_meanwhile_is_told_with_the_end_of_its_output(root: Path) -> None:
    """Once: of hundreds that ended long ago it would be a look at the disk for each."""
    async with running(root) as it:
        script = "mkfifo fifo; cat fifo; echo so >&2; exit 4"
        it.tasks.start(shell(script))
        await until((root / "executions/e1/work/fifo").exists)
    await trio.to_thread.run_sync((root / "executions/e1/work/fifo").write_text, "go on\n")
    await until((root / "executions/e1/exit").exists)
    async with running(root) as again:
        (found,) = await again.tasks.found()
        told = found.as_ended()
        assert (told.exit_code, told.stdout_tail, told.stderr_tail) == (4, b"go on\n", b"so\n")
        await until(lambda: not (root / "executions/e1/work").exists())
    async with running(root) as third:
        (found,) = await third.tasks.found()
        assert (found.exit_code, found.stdout_tail, found.stderr_tail) == (4, b"", b"")


async def test_the_end_of_its_output_is_read_before_a_full_disk_has_it_cleared(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(root) as it:
        it.tasks.start(shell("mkfifo fifo; cat fifo"))
        await until((root / "executions/e1/work/fifo").exists)
    await trio.to_thread.run_sync((root / "executions/e1/work/fifo").write_text, "go on\n")
    await until((root / "executions/e1/exit").exists)
    async with running(root) as again:

        async def settle(execution: str) -> str:  # as of containers, where the disk has little room
            await again.engine.clear(execution)
            return ""

        monkeypatch.setattr(again.engine, "settle_output", settle)
        (found,) = await again.tasks.found()
        assert found.stdout_tail == b"go on\n"


async def test_a_node_built_anew_finds_also_what_is_being_started(root: Path) -> None:
    async with running(root) as it:
        sources = [source("archive", ".", Digest="0" * 64, Size=5)]
        it.tasks.start(shell("true", InputSources=sources))
        await trio.testing.wait_all_tasks_blocked()
        assert await it.tasks.found() == (TaskFound(E1, running=True),)
        it.may_dial.set()
        assert (await it.until(TaskEnded)).exit_code is None


# ---- result files -----------------------------------------------------------------------------

OUT = [{"Name": "report", "Path": "out"}]


def files_in(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        members = [member for member in archive if member.isreg()]
        return {member.name: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr]


@pytest.mark.parametrize("code", [0, 7])
async def test_what_is_at_its_result_paths_is_kept_however_it_ended(root: Path, code: int) -> None:
    async with running(root) as it:
        script = f"mkdir out; echo found > out/a; exit {code}"
        ended = await it.ended(shell(script, ResultPaths=OUT))
        assert ended.exit_code == code and not ended.archive_note
        path = it.kept.path(ended.archive)
        assert path.stat().st_size == ended.archive_bytes
        assert files_in(path) == {"report/a": b"found\n"}


async def test_of_what_has_ended_its_output_stays_and_its_files_go(root: Path) -> None:
    async with running(root) as it:
        await it.ended(shell("mkdir -p a/b; chmod 500 a; echo x > $TMPDIR/y; echo said"))
        directory = root / "executions" / E1
        await until(lambda: not (directory / "work").exists() and not (directory / "tmp").exists())
        assert (await it.engine.tail(E1, "stdout", 10)).data == b"said\n"


async def test_without_result_paths_nothing_is_kept(root: Path) -> None:
    async with running(root) as it:
        ended = await it.ended(shell("echo x > file"))
        assert (ended.archive, ended.archive_bytes, ended.archive_note) == ("", 0, "")
        assert os.listdir(it.kept.directory) == []


async def test_what_was_not_there_is_said(root: Path) -> None:
    async with running(root) as it:
        ended = await it.ended(shell("true", ResultPaths=OUT))
        assert (ended.archive, ended.archive_note) == ("", "out: nothing is there")


async def test_what_ended_while_the_agent_was_away_is_packed_by_the_next(root: Path) -> None:
    async with running(root) as first:
        first.tasks.start(shell("mkdir out; echo late > out/a; sleep 0.3", ResultPaths=OUT))
        await first.until(TaskStarted)
    await trio.sleep(0.8)
    async with running(root) as second:
        assert await second.tasks.found() == (TaskFound(E1, running=True),), "not packed yet"
        ended = await second.until(TaskEnded)
        assert files_in(second.kept.path(ended.archive)) == {"report/a": b"late\n"}
    async with running(root) as third:
        (found,) = await third.tasks.found()
        assert (found.running, found.archive) == (False, ended.archive)
        assert found.as_ended().archive_bytes == ended.archive_bytes


async def test_a_full_disk_costs_the_files_and_not_the_result(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = ExecutionDir.write_note

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def wanted_only(self: ExecutionDir, name: str, data: bytes) -> None:
        writes(self, name, data) if name == "results" else full()

    monkeypatch.setattr("agent.results.pack", full)
    monkeypatch.setattr("agent.engines.execution_dir.ExecutionDir.write_note", wanted_only)
    async with running(root) as it:
        ended = await it.ended(shell("mkdir out; exit 4", ResultPaths=OUT))
        assert (ended.exit_code, ended.archive) == (4, "")
        assert "the disk is full" in ended.archive_note


async def test_output_that_is_published_comes_with_the_end_up_to_a_bound(root: Path) -> None:
    async with running(root) as it:
        it.tasks.publishes = lambda key: key == E1
        ended = await it.ended(shell("head -c 70000 /dev/zero"))
        assert (len(ended.stdout), ended.stdout_bytes) == (OUTPUT_BYTES_MAX, 70_000)
        it.events.clear()
        other = await it.ended(shell("echo out", execution=ExecutionId("e2")))
        assert (other.stdout, other.stdout_bytes) == (b"", 0)


async def test_output_of_what_ended_while_no_agent_ran_is_found_with_it(root: Path) -> None:
    async with running(root) as it:
        it.tasks.start(shell("echo out"))
        await it.engine_has_ended()
    async with running(root) as it:
        it.tasks.publishes = lambda key: True
        (found,) = await it.tasks.found()
        assert (found.stdout, found.stdout_bytes) == (b"out\n", 4)


# ---- output -----------------------------------------------------------------------------------


async def test_output_that_its_bound_has_cost_is_told_with_its_end_and_by_a_later_life(
    root: Path,
) -> None:
    lost = "bytes of stdout are gone, as task.log_bytes_max has it"
    async with running(root) as it:
        ended = await it.ended(shell("head -c 500000 /dev/zero"))
        assert lost in ended.output_note
    async with running(root) as it:
        (found,) = await it.tasks.found()
        assert found.output_note == ended.output_note == found.as_ended().output_note


async def test_an_end_is_told_though_nobody_says_what_became_of_its_output(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.tasks.OUTPUT_S", 0.2)
    async with running(root) as it:
        for name, settle in (("hangs", trio.sleep_forever), ("fails", _no_disk)):
            monkeypatch.setattr(it.engine, "settle_output", partial(_ignoring, settle))
            it.events.clear()
            ended = await it.ended(shell("true", execution=ExecutionId(name)))
            assert (ended.exit_code, ended.output_note) == (0, "")


async def _ignoring(settle: Callable[[], Awaitable[str]], _: str) -> str:
    return await settle()


async def _no_disk() -> str:
    raise OSError(errno.EIO, "the card is gone")
