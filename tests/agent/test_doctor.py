"""The doctor: what it says of a whole agent, well and ill."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent import config, devicechecks, doctor, durable
from agent.config import S3 as Settings
from agent.config import Accept, Docker
from agent.devicechecks import docker_checks
from agent.engines.cgroups import Cgroups
from agent.engines.execution_dir import ExecutionDir
from agent.engines.sandbox import Sandbox
from agent.engines.task import ExitReason, TaskExit, TaskUser
from agent.main import Agent
from agent.s3 import S3
from agent.wear import Wear
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


async def test_what_is_written_is_told_by_the_day(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_agent(data_dir) as agent:
        assert "too short ago" in checks(agent)["writes"]["text"]
        monkeypatch.setattr(doctor, "process_bytes", lambda: 3 << 20)
        agent.started_at -= 86_400.0
        entry = checks(agent)["writes"]
        fsyncs = int(entry["text"].split()[0])  # the store may be at its first ones still
        assert 0 < fsyncs <= agent.store.fsyncs + durable.syncs()
        assert entry["ok"] is True and entry["text"].endswith(
            f": {fsyncs} fsyncs and 3.0 MiB a day"
        )
        agent.started_at = agent.clock.now().mono - 3600.0
        entry = checks(agent)["writes"]
        fsyncs = int(entry["text"].split()[0])
        assert entry["text"].endswith(f"{24 * fsyncs} fsyncs and 72.0 MiB a day")
        monkeypatch.setattr(doctor, "process_bytes", lambda: None)
        assert checks(agent)["writes"]["text"].endswith(" KiB a day"), "the database's, at least"


async def test_what_tasks_print_wears_the_card_too(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "process_bytes", lambda: 1 << 20)
    async with running_agent(data_dir) as agent:
        agent.started_at = agent.clock.now().mono - 86_400.0
        outputs, directory = agent.engines.process.outputs, ExecutionDir(data_dir / "e1")
        directory.path.mkdir()
        outputs.begin(directory, fresh=True)
        ended = TaskExit(0, None, ExitReason.EXITED, 0.0, 1.0, output_bytes=(5 << 30, 0))
        before = agent.store.fsyncs + durable.syncs()
        outputs.end(directory, ended)
        entry = checks(agent)["writes"]
        assert "fsyncs and 5.0 GiB since the agent started" in entry["text"]
        fsyncs = int(entry["text"].split()[0])
        assert before + 3 <= fsyncs <= agent.store.fsyncs + durable.syncs() + 3
        assert ", 5.0 GiB of it output of tasks" in entry["text"]
        assert entry["ok"] is None and "tasks that print less" in entry["fix"]


async def test_a_disk_that_is_written_to_without_end_is_told_of(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "WRITTEN_A_DAY_MAX", 1)
    async with running_agent(data_dir) as agent:
        await until(lambda: agent.store.bytes_written > 0)
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


async def test_directories_that_programs_could_write_to_are_told_of(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        agent.engines.process.sandbox = None
        for directories, told in ((("/srv/out:rw",), False), (("/srv/in", "/srv/out:rw"), True)):
            accept = dataclasses.replace(agent.config.accept, directories=directories)
            agent.config = dataclasses.replace(agent.config, accept=accept)
            assert ("sandbox" in checks(agent)) is told
        entry = checks(agent)["sandbox"]
        assert entry["ok"] is None and "given /srv/in to read" in entry["text"]
        assert "apt install bubblewrap" in entry["fix"]
        agent.engines.process.sandbox = Sandbox("/usr/bin/bwrap", False, ())
        assert "sandbox" not in checks(agent)


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


async def test_buckets_are_spoken_of_where_the_owner_allows_some(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_agent(data_dir) as agent:
        assert "s3" not in checks(agent)
        agent.config = replace(agent.config, accept=Accept(buckets=("minio.lan/*",)))
        assert checks(agent)["s3"]["ok"] is True
        agent.s3 = S3(Settings(credentials=data_dir / "absent"))
        entry = checks(agent)["s3"]
        assert entry["ok"] is None and "cannot be read" in entry["text"]
        agent.s3.present = False
        entry = checks(agent)["s3"]
        assert entry["ok"] is None and "shoal[s3]" in entry["fix"]


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
        monkeypatch.setattr(devicechecks, "LOW_BYTES", 1 << 62)
        assert checks(agent)["disk"]["ok"] is False


async def test_what_became_of_the_database(data_dir: Path) -> None:
    async with running_agent(data_dir):
        pass
    (data_dir / "shoal.db").write_bytes(b"no database" * 1000)
    async with running_agent(data_dir) as agent:
        entry = checks(agent)["database"]
        assert entry["ok"] is None and "kept as shoal.db.corrupt-1" in entry["text"]


async def test_what_a_later_version_has_written_is_told_of(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        await agent.store.save([("standing", "a" * 32, b"later"), ("outbox", "7", b"later")])
    async with running_agent(data_dir) as agent:
        entry = checks(agent)["database"]
        assert entry["ok"] is None
        assert entry["text"].startswith("2 entries of the database this version cannot read, ")
        assert f"leaves alone: standing {'a' * 32}: " in entry["text"]
        assert "; outbox 7: " in entry["text"]
    async with running_agent(data_dir) as agent:
        await agent.store.save([("outbox", str(number), b"later") for number in range(9)])
    async with running_agent(data_dir) as agent:
        assert checks(agent)["database"]["text"].endswith("; and 7 more")


async def test_a_clock_that_cannot_be_trusted(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        agent.clock._has_rtc = True
        agent.clock.highest_wall_s = 0.0
        assert checks(agent)["clock"]["ok"] is True
        agent.clock.highest_wall_s = 1e11
        assert "nothing expires" in checks(agent)["clock"]["text"]


async def test_who_refuses_us_is_told(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        agent.transport.refused_by(OTHER, "closing", "another connection serves")
        assert "refused" not in checks(agent)["peers"]["text"], "both dialled at once"
        agent.transport.refused_by(OTHER, "expired", "the certificate is over")
        entry = checks(agent)["peers"]
        assert entry["ok"] is False and "expired: the certificate is over" in entry["text"]


async def test_malformed_messages_name_the_worst_and_connections_are_counted(
    data_dir: Path,
) -> None:
    async with running_agent(data_dir) as agent:
        agent.driver.node.messaging.malformed.update({OTHER: 3, PeerId(""): 1})
        agent.transport.counters.count("malformed.stream")
        entry = checks(agent)["messages"]
        name = agent.driver.node.name_of(OTHER)
        worst, below = entry["text"].split("; ")
        assert worst == f"4 malformed messages, 3 of them from {name}" and entry["ok"] is None
        assert below == "1 malformed streams or connections"


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


async def test_a_certificate_is_told_of_before_it_is_over(data_dir: Path) -> None:
    async with running_agent(data_dir, trust_clock=True) as agent:
        entry = checks(agent)["certificate"]
        assert entry["ok"] is True and "days more" in entry["text"]
        now_ms, held = agent.clock.now().wall_ms, agent.member.certificate
        for days, ok in ((59, None), (-1, False)):
            ends = msgspec.structs.replace(held, expires_ms=now_ms + days * doctor.DAY_MS + 1000)
            agent.member = dataclasses.replace(agent.member, certificate=ends)
            entry = checks(agent)["certificate"]
            assert entry["ok"] is ok and "shoal join TOKEN" in entry["fix"], entry


async def test_worn_storage_is_told_of(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_agent(data_dir) as agent:
        for wear, ok, words in (
            (Wear("mmcblk0p2", 10, 1, 0, 120), True, "10 % of its life is used, 120 GiB"),
            (Wear("mmcblk0p2", 80, 1), None, "80 %"),
            (Wear("mmcblk0p2", None, 2), None, "spare blocks"),
            (Wear("mmcblk0p2", 100, 3), False, "100 %"),
            (Wear("sda1", errors=2), None, "met 2 errors"),
        ):
            monkeypatch.setattr(devicechecks, "read_wear", lambda *_, wear=wear: wear)
            entry = checks(agent)["storage"]
            assert entry["ok"] is ok and words in entry["text"], entry
            assert bool(entry["fix"]) is (ok is not True)
        monkeypatch.setattr(devicechecks, "read_wear", lambda *_: Wear("mmcblk0p2"))
        assert "storage" not in checks(agent), "an SD card tells nothing"


async def test_a_pi_that_counts_no_memory_is_told_how_to(data_dir: Path, tmp_path: Path) -> None:
    async with running_agent(data_dir) as agent:
        agent.doctor = doctor.Doctor(agent, tmp_path)
        assert "memory" not in checks(agent)
        put(
            tmp_path,
            "proc/cgroups",
            "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t0\t1\t0\n",
        )
        put(tmp_path, "proc/cmdline", "console=tty1 cgroup_disable=memory root=PARTUUID=1\n")
        put(tmp_path, "boot/cmdline.txt", "")
        entry = checks(agent)["memory"]
        assert entry["ok"] is None and "cgroup_disable=memory on its command line" in entry["text"]
        assert f"{tmp_path}/boot/cmdline.txt" in entry["fix"]
        put(
            tmp_path,
            "proc/cgroups",
            "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t0\t1\t1\n",
        )
        assert "memory" not in checks(agent)


async def test_docker_that_is_closed_or_silent_is_told_of(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_agent(data_dir) as agent:
        entry = checks(agent)["docker"]
        assert entry["ok"] is None and "no docker is at" in entry["text"], "it is configured"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(agent.config.docker.path()))
            entry = checks(agent)["docker"]
            assert entry["ok"] is None and "does not answer" in entry["text"]
            monkeypatch.setattr(os, "access", lambda *_: False)
            entry = checks(agent)["docker"]
            assert "is closed to the agent" in entry["text"] and "--docker" in entry["fix"]
        agent.docker.presence.present = True
        assert checks(agent)["docker"]["ok"] is True
        agent.config.docker.path().unlink()  # as docker does where it is stopped
        agent.docker.presence.trouble = "docker does not answer: no such file"
        assert "does not answer" in checks(agent)["docker"]["text"]


def test_docker_that_was_stopped_before_the_agent_began_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(config, "DOCKER_SOCKET", tmp_path / "run/docker.sock")
    found = functools.partial(docker_checks, Docker(), tmp_path, known=False)
    assert found(answers=False) == found(answers=None) == [], "it was never installed"
    put(tmp_path, "usr/sbin/dockerd", "")
    for answers in (False, None):
        (entry,) = found(answers=answers)
        assert entry["ok"] is None and "does not answer" in entry["text"]
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "run/docker.sock"))
        assert found(answers=None)[0]["ok"] is True, "nobody has asked it"
        assert found(answers=False)[0]["ok"] is None


async def test_peers_reached_in_a_roundabout_way_make_it_ask_for_a_port(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_agent(data_dir) as agent:
        agent.doctor = doctor.Doctor(agent, tmp_path)
        port = agent.transport.addresses()[0].rpartition("/")[2]
        assert checks(agent)["ports"]["ok"] is True and port in checks(agent)["ports"]["text"]
        put(tmp_path, "etc/ufw/ufw.conf", "ENABLED=yes\n")
        assert "ufw allow" in checks(agent)["ports"]["fix"]
        membership = agent.driver.node.membership
        monkeypatch.setattr(membership, "alive", lambda: [OTHER])
        monkeypatch.setattr(membership.routes, "through", lambda peer: [peer])
        entry = checks(agent)["ports"]
        assert entry["ok"] is None and "1 of 1 peers are reached through others" in entry["text"]


async def test_what_mdns_hears_is_told(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_agent(data_dir) as agent:
        assert "switched off" in checks(agent)["mdns"]["text"]
        agent.config = dataclasses.replace(agent.config, mdns=True)
        assert checks(agent)["mdns"]["ok"] is True, "there may be nobody else"
        monkeypatch.setattr(agent.driver.node.membership, "peers", lambda: [OTHER])
        assert "5353/udp" in checks(agent)["mdns"]["fix"]
        agent.discovery.trouble = "address in use"
        assert "address in use" in checks(agent)["mdns"]["text"]
        agent.discovery.trouble = ""
        agent.discovery._seen[OTHER] = ()
        assert checks(agent)["mdns"]["ok"] is True
