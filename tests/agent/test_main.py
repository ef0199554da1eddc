"""The agent as one: how it starts, tells systemd, ends, and ends where it cannot start."""

from __future__ import annotations

import io
import logging
import os
import shutil
import signal
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

import protocol.job as job_module
import protocol.task as task_module
from agent.configload import load
from agent.control.backend import LogQuery
from agent.log import set_up
from agent.main import TASK_USER, _alone, _task_user, run
from agent.settings import ConfigError
from agent.store import Store
from agent.version import VERSION
from protocol.errors import ShoalError
from protocol.events import ShutdownRequested
from protocol.resources import Resources
from protocol.tree import Node
from tests.agent.whole import open_directory, running_agent, until
from tests.lab import process_job

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    made = open_directory()
    yield made
    shutil.rmtree(made)


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


async def test_it_ends_when_told_and_leaves_its_place_free(data_dir: Path) -> None:
    for _ in range(2):
        async with running_agent(data_dir) as agent:
            assert agent.config.socket_path.is_socket()
        assert not agent.config.socket_path.exists()
    store = Store.open(data_dir)
    assert "wall" in store.load()["meta"]
    store.close()


async def test_a_signal_ends_it_and_the_others_are_told_first(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        told: list[object] = []
        post = agent.driver.post
        agent.driver.post = lambda event: (told.append(event), post(event))[1]  # type: ignore
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: not agent.config.socket_path.exists())
        assert ShutdownRequested(back_in_s=60.0) in told


async def test_whoever_started_it_in_a_terminal_sees_that_it_is_up_and_that_it_ends(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    set_up(stream=shown, watched=True)
    async with running_agent(data_dir) as agent:
        await until(lambda: "alone is up: peer " in shown.getvalue())
        assert f"control at {agent.config.socket_path}, on /ip4/127.0.0.1/" in shown.getvalue()
        os.kill(os.getpid(), signal.SIGINT)
        await until(lambda: "SIGINT: stopping; tasks run on" in shown.getvalue())


async def test_systemd_is_told(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(data_dir / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(data_dir / "notify"))
        async with running_agent(data_dir):
            await trio.lowlevel.wait_readable(manager)
            assert manager.recv(100) == b"READY=1"
        assert manager.recv(100) == b"STOPPING=1"


async def test_systemd_hears_that_it_is_alive(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(data_dir / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(data_dir / "notify"))
        async with running_agent(data_dir):
            for word in (b"READY=1", *[b"WATCHDOG=1"] * 5):
                await trio.lowlevel.wait_readable(manager)
                assert manager.recv(100) == word


async def test_it_starts_with_jobs_that_an_earlier_build_took_and_this_refuses(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"Source": {"Type": "inline", "Params": {"URL": "data:,x"}}, "Target": "m.wasm"}
    engine = {"Type": "wasm", "Params": {"EntryModule": "m.wasm"}}
    task = {"Engine": engine, "InputSources": [module], "Resources": {"GPU": 1}}
    with monkeypatch.context() as earlier:
        earlier.setattr(task_module, "_read_resources", lambda at, engine, base: at_ease(at, base))
        async with running_agent(data_dir) as agent:
            old = await agent.backend.submit({"Name": "old", "Type": "batch", "Tasks": [task]}, "")
            await agent.backend.submit({"Name": "old-d", "Type": "daemon", "Tasks": [task]}, "")
            ran = await agent.backend.submit(process_job("echo", "hi", name="ran"), "")
            await until(lambda: agent.driver.node.jobs[ran["job"]].done)
            spec = {**process_job("sleep", "1000", name="runs"), "Type": "daemon"}
            await agent.backend.submit({k: v for k, v in spec.items() if k != "Count"}, "")
            await until(lambda: agent.backend.status()["running"] == 1)
    job_module._decode.cache_clear()
    async with running_agent(data_dir) as agent:
        tells = [e for e in agent.backend.recent(0, None) if e["kind"] == "agent.left-aside"]
        assert len(tells) == 2
        assert f"job {old['job']}: this version cannot read its spec: " in tells[0]["text"]
        assert ": old-d: " in tells[1]["text"]
        why = "Tasks[0].Resources.GPU: a WebAssembly module reaches no graphics processor"
        assert all(why in each["text"] for each in tells)
        view = await agent.backend.job("old-d")
        assert why in view["reason"]
        listed = await agent.backend.jobs("", 10, False)
        assert sorted(each["name"] for each in listed["jobs"]) == ["old-d", "ran", "runs"]
        lines = [line async for line in agent.backend.logs(ran["job"], LogQuery())]
        assert [line["data"] for line in lines] == [b"hi\n"]
        assert agent.backend.status()["running"] == 1
        again = await agent.backend.submit(process_job("true"), "")
        await until(lambda: agent.driver.node.jobs[again["job"]].done)
    store = Store.open(data_dir)
    assert old["job"] in store.load()["job"] and old["job"] in store.load()["spec"]
    store.close()


def at_ease(at: Node, base: Resources) -> Resources:
    """As it was read before modules were told from programs."""
    return Resources.read(at, base)


def test_what_stands_in_the_way_is_raised_as_itself(data_dir: Path) -> None:
    """Nurseries wrap what ends them; a person gets the one sentence."""
    with pytest.raises(ShoalError, match="holds no identity yet"):
        run(load({"data_dir": str(data_dir)}, {}))

    async def once() -> None:
        async with running_agent(data_dir):
            pass

    trio.run(once)
    given = {"data_dir": str(data_dir), "mdns": False}
    with pytest.raises(ShoalError, match="nonsense"):
        run(load({**given, "listen": ["nonsense"]}, {}))
    with pytest.raises(ConfigError, match="no user 'no-such-user'"):
        run(load({**given, "task.user": "no-such-user"}, {}))
    with pytest.raises(ShoalError, match="no such address"):
        run(load({**given, "listen": ["/ip4/203.0.113.7/tcp/0"]}, {}))
    Store.open(data_dir).close()  # each time it let go of the directory


def test_a_bug_beside_the_sentence_is_told_with_it() -> None:
    """Python 3.11.2, which is Debian 12's, makes a group again of what an `except*` raises."""
    sentence, bug = ConfigError("a sentence"), ValueError("a bug")
    assert _alone(ExceptionGroup("", [ExceptionGroup("", [sentence])])) is sentence
    both = ExceptionGroup("", [sentence, ExceptionGroup("", [bug])])
    assert _alone(both) is both


def test_whom_tasks_run_as() -> None:
    root = _task_user("root")
    assert root is not None and root.uid == 0, "where the owner says so"
    with pytest.raises(ConfigError, match=r"task\.user"):
        _task_user("no-such-user")
    default = _task_user("")
    assert (default is None) == (os.geteuid() != 0)
    assert TASK_USER == "shoal-task"
