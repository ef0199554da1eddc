"""The docker engine on podman's docker API: what it does alike."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio

from agent.engines import docker as docker_module
from agent.engines.task import ExitReason
from tests.agent.whole import until
from tests.dockerhost import IMAGE
from tests.dockerlab import (
    START,
    detail,
    ended,
    engine,
    said,
    shell,
    until_asked_to_start,
)
from tests.dockerproxy import LEAVES_SOCKETS, DockerProxy
from tests.lab import Lab
from tests.podmanhost import PodmanHost

pytestmark = LEAVES_SOCKETS


@pytest.fixture(scope="module")
def podman() -> Iterator[PodmanHost]:
    with PodmanHost() as host:
        yield host


@pytest.fixture
def root(tmp_path: Path, podman: PodmanHost) -> Iterator[Path]:
    path = tmp_path / "containers"
    path.mkdir()
    yield path
    gc.collect()  # what is collected later is another test's failure
    for container in podman.ours():
        podman.api.remove_container(container["Id"], force=True)


async def test_it_runs_to_its_end_and_leaves_output_and_no_container(
    root: Path, podman: PodmanHost
) -> None:
    async with engine(root, podman) as it:
        exit = await ended(it, shell("echo out; echo err >&2; exit 3"))
        assert (exit.code, exit.reason, exit.detail) == (3, ExitReason.EXITED, "")
        assert await said(it) == b"out\n" and await said(it, stream="stderr") == b"err\n"
        await it.clear("e1")
        assert podman.ours() == []
        assert await said(it) == b"out\n"


async def test_it_has_no_network_no_capabilities_and_bounded_memory(
    root: Path, podman: PodmanHost
) -> None:
    look = "ls /sys/class/net; grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status"
    greedy = "x=aaaa; while true; do x=$x$x; done"
    async with engine(root, podman) as it:
        assert (await ended(it, shell(look))).code == 0
        assert (await said(it)).split() == [b"lo", b"CapEff:", b"0" * 16, b"NoNewPrivs:", b"1"]
        killed = await ended(it, shell(greedy, "e2", memory_bytes=32 << 20))
        assert killed.reason is ExitReason.SIGNALLED and killed.signal == 9


async def test_it_finds_its_device_by_name(root: Path, podman: PodmanHost) -> None:
    """What answers there is a container in the device's own network. On a bridge 4.3 takes
    docker's `host-gateway` for an address, and has a name of its own."""
    serve = shell("cd /tmp; echo a page > index.html; exec httpd -f -p 8099", "e0", network="host")
    async with engine(root, podman) as it:
        await it.start(serve)
        await until(lambda: podman.fetch("http://127.0.0.1:8099/") == "a page\n")
        names = {"bridge": "host.containers.internal", "host": "host.docker.internal"}
        for key, (network, name) in zip(("e1", "e2"), names.items(), strict=True):
            script = f"wget -q -O - http://{name}:8099/"
            exit = await ended(it, shell(script, key, network=network))
            assert (exit.code, await said(it, key)) == (0, b"a page\n"), exit
        await it.stop("e0", 1)
        await it.wait("e0")


async def test_files_go_in_and_results_come_out(root: Path, podman: PodmanHost) -> None:
    async with engine(root, podman) as it:
        work = await it.directories.prepare("e1")
        (work / "script.sh").write_text("echo kept > out.txt; echo r > /outputs/deep")
        await it.hand_over("e1")
        launch = shell("sh script.sh", results=("/outputs",), has_task_dir=True)
        assert (await ended(it, launch)).code == 0
        out = await it.collect("e1", ["/outputs", "out.txt"])
        assert (out / "outputs/deep").read_text() == "r\n"
        assert (out / "out.txt").read_text() == "kept\n"
        await it.clear("e1")


