"""Containers over restarts: of the agent, of docker, and of the device."""

from __future__ import annotations

import gc
import os
import re
import signal
import time
from pathlib import Path

import pytest
import trio

from agent.engines import docker as docker_module
from agent.engines import docker_client, docker_ends
from agent.engines.engine import FoundExecution
from agent.engines.supervisor import boot_id
from agent.engines.task import ExitReason
from tests.agent.whole import until
from tests.dockerhost import IMAGE, PEER, DockerHost
from tests.dockerlab import START, detail, ended, engine, said, shell, until_asked_to_start
from tests.dockerproxy import LEAVES_SOCKETS, DockerProxy

pytestmark = LEAVES_SOCKETS
RUNS = (
    "remove a running container|container is running"  # what docker says, before 26 and from it on
)


# ---- of the agent -----------------------------------------------------------------------------


async def test_another_life_of_the_agent_finds_what_runs_and_what_ended(
    root: Path, docker: DockerHost
) -> None:
    async with engine(root, docker) as it:
        waits = "until [ -e /go ]; do sleep 0.1; done"
        await it.start(shell(f"{waits}; echo later; exit 5", "runs"))
        await it.start(shell("echo out; echo err >&2; exit 6", "ended"))
        await it.wait("ended")
        await ended(it, shell("exit 7", "cleared"))
        await it.clear("cleared")
        await it.start(shell("sleep 100", "timed", timeout_s=12.0, stop_grace_s=0.1))
    async with engine(root, docker) as it:
        found = {each.execution_id: each.exit for each in await it.adopt()}
        assert found["ended"] is not None and found["ended"].code == 6
        assert found["cleared"] is not None and found["cleared"].code == 7
        assert found["runs"] is None and found["timed"] is None
        assert (await it.cleared("cleared"), await it.cleared("ended")) == (True, False)
        assert [each.data for each in await it.tails("ended", 9)] == [b"out\n", b"err\n"]
        with trio.fail_after(60):
            assert await it.run_beside("runs", ["touch", "/go"]) == (0, "")
            assert (await it.wait("runs")).code == 5
            assert (await it.wait("timed")).reason is ExitReason.TIMEOUT
        assert await said(it, "runs") == b"later\n"


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
    monkeypatch.setattr(docker_ends, "LATE_S", 1.0)
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
    monkeypatch.setattr(docker_ends, "LATE_S", 0.2)
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
    monkeypatch.setattr(docker_ends, "LATE_S", 0.2)
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


# ---- of docker, and behind the agent's back ---------------------------------------------------


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
