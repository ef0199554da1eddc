"""The docker engine on a real docker: lives of containers, and what a bad day does to them."""

from __future__ import annotations

import gc
import gzip
import json
import os
import re
import shutil
import signal
import socket
import tarfile
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from agent.engines import docker as docker_module
from agent.engines import docker_client, images
from agent.engines.container import ContainerLaunch
from agent.engines.docker import DockerEngine
from agent.engines.docker_log import Amount
from agent.engines.engine import Engines, FoundExecution
from agent.engines.execution_dir import ExecutionDir
from agent.engines.ports import FIRST, LAST, NOTE, read_note
from agent.engines.supervisor import boot_id
from agent.engines.task import ExecutionRunningError, ExitReason, TaskExit
from agent.engines.task_log import STREAMS, Stream
from agent.packing import NO_FILE, pack
from protocol.container import ContainerParams, full_name
from protocol.effects import StartTask
from protocol.events import TaskEnded, TaskFound
from protocol.ids import ExecutionId
from protocol.network import Port
from protocol.tree import Plain
from tests.agent.test_tasks import running, task
from tests.agent.whole import open_directory, until
from tests.dockerhost import IMAGE, PEER, DockerHost
from tests.dockerproxy import LEAVES_SOCKETS, DockerProxy, Request

pytestmark = LEAVES_SOCKETS
START = rb"^POST \S*/start"
RUNS = (
    "remove a running container|container is running"  # what docker says, before 26 and from it on
)


@asynccontextmanager
async def engine(
    root: Path, docker: DockerHost, peer: str = PEER, socket: Path | None = None
) -> AsyncIterator[DockerEngine]:
    """One life of the engine. Its containers go on when it ends."""
    it = DockerEngine(root, socket or docker.socket, peer)
    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        yield it
        nursery.cancel_scope.cancel()


def shell(script: str, name: str = "e1", **more: Any) -> ContainerLaunch:
    return ContainerLaunch(name, IMAGE, parameters=("sh", "-c", script), **more)


async def ended(it: DockerEngine, launch: ContainerLaunch) -> TaskExit:
    await it.start(launch)
    with trio.fail_after(60):
        return await it.wait(launch.execution_id)


async def said(it: DockerEngine, name: str = "e1", stream: Stream = "stdout") -> bytes:
    return b"".join([chunk.data async for chunk in it.log(name, stream, 0, -1, False)])


async def until_said(it: DockerEngine, name: str, text: bytes) -> None:
    with trio.fail_after(60):
        while await said(it, name) != text:  # noqa: ASYNC110 -- docker tells of no line
            await trio.sleep(0.05)


def detail(docker: DockerHost, name: str = "e1") -> dict[str, Any]:
    found: dict[str, Any] = docker.api.inspect_container(f"shoal-{PEER[-8:]}-{name}")
    return found


def volumes(docker: DockerHost) -> list[str]:
    found = docker.api.volumes(filters={"label": "shoal.job"})["Volumes"] or []
    return sorted(volume["Labels"]["shoal.job"] for volume in found)


# ---- a container's life ------------------------------------------------------------------------


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


