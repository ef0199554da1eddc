"""The sandbox of programs, by a real bubblewrap: what they see, write and reach."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trio

from agent.engines.beside import Place, run_beside
from agent.engines.process import ProcessEngine
from agent.engines.sandbox import Sandbox, Status, inside_only
from agent.engines.task import ExitReason, TaskExit, TaskLaunch, TaskUser
from tests.agent.engines.test_process import printed
from tests.agent.whole import open_directory

Make = Callable[..., ProcessEngine]


@pytest.fixture
def root() -> Iterator[Path]:
    made = open_directory()
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def make(root: Path) -> AsyncIterator[Make]:
    """An engine whose sandbox hides `root`, the agent's own directory."""
    made: list[ProcessEngine] = []

    def engine(
        always: bool = True, devices: tuple[str, ...] = (), hidden: tuple[Path, ...] = ()
    ) -> ProcessEngine:
        user = TaskUser.default()
        sandbox = Sandbox.find(user, always, hidden or (root,), devices)
        assert sandbox is not None, "bubblewrap is needed (scripts/setup --docker)"
        made.append(ProcessEngine(root / "executions", user, sandbox=sandbox))
        return made[-1]

    yield engine
    for each in made:
        each.close()


async def ended(engine: ProcessEngine, *argv: str, **more: object) -> tuple[TaskExit, str, str]:
    """How it ended, and the ends of its two streams."""
    await engine.start(TaskLaunch("e1", argv, **more))  # type: ignore[arg-type]
    with trio.fail_after(60):
        exit = await engine.wait("e1")
    out, err = await engine.tails("e1", 40)
    return exit, out.data.decode(), err.data.decode()


async def test_it_reads_the_device_and_writes_to_its_own_directory(make: Make, root: Path) -> None:
    (root / "identity.key").write_text("secret")
    script = (
        "cat /etc/passwd >copy; echo x >$TMPDIR/x; touch /usr/x; cat ../../../identity.key;"
        f"ls {root} /root /home /run; pwd"
    )
    exit, out, err = await ended(make(), "sh", "-c", script)
    work = root / "executions/e1/work"
    assert exit.succeeded and b"root:" in (work / "copy").read_bytes()
    assert "Read-only file system" in err and "identity.key: No such file" in err
    assert "/home:\n\n/root:\n\n/run:\n" in out and f"{root}:\nexecutions\n" in out
    assert out.endswith(f"{work}\n") and "secret" not in out


async def test_it_sees_no_process_but_its_own(make: Make) -> None:
    exit, out, _ = await ended(make(), "sh", "-c", "ls -d /proc/[0-9]* | wc -l")
    assert exit.succeeded and int(out) < 6
    assert len([name for name in os.listdir("/proc") if name.isdigit()]) > 6