async def test_one_that_is_not_asked_to_start_any_more_never_began(
    root: Path, podman: PodmanHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_module, "LATE_S", 0.5)
    proxy = DockerProxy(root.parent / "p.sock", podman.socket)
    with closing(proxy), proxy.holding(START) as start:
        await until_asked_to_start(root, podman, proxy, start, shell("exit 5"))
        async with engine(root, podman) as it:
            assert [each.exit for each in await it.adopt()] == [None]
            with trio.fail_after(60):
                assert (await it.wait("e1")).reason is ExitReason.START_FAILED
            assert podman.ours() == []


async def test_it_outlives_the_agent_and_is_stopped_by_the_next_life(
    root: Path, podman: PodmanHost
) -> None:
    async with engine(root, podman) as it:
        await it.start(shell("trap 'exit 9' TERM; while true; do sleep 0.1; done"))
    async with engine(root, podman) as it:
        assert [each.exit for each in await it.adopt()] == [None]
        assert detail(podman)["State"]["Running"]
        await it.stop("e1", 30)
        with trio.fail_after(60):
            assert (await it.wait("e1")).reason is ExitReason.STOPPED
        await it.clear("e1")
        await until(lambda: podman.ours() == [])


@pytest.fixture(scope="module")
def lab(podman: PodmanHost) -> Iterator[Lab]:
    """The first device has podman, the second nothing for containers."""
    lab = Lab(2)
    lab[0].environment["SHOAL_DOCKER_SOCKET"] = str(podman.socket)
    with lab:
        lab.until(lambda: '"docker"' in lab.shoal(lab[1], "peers", "--json").out, "it is seen")
        yield lab


def test_a_job_of_agents_publishes_a_port_on_it_and_is_read_while_it_runs(
    lab: Lab, podman: PodmanHost
) -> None:
    serve = "echo begun; cd /tmp; echo served > index.html; exec httpd -f -p 8000"
    words = ("-d", "--name", "page", "-p", "8080:8000", IMAGE, "sh", "-c", serve)
    started = lab.shoal(lab[1], "docker", "run", *words)
    assert started.code == 0, started
    page = lab.until(lambda: podman.fetch("http://127.0.0.1:8080/"), "it answers")
    assert page == "served\n"
    lab.until(lambda: lab.shoal(lab[1], "logs", "page", "--tail", "1").out == "begun\n", "its line")
    assert lab.shoal(lab[1], "stop", "page", "-y").code == 0
    lab.until(lambda: not podman.ours(), "its container is gone")
    assert lab.shoal(lab[1], "logs", "page").out == "begun\n"


def test_a_slot_of_agents_keeps_its_volume_on_it(
    lab: Lab, podman: PodmanHost, tmp_path: Path
) -> None:
    script = "echo line >> /data/log; cat /data/log; exec sleep 1000"
    params = {"Image": IMAGE, "Parameters": ["sh", "-c", script]}
    task = {
        "Engine": {"Type": "docker", "Params": params},
        "Network": {"Type": "none"},
        "Volumes": [{"Name": "state", "Target": "/data"}],
    }
    spec = {"Name": "ledger", "Type": "service", "Count": 1, "Tasks": [task]}
    (tmp_path / "ledger.json").write_text(json.dumps(spec))
    assert lab.shoal(lab[1], "job", "run", "ledger.json", cwd=tmp_path).code == 0

    def said(lines: str) -> bool:
        return lab.shoal(lab[1], "logs", "ledger").out.endswith(lines)

    lab.until(lambda: said("line\n"), "it runs")
    (container,) = podman.ours()
    podman.api.kill(container["Id"])
    lab.until(lambda: said("line\nline\n"), "it was started again, and has what it wrote before")
    assert lab.shoal(lab[1], "job", "delete", "ledger", "-y").code == 0
    lab.until(lambda: not podman.ours(), "its container is gone")
    kept = {"label": "shoal.job"}
    lab.until(lambda: not podman.api.volumes(filters=kept)["Volumes"], "and so is its volume")
