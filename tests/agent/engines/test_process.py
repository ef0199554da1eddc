"""The process engine against real processes, on the real clock."""

import contextlib
import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from agent.engines.cgroups import PIDS_MAX
from agent.engines.execution_dir import closed_parent
from agent.engines.outputs import Written
from agent.engines.process import FoundExecution, ProcessEngine
from agent.engines.rlimits import limited, processes_more
from agent.engines.supervisor import (
    encode_spec,
    spawn_supervisor,
    start_time,
    supervisor_path,
)
from agent.engines.task import (
    ExecutionRunningError,
    ExitReason,
    TaskExit,
    TaskLaunch,
    TaskLimits,
    TaskUser,
)
from agent.engines.task_log import LogChunk
from tests.programs import started

SOURCE = supervisor_path().with_name("supervise.c")
WARNINGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror")
ALONE = 54_321  # as this user nothing else runs
WITHIN_S = 60.0  # a bound for a loaded machine; nothing waits that long when it is well
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="session", autouse=True)
def built_supervisor() -> None:
    """Renamed into place: another test process may be running the old one."""
    target = supervisor_path()
    if target.exists() and target.stat().st_mtime >= SOURCE.stat().st_mtime:
        return
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    subprocess.run(["gcc", *WARNINGS, "-static", "-o", fresh, SOURCE], check=True)
    fresh.rename(target)


@pytest.fixture
def root() -> Iterator[Path]:
    """A data directory that tasks of another user can pass through: tmp_path is 0700 above."""
    made = Path(tempfile.mkdtemp(prefix="shoal-test-"))
    made.chmod(0o711)
    yield made / "executions"
    shutil.rmtree(made)


@pytest.fixture
async def engine(root: Path) -> AsyncIterator[ProcessEngine]:
    made = ProcessEngine(root, TaskUser.default())
    yield made
    with trio.CancelScope(shield=True):
        for found in await made.adopt():
            await made.stop(found.execution_id, grace_s=0)
            with trio.fail_after(WITHIN_S):
                await made.wait(found.execution_id)
    made.close()


def shell(script: str, execution_id: str = "e1", **more: object) -> TaskLaunch:
    launch = TaskLaunch(execution_id, ("/bin/sh", "-c", script))
    return dataclasses.replace(launch, **more)  # type: ignore[arg-type]


async def ended(engine: ProcessEngine, launch: TaskLaunch) -> TaskExit:
    with trio.fail_after(WITHIN_S):
        await engine.start(launch)
        return await engine.wait(launch.execution_id)


async def output(engine: ProcessEngine, execution_id: str = "e1") -> str:
    return (await engine.read_log(execution_id, "stdout", 0)).data.decode()


async def until(holds: Callable[[], object]) -> None:
    with trio.fail_after(WITHIN_S):
        while not holds():  # noqa: ASYNC110 -- files have no event
            await trio.sleep(0.005)


async def printed(engine: ProcessEngine, lines: int, execution_id: str = "e1") -> list[str]:
    """Its first lines, as soon as they are there."""
    text = ""
    with trio.fail_after(WITHIN_S):
        async with aclosing(followed(engine, execution_id)) as chunks:
            async for chunk in chunks:
                text += chunk.data.decode()
                if text.count("\n") >= lines:
                    return text.splitlines()
    raise AssertionError(f"ended after {text!r}")


def followed(engine: ProcessEngine, execution_id: str = "e1") -> AsyncGenerator[LogChunk, None]:
    return engine.log(execution_id, "stdout", 0, -1, True)


def gone(pid: int) -> bool:
    """A zombie counts: whose turn it is to reap it is not ours to say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path))


def spawned_status(directory: Path) -> int:
    """A further supervisor's exit status: it has nothing to do and is gone at once."""
    return os.waitstatus_to_exitcode(os.waitpid(spawn_supervisor(directory), 0)[1])


def supervisor_pid(root: Path, execution_id: str = "e1") -> int:
    return int((root / execution_id / "supervisor").read_text().split()[0])


# ---- its standard input ----


async def given(engine: ProcessEngine, name: str, data: bytes) -> Path:
    """A file among its inputs; where it is."""
    path = await engine.directories.prepare("e1") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    await engine.hand_over("e1")
    return path


async def test_a_file_of_its_inputs_is_its_standard_input(engine: ProcessEngine) -> None:
    await given(engine, "in/message", b"one\ntwo\n")
    done = await ended(engine, shell("wc -l; pwd >&2", stdin="in/message", cwd="in"))
    assert done.succeeded
    assert (await output(engine)).strip() == "2"


async def test_without_one_there_is_nothing_to_read(engine: ProcessEngine) -> None:
    await ended(engine, shell("wc -c"))
    assert (await output(engine)).strip() == "0"


