"""The docker engine on a real docker: the life of a container, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest
import trio

from agent.engines.container import ContainerLaunch
from agent.engines.docker import DockerEngine
from agent.engines.task import ExecutionRunningError, ExitReason
from tests.agent.whole import until
from tests.dockerhost import IMAGE, PEER, DockerHost
from tests.dockerlab import detail, ended, engine, said, shell
from tests.dockerproxy import LEAVES_SOCKETS

pytestmark = LEAVES_SOCKETS


async def test_it_runs_to_its_end_and_leaves_output_and_no_container(
    root: Path, docker: DockerHost
) -> None:
    async with engine(root, docker) as it:
        exit = await ended(it, shell("echo out; echo err >&2; exit 3"))
        assert (exit.code, exit.reason, exit.detail) == (3, ExitReason.EXITED, "")
        before = await it.tails("e1", 40)
        assert [chunk.data for chunk in before] == [b"out\n", b"err\n"]
        await it.clear("e1")
        assert docker.ours() == []
        assert await it.tails("e1", 40) == before, "a place in the output means the same"
        assert (await it.wait("e1")) == exit
        await it.remove("e1")
        assert os.listdir(root) == []


async def test_it_is_held_to_what_its_job_asked_for(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        await it.start(shell("sleep 100", cpu_m=250, memory_bytes=32 << 20))
        host = detail(docker)["HostConfig"]
        assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (
            250_000_000, 32 << 20, 32 << 20,
        )  # fmt: skip
        assert host["CapDrop"] == ["ALL"] and host["CapAdd"] is None
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["PidsLimit"] == 512 and host["RestartPolicy"]["Name"] in ("", "no")
        assert host["LogConfig"]["Config"]["max-file"] == "5"
        await it.stop("e1", 0)
        await it.wait("e1")


async def test_privileges_are_gone_in_fact(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        script = (
            "grep CapEff /proc/self/status; chown nobody /tmp; grep NoNewPrivs /proc/self/status"
        )
        await ended(it, shell(script))
        assert b"CapEff:\t0000000000000000" in await said(it)
        assert b"NoNewPrivs:\t1" in await said(it)
        assert b"Operation not permitted" in await said(it, stream="stderr")
        kept = await ended(it, shell("chown nobody /tmp", "e2", capabilities=("CHOWN",)))
        assert kept.code == 0


async def test_the_images_words_are_used_where_the_job_has_none(
    root: Path, docker: DockerHost
) -> None:
    docker.make_image(
        "own:1",
        entrypoint='["/bin/echo", "entry"]',
        cmd='["cmd"]',
        env="A=image",
        workdir="/tmp",  # noqa: S108
        user="nobody",
    )
    async with engine(root, docker) as it:
        await ended(it, ContainerLaunch("e1", "own:1"))
        assert await said(it) == b"entry cmd\n"
        await ended(it, ContainerLaunch("e2", "own:1", parameters=("more",)))
        assert await said(it, "e2") == b"entry more\n"
        script = "echo $A $B; pwd; id -u"
        other = ContainerLaunch(
            "e3", "own:1", ("/bin/sh", "-c"), (script,), {"B": "job"}, "/etc", "1000"
        )
        await ended(it, other)
        assert await said(it, "e3") == b"image job\n/etc\n1000\n"


async def test_out_of_memory_is_told_apart_from_a_failure(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        greedy = shell("x=aaaa; while true; do x=$x$x; done", memory_bytes=16 << 20)
        exit = await ended(it, greedy)
        assert exit.code == 137
        assert exit.detail == "out of memory: it may have 16 MiB, see Resources.Memory"


async def test_the_limit_of_processes_stops_a_fork_bomb(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        # In its own place: where nothing can be forked any more, a shell that tries to ends.
        await it.start(shell("bomb() { bomb | bomb & }; bomb; exec sleep 60", cpu_m=1000))
        name = f"shoal-{PEER[-8:]}-e1"
        await trio.sleep(1)
        stats = docker.api.stats(name, stream=False, one_shot=True)
        assert 1 <= stats["pids_stats"]["current"] <= stats["pids_stats"]["limit"] == 512
        await it.stop("e1", 0)
        assert (await it.wait("e1")).reason is ExitReason.STOPPED


async def test_stopping_is_term_and_after_the_grace_kill(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        await it.start(
            shell("trap 'echo bye; exit 0' TERM; while true; do sleep 0.1; done", "meek")
        )
        await it.stop("meek")
        exit = await it.wait("meek")
        assert (exit.reason, exit.code) == (ExitReason.STOPPED, None)
        assert await said(it, "meek") == b"bye\n"
        await it.start(shell("trap '' TERM; while true; do sleep 0.1; done", "deaf"))
        await it.stop("deaf", 3600)
        await it.stop("deaf", 0.3)
        with trio.fail_after(60):
            assert (await it.wait("deaf")).reason is ExitReason.STOPPED


async def test_a_signal_that_ends_it_from_within_is_named(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        exit = await ended(it, shell("sh -c 'kill -SEGV $$'; exit $?"))
        assert (exit.reason, exit.signal) == (ExitReason.SIGNALLED, signal.SIGSEGV)


async def test_times_up_is_a_timeout(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        exit = await ended(it, shell("sleep 100", timeout_s=0.5, stop_grace_s=0.2))
        assert (exit.reason, exit.code) == (ExitReason.TIMEOUT, None)


async def test_a_bad_command_says_so_and_leaves_nothing(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        exit = await ended(it, ContainerLaunch("e1", IMAGE, parameters=("no-such-program",)))
        assert exit.reason is ExitReason.START_FAILED
        assert '"no-such-program": executable file not found' in exit.detail
        await until(lambda: docker.ours() == [])


async def test_started_twice_it_runs_once(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(it.start, shell("echo once"))
        await it.wait("e1")
        await it.start(shell("echo once"))
        assert await said(it) == b"once\n"


async def test_what_runs_is_not_removed(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        await it.start(shell("sleep 100"))
        with pytest.raises(ExecutionRunningError):
            await it.remove("e1")
        await it.stop("e1", 0)
        await it.wait("e1")
        await it.remove("e1")
        assert docker.ours() == []
        with pytest.raises(KeyError):
            await it.wait("e1")


async def test_a_command_beside_it_runs_in_it(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        await it.start(shell("echo mine > /tmp/file; sleep 100"))
        await until(lambda: detail(docker)["State"]["Running"])
        code, line = await it.run_beside("e1", ("sh", "-c", "sleep 0.2; cat /tmp/file; exit 4"))
        assert (code, line) == (4, "mine")
        code, line = await it.run_beside("e1", ("no-such-program",))
        assert code in (126, 127) and "no-such-program" in line
        await it.stop("e1", 0)
        await it.wait("e1")


# ---- no docker --------------------------------------------------------------------------------


async def test_where_nobody_listens_there_is_no_docker(tmp_path: Path) -> None:
    (tmp_path / "containers").mkdir()
    it = DockerEngine(tmp_path / "containers", tmp_path / "none.sock", PEER)
    await it.presence.look()
    assert (it.presence.present, it.presence.trouble) == (False, "")


async def test_a_socket_that_says_nothing_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.engines.presence.TIMEOUT_S", 0.2)
    (tmp_path / "containers").mkdir()
    path = tmp_path / "d.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        it = DockerEngine(tmp_path / "containers", path, PEER)
        begun = time.monotonic()
        await it.presence.look()
        assert not it.presence.present and time.monotonic() - begun < 10
        assert json.dumps(it.presence.trouble) == '""'
