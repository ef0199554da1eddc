"""The checkup of a whole agent: daemons that it may not switch, and what Home Assistant hears."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.doctor import FAILING_S
from agent.main import Agent
from protocol.events import SubmitRequested
from protocol.ids import PeerId
from protocol.records import Role
from tests.agent.test_doctor import checks
from tests.agent.whole import open_directory, running_agent, until
from tests.mosquitto import Mosquitto
from tests.mqttlistener import Listener
from tests.protocol.standingbook import daemon

OTHER = PeerId("12D3KooWJ8NCNvvnhYKZWTD5RYhDkNbfJcEnCnVF3GXRAKXuSTHD")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    made = open_directory()
    yield made
    shutil.rmtree(made)


def run(agent: Agent, name: str) -> None:
    agent.driver.post(SubmitRequested(999, daemon(name), "key"))


async def test_a_daemon_that_is_listed_and_may_not_be_switched_is_told_of(data_dir: Path) -> None:
    url = "mqtt://127.0.0.1:9"  # nothing listens there, and it does not matter
    async with running_agent(
        data_dir, mqtt__brokers=f"home={url}", mqtt__allow=["daemon/pump"]
    ) as agent:
        run(agent, "pump")
        run(agent, "other")
        entry = checks(agent)["switches"]
        assert entry["ok"] and entry["text"] == "messages may switch 1 daemons from here"
        acts = agent.driver.node.steward.acts
        acts.certificate = msgspec.structs.replace(acts.certificate, roles=(Role.SUBMIT,))
        for held in agent.driver.node.steward.standing.jobs.values():
            held.author = OTHER
        entry = checks(agent)["switches"]
        assert entry["ok"] is None and "1 daemons not from here, as pump: only " in entry["text"]
        assert "--role compute,submit,operate" in entry["fix"]


async def test_nothing_is_said_of_commands_where_none_are_listed(data_dir: Path) -> None:
    async with running_agent(data_dir, mqtt__allow=["daemon/pump"]) as agent:
        assert "switches" not in checks(agent), "it has no broker"


async def test_what_home_assistant_is_told_and_what_is_too_much(data_dir: Path) -> None:
    with Mosquitto() as mosquitto:
        (data_dir / "config.toml").write_text(
            f'[mqtt.brokers.home]\nurl = "{mosquitto.url}"\nhome_assistant = true\n'
            'home_assistant_prefix = "ha"\n'
        )
        async with running_agent(data_dir) as agent:
            name = "home assistant home"
            await until(lambda: name in checks(agent))
            assert checks(agent)[name]["ok"] is None
            await until(lambda: checks(agent)[name]["ok"])
            await until(lambda: "of 2 devices" in checks(agent)[name]["text"])
            assert "ha/" in checks(agent)[name]["text"]
            agent.bridge.showing.left_out["home"] = 3
            assert "3 templates and daemons are too many" in checks(agent)[name]["text"]


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_broker_that_drops_what_it_has_no_room_for_is_told_of(
    data_dir: Path, version: str
) -> None:
    """Somebody is away, and more comes for him than it keeps."""
    with Mosquitto(queued_max=5, more="sys_interval 1") as mosquitto:
        with Listener(mosquitto.port, "for/him", "away"):
            pass
        (data_dir / "config.toml").write_text(
            f'[mqtt.brokers.home]\nurl = "{mosquitto.url}"\nversion = "{version}"\n'
        )
        async with running_agent(data_dir, mqtt__allow=["template/x"]) as agent:
            await until(lambda: checks(agent)["broker home"]["ok"])
            assert "queue home" not in checks(agent)
            with Listener(mosquitto.port, "for/nobody", "another") as sender:
                sent = [sender.client.publish("for/him", b"x", 1) for _ in range(60)]
                await until(lambda: all(each.is_published() for each in sent))
            await until(lambda: "queue home" in checks(agent))
            entry = checks(agent)["queue home"]
            assert entry["ok"] is None and "max_queued_messages" in entry["fix"]
            said = re.match(r"it has dropped (\d+) messages", entry["text"])
            assert said is not None and 0 < int(said[1]) < 60


async def test_what_fails_is_told_to_brokers_and_looked_at_once_a_minute(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_agent(data_dir) as agent:
        state, _ = agent.state()
        assert state["problems"] == agent.doctor.failing()
        agent.cloned = "two devices run with one identity"
        assert "identity" not in agent.doctor.failing()
        mono = agent.clock.now().mono
        now = agent.clock.now()
        monkeypatch.setattr(
            agent.clock, "now", lambda: type(now)(mono + FAILING_S, now.wall, now.wall_trusted)
        )
        assert "identity" in agent.state()[0]["problems"]
