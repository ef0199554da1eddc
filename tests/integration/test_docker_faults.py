"""The docker engine where docker, or the way to it, fails: silent, cut off, away, or too early.

Each answer is a real docker's; a proxy holds it back, cuts it off or damages it. Lives of
containers are in test_docker.py and, where docker itself is halted, in test_docker_hangs.py.
"""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest
import trio
import trio.testing

from agent.engines import docker as docker_module
from agent.engines import docker_client, docker_link
from agent.engines.container import ContainerLaunch
from agent.engines.docker import DockerEngine
from agent.engines.task import ExitReason, TaskExit
from tests.agent.whole import until
from tests.dockerhost import IMAGE, DockerHost
from tests.dockerlab import START, detail, ended, engine, said, shell
from tests.dockerproxy import LEAVES_SOCKETS, DockerProxy

pytestmark = LEAVES_SOCKETS
CONNECT = rb"^GET /version"
EVENTS = rb"^GET \S*/events"
LIST = rb"^GET \S*/containers/json"
LOGS = rb"^GET \S*/logs"
WAITS = "until test -e /go; do sleep 0.05; done; "


def look_at(name: str) -> bytes:
    return rb"^GET \S*/containers/shoal-\w*-" + name.encode() + b"/json"


async def waited(it: DockerEngine, name: str = "e1") -> TaskExit:
    with trio.fail_after(60):
        return await it.wait(name)


async def let_go(it: DockerEngine, name: str = "e1") -> None:
    """What WAITS does."""
    assert await it.run_beside(name, ["touch", "/go"]) == (0, "")


# ---- output ------------------------------------------------------------------------------------


async def read(it: DockerEngine, tail: int, found: list[bytes]) -> None:
    async with aclosing(it.log("e1", "stdout", 0, tail, True)) as chunks:
        async for chunk in chunks:
            found.append(chunk.data)


@pytest.mark.parametrize("pauses", [20_000, 4_400_000], ids=["early", "late"])
async def test_a_line_of_more_than_4_mib_is_whole_live(
    root: Path, docker: DockerHost, proxy: DockerProxy, pauses: int
) -> None:
    """Docker gives it in pieces of one moment, of which more than can be counted come after each
    other; the reader gets them in two batches at least."""
    found: list[bytes] = []
    size = (4 << 20) + (1 << 19)
    async with engine(root, docker, socket=proxy.path) as it:
        line = f"head -c {size} /dev/zero | tr '\\0' x"
        await it.start(shell(f"{WAITS}{line}", log_bytes_max=16 << 20, cpu_m=1000))
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                with proxy.hanging(LOGS, pauses):
                    nursery.start_soon(read, it, -1, found)
                    await let_go(it)
                    await until(lambda: proxy.hung.is_set() and found)
        assert (await waited(it)).code == 0
    assert sum(map(len, found)) == size and set(b"".join(found)) == {ord("x")}


async def test_a_tail_whose_first_moment_comes_in_two_batches_is_whole(
    root: Path, docker: DockerHost, proxy: DockerProxy
) -> None:
    """A line of more than 16 KiB is two frames of one moment, of which docker has the first as soon
    as it is full."""
    found: list[bytes] = []
    async with engine(root, docker, socket=proxy.path) as it:
        begins = "head -c 16384 /dev/zero | tr '\\0' a"
        ends = "head -c 8192 /dev/zero | tr '\\0' b; echo"
        await it.start(shell(f"echo before; {begins}; {WAITS}{ends}"))
        await until_length(it, 7 + 16384)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, it, 1, found)
                await until(lambda: found)
                assert b"".join(found) == b"a" * 16384
                await let_go(it)
    # The log driver of older ones loses the end of such a line.
    assert b"".join(found).removesuffix(b"\n") == b"a" * 16384 + b"b" * 8192


async def until_length(it: DockerEngine, size: int) -> None:
    with trio.fail_after(60):
        while len(await said(it)) != size:  # noqa: ASYNC110 -- docker tells of no line
            await trio.sleep(0.05)


