"""The docker engine on podman's docker API: what it does alike."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import signal
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.engines import docker_ends
from agent.engines.task import ExitReason
from protocol.container import ContainerParams
from tests.agent.whole import until
from tests.dockerhost import IMAGE, LOGIN
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
from tests.lab import Done, Lab
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


async def test_lines_without_an_end_come_as_they_were_written(
    root: Path, podman: PodmanHost
) -> None:
    """Its own tail runs them into others, and leaves the last one out."""
    async with engine(root, podman) as it:
        script = "printf 'a\\nb '; sleep 1.2; printf c; printf only >&2"
        assert (await ended(it, shell(script))).code == 0
        out, err = await it.tails("e1", 40)
        assert (out.data, err.data) == (b"a\nb c", b"only")
        assert await said(it) == b"a\nb c" and await said(it, stream="stderr") == b"only"
        await it.clear("e1")
        assert await said(it) == b"a\nb c" and await said(it, stream="stderr") == b"only"


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
    monkeypatch.setattr(docker_ends, "LATE_S", 0.5)
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
    lab[0].environment["DOCKER_CONFIG"] = str(lab[0].data_dir / "own-docker")
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


# ---- images ------------------------------------------------------------------------------------


def test_an_image_is_pulled_for_a_job_and_who_waits_is_told(lab: Lab, podman: PodmanHost) -> None:
    with podman.registry("far/large:1", files={"large": os.urandom(30_000_000)}) as image:
        done = offline(lab, image, "stat", "-c", "%s", "/large", flags=())
        assert (done.code, done.out) == (0, "30000000\n"), done
        assert f"shoal: on {lab[0].name}: pulling {image}" in done.err, done.err
    again = offline(lab, image, "echo", "here")
    assert (again.code, again.out) == (0, "here\n"), "its registry is not asked again"
    lab.until(lambda: not podman.ours(), "nothing is left")


def offline(lab: Lab, image: str, *what: str, flags: tuple[str, ...] = ("-q",)) -> Done:
    words = ("docker", "run", *flags, "--retry", "1", "--network", "none", image, *what)
    return lab.shoal(lab[1], *words)


def test_a_later_image_of_the_same_name_is_pulled_where_a_job_always_wants_it(
    lab: Lab, podman: PodmanHost
) -> None:
    with podman.registry("far/moves:1", files={"word": b"first"}) as image:
        first = offline(lab, image, "cat", "/word")
        assert (first.code, first.out) == (0, "first"), first
        podman.move(image, {"word": b"second"})
        assert offline(lab, image, "cat", "/word").out == "first"
        always = offline(lab, image, "cat", "/word", flags=("-q", "--pull", "always"))
        assert (always.code, always.out) == (0, "second"), always
    assert offline(lab, image, "cat", "/word").out == "second"


def test_an_image_that_nobody_has_is_told_of(lab: Lab, podman: PodmanHost) -> None:
    with podman.registry("far/any:1") as there:
        image = there.replace("any", "none")
        done = offline(lab, image, "true")
    assert done.code == 125, done
    assert re.search(rf"image {image} cannot be fetched: .*(not found|unknown)", done.err), done
    away = offline(lab, image, "true")
    assert away.code == 125 and "connection refused" in away.err, away
    never = offline(lab, image, "true", flags=("-q", "--pull", "never"))
    assert f"image {image} is not here, and its job says Pull: never" in never.err, never


def test_a_private_registry_serves_the_device_that_has_its_password(
    lab: Lab, podman: PodmanHost
) -> None:
    place = lab[0].data_dir / "own-docker"
    with podman.registry("far/private:1", private=True) as image:
        locked = offline(lab, image, "true")
        assert locked.code == 125 and "cannot be fetched: " in locked.err, locked
        assert re.search("unauthorized|authentication required", locked.err), locked
        login = b64encode(":".join(LOGIN).encode()).decode()
        place.mkdir()
        known = {"auths": {image.partition("/")[0]: {"auth": login}}}
        (place / "config.json").write_text(json.dumps(known))
        done = offline(lab, image, "echo", "in")
        assert (done.code, done.out) == (0, "in\n"), done
    shutil.rmtree(place)


async def test_what_was_pulled_goes_once_nobody_used_it_for_long_and_nothing_else(
    root: Path, podman: PodmanHost
) -> None:
    record = root.parent / "images.json"
    with podman.registry("far/old:1") as image:
        async with engine(root, podman) as it:
            await it.images.fetch(ContainerParams(image=image))
            await it.images.fetch(ContainerParams(image=IMAGE))
        assert list(json.loads(record.read_text())) == [image]
    record.write_text(json.dumps({image: 1_700_000_001.0}))
    async with engine(root, podman) as it:
        assert image in it.presence.images
        await it.images.prune()
        assert image not in it.presence.images
    names = {name for each in podman.api.images() for name in each["RepoTags"] or ()}
    assert image not in names and f"docker.io/library/{IMAGE}" in names
    assert json.loads(record.read_text()) == {}


# ---- ports -------------------------------------------------------------------------------------


def test_a_port_that_the_device_chooses_is_shown_and_answers(lab: Lab, podman: PodmanHost) -> None:
    serve = "cd /tmp; echo $BACALHAU_HOST_PORT_port_8000 > index.html; exec httpd -f -p 8000"
    ports = {}
    for name in ("one", "two"):
        words = ("-d", "--name", name, "-p", ":8000", IMAGE, "sh", "-c", serve)
        started = lab.shoal(lab[1], "docker", "run", *words)
        assert started.code == 0, started

        def told(name: str = name) -> int:
            (place,) = json.loads(lab.shoal(lab[1], "job", "where", name, "--json").out)
            return int(place["ports"]["port-8000"] or 0)

        ports[name] = lab.until(told, "it is told where")
    assert min(ports.values()) >= 20_000 and len(set(ports.values())) == 2
    for name, port in ports.items():
        page = lab.until(lambda port=port: podman.fetch(f"http://127.0.0.1:{port}/"), "it answers")
        assert page == f"{port}\n"
        assert lab.shoal(lab[1], "stop", name, "-y").code == 0
    lab.until(lambda: not podman.ours(), "its container is gone")


# ---- its service is restarted ------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_runs_while_the_service_is_restarted_runs_on(
    lab: Lab, podman: PodmanHost, number: signal.Signals
) -> None:
    name = f"goes-on-{number.name.lower()}"
    job, pid = until_runs(lab, podman, name)
    podman.stop(number)
    lab.until(lambda: missed(lab), "it is missed")
    podman.start()
    lab.until(lambda: not missed(lab), "it is back")
    assert state(lab, job)["state"] == "running"
    Path(f"/proc/{pid}/root/tmp/go").touch()
    once(lab, podman, job)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_ends_while_the_service_is_away_is_told_and_done_once(
    lab: Lab, podman: PodmanHost, number: signal.Signals
) -> None:
    name = f"ends-{number.name.lower()}"
    job, pid = until_runs(lab, podman, name)
    podman.stop(number)
    lab.until(lambda: missed(lab), "it is missed")
    Path(f"/proc/{pid}/root/tmp/go").touch()
    lab.until(lambda: not Path(f"/proc/{pid}").exists(), "it ends on its own")
    podman.start()
    once(lab, podman, job)


def test_what_ends_while_service_and_agent_are_away_is_told_and_done_once(
    lab: Lab, podman: PodmanHost
) -> None:
    # Waited for: its device is dead, and it would be placed again, perhaps before that tells of it.
    job, pid = until_runs(lab, podman, "ends-with-nobody", replace=False)
    lab.kill(lab[0])
    podman.stop()
    Path(f"/proc/{pid}/root/tmp/go").touch()
    lab.until(lambda: not Path(f"/proc/{pid}").exists(), "it ends on its own")
    podman.start()
    lab.start(lab[0])
    once(lab, podman, job)


def until_runs(lab: Lab, podman: PodmanHost, name: str, *, replace: bool = True) -> tuple[str, int]:
    """A job of the second device that is tried again if it is lost, and its container's process."""
    script = "echo begun; until test -e /tmp/go; do sleep 0.1; done; echo ended; exit 3"
    params = {"Image": IMAGE, "Entrypoint": ["sh", "-c", script]}
    task = {"Engine": {"Type": "docker", "Params": params}, "Network": {"Type": "none"}}
    tree = {"Name": name, "Type": "batch", "Disconnect": {"Replace": replace}, "Tasks": [task]}
    with lab[1].client() as client:
        job = str(client.submit(tree)["job"])

    def runs() -> int:
        ours = [each["Id"] for each in podman.ours() if each["State"] == "running"]
        if len(ours) != 1 or state(lab, job)["state"] != "running":
            return 0
        return int(podman.api.inspect_container(ours[0])["State"]["Pid"])

    return job, lab.until(runs, "it runs")


def state(lab: Lab, job: str) -> dict[str, Any]:
    with lab[1].client() as client:
        return dict(client.job(job)["slots"][0])


def missed(lab: Lab) -> bool:
    with lab[0].client() as client:
        return any(not each["ok"] for each in client.doctor() if each["check"] == "docker")


def once(lab: Lab, podman: PodmanHost, job: str) -> None:
    """It ends as its task ended, at the first attempt."""
    lab.until(lambda: state(lab, job)["state"] in ("completed", "failed"), "it is over")
    slot = state(lab, job)
    assert (slot["state"], slot["exit_code"], slot["attempt"]) == ("failed", 3, 1), slot
    assert lab.shoal(lab[1], "logs", job).out == "begun\nended\n"
    lab.until(lambda: not podman.ours(), "nothing is left")
