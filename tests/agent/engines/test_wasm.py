"""WebAssembly tasks: real modules, compiled and run by wasmtime in processes of their own."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.engines import wasm_child
from agent.engines.compiled import Compiled
from agent.engines.engine import Engines
from agent.engines.process import ProcessEngine
from agent.engines.task import TaskUser
from agent.engines.wasm import CANNOT_RUN, VARIABLE_PREFIX, Wasm, linked_as
from protocol.effects import StartTask, StopTask
from protocol.events import TaskEnded, TaskFound, TaskStarted
from protocol.ids import ExecutionId, JobId
from protocol.job import JobSpec
from tests import wat
from tests.agent.test_archives import packed, pieces
from tests.agent.test_tasks import Running, files_in, source
from tests.agent.whole import open_directory, until

E1 = ExecutionId("e1")


@pytest.fixture
def root() -> Iterator[Path]:
    made = open_directory()
    yield made
    shutil.rmtree(made)


class Device(Running):
    """Tasks of one life of an agent with the WebAssembly engine."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.wasm = Wasm(root / "wasm", TaskUser.default())
        engines = Engines(self.engine, wasm=self.wasm)
        self.tasks = self.tasks_of(engines, root, f"{root}/shared:rw")

    def code(self) -> list[Path]:
        return sorted(self.wasm.compiled.root.iterdir())


@asynccontextmanager
async def device(root: Path) -> AsyncIterator[Device]:
    it = Device(root)
    await it.wasm.look()
    async with trio.open_nursery() as nursery:
        await nursery.start(it.tasks.run)
        yield it
        nursery.cancel_scope.cancel()
    it.engine.close()


def task(module: bytes, execution: str = "e1", **more: Any) -> StartTask:
    """`more` is of the engine's parameters, but for `Task` and `timeout_s`."""
    timeout_s, rest = more.pop("timeout_s", None), more.pop("Task", {})
    params = {"EntryModule": wat.inline(module), **more}
    tree = {"Engine": {"Type": "wasm", "Params": params}, **rest}
    spec = JobSpec.from_plain({"Type": "batch", "Tasks": [tree]})
    environment = {"SHOAL_JOB_ID": "j"}
    return StartTask(ExecutionId(execution), JobId("j"), spec, environment, timeout_s, ())


async def ended(root: Path, start: StartTask) -> TaskEnded:
    async with device(root) as it:
        return await it.ended(start)


# ---- what it is told ---------------------------------------------------------------------------


async def test_a_module_runs_and_its_output_and_exit_code_are_told(root: Path) -> None:
    async with device(root) as it:
        found = await it.ended(task(wat.says("hello\n")))
        assert it.events[0] == TaskStarted(E1)
        assert (found.exit_code, found.stdout_tail, found.stderr_tail) == (0, b"hello\n", b"")
        it.events.clear()
        assert (await it.ended(task(wat.says("oh\n", fd=2), "e2"))).stderr_tail == b"oh\n"


@pytest.mark.parametrize("code", [0, 7, 125])
async def test_the_modules_own_exit_code_is_the_tasks(root: Path, code: int) -> None:
    found = await ended(root, task(wat.exits(code)))
    assert (found.exit_code, found.stderr_tail) == (code, b"")


async def test_its_arguments_follow_its_files_name(root: Path) -> None:
    found = await ended(root, task(wat.tells("args"), Parameters=["--width", 5, "ü", "-c"]))
    words = found.stdout_tail.split(b"\0")
    assert [word.decode() for word in words] == ["m.wasm", "--width", "5", "ü", "-c", ""]


async def test_it_sees_the_jobs_variables_and_none_of_the_devices(root: Path) -> None:
    env = {"A": "1", "LD_PRELOAD": "/x.so", "PYTHONPATH": "/x"}
    found = await ended(
        root,
        task(wat.tells("environ"), EnvironmentVariables={"B": "ü", "A": "9=3"}, Task={"Env": env}),
    )
    told = sorted(found.stdout_tail.decode().rstrip("\0").split("\0"))
    assert told == ["A=9=3", "B=ü", "LD_PRELOAD=/x.so", "PYTHONPATH=/x", "SHOAL_JOB_ID=j"]


