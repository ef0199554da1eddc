"""What containers get of their device: networks, ports, parts of its files, graphics cards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio

from agent.engines.engine import Engines
from agent.engines.ports import FIRST, LAST, NOTE, read_note
from protocol.effects import StartTask
from protocol.events import TaskEnded
from protocol.ids import ExecutionId
from protocol.network import Port
from protocol.tree import Plain
from tests.agent.test_tasks import running, task
from tests.agent.whole import open_directory, until
from tests.dockerhost import IMAGE, DockerHost
from tests.dockerlab import START, detail, ended, engine, said, shell
from tests.dockerproxy import LEAVES_SOCKETS, DockerProxy

pytestmark = LEAVES_SOCKETS
# ---- networks ---------------------------------------------------------------------------------


async def test_networks_are_what_was_asked_for(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        interfaces = "ls /sys/class/net | tr '\\n' ' '"
        await ended(it, shell(interfaces, "none"))
        assert await said(it, "none") == b"lo "
        await ended(it, shell(interfaces, "bridge", network="bridge"))
        assert (await said(it, "bridge")).split() == [b"eth0", b"lo"]
        await ended(it, shell(interfaces, "host", network="host"))
        assert b"docker0" in await said(it, "host")


# ---- ports ------------------------------------------------------------------------------------


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


# ---- files ------------------------------------------------------------------------------------


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


# ---- graphics cards ---------------------------------------------------------------------------


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