async def test_no_link_makes_a_file_of_the_device_its_standard_input(
    engine: ProcessEngine, tmp_path: Path
) -> None:
    outside = tmp_path / "secret"
    outside.write_text("secret")
    link = (await given(engine, "x", b"")).with_name("message")
    link.symlink_to(outside)
    done = await ended(engine, shell("cat", stdin="message"))
    assert done.reason is ExitReason.START_FAILED
    assert done.detail.startswith("message: cannot be read as standard input: ")


async def test_a_standard_input_that_is_not_there_is_named(engine: ProcessEngine) -> None:
    done = await ended(engine, shell("cat", stdin="message"))
    assert done.detail == "message: cannot be read as standard input: No such file or directory"


# ---- how it ends ----


async def test_a_reader_of_its_log_never_comes_between_a_start_and_its_supervisor(
    engine: ProcessEngine,
) -> None:
    """Who looked after the spec was there and before its supervisor was gave it up as lost."""

    async def look(execution_id: str) -> None:
        found = False
        while not found:
            with contextlib.suppress(KeyError):  # it is not there yet
                async with aclosing(followed(engine, execution_id)) as chunks:
                    assert [chunk async for chunk in chunks] == []
                found = True

    for number in range(40):
        launch = shell("true", f"e{number}")
        with trio.fail_after(WITHIN_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(look, launch.execution_id)
                nursery.start_soon(look, launch.execution_id)
                nursery.start_soon(engine.start, launch)
            assert (await engine.wait(launch.execution_id)).succeeded


async def test_exit_code_and_output_are_kept(engine: ProcessEngine) -> None:
    told = await ended(engine, shell("echo out; echo err >&2; exit 7"))
    assert (told.code, told.signal, told.reason) == (7, None, ExitReason.EXITED)
    assert not told.succeeded
    assert await output(engine) == "out\n"
    assert (await engine.read_log("e1", "stderr", 0)).data == b"err\n"


async def test_a_signal_is_told_apart_from_a_code(engine: ProcessEngine) -> None:
    told = await ended(engine, shell("kill -SEGV $$"))
    assert (told.code, told.signal, told.reason) == (None, signal.SIGSEGV, ExitReason.SIGNALLED)


async def test_duration_and_end_are_measured(engine: ProcessEngine) -> None:
    told = await ended(engine, shell("sleep 0.2"))
    assert told.succeeded
    assert 0.19 <= told.duration_s < WITHIN_S
    assert told.ended_wall == pytest.approx(time.time(), abs=WITHIN_S)


async def test_many_may_wait_for_one(engine: ProcessEngine) -> None:
    told: list[TaskExit] = []

    async def waiter() -> None:
        told.append(await engine.wait("e1"))

    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            await engine.start(shell("sleep 0.1; exit 3"))
            for _ in range(5):
                nursery.start_soon(waiter)
    assert [one.code for one in told] == [3] * 5


async def test_timeout_ends_it(engine: ProcessEngine) -> None:
    told = await ended(engine, shell("sleep 1000", timeout_s=0.1))
    assert (told.signal, told.reason) == (signal.SIGTERM, ExitReason.TIMEOUT)


async def test_timeout_kills_what_ignores_term(engine: ProcessEngine) -> None:
    script = "trap '' TERM; while :; do sleep 0.05; done"
    told = await ended(engine, shell(script, timeout_s=0.1, stop_grace_s=0.1))
    assert (told.signal, told.reason) == (signal.SIGKILL, ExitReason.TIMEOUT)


async def test_a_task_may_end_in_its_own_way_when_stopped(engine: ProcessEngine) -> None:
    await engine.start(shell("trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done"))
    await printed(engine, 1)
    await engine.stop("e1")
    told = await engine.wait("e1")
    assert (told.code, told.reason) == (5, ExitReason.STOPPED)
    assert await output(engine) == "up\nbye\n"


async def test_term_is_sent_once(engine: ProcessEngine) -> None:
    """Many programs take a second TERM as leave to skip their cleaning up."""
    script = "trap 'echo term' TERM; (setsid sleep 1000 &) ; echo up; while :; do sleep 0.05; done"
    await engine.start(shell(script))
    await printed(engine, 1)
    await engine.stop("e1", grace_s=0.5)
    await engine.wait("e1")
    assert await output(engine) == "up\nterm\n"


STUBBORN = """
trap '' TERM
setsid sh -c 'trap "" TERM; echo $$; while :; do sleep 0.05; done' &
(setsid sh -c 'trap "" TERM; echo $$; exec 1>&-; while :; do sleep 0.05; done' &)
wait
while :; do sleep 0.05; done
"""


async def test_stop_ends_stubborn_tasks_and_those_that_left_the_group(
    engine: ProcessEngine,
) -> None:
    await engine.start(shell(STUBBORN))
    strays = [int(line) for line in await printed(engine, 2)]
    await engine.stop("e1", grace_s=0.1)
    with trio.fail_after(WITHIN_S):
        told = await engine.wait("e1")
    assert (told.signal, told.reason) == (signal.SIGKILL, ExitReason.STOPPED)
    assert all(gone(pid) for pid in strays)


async def test_a_later_shorter_grace_counts(engine: ProcessEngine) -> None:
    await engine.start(shell("trap '' TERM; echo up; while :; do sleep 0.05; done"))
    await printed(engine, 1)
    await engine.stop("e1", grace_s=1000)
    await engine.stop("e1", grace_s=0)
    with trio.fail_after(WITHIN_S):
        assert (await engine.wait("e1")).reason is ExitReason.STOPPED


async def test_stop_at_once_after_start_is_not_lost(engine: ProcessEngine) -> None:
    """The TERM may arrive before the supervisor listens."""
    for i in range(20):
        await engine.start(shell("sleep 1000", f"e{i}"))
        await engine.stop(f"e{i}", grace_s=5)
        with trio.fail_after(WITHIN_S):
            assert (await engine.wait(f"e{i}")).reason is ExitReason.STOPPED


async def test_stop_after_the_end_changes_nothing(engine: ProcessEngine) -> None:
    told = await ended(engine, shell("exit 4"))
    await engine.stop("e1")
    assert await engine.wait("e1") == told


async def test_daemons_left_behind_end_with_their_task(engine: ProcessEngine) -> None:
    script = "(setsid sh -c 'echo $$; exec sleep 1000' &) ; sleep 0.2; exit 0"
    told = await ended(engine, shell(script))
    assert told.succeeded
    assert gone(int(await output(engine)))


async def test_a_chain_of_forks_cannot_run_away(engine: ProcessEngine) -> None:
    """Each link starts the next in a new session and exits."""
    chain = "import os\nwhile True:\n if os.fork(): os._exit(0)\n os.setsid()\n"
    script = f"{sys.executable} -I -S -c '{chain}'; exit 0"
    if os.geteuid() == 0 and not os.access(sys.executable, os.X_OK):
        pytest.skip("the task's user cannot run this Python")
    told = await ended(engine, shell(script, user=TaskUser(0, 0) if os.geteuid() == 0 else None))
    assert told.reason is ExitReason.EXITED


async def test_a_term_from_elsewhere_is_no_stop(engine: ProcessEngine, root: Path) -> None:
    await engine.start(shell("echo up; exec sleep 1000"))
    await printed(engine, 1)
    os.kill(supervisor_pid(root), signal.SIGTERM)
    with trio.fail_after(WITHIN_S):
        assert (await engine.wait("e1")).reason is ExitReason.INTERRUPTED


async def test_the_supervisor_shrugs_off_other_signals(engine: ProcessEngine, root: Path) -> None:
    await engine.start(shell("echo up; while [ ! -e go ]; do sleep 0.02; done; exit 6"))
    await printed(engine, 1)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGALRM):
        os.kill(supervisor_pid(root), number)
    (root / "e1" / "work" / "go").touch()
    with trio.fail_after(WITHIN_S):
        assert (await engine.wait("e1")).code == 6