async def test_a_file_of_its_inputs_is_its_standard_input(root: Path) -> None:
    source = {
        "Source": {"Type": "inline", "Params": {"URL": "data:,on%00off"}},
        "Target": "message",
    }
    more = {"InputSources": [source], "Stdin": "message"}
    found = await ended(root, task(wat.echoes(), Task=more))
    assert (found.exit_code, found.stdout_tail) == (0, b"on\0off")
    assert (await ended(root, task(wat.echoes(), "e2"))).stdout_tail == b""


async def test_another_function_may_be_run(root: Path) -> None:
    module = wat.module('(module (func (export "go")))')
    assert (await ended(root, task(module, EntryPoint="go"))).exit_code == 0


async def test_a_library_is_initialised_before_one_of_its_functions_runs(root: Path) -> None:
    module = wat.module(
        """(module (global $ready (mut i32) (i32.const 0))
          (func (export "_initialize") (global.set $ready (i32.const 1)))
          (func (export "go") (if (i32.eqz (global.get $ready)) (then unreachable))))"""
    )
    assert (await ended(root, task(module, EntryPoint="go"))).exit_code == 0


# ---- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("preopen", [3, 4])
async def test_inputs_are_read_and_results_are_kept(root: Path, preopen: int) -> None:
    rest = {
        "InputSources": [source("inline", "/input/text", URL="data:,what")],
        "ResultPaths": [{"Name": "out", "Path": "/outputs"}],
    }
    async with device(root) as it:
        module = wat.shouts("input/text", "outputs/shout", preopen)
        found = await it.ended(task(module, Task=rest))
        assert (found.exit_code, found.stdout_tail, found.archive_note) == (0, b"WHAT", "")
        assert files_in(it.kept.path(found.archive)) == {"out/shout": b"WHAT"}


@pytest.mark.parametrize("path", ["../spec", "../../../etc/passwd", "/etc/passwd"])
async def test_nothing_else_of_the_device_can_be_opened(root: Path, path: str) -> None:
    assert (await ended(root, task(wat.shouts(path, "x")))).exit_code == 1


@pytest.mark.parametrize(("writable", "code"), [(True, 0), (False, 2)])
async def test_a_directory_of_the_device_is_given_as_its_owner_and_the_job_say(
    root: Path, writable: bool, code: int
) -> None:
    shared = root / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "text").write_text("quiet")
    given = source("localdirectory", "/data", SourcePath=str(shared), ReadWrite=writable)
    start = task(wat.shouts("text", "shout", 5), Task={"InputSources": [given]})
    found = await ended(root, start)
    assert (found.exit_code, found.stdout_tail) == (code, b"QUIET"), found
    assert (shared / "shout").exists() == writable


async def test_a_module_is_given_no_single_file_of_the_device(root: Path) -> None:
    (root / "shared").write_text("x")
    given = source("localdirectory", "/data", SourcePath=f"{root}/shared")
    found = await ended(root, task(wat.exits(0), Task={"InputSources": [given]}))
    assert found.exit_code is None
    assert found.reason.endswith("shared is a file; a module is given directories")


async def test_a_module_may_come_in_an_archive(root: Path) -> None:
    async with device(root) as it:
        data = packed(("bin/a.wasm", wat.exits(3)), ("bin/b.wasm", wat.exits(4)))
        digest, size = await it.archives.put(pieces(data))
        sources = {"InputSources": [source("archive", ".", Digest=digest, Size=size)]}
        found = await it.ended(task(b"", EntryModule="bin/b.wasm", Task=sources))
        assert found.exit_code == 4


async def test_the_one_module_of_an_archive_needs_no_name(root: Path) -> None:
    async with device(root) as it:
        for name, members in (("one", [("a.wasm", wat.exits(5)), ("b.txt", b"")]), ("none", [])):
            digest, size = await it.archives.put(pieces(packed(("readme", b""), *members)))
            sources = [{**source("archive", "mod", Digest=digest, Size=size), "Alias": "app"}]
            it.events.clear()
            start = task(b"", name, EntryModule="app", Task={"InputSources": sources})
            found = await it.ended(start)
            expected = (
                (5, "") if members else (126, "mod holds 0 files *.wasm; name the one to run")
            )
            assert (found.exit_code, found.reason) == expected


# ---- modules that others import ----------------------------------------------------------------


