"""The doctor: what it says of a whole agent, well and ill."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import doctor
from agent.engines.cgroups import Cgroups
from agent.engines.sandbox import Sandbox
from agent.engines.task import TaskUser
from agent.main import Agent
from protocol.ids import PeerId
from protocol.messages import Facts
from tests.agent.whole import open_directory, running_agent, until

OTHER = PeerId("12D3KooWJ8NCNvvnhYKZWTD5RYhDkNbfJcEnCnVF3GXRAKXuSTHD")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    made = open_directory()
    yield made
    shutil.rmtree(made)


def checks(agent: Agent) -> dict[str, Any]:
    return {entry["check"]: entry for entry in agent.doctor.checks()}


async def test_a_device_alone_is_well_and_told_what_comes_next(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        found = checks(agent)
        for name in ("identity", "disk", "database", "network", "messages"):
            assert found[name]["ok"] is True and not found[name]["fix"], found[name]
        assert found["peers"]["ok"] is None and "shoal join TOKEN" in found["peers"]["fix"]
        assert "127.0.0.1" in found["network"]["text"]
        said = found["tasks"]["text"]
        assert ("apart from the agent" if os.geteuid() == 0 else "agent's own user") in said


async def test_what_is_written_is_told_by_the_day(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        assert "too short ago" in checks(agent)["writes"]["text"]
        agent.started_at -= 86_400.0
        entry = checks(agent)["writes"]
        assert entry["ok"] is True and entry["text"].endswith(" KiB a day")
        assert f": {agent.store.fsyncs} fsyncs and" in entry["text"]
        agent.started_at = agent.clock.now().mono - 3600.0
        entry = checks(agent)["writes"]
        assert f"{24 * agent.store.fsyncs} fsyncs" in entry["text"]


async def test_a_disk_that_is_written_to_without_end_is_told_of(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "WRITTEN_A_DAY_MAX", 1)
    async with running_agent(data_dir) as agent:
        agent.started_at -= 3600.0
        entry = checks(agent)["writes"]
        assert entry["ok"] is None and "wears out an SD card" in entry["text"] and entry["fix"]


async def test_a_port_for_metrics_that_cannot_be_had_is_told_of(data_dir: Path) -> None:
    """The agent is well without, and `metrics` answers on its socket."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        async with running_agent(data_dir, metrics__listen=listen) as agent:
            await until(lambda: agent.scrapes.trouble)
            entry = checks(agent)["metrics"]
            assert entry["ok"] is False and listen in entry["text"] and "listen" in entry["fix"]
            assert b"shoal_uptime_seconds" in await agent.backend.metrics()
    async with running_agent(data_dir, metrics__listen="127.0.0.1:0") as agent:
        await until(lambda: agent.scrapes.address)
        assert agent.scrapes.address in checks(agent)["metrics"]["text"]


async def test_an_agent_that_is_not_root_says_what_a_task_may_do(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        agent.engines.process.user = None
        entry = checks(agent)["tasks"]
        assert entry["ok"] is None and "can read this device's key" in entry["text"]
        assert "as root" in entry["fix"]
        agent.engines.process.user = TaskUser(1234, 1234)
        agent.engines.process.cgroups = Cgroups("peer", 2, ())
        assert checks(agent)["tasks"]["ok"] is True
        assert "user 1234" in checks(agent)["tasks"]["text"]
        agent.engines.process.cgroups = None
        entry = checks(agent)["tasks"]
        assert entry["ok"] is None and "cgroup_enable=memory" in entry["fix"]


async def test_where_every_program_is_to_be_in_a_sandbox_that_is_checked(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        assert "sandbox" not in checks(agent)
        task = dataclasses.replace(agent.config.task, sandbox="always")
        agent.config = dataclasses.replace(agent.config, task=task)
        agent.engines.process.sandbox = None
        entry = checks(agent)["sandbox"]
        assert entry["ok"] is False and "apt install bubblewrap" in entry["fix"]
        agent.engines.process.sandbox = Sandbox("/usr/bin/bwrap", True, ())
        assert checks(agent)["sandbox"]["ok"] is True


async def test_a_device_that_takes_no_work_says_why(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        bidder = agent.driver.node.executor.bidder
        bidder.facts = Facts(mains=0, battery_percent=50)
        assert checks(agent)["work"]["ok"] is True
        bidder.facts = Facts(mains=0, battery_percent=5)
        entry = checks(agent)["work"]
        assert entry["ok"] is None and "battery at 5 %" in entry["text"]
        bidder.draining = True
        entry = checks(agent)["work"]
        assert entry["ok"] is None and entry["fix"] == "`shoal peer undrain`"


async def test_webassembly_is_spoken_of_where_it_should_be_here_and_does_not_work(
    data_dir: Path,
) -> None:
    async with running_agent(data_dir) as agent:
        assert "wasm" not in checks(agent)
        agent.wasm.trouble = "its library is for another processor"
        entry = checks(agent)["wasm"]
        assert entry["ok"] is None and entry["text"].endswith("is for another processor")
        assert "pip install" in entry["fix"]


async def test_a_clone_is_told_with_the_way_out(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        agent._on_cloned(OTHER)
        entry = checks(agent)["identity"]
        assert entry["ok"] is False and "two devices run with the identity of" in entry["text"]
        assert "--new-identity" in entry["fix"]


async def test_a_full_disk_and_a_nearly_full_one(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_agent(data_dir) as agent:
        agent.store._file.disk_full = True
        assert "new jobs are refused" in checks(agent)["disk"]["text"]
        agent.store._file.disk_full = False
        monkeypatch.setattr(doctor, "LOW_BYTES", 1 << 62)
        assert checks(agent)["disk"]["ok"] is False


async def test_what_became_of_the_database(data_dir: Path) -> None:
    async with running_agent(data_dir):
        pass
    (data_dir / "shoal.db").write_bytes(b"no database" * 1000)
    async with running_agent(data_dir) as agent:
        entry = checks(agent)["database"]
        assert entry["ok"] is None and "kept as shoal.db.corrupt-1" in entry["text"]


async def test_a_clock_that_cannot_be_trusted(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        agent.clock._has_rtc = True
        agent.clock.highest_wall_s = 0.0
        assert checks(agent)["clock"]["ok"] is True
        agent.clock.highest_wall_s = 1e11
        assert "nothing expires" in checks(agent)["clock"]["text"]


async def test_who_refuses_us_is_told(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        agent.transport.refused_by(OTHER, "expired", "the certificate is over")
        entry = checks(agent)["peers"]
        assert entry["ok"] is False and "expired: the certificate is over" in entry["text"]


async def test_malformed_messages_name_the_worst_and_connections_are_counted(
    data_dir: Path,
) -> None:
    async with running_agent(data_dir) as agent:
        agent.driver.node.malformed.update({OTHER: 3, PeerId(""): 1})
        agent.transport.counters.count("malformed.stream")
        entry = checks(agent)["messages"]
        name = agent.driver.node.name_of(OTHER)
        worst, below = entry["text"].split("; ")
        assert worst == f"4 malformed messages, 3 of them from {name}" and entry["ok"] is None
        assert below == "1 malformed streams or connections"