async def test_a_missing_image_says_so(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        with pytest.raises(docker_client.EngineFailed, match="Pull: never"):
            await it.images.fetch(ContainerParams(image="nowhere:1", pull="never"))
        with pytest.raises(
            docker_client.EngineFailed, match="image 127.0.0.1:1/x:1 cannot be".replace(".", "[.]")
        ):
            await it.images.fetch(ContainerParams(image="127.0.0.1:1/x:1"))
        exit = await ended(it, ContainerLaunch("e1", "nowhere:1"))
        assert exit.reason is ExitReason.START_FAILED and "nowhere:1" in exit.detail
        await it.images.fetch(ContainerParams(image=IMAGE))
        await it.images.fetch(ContainerParams(image=IMAGE, pull="never"))


async def test_an_image_is_fetched_from_its_registry_and_removed_when_unused(
    root: Path, docker: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    with docker.registry("far/tool:1") as image:
        async with engine(root, docker) as it:
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(it.images.fetch, ContainerParams(image=image))
            assert full_name(image) in it.presence.images
            launch = ContainerLaunch("e1", image, parameters=("echo", "fetched"))
            await ended(it, launch)
            assert await said(it) == b"fetched\n"
            await it.clear("e1")
            await it.images.prune()
            assert full_name(image) in it.presence.images, "it was used a moment ago"
        monkeypatch.setattr(images, "KEEP_S", 0.0)
        async with engine(root, docker) as it:
            it.images.standing = lambda: frozenset({full_name(image)})
            await it.images.prune()
            assert full_name(image) in it.presence.images, "a standing job has it"
            it.images.standing = frozenset
            await it.images.prune()
            assert full_name(image) not in it.presence.images
            assert full_name(IMAGE) in it.presence.images, "nobody of us fetched that"


async def test_an_image_that_is_replaced_by_a_later_one_goes(
    root: Path, docker: DockerHost
) -> None:
    with docker.registry("far/moving:1") as image:
        async with engine(root, docker) as it:
            always = ContainerParams(image=image, pull="always")
            await it.images.fetch(always)
            first = docker.api.inspect_image(image)["Id"]
            await it.start(ContainerLaunch("e1", image, parameters=("sleep", "1000")))
            docker.move(image, {"second": b""})
            await it.images.fetch(always)
            second = docker.api.inspect_image(image)["Id"]
            assert first in _images(docker), "a container has it"
            await it.start(ContainerLaunch("e2", image, parameters=("true",)))
            await it.wait("e2")
            await it.clear("e2")
            docker.move(image, {"third": b""})
            await it.images.fetch(always)
            assert first in _images(docker) and second not in _images(docker)
            await it.stop("e1", 0)
            await it.wait("e1")
            await it.clear("e1")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(images, "KEEP_S", 0.0)
                it.images.standing = lambda: frozenset({full_name(image)})
                await it.images.prune()
            assert first not in _images(docker) and full_name(image) in it.presence.images


def _images(docker: DockerHost) -> set[str]:
    return {each["Id"] for each in docker.api.images()}


async def test_a_disk_that_is_nearly_full_costs_unused_images(
    root: Path, docker: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    with docker.registry("far/other:1") as image:
        async with engine(root, docker) as it:
            await it.images.fetch(ContainerParams(image=image))
            monkeypatch.setattr(images, "FREE_BYTES_MIN", 1 << 60)
            monkeypatch.setattr(images, "YOUNG_S", 0.0)
            await it.start(ContainerLaunch("e1", image, parameters=("sleep", "100")))
            await it.images.prune()
            assert full_name(image) in it.presence.images, "a container runs of it"
            await it.stop("e1", 0)
            await it.wait("e1")
            await it.clear("e1")
            await it.images.prune()
            assert full_name(image) not in it.presence.images


async def test_a_pull_says_how_far_it_is(
    root: Path, docker: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.engines.pulling.SAY_S", 0.0)
    large = {"large": os.urandom(40_000_000)}
    with docker.registry("large:1", files=large) as image:
        async with engine(root, docker) as it:
            said: list[str] = []
            await it.images.fetch(ContainerParams(image=image), said.append)
            assert said[0] == f"pulling {image}"
            assert any(re.fullmatch(rf"pulling {image}: [0-9.]+ of 4\d MB", text) for text in said)
        docker.api.remove_image(image)


async def test_a_pull_that_is_cut_off_says_so_and_the_next_one_goes_through(
    root: Path, docker: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = {"big": os.urandom(48 << 20)}
    with docker.registry("far/big:1", files=big) as image:
        async with engine(root, docker) as it:
            monkeypatch.setattr(images, "PULL_S", 0.05)
            with pytest.raises(docker_client.EngineFailed, match="was not fetched within 0 s"):
                await it.images.fetch(ContainerParams(image=image))
            monkeypatch.setattr(images, "PULL_S", 60.0)
            await it.images.fetch(ContainerParams(image=image))
            assert full_name(image) in it.presence.images
            docker.api.remove_image(image)
            assert docker.registry_process is not None
            docker.registry_process.kill()
            docker.registry_process.wait()
            await it.presence.look()
            with pytest.raises(
                docker_client.EngineFailed, match=f"image {image} cannot be fetched"
            ):
                await it.images.fetch(ContainerParams(image=image))


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


# ---- networks ----------------------------------------------------------------------------------


async def test_networks_are_what_was_asked_for(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        interfaces = "ls /sys/class/net | tr '\\n' ' '"
        await ended(it, shell(interfaces, "none"))
        assert await said(it, "none") == b"lo "
        await ended(it, shell(interfaces, "bridge", network="bridge"))
        assert (await said(it, "bridge")).split() == [b"eth0", b"lo"]
        await ended(it, shell(interfaces, "host", network="host"))
        assert b"docker0" in await said(it, "host")


# ---- files -------------------------------------------------------------------------------------


async def test_files_go_in_and_results_come_out(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        work = await it.directories.prepare("e1")
        (work / "script.sh").write_text("cat data/in; cat /input/x; echo kept > out.txt; pwd")
        (work / "data").mkdir()
        (work / "data/in").write_text("shipped\n")
        (work / "input").mkdir()
        (work / "input/x").write_text("mounted\n")
        (work / "input/x").chmod(0o600)
        await it.hand_over("e1")
        script = (
            "sh script.sh; echo r > /outputs/deep; ln -s /etc/passwd /outputs/link; touch /input/x"
        )
        launch = shell(
            script, inputs=("/input",), results=("/outputs",), has_task_dir=True, user="1234"
        )
        await ended(it, launch)
        assert await said(it) == b"shipped\nmounted\n/shoal\n"
        assert b"Read-only file system" in await said(it, stream="stderr")
        out = await it.collect("e1", ["/outputs", "out.txt", "nothing"])
        assert (out / "outputs/deep").read_text() == "r\n"
        assert (out / "out.txt").read_text() == "kept\n"
        assert sorted(os.listdir(out / "outputs")) == ["deep", "link"]
        assert (out / "outputs/link").is_fifo(), "a link is no result, which is told of"
        await it.clear("e1")
        assert not out.exists() and not list((root / "e1/work").glob("*"))


async def test_parts_of_the_device_are_mounted_as_their_owner_allows(
    root: Path, docker: DockerHost, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "in").write_text("of the device\n")
    async with engine(root, docker) as it:
        mounts = ((str(shared), "/ro", False), (str(shared), "/shoal/rw", True))
        script = "cat /ro/in; echo kept > rw/out; touch /ro/not"
        await ended(it, shell(script, mounts=mounts, has_task_dir=True))
        assert await said(it) == b"of the device\n"
        assert (shared / "out").read_text() == "kept\n"
        assert b"Read-only file system" in await said(it, stream="stderr")


async def test_a_file_with_two_names_comes_out_under_both_and_all_else_is_told_of(
    root: Path, docker: DockerHost, tmp_path: Path
) -> None:
    async with engine(root, docker) as it:
        script = "cd /o; echo hi > a; mkdir d; ln a d/b; ln -s /real l; mkfifo p; echo r > /real/x"
        await ended(it, shell(script, results=("/o", "/real")))
        paths = [("o", "/o"), ("x", "/o/l/x")]
        out = await it.collect("e1", [path for _, path in paths])
        packed = pack(out, paths, tmp_path / "packed", 1 << 20)
    with tarfile.open(tmp_path / "packed") as archive:
        files = sorted(member.name for member in archive if member.isreg())
    assert files == ["o/a", "o/d/b", "o/l/x", "x/x"]
    assert packed.note == f"o/p: {NO_FILE}"


async def test_too_much_is_refused_before_it_is_on_disk(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        bomb = "truncate -s 10G /outputs/sparse"
        await ended(it, shell(bomb, results=("/outputs",)))
        with pytest.raises(OSError, match="too large unpacked"):
            await it.collect("e1", ["/outputs"])


async def test_a_disk_that_fills_up_keeps_no_result_and_no_piece_of_one(
    root: Path, docker: DockerHost
) -> None:
    await trio.run_process(["mount", "-t", "tmpfs", "-o", "size=220m", "none", root])
    try:
        async with engine(root, docker) as it:
            big = "dd if=/dev/zero of=/outputs/big bs=1M count=150 2>/dev/null"
            exit = await ended(it, shell(big, results=("/outputs",), memory_bytes=512 << 20))
            assert exit.code == 0
            with pytest.raises(OSError, match="the disk is too full"):
                await it.collect("e1", ["/outputs"])
            assert shutil.disk_usage(root).used < 1 << 20
            await it.clear("e1")
            await it.remove("e1")
    finally:
        await trio.run_process(["umount", root])


async def test_results_below_a_part_of_the_device_come_out_too(
    root: Path, docker: DockerHost, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    (shared / "out").mkdir(parents=True)
    (shared / "out").chmod(0o777)
    async with engine(root, docker) as it:
        mounts = ((str(shared), "/data", True),)
        launch = shell("echo kept > /data/out/file", mounts=mounts, results=("/data/out",))
        assert (await ended(it, launch)).code == 0
        out = await it.collect("e1", ["/data/out"])
        assert (out / "data/out/file").read_text() == "kept\n"
        await it.clear("e1")
    assert (shared / "out/file").read_text() == "kept\n", "the device's own is left alone"


# ---- output ------------------------------------------------------------------------------------


async def test_output_is_followed_live_to_its_end(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        await it.start(shell("for i in 1 2 3; do echo $i; sleep 0.4; done"))
        came = []
        async for chunk in it.log("e1", "stdout", 0, -1, True):
            came.append((chunk.data, trio.current_time()))
        assert b"".join(data for data, _ in came) == b"1\n2\n3\n"
        assert came[-1][1] - came[0][1] > 0.5, "as it was printed"


async def test_a_reader_that_broke_off_goes_on_where_it_was(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        await ended(it, shell("seq 3000"))
        whole = await said(it)
        assert whole == b"".join(b"%d\n" % number for number in range(1, 3001))
        for kept in (False, True):
            if kept:
                await it.clear("e1")
            tail = [chunk async for chunk in it.log("e1", "stdout", 0, 100, False)]
            after = it.log("e1", "stdout", tail[-1].next_offset, -1, False)
            assert [chunk async for chunk in after] == []
            assert b"".join(chunk.data for chunk in tail) == b"".join(
                b"%d\n" % number for number in range(2901, 3001)
            )
        # From the place of its first line on comes all but that.
        async with aclosing(it.log("e1", "stdout", 0, -1, False)) as chunks:
            first = await anext(chunks)
        rest = b"".join(
            [c.data async for c in it.log("e1", "stdout", first.next_offset, -1, False)]
        )
        assert first.data + rest == whole


async def test_the_last_lines_of_one_stream_are_told_whatever_the_other_said_since(
    root: Path, docker: DockerHost
) -> None:
    """Docker's own tail counts the lines of both."""
    async with engine(root, docker) as it:
        script = "seq 5; for i in $(seq 50); do echo err $i >&2; done"
        await it.start(shell(f"{script}; until test -e /go; do sleep 0.05; done; echo 6"))
        with trio.fail_after(60):
            while not (await said(it, stream="stderr")).endswith(b"err 50\n"):  # noqa: ASYNC110
                await trio.sleep(0.05)
        for lines, expected in ((2, b"4\n5\n"), (40, b"1\n2\n3\n4\n5\n")):
            out, err = await it.tails("e1", lines)
            assert (out.data, err.data.count(b"\n")) == (expected, lines)
        followed = []
        async with aclosing(it.log("e1", "stdout", 0, 2, True)) as chunks:
            async for chunk in chunks:
                followed.append(chunk.data)
                if b"".join(followed) == b"4\n5\n":
                    assert await it.run_beside("e1", ["touch", "/go"]) == (0, "")
        assert b"".join(followed) == b"4\n5\n6\n"
        before = await it.tails("e1", 3)
        assert before[0].data == b"4\n5\n6\n"
        await it.wait("e1")
        await it.clear("e1")
        assert [chunk.data for chunk in await it.tails("e1", 3)] == [each.data for each in before]


@pytest.mark.parametrize("pause", ["", "[ $((i%50)) != 0 ] || sleep 0.02; "])
async def test_what_is_followed_comes_once_though_docker_goes_on_to_its_next_file(
    root: Path, docker: DockerHost, pause: str
) -> None:
    """Of which 20.10 gives a follower the beginning again, much of it or but a line."""
    script = f"i=0; while [ $i -lt 4000 ]; do {pause}echo $i; i=$((i+1)); done"
    wanted = b"".join(b"%d\n" % number for number in range(4000))
    async with engine(root, docker) as it:
        for number in range(12):
            name = f"e{number}"
            await it.start(shell(script, name, log_bytes_max=128 << 10))
            found = b"".join([chunk.data async for chunk in it.log(name, "stdout", 0, -1, True)])
            assert found == wanted
            await it.wait(name)
            await it.clear(name)
            assert await said(it, name) == wanted
            await it.remove(name)


async def test_little_output_is_asked_of_docker_once(
    root: Path, docker: DockerHost, proxy: DockerProxy
) -> None:
    async with engine(root, docker, socket=proxy.path) as it:
        await ended(it, shell("echo out; echo err >&2"))
        before = await it.tails("e1", 40)
        await it.clear("e1")
        assert proxy.count(rb"^GET \S*/logs") == 1
        assert await it.tails("e1", 40) == before
        assert (await said(it), await said(it, stream="stderr")) == (b"out\n", b"err\n")


@pytest.mark.parametrize(
    ("script", "size"), [("head -c 90000 /dev/zero", 90_000), ("seq -w 1000 1040", 41 * 5)]
)
async def test_more_output_than_is_remembered_is_kept_whole(
    root: Path, docker: DockerHost, script: str, size: int
) -> None:
    async with engine(root, docker) as it:
        await ended(it, shell(f"echo err >&2; {script}"))
        _, err = await it.tails("e1", 40)
        assert err.data == b"err\n"
        await it.clear("e1")
        assert (len(await said(it)), await said(it, stream="stderr")) == (size, b"err\n")


async def test_what_is_written_after_its_last_lines_were_asked_for_is_kept(
    root: Path, docker: DockerHost
) -> None:
    async with engine(root, docker) as it:
        await it.start(shell("echo 1; until test -e /go; do sleep 0.05; done; echo 2"))
        await until_said(it, "e1", b"1\n")
        assert (await it.tails("e1", 40))[0].data == b"1\n"
        assert await it.run_beside("e1", ["touch", "/go"]) == (0, "")
        await it.wait("e1")
        await it.clear("e1")
        assert await said(it) == b"1\n2\n"


async def test_the_last_lines_wait_for_nobody_who_follows(
    root: Path, docker: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_module, "READERS_MAX", 1)
    async with engine(root, docker) as it, trio.open_nursery() as nursery:
        await it.start(shell("echo long; sleep 1000", "e2"))
        following = trio.Event()

        async def follow() -> None:
            async with aclosing(it.log("e2", "stdout", 0, -1, True)) as chunks:
                async for _ in chunks:
                    following.set()

        nursery.start_soon(follow)
        await following.wait()
        await ended(it, shell("seq 9"))
        with trio.fail_after(docker_module.TAILS_S / 2):
            assert (await it.tails("e1", 2))[0].data == b"8\n9\n"
            tail = [chunk.data async for chunk in it.log("e1", "stdout", 0, 2, False)]
        assert b"".join(tail) == b"8\n9\n"
        nursery.cancel_scope.cancel()


async def test_what_was_written_since_a_moment_is_read_live_and_kept(
    root: Path, docker: DockerHost
) -> None:
    async with engine(root, docker) as it:
        await it.start(shell("echo before; sleep 1; echo after; sleep 1"))
        moment_ms = 0
        async with aclosing(it.log("e1", "stdout", 0, -1, True)) as chunks:
            async for chunk in chunks:
                if b"before" in chunk.data:
                    moment_ms = int(time.time() * 1000) + 300
        assert (await it.wait("e1")).code == 0
        for kept in (False, True):
            if kept:
                await it.clear("e1")
            since = it.log("e1", "stdout", 0, -1, False, moment_ms)
            assert b"".join([chunk.data async for chunk in since]) == b"after\n"


async def test_a_flood_is_bounded_on_disk_and_a_slow_reader_slows_nobody(
    root: Path, docker: DockerHost
) -> None:
    async with engine(root, docker) as it:
        flood = shell("yes 0123456789abcdef | head -c 40000000", log_bytes_max=1 << 20, cpu_m=1000)
        await it.start(flood)
        reader = it.log("e1", "stdout", 0, -1, True)
        await anext(reader)  # and then never again
        with trio.fail_after(60):
            exit = await it.wait("e1")
        assert exit.code == 0
        await reader.aclose()
        await it.clear("e1")
        assert (root / "e1/log.stdout").stat().st_size < 8 << 20


# ---- bad days ----------------------------------------------------------------------------------


async def test_another_life_of_the_agent_finds_what_runs_and_what_ended(
    root: Path, docker: DockerHost
) -> None:
    async with engine(root, docker) as it:
        waits = "until [ -e /go ]; do sleep 0.1; done"
        await it.start(shell(f"{waits}; echo later; exit 5", "runs"))
        await it.start(shell("exit 6", "ended"))
        await it.wait("ended")
        await ended(it, shell("exit 7", "cleared"))
        await it.clear("cleared")
        await it.start(shell("sleep 100", "timed", timeout_s=12.0, stop_grace_s=0.1))
    async with engine(root, docker) as it:
        found = {each.execution_id: each.exit for each in await it.adopt()}
        assert found["ended"] is not None and found["ended"].code == 6
        assert found["cleared"] is not None and found["cleared"].code == 7
        assert found["runs"] is None and found["timed"] is None
        with trio.fail_after(60):
            assert await it.run_beside("runs", ["touch", "/go"]) == (0, "")
            assert (await it.wait("runs")).code == 5
            assert (await it.wait("timed")).reason is ExitReason.TIMEOUT
        assert await said(it, "runs") == b"later\n"


async def until_asked_to_start(
    root: Path, docker: DockerHost, proxy: DockerProxy, start: Request, launch: ContainerLaunch
) -> None:
    """A life of the agent that ends while its request is on its way to docker."""
    async with engine(root, docker, socket=proxy.path) as it, trio.open_nursery() as nursery:
        nursery.start_soon(it.start, launch)
        await until(start.sent.is_set)
        nursery.cancel_scope.cancel()


def told_of(docker: DockerHost, event: str, begun: float) -> int:
    """How often that befell a container of ours since then."""
    filters = {"event": event, "label": f"{docker_client.OWNER}={PEER}"}
    return len(
        list(docker.api.events(since=begun, until=time.time(), filters=filters, decode=True))
    )


async def test_what_docker_starts_after_its_agent_was_killed_is_adopted(
    root: Path, docker: DockerHost, proxy: DockerProxy
) -> None:
    begun = time.time()
    with proxy.holding(START) as start:
        await until_asked_to_start(root, docker, proxy, start, shell("echo ran; exit 5"))
        async with engine(root, docker) as it:
            assert await it.adopt() == [FoundExecution("e1", None)], "it may run yet"
            await it.start(shell("exit 9"))  # is not made anew either
            start.let_go()
            with trio.fail_after(60):
                assert (await it.wait("e1")).code == 5
            assert await said(it) == b"ran\n"
            await it.clear("e1")
    assert (told_of(docker, "start", begun), docker.ours()) == (1, [])


async def test_what_docker_is_not_asked_to_start_any_more_never_began(
    root: Path, docker: DockerHost, proxy: DockerProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_module, "LATE_S", 1.0)
    with proxy.holding(START) as start:
        await until_asked_to_start(root, docker, proxy, start, shell("exit 5"))
        async with engine(root, docker) as it:
            assert [each.exit for each in await it.adopt()] == [None]
            assert (await ended(it, shell("exit 6", "e2"))).code == 6, "nothing waits for it"
            await it.stop("e1")
            with trio.fail_after(60):
                exit = await it.wait("e1")
            assert (exit.reason, exit.may_begin) == (ExitReason.START_FAILED, False)
            assert exit.detail == "the agent ended before it was started"
            await it.clear("e2")
            assert docker.ours() == []
        async with engine(root, docker) as it:
            later = {each.execution_id: each.exit for each in await it.adopt()}
            assert later["e1"] == exit


async def test_what_docker_starts_as_it_is_about_to_be_removed_runs_on(
    root: Path,
    docker: DockerHost,
    proxy: DockerProxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(docker_module, "LATE_S", 0.2)
    script = "trap 'exit 7' USR1; while true; do sleep 0.1; done"
    with proxy.holding(START) as start, proxy.holding(rb"^DELETE ") as removal:
        await until_asked_to_start(root, docker, proxy, start, shell(script))
        async with engine(root, docker, socket=proxy.path) as it:
            assert [each.exit for each in await it.adopt()] == [None]
            await until(removal.sent.is_set)
            start.let_go()
            await until(lambda: detail(docker)["State"]["Running"])
            removal.let_go()
            await until(lambda: re.search(RUNS, caplog.text))
            docker.api.kill(f"shoal-{PEER[-8:]}-e1", "SIGUSR1")
            with trio.fail_after(60):
                assert (await it.wait("e1")).code == 7, "its own end"
            await it.clear("e1")


async def test_what_docker_starts_and_ends_as_it_is_about_to_be_removed_has_begun(
    root: Path, docker: DockerHost, proxy: DockerProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_module, "LATE_S", 0.2)
    with proxy.holding(START) as start, proxy.holding(rb"^DELETE ") as removal:
        await until_asked_to_start(root, docker, proxy, start, shell("exit 5"))
        async with engine(root, docker, socket=proxy.path) as it:
            assert [each.exit for each in await it.adopt()] == [None]
            await until(removal.sent.is_set)
            start.let_go()
            await until(lambda: detail(docker)["State"]["Status"] == "exited")
            removal.let_go()
            with trio.fail_after(60):
                exit = await it.wait("e1")
            # Docker may tell of its end before it is gone.
            assert (exit.reason, exit.code) in ((ExitReason.EXITED, 5), (ExitReason.LOST, None))
            await until(lambda: docker.ours() == [])


async def test_whether_one_was_ever_started_is_told_as_it_is_removed(docker: DockerHost) -> None:
    client = docker_client.DockerClient(docker.socket, PEER)
    for name, command in (("never", "true"), ("ended", "true"), ("runs", "sleep 1000")):
        labels = {docker_client.LABEL: name, docker_client.OWNER: PEER}
        docker.api.create_container(IMAGE, command, name=client.name_of(name), labels=labels)
    for name in ("ended", "runs"):
        client.start(name)
    docker.api.wait(client.name_of("ended"))
    assert [client.remove_unstarted(name) for name in ("never", "ended")] == [True, False]
    with pytest.raises(docker_client.EngineFailed, match=RUNS):
        client.remove_unstarted("runs")
    assert detail(docker, "runs")["State"]["Running"]
    client.remove("runs")
    client.close()


async def test_what_docker_makes_after_its_agent_was_killed_goes(
    root: Path, docker: DockerHost, proxy: DockerProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_module, "PRESENCE_S", 0.5)
    begun = time.time()
    with proxy.holding(rb"^POST \S*/containers/create") as making:
        await until_asked_to_start(root, docker, proxy, making, shell("exit 5"))
        async with engine(root, docker) as it:
            (found,) = await it.adopt()
            assert found.exit is not None and found.exit.reason is ExitReason.LOST
            await it.clear("e1")
            making.let_go()
            await until(lambda: told_of(docker, "destroy", begun) == 1)
    assert docker.ours() == []


async def test_strays_are_removed_and_those_of_another_agent_are_not(
    root: Path, docker: DockerHost, tmp_path: Path
) -> None:
    for name, peer in (("stray", PEER), ("theirs", "12D3KooWOtherAgent")):
        labels = {docker_client.LABEL: name, docker_client.OWNER: peer}
        made = docker.api.create_container(IMAGE, ["sleep", "100"], name=name, labels=labels)
        docker.api.start(made)
        if peer == PEER:
            docker.api.rename(made["Id"], f"shoal-{PEER[-8:]}-{name}")
    async with engine(root, docker) as it:
        await it.adopt()
        await ended(it, shell("true"))
        await until(lambda: len(docker.ours()) == 2)
        left = {each["Labels"][docker_client.LABEL] for each in docker.ours()}
        assert left == {"theirs", "e1"}


async def test_a_container_killed_or_removed_behind_our_back_is_noticed(
    root: Path, docker: DockerHost
) -> None:
    async with engine(root, docker) as it:
        for name in ("killed", "removed"):
            await it.start(shell("sleep 100", name))
        docker.api.kill(f"shoal-{PEER[-8:]}-killed")
        exit = await it.wait("killed")
        assert exit.reason is ExitReason.INTERRUPTED
        assert exit.detail == "it was stopped through docker on this device"
        docker.api.remove_container(f"shoal-{PEER[-8:]}-removed", force=True)
        with trio.fail_after(60):
            exit = await it.wait("removed")
        assert exit.reason in (ExitReason.LOST, ExitReason.INTERRUPTED)
        await it.clear("removed")


async def test_docker_stopped_over_a_task_is_not_the_tasks_failure(
    root: Path, docker: DockerHost
) -> None:
    async with engine(root, docker) as it:
        await it.start(shell("trap 'exit 0' TERM; while true; do sleep 0.1; done"))
        await trio.to_thread.run_sync(docker.stop)
        await it.presence.look()
        assert it.presence.present and "docker does not answer" in it.presence.trouble
        refused = await ended(it, shell("true", "e2"))
        assert refused.reason is ExitReason.START_FAILED
        await trio.to_thread.run_sync(docker.start)
        with trio.fail_after(60):
            exit = await it.wait("e1")
        assert (exit.reason, exit.detail) == (
            ExitReason.INTERRUPTED, "it was stopped through docker on this device",
        )  # fmt: skip
        await it.presence.look()
        assert it.presence.trouble == ""
        with trio.fail_after(60):
            assert (await ended(it, shell("exit 3", "e3"))).code == 3


async def test_a_device_that_is_shut_down_is_not_the_tasks_failure(
    root: Path, docker: DockerHost
) -> None:
    async with engine(root, docker) as it:
        await it.start(shell("exec sleep 1000"))  # which has no TERM: docker ends it with KILL
    spec = root / "e1" / "spec"
    try:
        await trio.to_thread.run_sync(docker.stop)
        spec.write_bytes(spec.read_bytes().replace(boot_id().encode(), b"an-earlier-one"))
    finally:
        await trio.to_thread.run_sync(docker.start)
    async with engine(root, docker) as it:
        found = await it.adopt()
    exits = [each.exit for each in found if each.exit]
    assert [(exit.reason, exit.detail) for exit in exits] == [
        (ExitReason.INTERRUPTED, "the device was shut down or restarted")
    ]


async def test_docker_killed_with_live_restore_costs_no_task(tmp_path: Path) -> None:
    with DockerHost("--live-restore") as host:
        root = tmp_path / "containers"
        root.mkdir()
        async with engine(root, host) as it:
            # Longer than docker is away: of what ends meanwhile only older ones know the code.
            await it.start(shell("sleep 20; exit 5"))
            await trio.to_thread.run_sync(host.stop, signal.SIGTERM)
            await trio.sleep(0.5)
            await trio.to_thread.run_sync(host.start)
            with trio.fail_after(60):
                assert (await it.wait("e1")).code == 5


async def test_what_docker_finds_gone_as_it_comes_back_has_no_exit_code(tmp_path: Path) -> None:
    with DockerHost("--live-restore") as host:
        root = tmp_path / "containers"
        root.mkdir()
        async with engine(root, host) as it:
            await it.start(shell("sleep 1000"))
            pid = host.api.inspect_container(f"shoal-{PEER[-8:]}-e1")["State"]["Pid"]
            shim = parent_of(pid)
            await trio.to_thread.run_sync(host.stop, signal.SIGKILL)
            for each in (shim, pid):  # whoever would have told how it ended, and the task itself
                os.kill(each, signal.SIGKILL)
            await until(lambda: not Path(f"/proc/{pid}").exists())
            await trio.to_thread.run_sync(host.start)
            with trio.fail_after(60):
                exit = await it.wait("e1")
            assert (exit.reason, exit.code) == (ExitReason.LOST, None)
            assert exit.detail == "nobody saw it end: docker was not there"
    gc.collect()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().split()[3])


async def test_a_docker_that_keeps_what_runs_since_it_was_restarted_is_believed(
    tmp_path: Path,
) -> None:
    with DockerHost() as host:
        root = tmp_path / "containers"
        root.mkdir()
        async with engine(root, host) as it:
            await ended(it, shell("true", "e0"))
            before = await it._link.client()
            host.flags.append("--live-restore")
            await trio.to_thread.run_sync(host.stop)
            await trio.to_thread.run_sync(host.start)
            await until(lambda: it._link._client is not before)
            await it.start(shell("sleep 1; exit 5"))
            name = f"shoal-{PEER[-8:]}-e1"
            pid = host.api.inspect_container(name)["State"]["Pid"]
            await trio.to_thread.run_sync(host.stop)
            await until(lambda: not Path(f"/proc/{pid}").exists())
            await trio.to_thread.run_sync(host.start)
            with trio.fail_after(60):
                exit = await it.wait("e1")
            # Later ones may not know how it ended; none has stopped it, which would be INTERRUPTED.
            told = [(ExitReason.EXITED, 5), (ExitReason.LOST, None)]
            knows = int(host.api.version()["Version"].partition(".")[0]) < 26
            assert (exit.reason, exit.code) in (told[:1] if knows else told)
    gc.collect()


async def test_a_docker_that_hangs_is_given_up_and_what_it_ran_is_ended_later(
    root: Path, docker: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_client, "TIMEOUT_S", 3.0)
    monkeypatch.setattr(docker_module, "GIVE_UP_S", 2.0)
    monkeypatch.setattr(docker_module, "KILL_S", 0.5)
    monkeypatch.setattr(docker_module, "PRESENCE_S", 0.5)
    async with engine(root, docker) as it:
        await it.start(shell("sleep 1000", timeout_s=0.5, stop_grace_s=0.1))
        docker.freeze()
        try:
            with trio.fail_after(60):
                exit = await it.wait("e1")
            assert exit.reason is ExitReason.LOST and "docker does not answer" in exit.detail
            assert [chunk.data for chunk in await it.tails("e1", 5)] == [b"", b""]
            with pytest.raises(OSError, match="did not answer"):
                await it.clear("e1")
            late = await ended(it, shell("sleep 1000", "e2"))
            assert late.reason is ExitReason.START_FAILED
        finally:
            docker.thaw()
        await until(lambda: docker.ours() == [])


async def test_results_are_asked_for_again_where_docker_hangs_in_the_middle_of_them(
    root: Path, docker: DockerHost, proxy: DockerProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_client, "TIMEOUT_S", 3.0)
    async with engine(root, docker, socket=proxy.path) as it:
        script = "head -c 3000000 /dev/zero > /o/x"
        await ended(it, shell(script, results=("/o",)))
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                with proxy.hanging(rb"GET .*/archive", 1_000_000):
                    nursery.start_soon(it.collect, "e1", ["/o"])
                    await trio.to_thread.run_sync(proxy.hung.wait, 60)
                    proxy.hung.clear()
                    await trio.to_thread.run_sync(proxy.hung.wait, 60)
            monkeypatch.setattr(docker_module, "GIVE_UP_S", 0.1)
            stops = proxy.hanging(rb"GET .*/archive", 1_000_000)
            with stops, pytest.raises(OSError, match="docker"):
                await it.collect("e1", ["/o"])
        out = await it.collect("e1", ["/o"])
        assert (out / "o/x").stat().st_size == 3_000_000


async def test_output_is_kept_once_docker_hangs_in_the_middle_of_it_no_more(
    root: Path, docker: DockerHost, proxy: DockerProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_client, "TIMEOUT_S", 3.0)
    monkeypatch.setattr(docker_module, "PRESENCE_S", 0.5)
    async with engine(root, docker, socket=proxy.path) as it:
        await ended(it, shell("yes | head -n 50000"))
        with trio.fail_after(60), proxy.hanging(rb"GET .*/logs", 20_000):
            with pytest.raises(OSError, match="docker"):
                await said(it)
            with pytest.raises(OSError, match="docker"):
                await it.clear("e1")
        await until(lambda: docker.ours() == [])
        await until(lambda: it.directories.of("e1").read_exit() is not None)
        assert await said(it) == b"y\n" * 50_000


async def test_output_that_is_published_is_whole_though_docker_hangs_at_the_end(
    docker: DockerHost, proxy: DockerProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_client, "TIMEOUT_S", 2.0)
    monkeypatch.setattr(docker_module, "TAILS_S", 0.1)
    device = open_directory()
    try:
        (device / "docker").mkdir()
        async with running(device) as it, engine(device / "docker", docker, socket=proxy.path) as e:
            tasks = it.tasks_of(Engines(it.engine, e), device, "")
            tasks.publishes = lambda key: True
            async with trio.open_nursery() as nursery:
                await nursery.start(tasks.run)
                params: dict[str, Plain] = {"Image": IMAGE, "Parameters": ["echo", "whole"]}
                network: dict[str, Plain] = {"Type": "none"}
                start = task("true", Engine={"Type": "docker", "Params": params}, Network=network)
                with proxy.hanging(rb"GET .*/logs"):
                    tasks.start(start)
                    await until(lambda: proxy.held > 1)  # one was of the last lines
                told = await it.until(TaskEnded)
                await until(lambda: docker.ours() == [])  # the next test has the same names
                nursery.cancel_scope.cancel()
            assert (told.exit_code, told.stdout) == (0, b"whole\n"), told
    finally:
        shutil.rmtree(device)


async def test_two_that_want_a_graphics_card_each_are_not_given_the_same(
    docker: DockerHost, proxy: DockerProxy
) -> None:
    """Of two cards, so far as docker goes without any: what it was asked for, as it has noted it.
    Then it refuses, for want of NVIDIA's runtime, and the cards are free again."""

    def start(name: str, gpus: int) -> StartTask:
        params: dict[str, Plain] = {"Image": IMAGE, "Parameters": ["true"]}
        engine: Plain = {"Type": "docker", "Params": params}
        network: Plain = {"Type": "none"}
        key, need = ExecutionId(name), {"GPU": gpus}
        return task("true", execution=key, Engine=engine, Network=network, Resources=need)

    def asked(name: str) -> tuple[list[str], int, list[list[str]]]:
        (request,) = detail(docker, name)["HostConfig"]["DeviceRequests"]
        return request["DeviceIDs"], request["Count"], request["Capabilities"]

    device = open_directory()
    try:
        (device / "docker").mkdir()
        async with running(device) as it, engine(device / "docker", docker, socket=proxy.path) as e:
            tasks = it.tasks_of(Engines(it.engine, e), device, "")
            async with trio.open_nursery() as nursery:
                await nursery.start(tasks.run)
                with proxy.holding(START):
                    tasks.start(start("e1", 1))
                    tasks.start(start("e2", 1))
                    await until(lambda: proxy.count(START) == 2)
                    found = sorted(asked(name) for name in ("e1", "e2"))
                    assert found == [(["0"], 0, [["gpu"]]), (["1"], 0, [["gpu"]])]
                await until(lambda: sum(isinstance(each, TaskEnded) for each in it.events) == 2)
                for told in [each for each in it.events if isinstance(each, TaskEnded)]:
                    assert "could not select device driver" in told.reason, told
                with proxy.holding(START):
                    tasks.start(start("e3", 2))
                    await until(lambda: proxy.count(START) == 3)
                    assert asked("e3")[0] == ["0", "1"]
                await until(lambda: docker.ours() == [])  # the next test has the same names
                nursery.cancel_scope.cancel()
    finally:
        shutil.rmtree(device)


async def test_output_of_all_that_ended_while_no_agent_ran_is_waited_for_once(
    docker: DockerHost, proxy: DockerProxy
) -> None:
    device = open_directory()
    names = [f"e{number}" for number in range(5)]
    try:
        (device / "docker").mkdir()
        async with engine(device / "docker", docker) as e:
            for name in names:
                assert (await ended(e, shell(f"echo {name}", name))).code == 0
        async with running(device) as it, engine(device / "docker", docker, socket=proxy.path) as e:
            tasks = it.tasks_of(Engines(it.engine, e), device, "")
            tasks.publishes = lambda key: True
            found: list[TaskFound] = []

            async def find() -> None:
                found.extend(await tasks.found())

            async with trio.open_nursery() as nursery:
                await nursery.start(tasks.run)
                async with trio.open_nursery() as finding:
                    with proxy.hanging(rb"GET .*/logs"):
                        finding.start_soon(find)
                        await until(lambda: proxy.held == len(names))  # and none is given up
                await until(lambda: docker.ours() == [])  # the next test has the same names
                nursery.cancel_scope.cancel()
            told = [(each.execution, each.exit_code, each.stdout) for each in found]
            assert told == [(name, 0, f"{name}\n".encode()) for name in names]
    finally:
        shutil.rmtree(device)


async def test_an_agent_ends_in_time_though_docker_hangs(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        await it.start(shell("sleep 2; exit 4"))
        docker.freeze()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(it.stop, "e1")
                nursery.start_soon(it.collect, "e1", ["/outputs"])
                await trio.testing.wait_all_tasks_blocked(0.1)
                began = trio.current_time()
                nursery.cancel_scope.cancel()
            took = trio.current_time() - began
        except BaseException:
            docker.thaw()
            raise
    assert took < docker_client.TIMEOUT_S / 2, took
    docker.thaw()
    async with engine(root, docker) as it:
        found = await it.adopt()
        assert [each.execution_id for each in found] == ["e1"]
        with trio.fail_after(60):
            assert (await it.wait("e1")).reason in (ExitReason.EXITED, ExitReason.INTERRUPTED)


async def test_an_agent_that_starts_before_docker_waits_for_its_word(
    root: Path, docker: DockerHost
) -> None:
    async with engine(root, docker) as it:
        await ended(it, shell("exit 5"))
    await trio.to_thread.run_sync(docker.stop)
    try:
        async with engine(root, docker) as it:
            assert it.presence.present, "it has executions that docker runs"
            found = await it.adopt()
            assert [(each.execution_id, each.exit) for each in found] == [("e1", None)]
            await trio.to_thread.run_sync(docker.start)
            with trio.fail_after(60):
                assert (await it.wait("e1")).code == 5
    finally:
        if docker.process is None:
            docker.start()


async def test_a_full_disk_costs_the_output_and_nothing_else(
    root: Path, docker: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine(root, docker) as it:
        await ended(it, shell("echo lost"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("agent.engines.docker_log.spool", _full)
            await it.clear("e1")
        assert docker.ours() == []
        with pytest.raises(OSError, match="stdout could not be kept: the disk is full"):
            await said(it)
    async with engine(root, docker) as it:
        await it.adopt()
        assert "stdout could not be kept" in await it.settle_output("e1"), "as it was recorded"


FLOODS = {
    "short lines": ("seq 200000", "stdout"),
    "empty lines": ("yes '' | head -n 100000", "stdout"),
    "lines of many parts": ("head -c 3000000 /dev/zero | tr '\\0' x >&2; echo >&2", "stderr"),
    "both": ("head -c 900000 /dev/zero | tr '\\0' x; seq 100000 >&2; echo last", "stdout"),
}


@pytest.mark.parametrize("what", FLOODS)
async def test_output_that_docker_has_dropped_is_told_of_and_by_a_later_life_too(
    root: Path, docker: DockerHost, what: str
) -> None:
    script, stream = FLOODS[what]
    bound, size = 512 << 10, 128 << 10  # of both streams; docker drops a file of this size at once
    async with engine(root, docker) as it:
        await ended(it, shell(script, log_bytes_max=bound // 2))
        in_docker = await stored(docker)
        assert bound < in_docker < bound + size + (32 << 10)
        assert in_docker - 200 < counted(it, "e1").stored < in_docker * 1.01
        await it.tails("e1", 40)
        note = await it.settle_output("e1")
        kept = len(await said(it)) + len(await said(it, stream="stderr"))
        assert note == (
            f"what came before its last {kept:,} bytes, of both streams together, may be gone, as "
            "task.log_bytes_max has it"
        )
        ends = await said(it, stream=stream)
        await it.clear("e1")
        assert await said(it, stream=stream) == ends and docker.ours() == []
    async with engine(root, docker) as it:
        await it.adopt()
        assert await it.settle_output("e1") == note


async def test_output_of_which_docker_has_dropped_none_is_kept_without_a_word(
    root: Path, docker: DockerHost, proxy: DockerProxy
) -> None:
    """As much as is promised, and not the small bit more that docker may have."""
    logs = rb"^GET \S*/logs"
    whole = b"".join(b"%d\n" % number for number in range(1, 14_001))
    async with engine(root, docker, socket=proxy.path) as it:
        await ended(it, shell("seq 14000", log_bytes_max=256 << 10))
        assert (400 << 10) < await stored(docker) < (512 << 10)
        await it.tails("e1", 40)
        assert await it.settle_output("e1") == "" and await said(it) == whole
        asked = proxy.count(logs)
        await it.clear("e1")
        assert proxy.count(logs) == asked, "it was kept before its end was told"
        assert await said(it) == whole
        await ended(it, shell("echo little", "e2"))
        await it.tails("e2", 40)
        asked = proxy.count(logs)
        assert await it.settle_output("e2") == "" and proxy.count(logs) == asked
        await it.clear("e2")
        assert proxy.count(logs) == asked and await said(it, "e2") == b"little\n"


async def test_output_is_not_kept_while_docker_may_have_more_of_it(
    root: Path, docker: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that was given up, as docker hung, may run on."""
    monkeypatch.setattr(docker_module, "GIVE_UP_S", 0.0)
    async with engine(root, docker) as it:
        await it.start(shell("seq 50; sleep 1000"))
        await until_said(it, "e1", b"".join(b"%d\n" % number for number in range(1, 51)))
        await it.stop("e1", 0.0)
        assert (await it.wait("e1")).reason is ExitReason.LOST
        await it.tails("e1", 40)
        assert await it.settle_output("e1") == ""
        assert not (root / "e1/log.stdout").exists()


async def stored(docker: DockerHost, name: str = "e1") -> int:
    """Bytes of its output in docker's own files, all but the last of which it compresses."""
    logs = docker.root / "data/containers" / detail(docker, name)["Id"] / "local-logs"
    await until(lambda: all(path.suffix in (".log", ".gz") for path in logs.iterdir()))
    packed = [gzip.decompress(path.read_bytes()) for path in logs.glob("*.gz")]
    return len(b"".join([*packed, (logs / "container.log").read_bytes()]))


def counted(it: DockerEngine, name: str) -> Amount:
    amount, client = Amount(), it._link._client
    assert client is not None
    for stream in STREAMS:
        frames, source = client.log(name, stream, 0, -1, False)
        with closing(source):
            deque(amount.counting(frames), maxlen=0)
    return amount


async def test_a_disk_that_an_ended_container_fills_has_room_once_it_is_over(
    root: Path, docker: DockerHost
) -> None:
    async with engine(root, docker) as it:
        await ended(it, shell("exit 3"))
        directory = it.directories.of("e1")

        def record(self: ExecutionDir, ended: TaskExit) -> None:
            if docker.ours():
                _full()
            kept(self, ended)

        with pytest.MonkeyPatch.context() as patch:
            kept = ExecutionDir.record
            patch.setattr(ExecutionDir, "record", record)
            await it.clear("e1")
        assert docker.ours() == []
        found = directory.read_exit()
        assert found is not None and found.code == 3


async def test_how_it_ended_is_recorded_once_the_disk_has_room(
    root: Path, docker: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_module, "PRESENCE_S", 0.2)
    async with engine(root, docker) as it:
        await ended(it, shell("exit 3"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ExecutionDir, "record", _full)
            with pytest.raises(OSError, match="No space"):
                await it.clear("e1")
        assert docker.ours() == [], "nor is its container left"
        await until(lambda: it.directories.of("e1").read_exit() is not None)


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")


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


# ---- volumes -----------------------------------------------------------------------------------


async def test_a_volume_outlives_its_containers_and_goes_when_nobody_wants_it(
    root: Path, docker: DockerHost
) -> None:
    kept: dict[str, Any] = {"volumes": (("v1", "/data", True),), "job": "j1", "standing": True}
    async with engine(root, docker) as it:
        first = await ended(it, shell("echo one >> /data/log", **kept))
        assert first.code == 0
        await it.clear("e1")
        assert docker.ours() == []
        again = shell("echo two >> /data/log; cat /data/log; sleep 100", "e2", **kept)
        await it.start(again)
        await until_said(it, "e2", b"one\ntwo\n")
        await it.prune_volumes(lambda job, standing: False)
        assert volumes(docker) == ["j1"], "a container has it"
        await it.stop("e2", 0)
        await it.wait("e2")
        await it.clear("e2")
        asked: list[tuple[str, bool]] = []
        await it.prune_volumes(lambda *each: not asked.append(each))
        assert (asked, volumes(docker)) == ([("j1", True)], ["j1"])
        await it.prune_volumes(lambda job, standing: False)
        assert volumes(docker) == []


async def test_whoever_a_container_runs_as_may_write_to_its_volume(
    root: Path, docker: DockerHost
) -> None:
    kept: dict[str, Any] = {"volumes": (("v2", "/data/in", True),), "job": "j2"}
    async with engine(root, docker) as it:
        first = await ended(it, shell("touch /data/in/a", user="1000", **kept))
        assert first.code == 0, await said(it, stream="stderr")
        listed = await ended(it, shell("stat -c %u:%a /data/in; ls /data/in", "e2", **kept))
        assert (listed.code, await said(it, "e2")) == (0, b"0:777\na\n")
        reader = (("v2", "/data/in", False),)
        refused = await ended(it, shell("touch /data/in/b", "e3", volumes=reader, job="j2"))
        assert refused.code == 1 and b"Read-only file system" in await said(it, "e3", "stderr")
        for name in ("e1", "e2", "e3"):
            await it.clear(name)
        await it.prune_volumes(lambda job, standing: False)
        assert volumes(docker) == []


async def test_what_an_image_has_at_the_place_of_a_volume_stays_as_the_image_has_it(
    root: Path, docker: DockerHost
) -> None:
    docker.make_image("seeded:1", {"data/seed": b"of the image"})
    async with engine(root, docker) as it:
        kept: dict[str, Any] = {"volumes": (("v3", "/data", True),), "job": "j3"}
        launch = ContainerLaunch(
            "e1", "seeded:1", parameters=("sh", "-c", "cat /data/seed; stat -c %a /data"), **kept
        )
        await ended(it, launch)
        assert await said(it) == b"of the image755\n"
        await it.clear("e1")
        await it.prune_volumes(lambda job, standing: False)


async def test_two_agents_on_one_docker_have_volumes_of_their_own(
    root: Path, docker: DockerHost
) -> None:
    kept: dict[str, Any] = {"volumes": (("v4", "/data", True),), "job": "j4"}
    other = root.parent / "other"
    other.mkdir()
    async with engine(root, docker) as it, engine(other, docker, "12D3KooWAnother1") as its:
        await ended(it, shell("echo mine > /data/a", **kept))
        await its.start(shell("ls /data", **kept))
        with trio.fail_after(60):
            await its.wait("e1")
        assert await said(its) == b""
        await its.clear("e1")
        await its.prune_volumes(lambda job, standing: False)
        assert volumes(docker) == ["j4"]
        await it.clear("e1")
        await it.prune_volumes(lambda job, standing: False)
        assert volumes(docker) == []


# ---- ports -------------------------------------------------------------------------------------


async def test_a_port_is_chosen_as_the_container_starts(root: Path, docker: DockerHost) -> None:
    serve = (
        "echo $BACALHAU_PORT_web $BACALHAU_HOST_PORT_web > /tmp/index.html; httpd -f -p 80 -h /tmp"
    )
    async with engine(root, docker) as it:
        ports = (Port("web", 0, 80), Port("any", 0, 0))
        await it.start(shell(serve, network="bridge", ports=ports))
        (_, chosen), (_, other) = read_note(await it.directories.read_note("e1", NOTE))
        assert FIRST <= chosen <= LAST and chosen != other
        bound = detail(docker)["HostConfig"]["PortBindings"]
        assert bound["80/tcp"][0]["HostPort"] == str(chosen)
        assert bound[f"{other}/tcp"][0]["HostPort"] == str(other)
        with trio.fail_after(60):
            while (page := docker.fetch(f"http://127.0.0.1:{chosen}/")) == "":  # noqa: ASYNC110
                await trio.sleep(0.05)
        assert page == f"80 {chosen}\n"
        await it.stop("e1", 0)
        await it.wait("e1")


async def test_a_port_that_is_taken_meanwhile_is_given_up_for_another(
    root: Path, docker: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine(root, docker) as it:
        await it.start(shell("sleep 100", network="bridge", ports=(Port("a", 23_456, 80),)))
        given = iter((23_456, 23_456, 23_457))
        monkeypatch.setattr(it.ports, "_free", lambda: next(given))
        await it.start(shell("sleep 100", "e2", network="bridge", ports=(Port("a", 0, 80),)))
        assert read_note(await it.directories.read_note("e2", NOTE)) == (("a", 23_457),)
        assert detail(docker, "e2")["State"]["Running"]
        fixed = shell("sleep 100", "e3", network="bridge", ports=(Port("a", 23_456, 80),))
        assert "port is already allocated" in (await ended(it, fixed)).detail
        for name in ("e1", "e2"):
            await it.stop(name, 0)
            await it.wait(name)