# ---- failing to start ----


@pytest.mark.parametrize(
    ("launch", "says"),
    [
        (TaskLaunch("e1", ("no-such-command",)), "no-such-command: no such command"),
        (TaskLaunch("e1", ("./missing.sh",)), "./missing.sh: no such command"),
        (TaskLaunch("e1", ("/etc/passwd",)), "/etc/passwd: not executable"),
        (TaskLaunch("e1", ("/bin",)), "/bin: not executable"),
        (TaskLaunch("e1", ("true",), cwd="nowhere"), "nowhere: cannot be the working directory"),
        (TaskLaunch("e1", ()), "no command"),
        (TaskLaunch("e1", ("",)), "no command"),
        (TaskLaunch("e1", ("echo", "a\0b")), "NUL"),
        (TaskLaunch("e1", ("echo", "\ud800")), "surrogates"),
        (TaskLaunch("e1", ("true",), env={"A=B": "c"}), "environment variable"),
        (TaskLaunch("e1", ("echo", "x" * 3_000_000)), "Argument list too long"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_cannot_start_says_why(
    engine: ProcessEngine, launch: TaskLaunch, says: str
) -> None:
    told = await ended(engine, launch)
    assert (told.code, told.signal, told.reason) == (None, None, ExitReason.START_FAILED)
    assert says in told.detail
    engine.close()
    assert (await engine.wait("e1")).reason is ExitReason.START_FAILED  # and it is on disk


async def test_a_script_without_a_first_line_says_so(engine: ProcessEngine) -> None:
    work = await engine.directories.prepare("e1")
    (work / "detect.sh").write_text("echo hi\n")
    (work / "detect.sh").chmod(0o755)
    told = await ended(engine, TaskLaunch("e1", ("./detect.sh",)))
    assert "#! line" in told.detail


async def test_a_missing_supervisor_is_a_failed_start(
    engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "agent.engines.supervisor.supervisor_path", lambda: Path("/nowhere/shoal-supervise")
    )
    told = await ended(engine, shell("true"))
    assert told.reason is ExitReason.START_FAILED
    assert "/nowhere/shoal-supervise" in told.detail


async def test_no_descriptor_to_watch_with_ends_what_was_started(
    engine: ProcessEngine, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(pid: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("os.pidfd_open", full)
    told = await ended(engine, shell("echo $$; exec sleep 1000"))
    assert told.reason is ExitReason.START_FAILED
    monkeypatch.undo()
    if (root / "e1" / "task").exists():
        pid = int((root / "e1" / "task").read_text().split()[0])
        await until(lambda: gone(pid))


# ---- once, whoever asks ----


async def test_starting_twice_runs_once(engine: ProcessEngine, root: Path) -> None:
    launch = shell("echo ran >> ran; sleep 0.1")
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(engine.start, launch)
    await engine.wait("e1")
    await engine.start(launch)
    assert (root / "e1" / "work" / "ran").read_text() == "ran\n"


async def test_another_agent_adopts_instead_of_starting(engine: ProcessEngine, root: Path) -> None:
    launch = shell("echo ran >> ran; sleep 0.3; exit 9")
    await engine.start(launch)
    second = ProcessEngine(root, TaskUser.default())
    assert (await ended(second, launch)).code == 9
    third = ProcessEngine(root, TaskUser.default())
    assert (await ended(third, launch)).code == 9
    assert (root / "e1" / "work" / "ran").read_text() == "ran\n"


async def test_an_engine_counts_the_output_of_its_own_life(
    engine: ProcessEngine, root: Path
) -> None:
    script = "echo early; until [ -e late ]; do sleep 0.02; done; echo later"
    await engine.start(shell(script))
    await until(lambda: engine.outputs.look().bytes == len("early\n"))
    second = ProcessEngine(root, TaskUser.default())
    (found,) = await second.adopt()
    assert found.exit is None and second.outputs.look() == Written()
    (root / "e1" / "work" / "late").touch()
    for each, size in ((engine, len("early\nlater\n")), (second, len("later\n"))):
        with trio.fail_after(WITHIN_S):
            assert (await each.wait("e1")).succeeded
        assert each.outputs.look() == Written(size, fsyncs=3)
    third = ProcessEngine(root, TaskUser.default())
    assert (await third.adopt())[0].exit is not None and third.outputs.look() == Written()
    second.close()


async def test_what_a_killed_supervisor_had_written_is_counted(
    engine: ProcessEngine, root: Path
) -> None:
    await engine.start(shell("echo there; sleep 60"))
    written = root / "e1" / f"stdout.{0:020d}"
    await until(lambda: written.exists() and written.stat().st_size)
    os.kill(supervisor_pid(root), signal.SIGKILL)
    with trio.fail_after(WITHIN_S):
        assert (await engine.wait("e1")).reason is ExitReason.LOST
    assert engine.outputs.look() == Written(len("there\n"), fsyncs=0)


async def test_a_second_supervisor_leaves_it_to_the_first(
    engine: ProcessEngine, root: Path
) -> None:
    await engine.start(shell("echo ran >> ran; sleep 0.3; exit 9"))
    await until((root / "e1" / "supervisor").exists)
    assert [spawned_status(root / "e1") for _ in range(3)] == [3, 3, 3]
    with trio.fail_after(WITHIN_S):
        assert (await engine.wait("e1")).code == 9
    assert (root / "e1" / "work" / "ran").read_text() == "ran\n"


async def test_cut_short_before_the_supervisor_it_starts_after_all(
    engine: ProcessEngine, root: Path
) -> None:
    launch = shell("exit 8")
    await engine.directories.prepare("e1")
    (root / "e1" / "spec").write_bytes(encode_spec(launch, engine.user, {}))
    assert (await ended(engine, launch)).code == 8


async def test_once_given_up_it_never_starts(engine: ProcessEngine, root: Path) -> None:
    """adopt() decides; a supervisor that was slow to come up finds that and goes."""
    await engine.directories.prepare("e1")
    (root / "e1" / "spec").write_bytes(encode_spec(shell("touch ran"), engine.user, {}))
    [found] = await engine.adopt()
    assert found.exit is not None
    assert found.exit.reason is ExitReason.LOST
    assert spawned_status(root / "e1") == 3
    assert not (root / "e1" / "work" / "ran").exists()


# ---- outliving the agent ----

AGENT = """
import sys, trio
from pathlib import Path
from agent.engines.process import ProcessEngine
from agent.engines.task import TaskLaunch, TaskUser
async def main():
    engine = ProcessEngine(Path(sys.argv[1]), TaskUser.default())
    script = "echo up; while [ ! -e go ]; do sleep 0.02; done; echo on; exit 5"
    await engine.start(TaskLaunch("e1", ("/bin/sh", "-c", script)))
    await engine.start(TaskLaunch("e2", ("/bin/sh", "-c", "sleep 1000"), timeout_s=0.5))
    while not (engine.root / "e2/supervisor").exists():  # by then nothing is given up any more
        await trio.sleep(0.01)
    print("started", flush=True)
    await trio.sleep_forever()
trio.run(main)
"""


def start_and_die(root: Path) -> None:
    command = [sys.executable, "-c", AGENT, str(root)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with started(command, stdout=subprocess.PIPE, process_group=0, env=env) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == b"started\n"
        os.killpg(agent.pid, signal.SIGKILL)


async def test_a_task_outlives_kill_9_of_the_agent_and_its_group(
    engine: ProcessEngine, root: Path
) -> None:
    await trio.to_thread.run_sync(start_and_die, root)
    found = await engine.adopt()
    assert FoundExecution("e1", None) in found
    await printed(engine, 1)
    (root / "e1" / "work" / "go").touch()
    with trio.fail_after(WITHIN_S):
        told = await engine.wait("e1")
        assert (told.code, told.reason) == (5, ExitReason.EXITED)
        assert (await engine.wait("e2")).reason is ExitReason.TIMEOUT  # kept without an agent
    assert await output(engine) == "up\non\n"


async def test_ended_while_no_agent_looked(engine: ProcessEngine, root: Path) -> None:
    await ended(engine, shell("exit 2"))
    other = ProcessEngine(root, TaskUser.default())
    [found] = await other.adopt()
    assert found.exit == await engine.wait("e1")
    assert await other.wait("e1") == found.exit


def forge(engine: ProcessEngine, root: Path, supervisor: str, boot: bytes | None = None) -> None:
    spec = encode_spec(shell("true"), engine.user, {})
    if boot is not None:
        spec = b"boot=" + boot + spec[spec.index(b"\0") :]
    (root / "e1").mkdir()
    (root / "e1" / "spec").write_bytes(spec)
    (root / "e1" / "supervisor").write_text(supervisor)


async def test_a_recycled_pid_is_not_mistaken(engine: ProcessEngine, root: Path) -> None:
    started = start_time(os.getpid())
    assert started is not None
    forge(engine, root, f"{os.getpid()} {started - 1}\n")
    [found] = await engine.adopt()
    assert found.exit is not None
    assert found.exit.reason is ExitReason.LOST
    assert "lost power" in found.exit.detail


async def test_another_boot_is_not_mistaken(engine: ProcessEngine, root: Path) -> None:
    """The same pid and start time, by chance, after a reboot."""
    forge(engine, root, f"{os.getpid()} {start_time(os.getpid())}\n", boot=b"0" * 36)
    assert (await ended(engine, shell("touch ran"))).reason is ExitReason.LOST


@pytest.mark.parametrize("record", ["", "garbage", "1", "99999999999999999999 1", "-1 1"])
async def test_a_broken_record_is_lost(engine: ProcessEngine, root: Path, record: str) -> None:
    forge(engine, root, record)
    assert (await engine.wait("e1")).reason is ExitReason.LOST


async def test_a_broken_exit_is_lost(engine: ProcessEngine, root: Path) -> None:
    forge(engine, root, "1 1\n")
    (root / "e1" / "exit").write_bytes(b"\0" * 200)
    assert (await engine.wait("e1")).reason is ExitReason.LOST


async def test_a_killed_supervisor_is_lost_and_takes_the_task_along(
    engine: ProcessEngine, root: Path
) -> None:
    await engine.start(shell("echo $$; exec sleep 1000"))
    [pid] = await printed(engine, 1)
    os.kill(supervisor_pid(root), signal.SIGKILL)
    with trio.fail_after(WITHIN_S):
        assert (await engine.wait("e1")).reason is ExitReason.LOST
    await until(lambda: gone(int(pid)))


# ---- logs ----

LIMIT = 1 << 20


async def test_times_of_output_go_with_it_and_are_bounded(
    engine: ProcessEngine, root: Path
) -> None:
    script = "for i in $(seq 40); do head -c 1000 /dev/zero; sleep 0.06; done"
    await ended(engine, shell(script, log_bytes_max=8000))
    kept = {path.name.rpartition(".")[2] for path in (root / "e1").glob("stdout.*")}
    timed = {path.name.rpartition(".")[2] for path in (root / "e1").glob("times-stdout.*")}
    assert timed == kept and len(kept) == 2
    sizes = [path.stat().st_size for path in (root / "e1").glob("times-stdout.*")]
    assert all(0 < size <= 65536 and size % 16 == 0 for size in sizes)


async def test_a_flood_is_bounded_and_offsets_never_move(engine: ProcessEngine, root: Path) -> None:
    written = 300_000_000
    script = f"yes 0123456789abcdef | head -c {written}; echo; echo the end"
    told = await ended(engine, shell(script, log_bytes_max=LIMIT))
    assert told.succeeded
    kept = sum(path.stat().st_size for path in (root / "e1").glob("stdout.*"))
    assert LIMIT // 2 <= kept <= LIMIT
    first = await engine.read_log("e1", "stdout", 0)
    assert first.end == written + len("\nthe end\n")
    assert first.offset == first.end - kept
    why = "as task.log_bytes_max has it"
    assert told.lost_output == f"the first {first.offset:,} bytes of stdout are gone, {why}"
    assert await engine.settle_output("e1") == told.lost_output
    assert engine.outputs.look().bytes == first.end, "a card bears what goes first as well"
    line = b"0123456789abcdef\n"
    assert first.data[:17] == (line * 2)[first.offset % 17 :][:17]
    assert (await engine.tail("e1", "stdout", 1)).data == b"the end\n"


@pytest.mark.parametrize("told", [True, False])
async def test_a_follower_misses_nothing_that_is_kept(
    engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """Whether the kernel tells of output, or has no more watches to give."""
    if told:
        monkeypatch.setattr("agent.engines.process.FOLLOW_POLL_S", 2 * WITHIN_S)
        monkeypatch.setattr("agent.engines.changes.SURE_S", 2 * WITHIN_S)
    else:
        monkeypatch.setattr("inotify_simple.INotify", none_left)
    await engine.start(shell("for i in 1 2 3; do echo $i; while [ ! -e $i ]; do :; done; done"))
    data, work = b"", engine.root / "e1/work"
    with trio.fail_after(WITHIN_S):
        async with aclosing(followed(engine)) as chunks:
            async for chunk in chunks:
                assert chunk.offset == len(data)
                data += chunk.data
                (work / data.decode().split()[-1]).touch()
    assert data == b"1\n2\n3\n"


def none_left(nonblocking: bool) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def test_a_follower_crosses_segments(engine: ProcessEngine) -> None:
    await ended(engine, shell("i=0; while [ $i -lt 200 ]; do echo $i; i=$((i+1)); done"))
    whole = await output(engine)
    await ended(
        engine,
        shell(
            "i=0; while [ $i -lt 200 ]; do echo $i; i=$((i+1)); done",
            "e2",
            log_bytes_max=len(whole),
        ),
    )
    async with aclosing(followed(engine, "e2")) as chunks:
        first, *others = [chunk async for chunk in chunks]
    assert (first.data + b"".join(each.data for each in others)).decode() == whole[first.offset :]
    assert others


async def test_tail_is_whole_lines(engine: ProcessEngine) -> None:
    await ended(engine, shell("printf 'a\\nb\\nc\\nd'"))
    chunk = await engine.tail("e1", "stdout", 2)
    assert (chunk.data, chunk.offset, chunk.next_offset) == (b"c\nd", 4, 7)
    assert (await engine.tail("e1", "stderr", 2)).data == b""


async def test_offsets_out_of_range_are_harmless(engine: ProcessEngine) -> None:
    await ended(engine, shell("echo hi"))
    assert (await engine.read_log("e1", "stdout", -5)).data == b"hi\n"
    assert (await engine.read_log("e1", "stdout", 99)).offset == 3
    assert (await engine.read_log("unknown", "stdout", 0)).data == b""


async def test_a_planted_link_is_not_read(engine: ProcessEngine, root: Path) -> None:
    forge(engine, root, "1 1\n")
    (root / "e1" / f"stdout.{0:020d}").symlink_to("/etc/passwd")
    assert (await engine.read_log("e1", "stdout", 0)).data == b""


# ---- what a task is given ----


async def test_the_environment_is_an_allow_list(
    engine: ProcessEngine, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    launch = TaskLaunch("e1", ("/usr/bin/env", "-0"), env={"SHOAL_JOB_ID": "j1", "A": "x=y\nz"})
    await ended(engine, launch)
    given = dict(item.split("=", 1) for item in (await output(engine)).split("\0") if item)
    assert set(given) == {"PATH", "LANG", "HOME", "TMPDIR", "SHOAL_JOB_ID", "A"}
    assert given["A"] == "x=y\nz"
    assert given["HOME"] == str(root / "e1" / "work")


async def test_any_bytes_pass_as_arguments(engine: ProcessEngine) -> None:
    hostile = ("arg=env=X", "", "a\nb", "\udcff", "ü'\"$(reboot)`", "\x01", "-c")
    launch = TaskLaunch("e1", ("printf", "%s|", *hostile))
    assert (await ended(engine, launch)).succeeded
    told = (await engine.read_log("e1", "stdout", 0)).data
    assert told == b"|".join(os.fsencode(arg) for arg in hostile) + b"|"


async def test_cwd_is_within_the_work_directory(engine: ProcessEngine) -> None:
    work = await engine.directories.prepare("e1")
    (work / "sub").mkdir()
    (work / "sub").chmod(0o755)
    await ended(engine, TaskLaunch("e1", ("/bin/pwd",), cwd="sub"))
    assert await output(engine) == f"{work}/sub\n"


async def test_it_starts_clean(engine: ProcessEngine) -> None:
    """No inherited descriptors, signals at their defaults, a session of its own."""
    leaked = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        await ended(engine, shell("exec ls -l /proc/self/fd /proc/self/fd/0"))
        await ended(
            engine, TaskLaunch("e2", ("grep", "-E", "^(SigBlk|SigIgn|NoNew)", "/proc/self/status"))
        )
        await ended(engine, shell("read -r s < /proc/$$/stat; echo $$ ${s##*) }", "e3"))
    finally:
        os.close(leaked)
    listing = await output(engine)
    assert "hostname" not in listing
    assert "/proc/self/fd/0 -> /dev/null" in listing
    flags = dict(line.split() for line in (await output(engine, "e2")).splitlines())
    assert {int(flags[key], 16) for key in ("SigBlk:", "SigIgn:")} == {0}
    assert flags["NoNewPrivs:"] == "1"
    pid, _, _, group, session, *_ = (await output(engine, "e3")).split()
    assert pid == group == session


async def test_limits_are_set(engine: ProcessEngine) -> None:
    limits = TaskLimits(open_files_max=64, memory_bytes=1 << 30)
    script = "ulimit -n; ulimit -c; grep -E 'Max (data|processes)' /proc/self/limits"
    await ended(engine, shell(script, limits=limits))
    files, core, *rest = (await output(engine)).splitlines()
    assert (files, core) == ("64", "0")
    held = {line[:16].strip(): line.split()[-3:-1] for line in rest}
    expected = limited(limits, ALONE)
    assert held["Max data size"] == [str(expected.data_bytes_max)] * 2
    processes, hard = map(int, held["Max processes"])
    assert processes == hard >= processes_more(), "what runs already comes on top"


async def test_without_control_groups_a_bomb_of_forks_ends_at_its_bound(
    engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.engines.rlimits.THREADS_MAX", Path("/nowhere"))
    user = TaskUser(ALONE, ALONE) if os.geteuid() == 0 else None  # whom no other test runs as
    script = "i=0; while [ $i -lt 2000 ]; do echo $i; sleep 1000 & i=$((i+1)); done"
    told = await ended(engine, shell(script, user=user))
    assert told.code == 2, "the shell gave up"
    assert "fork" in (await engine.tail("e1", "stderr", 1)).data.decode()
    assert int((await output(engine)).split()[-1]) <= PIDS_MAX
    assert (await ended(engine, shell("sleep 0 & wait", "e2", user=user))).succeeded, "it has room"


PYTHON = (sys.executable, "-I", "-S", "-c")


def of_root(script: str, limits: TaskLimits) -> TaskLaunch:
    """In this Python, which nobody else may be able to reach."""
    user = TaskUser(0, 0) if os.geteuid() == 0 else None
    return TaskLaunch("e1", (*PYTHON, script), user=user, limits=limits)


async def test_without_control_groups_a_process_that_takes_memory_without_end_is_ended(
    engine: ProcessEngine,
) -> None:
    """And what is only reserved counts for nothing."""
    script = """
import mmap
reserved = mmap.mmap(-1, 64 << 30, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
held = []
try:
    while len(held) < 10_000:
        held.append(mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE))
except OSError as error:
    print(len(held) * 16, error)
"""
    limits = TaskLimits(memory_bytes=512 << 20)
    told = await ended(engine, of_root(script, limits))
    megabytes, *why = (await output(engine)).split()
    assert told.succeeded and "Cannot allocate memory" in " ".join(why), told
    bound = limited(limits, 0).data_bytes_max
    assert bound is not None and bound - (100 << 20) < int(megabytes) << 20 < bound


async def test_without_control_groups_many_threads_have_room_in_the_least_that_a_job_may_have(
    engine: ProcessEngine,
) -> None:
    """Their stacks of 8 MiB are set aside whole."""
    script = """
import threading
done = threading.Event()
threads = [threading.Thread(target=done.wait) for _ in range(150)]
for thread in threads: thread.start()
done.set()
for thread in threads: thread.join()
print("all")
"""
    told = await ended(engine, of_root(script, TaskLimits()))
    assert told.succeeded and await output(engine) == "all\n", told


@as_root
async def test_another_user_sees_neither_keys_nor_controls(
    engine: ProcessEngine, root: Path
) -> None:
    (root.parent / "identity").write_text("key")
    (root.parent / "identity").chmod(0o600)
    script = """
    id -u; id -G
    for f in ../../../identity ../spec ../supervisor ../stdout.*; do cat $f && echo READ $f; done
    touch ../exit && echo WROTE; ls .. && echo LISTED; echo 1 > ../stop && echo STOPPED
    kill -9 $PPID && echo KILLED
    touch "$HOME/here" "$TMPDIR/there" && echo ok
    """
    told = await ended(engine, shell(script))
    assert told.succeeded
    assert (await output(engine)).splitlines() == ["65534", "65534", "ok"]


@as_root
async def test_groups_are_given(engine: ProcessEngine) -> None:
    user = TaskUser(65533, 65534, (44, 20))
    await ended(engine, shell("id -u; id -g; id -G", user=user))
    uid, gid, groups = (await output(engine)).splitlines()
    assert (uid, gid, set(groups.split())) == ("65533", "65534", {"65534", "44", "20"})


@as_root
def test_a_closed_parent_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    user = TaskUser.named("nobody")
    closed = closed_parent(tmp_path, user)
    assert closed is not None
    assert closed == tmp_path or closed in tmp_path.parents
    assert closed_parent(Path("/usr/bin"), user) is None


# ---- names and removal ----


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc", "a\0b", ".hidden", "-rf", "x" * 200, "a\n", "é"]
)
async def test_hostile_names_are_refused(engine: ProcessEngine, root: Path, name: str) -> None:
    for call in (
        lambda: engine.start(shell("true", name)),
        lambda: engine.wait(name),
        lambda: engine.stop(name),
        lambda: engine.remove(name),
        lambda: engine.read_log(name, "stdout", 0),
    ):
        with pytest.raises(ValueError, match="not an execution id"):
            await call()
    assert names(root) == []


async def test_unknown_ones_are_key_errors(engine: ProcessEngine) -> None:
    with pytest.raises(KeyError):
        await engine.wait("unknown")
    with pytest.raises(KeyError):
        await engine.stop("unknown")
    await engine.remove("unknown")
    await engine.directories.prepare("prepared")
    assert await engine.adopt() == []
    await engine.remove("prepared")


async def test_a_running_one_is_not_removed(engine: ProcessEngine) -> None:
    await engine.start(shell("sleep 1000"))
    with pytest.raises(ExecutionRunningError):
        await engine.remove("e1")


async def test_an_end_that_nobody_waited_for_is_seen(engine: ProcessEngine, root: Path) -> None:
    for execution_id in ("e1", "e2"):
        await engine.start(shell("exit 3", execution_id))
        await until((root / execution_id / "exit").exists)
    pid = supervisor_pid(root)
    await until(lambda: gone(pid))
    [first, _] = await engine.adopt()
    assert first.exit is not None
    assert first.exit.code == 3
    await until(lambda: gone(supervisor_pid(root, "e2")))
    await engine.remove("e2")
    assert names(root) == ["e1"]
    assert str(pid) not in names(Path("/proc"))


async def test_removal_follows_no_link_and_minds_no_mode(engine: ProcessEngine, root: Path) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    outside.chmod(0o777)
    script = """
    ln -s ../../../outside link; ln -s /etc/passwd file; mkfifo fifo
    mkdir -p closed/inner; echo x > closed/inner/f; ln -s ../../../../outside closed/inner/up
    touch .hoisted-1; mkdir .hoisted-2; touch closed/inner/.hoisted-1
    chmod 000 closed/inner closed
    printf 'x' > "$(printf 'bad\\nname\\377')"
    """
    assert (await ended(engine, shell(script))).succeeded
    await engine.remove("e1")
    assert names(root) == []
    assert (outside / "precious").read_text() == "kept"
    with pytest.raises(KeyError):
        await engine.wait("e1")


async def test_removal_minds_no_depth(engine: ProcessEngine, root: Path) -> None:
    await ended(engine, shell("true"))
    await trio.to_thread.run_sync(nest, root / "e1" / "work", 5000)
    await engine.remove("e1")
    assert names(root) == []


def nest(path: Path, depth: int) -> None:
    """Deeper than the recursion limit, PATH_MAX and the number of descriptors."""
    at = os.open(path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)


async def test_a_removal_cut_short_is_finished(engine: ProcessEngine, root: Path) -> None:
    await ended(engine, shell("echo x > f"))
    engine.close()
    (root / "e1").rename(root / ".removed-e1.1")
    assert await engine.adopt() == []
    assert names(root) == []


def test_the_supervisor_compiles_without_warnings(tmp_path: Path) -> None:
    command = ["gcc", *WARNINGS, "-o", str(tmp_path / "supervise"), str(SOURCE)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