async def test_the_last_line_comes_where_docker_ends_the_output_without_it(
    root: Path, docker: DockerHost, proxy: DockerProxy
) -> None:
    """As it does now and then where the container ends at that moment (seen with 20.10)."""
    found: list[bytes] = []
    async with engine(root, docker, socket=proxy.path) as it:
        await it.start(shell(f"echo one; {WAITS}printf end"))
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                with proxy.hanging(LOGS, rb"one\n\r\n", cut=True):
                    nursery.start_soon(read, it, -1, found)
                    await until(lambda: found)
                    await let_go(it)
                    await it.wait("e1")
                    await until(proxy.hung.is_set)
                    assert b"".join(found) == b"one\n"
    assert b"".join(found) == b"one\nend"


async def test_a_docker_that_stalls_within_the_output_of_many_keeps_none_from_a_stop(
    root: Path, docker: DockerHost, proxy: DockerProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever follows the last lines has all of it read first, to find where they begin."""
    monkeypatch.setattr(docker_client, "TIMEOUT_S", 3600.0)
    async with engine(root, docker, socket=proxy.path) as it:
        await it.start(shell("echo one; echo two; exec sleep 1000"))
        await until_length(it, 8)
        with proxy.hanging(LOGS, rb"\r\n\r\n"):
            async with trio.open_nursery() as nursery:
                for _ in range(docker_link.CALLS_MAX):
                    nursery.start_soon(read, it, 1, [])
                await until(lambda: proxy.held == docker_link.CALLS_MAX)
                await it.stop("e1", 0)
                assert (await waited(it)).reason is ExitReason.STOPPED
                nursery.cancel_scope.cancel()
            await until(lambda: it._output.readers.borrowed_tokens == 0)


# ---- docker says no, or nothing ------------------------------------------------------------------


async def test_one_that_docker_cannot_tell_of_keeps_the_agent_and_the_others_from_nothing(
    root: Path, docker: DockerHost, proxy: DockerProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_module, "PRESENCE_S", 0.1)
    monkeypatch.setattr(docker_link, "LATE_S", 0.1)
    async with engine(root, docker) as it:
        for name in ("e1", "e2"):
            assert (await ended(it, shell("exit 3", name))).code == 3
    async with engine(root, docker, socket=proxy.path) as it:
        with proxy.cutting(look_at("e1")):
            found = {each.execution_id: each.exit for each in await it.adopt()}
            assert found["e1"] is None, "it runs for all we know"
            assert found["e2"] is not None and found["e2"].code == 3
        assert (await waited(it)).code == 3, "it is asked about again"


async def test_a_start_that_docker_did_not_answer_may_begin_yet(
    root: Path, docker: DockerHost, proxy: DockerProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine(root, docker, socket=proxy.path) as it:
        client = await it._link.client()
        with proxy.holding(START), monkeypatch.context() as hurried:
            hurried.setattr(client._api, "timeout", 1.0)
            hung = await ended(it, shell("true"))
        refused = await ended(it, ContainerLaunch("e2", IMAGE, parameters=("no-such-program",)))
    assert (hung.reason, hung.may_begin) == (ExitReason.START_FAILED, True)
    assert (refused.reason, refused.may_begin) == (ExitReason.START_FAILED, False)


async def test_one_that_ends_while_it_is_adopted_is_asked_about_again(
    root: Path, docker: DockerHost, proxy: DockerProxy
) -> None:
    """Between docker's word that it runs and the moment at which it is held."""
    async with engine(root, docker) as it:
        await it.start(shell(f"{WAITS}exit 3"))
        go = Path(f"/proc/{detail(docker)['State']['Pid']}/root/go")
    async with engine(root, docker, socket=proxy.path) as it, trio.open_nursery() as nursery:
        exits: list[TaskExit | None] = []

        async def adopt() -> None:
            exits.extend([each.exit for each in await it.adopt()])

        with proxy.hanging(LIST):
            nursery.start_soon(adopt)
            await until(lambda: proxy.held == 2)  # one is the look at the opening of the events
            await trio.Path(go).touch()
            await until(lambda: detail(docker)["State"]["Status"] == "exited")
            await trio.testing.wait_all_tasks_blocked(0.05)
        await until(lambda: exits)
        assert exits == [None]
        assert (await waited(it)).code == 3


async def test_events_that_make_no_sense_are_listened_to_anew(
    root: Path, docker: DockerHost, proxy: DockerProxy, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine(root, docker, socket=proxy.path) as it:
        with proxy.damaging(EVENTS, b'"Action"', b'"Uction"'):
            await it.start(shell(f"{WAITS}exit 3"))
            assert proxy.count(EVENTS) == 1
            await let_go(it)
            assert (await waited(it)).code == 3, "all are looked at when they are listened to again"
            assert proxy.count(EVENTS) >= 2
        assert "KeyError: 'Action'" in caplog.text
        caplog.clear()
        assert (await ended(it, shell("exit 4", "e2"))).code == 4


async def test_a_docker_that_was_away_is_connected_to_anew(
    root: Path, docker: DockerHost, proxy: DockerProxy
) -> None:
    """Its version may be another, with which the old client has no API in common."""
    async with engine(root, docker, socket=proxy.path) as it:
        with proxy.hanging(EVENTS, rb'"die"[^\n]*\n\r\n', cut=True):
            before = await it._link.client()
            assert (await ended(it, shell("true"))).code == 0
            await until(proxy.hung.is_set)
            connected = proxy.count(CONNECT)
        await until(lambda: it._link._client is not before)
        assert proxy.count(CONNECT) == connected + 1
        assert await it._link.client() is not before
        assert (await ended(it, shell("exit 4", "e2"))).code == 4


async def test_who_waits_for_a_docker_that_hangs_waits_once(
    root: Path, docker: DockerHost, proxy: DockerProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_client, "TIMEOUT_S", 1.0)
    async with engine(root, docker, socket=proxy.path) as it:
        with proxy.hanging(CONNECT):
            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(it.start, shell("true", f"e{number}"))
            for number in range(8):
                exit = await waited(it, f"e{number}")
                assert exit.reason is ExitReason.START_FAILED and not exit.may_begin
                assert "docker did not answer within 1 s" in exit.detail
        assert proxy.count(CONNECT) < 8, "none but those that came later, to discard it"


async def test_what_was_restarted_through_docker_ends_of_its_own_accord(
    root: Path, docker: DockerHost, proxy: DockerProxy
) -> None:
    async with engine(root, docker, socket=proxy.path) as it:
        await it.start(shell("trap 'exit 3' USR1; echo up; while true; do sleep 0.05; done"))
        name = docker.ours()[0]["Id"]
        with proxy.holding(look_at("e1")) as looked:
            await trio.to_thread.run_sync(lambda: docker.api.restart(name, timeout=0))
            await until(looked.sent.is_set)  # it runs again by the time that this arrives
        await until_said_twice(it)
        docker.api.kill(name, "SIGUSR1")
        exit = await waited(it)
        assert (exit.reason, exit.code) == (ExitReason.EXITED, 3)


async def until_said_twice(it: DockerEngine) -> None:
    with trio.fail_after(60):
        while await said(it) != b"up\nup\n":  # noqa: ASYNC110 -- docker tells of no line
            await trio.sleep(0.05)


async def test_a_stop_that_comes_as_it_starts_is_not_lost(
    root: Path, docker: DockerHost, proxy: DockerProxy
) -> None:
    async with engine(root, docker, socket=proxy.path) as it, trio.open_nursery() as nursery:
        with proxy.holding(rb"^POST \S*/containers/create") as making:
            nursery.start_soon(it.start, shell("sleep 1000"))
            await until(making.sent.is_set)
            nursery.start_soon(it.stop, "e1", 0.5)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert proxy.count(rb"/kill") == 0
        assert (await waited(it)).reason is ExitReason.STOPPED
        assert proxy.count(rb"^POST \S*/kill\?signal=SIGTERM") == 1
