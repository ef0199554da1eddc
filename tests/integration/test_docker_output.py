"""Output of containers: followed, bounded and kept, and what becomes of it on a full disk."""

from __future__ import annotations

import time
from collections import deque
from contextlib import aclosing, closing
from pathlib import Path

import pytest
import trio

from agent.engines import docker as docker_module
from agent.engines import docker_ends, docker_flood, docker_output
from agent.engines.docker import DockerEngine
from agent.engines.docker_log import Amount
from agent.engines.engine import Crowded
from agent.engines.execution_dir import ExecutionDir
from agent.engines.task import ExitReason, TaskExit
from agent.engines.task_log import STREAMS
from tests.agent.test_threads import no_threads
from tests.agent.whole import until
from tests.dockerhost import DockerHost
from tests.dockerlab import detail, ended, engine, said, shell, until_said
from tests.dockerproxy import LEAVES_SOCKETS, DockerProxy

pytestmark = LEAVES_SOCKETS
# ---- followed ---------------------------------------------------------------------------------


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
    root: Path, docker: DockerHost, pause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which 20.10 gives a follower the beginning again, much of it or but a line."""
    monkeypatch.setattr(docker_flood, "FLOOD_PART", 8)  # so that it is followed, and not read
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


async def test_a_device_that_can_begin_no_thread_says_so_to_who_reads_or_follows(
    root: Path, docker: DockerHost
) -> None:
    async with engine(root, docker) as it:
        await it.start(shell("echo said; sleep 100"))
        await until_said(it, "e1", b"said\n")
        with no_threads(), trio.fail_after(20):
            for follow in (False, True):
                with pytest.raises(Crowded, match="no thread could be begun"):
                    await anext(it.log("e1", "stdout", 0, -1, follow))
            await it.presence.look()
        assert "no thread could be begun" in it.presence.trouble
        await it.presence.look()
        assert it.presence.trouble == ""
        async with aclosing(it.log("e1", "stdout", 0, -1, True)) as chunks:
            assert (await anext(chunks)).data == b"said\n"
        await it.stop("e1", 0.0)
        await it.wait("e1")


async def test_of_little_that_docker_is_to_keep_less_is_a_flood_also_to_the_next_life(
    root: Path, docker: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Seen(docker_flood.Flow):
        def came(self, size: int, end: int) -> None:
            seen.append((self.flood_bytes, size))

    monkeypatch.setattr(docker_output, "Flow", Seen)
    for life in (1, 2):
        async with engine(root, docker) as it:
            if not await it.adopt():
                await it.start(shell("echo said; sleep 100", log_bytes_max=128 << 10))
            async with aclosing(it.log("e1", "stdout", 0, -1, True)) as chunks:
                assert (await anext(chunks)).data == b"said\n"
                with trio.move_on_after(0.5):
                    await anext(chunks)
        assert seen == [(docker_flood.flood_of(256 << 10), docker_flood.size_of(b"said\n"))] * life
    async with engine(root, docker) as it:
        await it.adopt()
        await it.stop("e1", 0.0)
        await it.wait("e1")


async def test_short_lines_that_fill_files_of_the_default_come_once(
    root: Path, docker: DockerHost
) -> None:
    """Some 50,000 of them a file, of which 20.10 may give a follower most again."""
    script = "for n in 1 2 3 4 5 6; do seq ${n}00000 ${n}25000; sleep 0.5; done"
    wanted = b"".join(b"%d\n" % (n * 100_000 + i) for n in range(1, 7) for i in range(25_001))
    async with engine(root, docker) as it:
        await it.start(shell(script))
        found = b"".join([chunk.data async for chunk in it.log("e1", "stdout", 0, -1, True)])
        assert found == wanted


@pytest.mark.parametrize(
    ("single", "sleeps_s"), [(False, 0.0), (True, 0.0), (False, 0.003), (True, 0.003)]
)
async def test_a_flood_is_followed_whole_however_slow_its_reader(
    root: Path, docker: DockerHost, single: bool, sleeps_s: float
) -> None:
    """Over more of docker's files than a follower of docker's is given, of what these all keep."""
    count = 60_000
    script = f"""yes 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abc |
        head -n {count} | awk '{{printf "%05d%s\\n", NR, substr($0, 6)}}'; sleep 2; echo end"""
    async with engine(root, docker) as it:
        await it.start(shell(script))
        came, owed_s = bytearray(), 0.0  # for each KiB
        with trio.fail_after(240):
            async for chunk in it.log("e1", "stdout", 0, -1, True, single=single):
                assert not chunk.gap
                came += chunk.data
                owed_s += sleeps_s * len(chunk.data) / 1024
                if owed_s > 0.02:
                    await trio.sleep(owed_s)
                    owed_s = 0.0
        lines = bytes(came).split(b"\n")
        assert lines[-2:] == [b"end", b""]
        assert [int(line[:5]) for line in lines[:-2]] == list(range(1, count + 1))


async def test_what_can_be_followed_is_asked_for_once(
    root: Path, docker: DockerHost, proxy: DockerProxy
) -> None:
    """Each question has docker look through all that it keeps."""
    script = """x=$(head -c 1000 /dev/zero | tr '\\0' x); i=0
        while [ $i -lt 400 ]; do echo $x; sleep 0.01; i=$((i+1)); done"""
    async with engine(root, docker, socket=proxy.path) as it:
        await it.start(shell(script))
        began = proxy.count(rb"^GET \S*/logs\?\S*follow=1")
        size = 0
        async for chunk in it.log("e1", "stdout", 0, -1, True):
            size += len(chunk.data)
        assert size == 400 * 1001
        assert proxy.count(rb"^GET \S*/logs\?\S*follow=1") - began == 1


async def test_the_last_lines_wait_for_nobody_who_follows(
    root: Path, docker: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_output, "READERS_MAX", 1)
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


# ---- kept -------------------------------------------------------------------------------------


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


async def test_output_is_not_kept_while_docker_may_have_more_of_it(
    root: Path, docker: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that was given up, as docker hung, may run on."""
    monkeypatch.setattr(docker_ends, "GIVE_UP_S", 0.0)
    async with engine(root, docker) as it:
        await it.start(shell("seq 50; sleep 1000"))
        await until_said(it, "e1", b"".join(b"%d\n" % number for number in range(1, 51)))
        await it.stop("e1", 0.0)
        assert (await it.wait("e1")).reason is ExitReason.LOST
        await it.tails("e1", 40)
        assert await it.settle_output("e1") == ""
        assert not (root / "e1/log.stdout").exists()


# ---- bounded ----------------------------------------------------------------------------------


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


async def stored(docker: DockerHost, name: str = "e1") -> int:
    """Bytes of its output in docker's own files, of which it compresses none."""
    logs = docker.root / "data/containers" / detail(docker, name)["Id"] / "local-logs"
    assert all(path.name.startswith("container.log") for path in logs.iterdir())
    assert not list(logs.glob("*.gz"))
    return sum(path.stat().st_size for path in logs.iterdir())


def counted(it: DockerEngine, name: str) -> Amount:
    amount, client = Amount(), it._link._client
    assert client is not None
    for stream in STREAMS:
        frames, source = client.log(name, stream, 0, -1, False)
        with closing(source):
            deque(amount.counting(frames), maxlen=0)
    return amount


# ---- a full disk ------------------------------------------------------------------------------


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