def importing(module: str) -> bytes:
    return wat.module(
        f"""(module
          (import "{module}" "square" (func $square (param i32) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") 1)
          (func (export "_start") (call $exit (call $square (i32.const 5)))))"""
    )


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("math", ""),
        ("my math", "my math"),
        ("lib/math.wasm", ""),
        ("/lib/math.wasm", ""),
        ("lib/math.wasm", "my math"),
    ],
)
async def test_it_imports_from_another_module_by_file_alias_or_path(
    root: Path, name: str, alias: str
) -> None:
    library = wat.inline(wat.SQUARES, "lib/math.wasm", alias)
    found = await ended(root, task(importing(name), ImportModules=[library]))
    assert found.exit_code == 25, found


def test_a_name_belongs_to_one_module_before_any_path_does() -> None:
    spec = task(
        wat.LIBRARY,
        ImportModules=[
            wat.inline(wat.SQUARES, "/b.wasm"),
            wat.inline(wat.SQUARES, "c.wasm", "b.wasm"),
        ],
    ).spec.task
    modules = spec.engine.wasm.import_modules
    assert linked_as(modules, spec.input_sources) == {
        "/b.wasm": ["b", "/b.wasm"],
        "c.wasm": ["b.wasm", "c.wasm", "/c.wasm"],
    }
    assert linked_as(("/c.wasm",), spec.input_sources)["/c.wasm"][0] == "b.wasm"


# ---- limits ------------------------------------------------------------------------------------


async def test_an_endless_loop_ends_when_its_fuel_does(root: Path) -> None:
    found = await ended(root, task(wat.LOOPS, Fuel=1_000_000))
    assert found.exit_code == wasm_child.OUT_OF_FUEL
    assert found.stderr_tail == b"shoal: out of fuel: it may use 1000000, see Fuel\n"


async def test_with_enough_fuel_nothing_changes(root: Path) -> None:
    found = await ended(root, task(wat.says("hello"), Fuel=1_000_000))
    assert (found.exit_code, found.stdout_tail) == (0, b"hello")


async def test_an_endless_loop_ends_at_its_timeout(root: Path) -> None:
    found = await ended(root, task(wat.LOOPS, timeout_s=1.0))
    assert found.exit_code == 124 and "ExecutionTimeout" in found.reason


async def test_memory_grows_as_far_as_was_set_aside(root: Path) -> None:
    async with device(root) as it:
        for name, memory, code in (("small", "64Mi", 1), ("large", "128Mi", 0)):
            it.events.clear()
            resources = {"Resources": {"Memory": memory}}
            found = await it.ended(task(wat.GROWS, name, Task=resources))
            assert found.exit_code == code, memory


async def test_modules_that_are_linked_share_what_was_set_aside(root: Path) -> None:
    """Without it each of them had all of it."""
    resources = {"Resources": {"Memory": "128Mi"}}
    library = wat.inline(wat.SQUARES, "math.wasm")
    start = task(wat.GROWS, ImportModules=[library], Task=resources)
    assert (await ended(root, start)).exit_code == 1


@pytest.mark.parametrize(
    "text",
    [
        '(module (memory 1 2 shared) (func (export "_start")))',
        '(module (memory 1) (memory 1) (func (export "_start")))',
        '(module (type (struct)) (func (export "_start")))',
    ],
    ids=["threads", "memories", "gc"],
)
async def test_what_limits_do_not_hold_back_does_not_compile(root: Path, text: str) -> None:
    found = await ended(root, task(wat.module(text)))
    assert found.exit_code == CANNOT_RUN and "it does not compile" in found.reason


# ---- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "code", "said"),
    [
        (wat.TRAPS, 134, "the module trapped: wasm `unreachable` instruction executed"),
        (wat.exits(126), 134, "the module trapped: exit with invalid exit status"),
        (wat.LIBRARY, 127, "the module has no function _start; it exports: x"),
        (
            wat.module('(module (func (export "_start") (param i32)))'),
            127,
            "the function _start takes arguments",
        ),
        (
            wat.module('(module (import "env" "now" (func)) (func (export "_start")))'),
            126,
            "the module imports env.now, which neither WASI nor one of its ImportModules has",
        ),
        (
            wat.module('(module (memory 2000) (func (export "_start")))'),
            126,
            "it may have 64 MiB, see Resources.Memory",
        ),
        (
            wat.module('(module (table 2000000 funcref) (func (export "_start")))'),
            126,
            "table minimum size of 2000000 elements exceeds table limits",
        ),
    ],
    ids=["trap", "status", "start", "arguments", "import", "memory", "table"],
)
async def test_bad_ends_have_their_code_and_one_line(
    root: Path, module: bytes, code: int, said: str
) -> None:
    found = await ended(root, task(module))
    text = found.stderr_tail.decode()
    assert (found.exit_code, said in text, text.count("\n")) == (code, True, 1), found
    assert text == f"shoal: {found.reason}\n"