async def test_without_a_network_it_reaches_not_even_the_device_itself(make: Make) -> None:
    engine = make(always=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        dial = f"exec 3<>/dev/tcp/127.0.0.1/{port}"
        exit, _, err = await ended(engine, "bash", "-c", dial, network=False)
        assert exit.code == 1 and "Connection refused" in err
        await engine.remove("e1")
        assert (await ended(engine, "bash", "-c", dial))[0].succeeded


async def test_it_has_directories_that_it_was_given(make: Make, root: Path) -> None:
    read, write = root / "read", root / "write"  # below what is hidden otherwise
    for given in (read, write):
        given.mkdir()
        given.chmod(0o777)
        (given / "old").write_text(given.name)
    script = f"cat {read}/old {write}/old; echo n >{write}/new; echo n >{read}/new"
    shared = {str(read): False, str(write): True}
    exit, out, err = await ended(make(), "sh", "-c", script, shared=shared)
    assert exit.code == 2 and out == "readwrite" and "Read-only file system" in err
    assert (write / "new").read_text() == "n\n"
    assert sorted(os.listdir(read)) == ["old"]


def anybodys(*directories: Path) -> None:
    for directory in directories:
        directory.mkdir()
        directory.chmod(0o777)
        (directory / "old").write_text(directory.name)


async def test_a_directory_to_read_is_not_written_to_and_all_else_is_as_it_is(
    make: Make, root: Path
) -> None:
    read, within, other = root / "read", root / "read" / "write", root / "other"
    anybodys(read, within, other)
    (other / "link").symlink_to(read)
    engine = make(always=False)
    work = await engine.directories.prepare("e1")
    (work / "in").symlink_to(read)
    await engine.hand_over("e1")
    script = (
        f"cat in/old; echo n >in/new; echo n >{read}/new; echo n >{other}/link/new; rm in/old;"
        f"echo n >/proc/1/root/{read}/new; echo n >in/write/new;"
        f"echo n >{other}/new; echo n >own; echo n >$TMPDIR/own;"
        "ls -d /dev/kmsg /dev/shm; stat -c %i /run /tmp /home; readlink /proc/self/ns/net"
    )
    shared = {str(read): False, str(within): True}
    with socket.create_server(("127.0.0.1", 0)) as server:
        dial = f"; exec 3<>/dev/tcp/127.0.0.1/{server.getsockname()[1]} && echo dialled"
        exit, out, err = await ended(engine, "bash", "-c", script + dial, shared=shared)
    assert exit.succeeded and err.count("Read-only file system") == 5, err
    assert sorted(os.listdir(read)) == ["old", "write"]
    assert all((place / "new").read_text() == "n\n" for place in (within, other))
    assert (work / "own").exists()
    inodes = "".join(f"{os.stat(path).st_ino}\n" for path in ("/run", "/tmp", "/home"))  # noqa: S108
    network = os.readlink("/proc/self/ns/net")
    assert out == f"read/dev/kmsg\n/dev/shm\n{inodes}{network}\ndialled\n"


async def test_with_a_directory_to_read_it_has_no_network_if_it_asked_for_none(
    make: Make, root: Path
) -> None:
    read, other = root / "read", root / "other"
    anybodys(read, other)
    script = f"echo n >{read}/new; echo n >{other}/new; readlink /proc/self/ns/net"
    exit, out, err = await ended(
        make(always=False), "sh", "-c", script, shared={str(read): False}, network=False
    )
    assert exit.succeeded and "Read-only file system" in err
    assert out.startswith("net:[") and out != f"{os.readlink('/proc/self/ns/net')}\n"
    assert os.listdir(read) == os.listdir(other) == ["old"]


async def test_with_a_directory_to_read_it_is_stopped_and_checked_as_any_other(
    make: Make, root: Path
) -> None:
    read = root / "read"
    anybodys(read)
    engine = make(always=False)
    script = "trap 'echo bye; exit 3' TERM; echo on; while :; do sleep 0.1; done"
    launch = TaskLaunch("e1", ("sh", "-c", script), stop_grace_s=30, shared={str(read): False})
    await engine.start(launch)
    with trio.fail_after(60):
        assert await printed(engine, 1) == ["on"]
        code, said = await engine.run_beside("e1", ("touch", f"{read}/new"))
        assert code == 1 and "Read-only file system" in said
        assert await engine.run_beside("e1", ("cat", f"{read}/old")) == (0, "read")
        await engine.stop("e1")
        assert (await engine.wait("e1")).reason is ExitReason.STOPPED
    assert (await engine.tails("e1", 9))[0].data == b"on\nbye\n"


async def test_with_directories_to_write_to_alone_it_is_in_no_sandbox(
    make: Make, root: Path
) -> None:
    write = root / "write"
    anybodys(write)
    engine = make(always=False)
    script = f"echo n >{write}/new; readlink /proc/self/ns/mnt"
    exit, out, _ = await ended(engine, "sh", "-c", script, shared={str(write): True})
    assert exit.succeeded and out == f"{os.readlink('/proc/self/ns/mnt')}\n"
    assert not (root / "executions/e1/sandbox").exists()


async def test_without_a_sandbox_it_is_file_modes_that_keep_it_from_writing(root: Path) -> None:
    """As the README says; and so where bubblewrap, which takes paths, cannot reach its own."""
    ours, theirs = root / "ours", root / "theirs"
    anybodys(ours, theirs)
    ours.chmod(0o755)
    script = f"echo n >{ours}/new; echo n >{theirs}/new"
    shared = {str(ours): False, str(theirs): False}
    closed = root / "closed"
    closed.mkdir(mode=0o700)
    user = TaskUser.default()
    found = Sandbox.find(user, False, (), ())
    for place, sandbox in ((root / "executions", None), (closed / "executions", found)):
        engine = ProcessEngine(place, user, sandbox=sandbox)
        exit, _, err = await ended(engine, "sh", "-c", script, shared=shared)
        assert exit.succeeded and err.count("Permission denied") == 1
        assert (theirs / "new").exists() and not (ours / "new").exists()
        (theirs / "new").unlink()
        engine.close()


async def test_its_devices_are_those_that_the_owner_lists(make: Make) -> None:
    look = ("sh", "-c", "ls /dev | grep -c '^loop-control$\\|^kmsg$'; cat /dev/zero | head -c 1")
    exit, out, _ = await ended(make(), *look)
    assert exit.succeeded and out == "0\n\0"
    listed = make(devices=("/dev/kms*",))
    await listed.remove("e1")
    exit, out, _ = await ended(listed, *look)
    assert exit.succeeded and out == "1\n\0"


async def test_what_the_job_sets_for_the_loader_does_nothing_outside(
    make: Make, root: Path
) -> None:
    planted = root / "planted"
    planted.mkdir(mode=0o777)
    planted.chmod(0o777)
    engine = make()
    work = await engine.directories.prepare("e1")
    write = f'fopen("{planted}/out", "w");'
    code = f"#include <stdio.h>\nvoid __attribute__((constructor)) go(void) {{ {write} }}\n"
    (work / "evil.c").write_text(code)
    evil = str(work / "evil.so")
    compiler = ["gcc", "-shared", "-fPIC", "-o", evil, str(work / "evil.c")]
    await trio.run_process(compiler)
    env = {"LD_PRELOAD": evil, "LD_LIBRARY_PATH": "/x", "TOKEN": "secret"}
    exit, out, _ = await ended(engine, "sh", "-c", "echo $LD_LIBRARY_PATH $TOKEN", env=env)
    assert exit.succeeded and out == "/x secret\n"
    assert os.listdir(planted) == [], "inside it may load what it likes, and write nothing"
    assert inside_only(env) == {"LD_PRELOAD": evil, "LD_LIBRARY_PATH": "/x"}


async def test_a_directory_behind_a_link_and_a_socket_are_hidden_too(
    make: Make, root: Path
) -> None:
    real, link = root / "real", root / "link"
    real.mkdir(mode=0o755)
    (real / "key").write_text("secret")
    link.symlink_to(real)
    listening = root / "a.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(listening))
        server.listen()
        listening.chmod(0o777)
        dial = f"import socket; socket.socket(socket.AF_UNIX).connect('{listening}')"
        look = f'cat {link}/key {real}/key; /usr/bin/python3 -c "{dial}"'
        _, out, err = await ended(make(hidden=(link, listening)), "sh", "-c", look)
    assert "secret" not in out and err.count("No such file") == 2
    assert "Connection refused" in err or "Errno 111" in err or "not found" in err, err


async def test_a_star_means_device_files_and_nothing_else(make: Make, root: Path) -> None:
    engine = make(devices=("*", "relative", "/etc/passwd", "/dev/../etc/shadow"))
    exit, out, _ = await ended(engine, "sh", "-c", f"ls -d /dev/kmsg; ls {root} /root; ls /dev/fd/")
    assert exit.succeeded and out.startswith("/dev/kmsg\n")
    assert f"{root}:\nexecutions\n" in out


@pytest.mark.parametrize("command", ["/no/such/thing", "no-such-thing", "/etc"])
async def test_a_command_that_cannot_be_run_is_no_failure_of_the_task(
    make: Make, command: str
) -> None:
    exit, _, _ = await ended(make(), command)
    assert (exit.reason, exit.code) == (ExitReason.START_FAILED, None)
    assert exit.detail.startswith(f"it could not be started in its sandbox: execvp {command}: ")


async def test_what_bubblewrap_cannot_give_it_is_no_failure_of_the_task(make: Make) -> None:
    exit, _, _ = await ended(make(), "true", shared={"/no/such/directory": False})
    assert exit.reason is ExitReason.START_FAILED and "/no/such/directory" in exit.detail


async def test_its_own_failure_is_its_own(make: Make) -> None:
    exit, _, _ = await ended(make(), "sh", "-c", "echo bwrap: pretends >&2; exit 1")
    assert (exit.reason, exit.code, exit.detail) == (ExitReason.EXITED, 1, "")


async def test_stopped_it_ends_with_all_that_it_started(make: Make) -> None:
    engine = make()
    loop = "while :; do sleep 0.1; done"
    script = f"trap 'echo bye; exit 3' TERM; setsid sleep 1000 & echo ready; {loop}"
    await engine.start(TaskLaunch("e1", ("sh", "-c", script), stop_grace_s=30))
    with trio.fail_after(60):
        assert await printed(engine, 1) == ["ready"]
        await engine.stop("e1")
        exit = await engine.wait("e1")
    assert exit.reason is ExitReason.STOPPED and exit.duration_s < 20
    assert (await engine.tails("e1", 9))[0].data == b"ready\nbye\n"


async def test_stopped_as_it_starts_it_need_not_be_killed(make: Make) -> None:
    engine = make()
    for number in range(20):
        name = f"e{number}"
        await engine.start(TaskLaunch(name, ("sleep", "1000"), stop_grace_s=30))
        await trio.sleep(number / 2000)
        with trio.fail_after(60):
            await engine.stop(name)
            exit = await engine.wait(name)
        assert exit.reason is ExitReason.STOPPED and exit.duration_s < 20


async def test_a_check_runs_within_where_it_sees_and_reaches_the_task(
    make: Make, root: Path
) -> None:
    engine = make()
    listen = "s = socket.create_server(('127.0.0.1', 8123)); print('ready', flush=True)"
    serve = f"import socket, time; {listen}; time.sleep(1000)"
    argv = ("/usr/bin/python3", "-c", serve)
    await engine.start(TaskLaunch("e1", argv, stop_grace_s=0, network=False))
    with trio.fail_after(60):
        assert await printed(engine, 1) == ["ready"]
        dial = ("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8123")
        assert await engine.run_beside("e1", dial) == (0, "")
        look = f"ls /proc | grep -c '^[0-9]'; ls {root}/identity.key /root; pwd >&2; exit 7"
        code, said = await engine.run_beside("e1", ("sh", "-c", look))
        assert (code, said) == (7, str(root / "executions/e1/work"))
        assert await engine.run_beside("e1", ("grep", "-c", "8123", "/proc/2/cmdline")) == (0, "1")
        code, said = await engine.run_beside("e1", ("grep", "CapEff", "/proc/self/status"))
        assert (code, int(said.split()[1], 16)) == (0, 0), "it gains nothing on the way in"
        await engine.stop("e1")
        await engine.wait("e1")


def test_what_bubblewrap_tells_is_read_though_it_is_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "sandbox"
    assert Status.read(file) is None
    for text, status in (
        ("", Status()),
        ('{ "child-pid": 12', Status()),
        ('{ "child-pid": 12 }\n{ "exit', Status(12)),
        ('{ "child-pid": 12 }\n{ "exit-code": 3 }\n', Status(12, True)),
    ):
        file.write_text(text)
        assert Status.read(file) == status


@pytest.mark.parametrize("told", [None, "", '{ "child-pid": 12 }\n{ "exit-code": 3 }\n'])
async def test_where_no_sandbox_is_told_of_a_check_does_not_run_outside(
    make: Make, root: Path, told: str | None
) -> None:
    engine = make()
    await engine.start(TaskLaunch("e1", ("sh", "-c", "echo on; sleep 1000"), stop_grace_s=0))
    with trio.fail_after(60):
        assert await printed(engine, 1) == ["on"]
        file = root / "executions/e1/sandbox"
        before = file.read_text()
        file.unlink()
        if told is not None:
            file.write_text(told)
        with pytest.raises(OSError, match="not in its sandbox"):
            await engine.run_beside("e1", ("true",))
        file.write_text(before)
        assert await engine.run_beside("e1", ("true",)) == (0, "")
        await engine.stop("e1")
        await engine.wait("e1")


async def test_no_program_of_the_task_leads_a_check_out_of_its_sandbox(
    make: Make, root: Path
) -> None:
    """Whatever its variables say: nothing but the command itself is looked up by them, within."""
    engine = make()
    work = await engine.directories.prepare("e1")
    mark = "#!/bin/sh\n/bin/ls -d /proc/[0-9]* >seen\n"
    for name in ("nsenter", "bwrap", "env", "mine"):
        (work / name).write_text(mark)
        (work / name).chmod(0o755)
    await engine.hand_over("e1")
    script = "/bin/echo on; exec /bin/sleep 1000"
    env = {"PATH": ".", "LD_PRELOAD": str(work / "mine"), "GLIBC_TUNABLES": "x=y"}
    launch = TaskLaunch("e1", ("/bin/sh", "-c", script), env=env, stop_grace_s=0, network=False)
    await engine.start(launch)
    with trio.fail_after(60):
        assert await printed(engine, 1) == ["on"]
        assert await engine.run_beside("e1", ("/bin/true",)) == (0, "")
        assert not (work / "seen").exists()
        assert (await engine.run_beside("e1", ("mine",)))[0] == 0
        assert len((work / "seen").read_text().splitlines()) < 8, "it ran within"
        await engine.stop("e1")
        await engine.wait("e1")


async def test_a_number_that_is_no_sandbox_any_more_is_not_entered(root: Path) -> None:
    os.chmod(root, 0o777)  # noqa: S103 -- it could write there
    for pid in (os.getpid(), os.getppid(), 2**22 + 1):
        place = Place(root, {"PATH": "/usr/bin:/bin"}, TaskUser.default(), inside=pid)
        code, said = await run_beside(place, ("touch", "outside"))
        assert code in (126, 127) and said.startswith("its sandbox: "), said
    assert os.listdir(root) == []


async def test_who_asks_for_no_network_is_not_started_without_a_sandbox(root: Path) -> None:
    engine = ProcessEngine(root / "executions", TaskUser.default())
    exit, _, _ = await ended(engine, "true", network=False)
    assert exit.reason is ExitReason.START_FAILED and "bubblewrap" in exit.detail
    engine.close()


def test_where_there_is_none_or_it_does_not_work_there_is_no_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Sandbox.find(None, False, (tmp_path,), ()) is None
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho no namespaces for you >&2; exit 1\n")
    broken.chmod(0o755)
    assert Sandbox.find(None, False, (tmp_path,), ()) is None
    broken.write_text("no program")
    assert Sandbox.find(None, False, (tmp_path,), ()) is None