async def test_a_modules_own_words_and_exit_code_are_no_reason(root: Path) -> None:
    it = await ended(root, task(wat.says("shoal: all is lost", 2, 125)))
    assert (it.exit_code, it.reason, it.stderr_tail) == (125, "", b"shoal: all is lost")


async def test_a_line_that_the_module_leaves_open_is_none_of_the_reason(root: Path) -> None:
    it = await ended(root, task(wat.says("half a line", 2, 126)))
    assert (it.exit_code, it.reason[:19]) == (134, "the module trapped:")
    assert it.stderr_tail.startswith(b"half a lineshoal: the module trapped")


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (wat.GARBAGE, "it does not compile: unexpected end-of-file (at offset 0xa)"),
        (b"(module)", "not a WebAssembly module: it does not start with \\0asm"),
        (b"", "not a WebAssembly module: it does not start with \\0asm"),
    ],
    ids=["garbage", "text", "empty"],
)
async def test_what_is_no_module_is_the_tasks_failure_and_leaves_nothing(
    root: Path, module: bytes, reason: str
) -> None:
    async with device(root) as it:
        found = await it.ended(task(module))
        assert (found.exit_code, found.reason) == (CANNOT_RUN, reason)
        assert it.code() == []
        assert not [event for event in it.events if isinstance(event, TaskStarted)]


async def test_without_wasmtime_a_task_ends_with_the_reason(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    async with device(root) as it:
        found = await it.ended(task(wat.exits(0)))
        assert (found.exit_code, it.wasm.present) == (None, False), "the device's trouble"
        assert found.reason == (
            "wasmtime is not here: it is not installed (sudo scripts/install --wasm where it is a "
            "service, else pip install 'shoal[wasm]')"
        )


async def test_python_and_what_was_compiled_may_be_where_the_tasks_user_cannot_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = root / "closed"
    closed.mkdir(mode=0o700)
    child = closed / "wasm_child.py"
    shutil.copy(wasm_child.__file__, child)
    monkeypatch.setattr("agent.engines.wasm.CHILD", child)
    async with device(root) as it:
        it.wasm.compiled = Compiled(closed / "compiled")
        it.wasm.compiled.open()
        assert (await it.ended(task(wat.exits(3)))).exit_code == 3


async def test_it_runs_as_the_tasks_user_and_what_it_writes_is_its_own(root: Path) -> None:
    user = TaskUser.default()
    rest = {
        "InputSources": [source("inline", "text", URL="data:,x")],
        "ResultPaths": [{"Name": "out", "Path": "/out"}],
    }
    async with device(root) as it:
        found = await it.ended(task(wat.shouts("text", "out/x"), Task=rest))
        assert found.archive, "the files of another user than the task's are not packed"
        it.events.clear()
        it.tasks.start(task(wat.LOOPS, "e2"))
        await it.until(TaskStarted)
        await until((root / "executions/e2/task").exists)
        pid = int((root / "executions/e2/task").read_text().split()[0])
        mine = user.uid if user is not None else os.getuid()
        await until(lambda: uids(pid) == {mine})
        if user is not None:
            status = proc(pid)
            assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status
        it.tasks.stop(StopTask(ExecutionId("e2"), "withdrawn"))
        await it.until(TaskEnded)


async def test_where_the_agent_is_not_root_it_stays_who_it_is(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TaskUser, "default", classmethod(lambda cls: None))
    async with device(root) as it:
        it.tasks.start(task(wat.LOOPS))
        await it.until(TaskStarted)
        await until((root / "executions/e1/task").exists)
        pid = int((root / "executions/e1/task").read_text().split()[0])
        assert uids(pid) == {os.getuid()}
        it.tasks.stop(StopTask(E1, "withdrawn"))
        await it.until(TaskEnded)


def uids(pid: int) -> set[int]:
    """Real, effective, saved and of the file system."""
    return {int(n) for n in proc(pid).partition("Uid:")[2].partition("\n")[0].split()}


def proc(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return ""


async def test_it_ends_with_its_supervisor(root: Path) -> None:
    """What nobody watches must not run on; changing users forgets what the supervisor asked for."""
    async with device(root) as it:
        it.tasks.start(task(wat.LOOPS))
        await it.until(TaskStarted)
        directory = root / "executions/e1"
        await until((directory / "task").exists)
        pid, supervisor = (
            int((directory / name).read_text().split()[0]) for name in ("task", "supervisor")
        )
        mine = user.uid if (user := TaskUser.default()) is not None else os.getuid()
        await until(lambda: uids(pid) == {mine})
        await trio.sleep(0.2)  # between changing users and asking again there is no sign
        os.kill(supervisor, signal.SIGKILL)
        await until(lambda: "State:" not in proc(pid) or "State:\tZ" in proc(pid))


async def test_a_user_that_it_cannot_become_is_the_engines_trouble(root: Path) -> None:
    wasm = Wasm(root / "wasm", TaskUser(2**32 - 1, 2**32 - 1))
    await wasm.look()
    assert not wasm.present and "cannot become user" in wasm.trouble


async def test_where_it_does_not_start_its_last_words_are_the_reason(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = root / "wasm_child.py"
    child.write_text("import nothing_of_that_name")
    child.chmod(0o644)
    monkeypatch.setattr("agent.engines.wasm.CHILD", child)
    wasm = Wasm(root / "wasm", TaskUser.default())
    await wasm.look()
    assert not wasm.present and "No module named 'nothing_of_that_name'" in wasm.trouble


# ---- stopping, and the next life ---------------------------------------------------------------


async def test_it_is_stopped_at_once(root: Path) -> None:
    async with device(root) as it:
        it.tasks.start(task(wat.LOOPS))
        await it.until(TaskStarted)
        with trio.fail_after(5):
            it.tasks.stop(StopTask(E1, "withdrawn"))
            assert (await it.until(TaskEnded)).exit_code is None


async def test_a_stop_while_it_compiles_leaves_no_compiler_and_no_half_file(root: Path) -> None:
    async with device(root) as it:
        it.tasks.start(task(wat.LOOPS))
        await trio.sleep(0.05)
        it.tasks.stop(StopTask(E1, "withdrawn"))
        found = await it.until(TaskEnded)
        assert found.exit_code is None and "stopped" in found.reason
        assert not [path for path in it.code() if path.name.startswith(".")]


async def test_the_next_life_finds_it(root: Path) -> None:
    async with device(root) as first:
        first.tasks.start(task(wat.LOOPS))
        await first.until(TaskStarted)
    async with device(root) as second:
        assert await second.tasks.found() == (TaskFound(E1, running=True),)
        second.tasks.stop(StopTask(E1, "withdrawn"))
        assert (await second.until(TaskEnded)).exit_code is None


# ---- compiled modules --------------------------------------------------------------------------


async def test_a_module_is_compiled_once_for_each_way_to_run_it(root: Path) -> None:
    async with device(root) as it:
        for number, fuel in enumerate((0, 0, 5000, 6000)):
            it.events.clear()
            assert (await it.ended(task(wat.exits(0), f"e{number}", Fuel=fuel))).exit_code == 0
            assert len(it.code()) == (2 if fuel else 1)


async def test_the_tasks_user_reads_what_was_compiled_and_writes_none_of_it(root: Path) -> None:
    async with device(root) as it:
        await it.ended(task(wat.exits(0)))
        directory = it.wasm.compiled.root
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        for path in (directory, *it.code()):
            status = path.stat()
            assert status.st_uid == os.getuid() and not status.st_mode & 0o022
        assert stat.S_IMODE(it.code()[0].stat().st_mode) == 0o644


async def test_what_a_crash_left_half_done_is_gone_at_the_next_start(root: Path) -> None:
    (root / "wasm").mkdir()
    (root / "wasm/.half-of-it.cwasm").write_bytes(b"x")
    async with device(root) as it:
        await it.ended(task(wat.exits(0)))
        assert len(it.code()) == 1


def test_agent_and_child_mean_the_same() -> None:
    """The child imports nothing of the agent, so that these are written twice."""
    assert (CANNOT_RUN, VARIABLE_PREFIX) == (wasm_child.CANNOT_RUN, wasm_child.VARIABLE_PREFIX)


def test_the_engine_that_runs_it_is_that_of_processes(root: Path) -> None:
    processes = ProcessEngine(root / "executions")
    engines = Engines(processes, wasm=Wasm(root / "wasm", None))
    assert engines.named("wasm") is processes
    with pytest.raises(KeyError):
        Engines(processes).named("wasm")
