"""The bridge of a whole agent: paho on demand, what the doctor says, results that wait."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from agent.mqtt import denied, session, suspects
from agent.mqtt.bridge import NO_ROOM, family_of, published
from agent.mqtt.message import Outgoing
from agent.mqtt.refusal import ENDS, HELD, LOST
from protocol.effects import Publish
from protocol.events import BrokerChanged, Event, MessagePublished
from protocol.ids import JobId, derive
from protocol.outbox import Message
from tests.agent.test_doctor import checks
from tests.agent.whole import WITHIN_S, open_directory, running_agent, until
from tests.mosquitto import Mosquitto
from tests.mqttlistener import Listener

MESSAGE = Publish("home", "1".zfill(16), "id", "t", b"x", 1, False)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    made = open_directory()
    yield made
    shutil.rmtree(made)


def test_paho_is_imported_where_a_broker_is_configured_alone() -> None:
    code = "import agent.main, agent.mqtt.bridge, sys; print('paho' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"


async def test_an_agent_without_brokers_has_nothing_to_do_with_mqtt(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        assert agent.bridge.connected() == []
        assert not [name for name in checks(agent) if "broker" in name]


async def test_what_cannot_be_sent_just_now_is_said_after_the_event(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        said: list[Event] = []
        agent.bridge._post = said.append
        agent.bridge.publish(MESSAGE)
        assert said == [], "the node is in the middle of an event"
        await until(lambda: said)
        assert said == [MessagePublished(MESSAGE.key, "id", NO_ROOM, refused=False)]


def test_the_node_hears_whether_a_message_is_refused_waits_or_may_go_at_once() -> None:
    said = [published(MESSAGE, problem) for problem in ("", LOST, NO_ROOM, HELD, ENDS)]
    assert [event.refused for event in said] == [False, False, False, False, True]
    assert [event.waits for event in said] == [False, False, False, True, False]


def test_results_whose_topics_have_their_jobs_ids_are_of_one_family() -> None:
    job, other = derive("job", "a"), derive("job", "b")
    assert family_of(f"results/{job}", "shoal/lab") == "results/+"
    assert family_of(f"of/{job}/x-{other}", "shoal/lab") == "of/+/x-+"
    assert family_of(f"results/{job}a", "shoal/lab") == "", "that is another's word"
    assert family_of("shoal/lab/job/abc/result/0", "shoal/lab") == "shoal/lab/job/+/result"
    assert family_of("shoal/other/job/abc/result/0", "shoal/lab") == ""
    assert family_of("alarms/job/abc", "shoal/lab") == family_of("shoal/lab/job/x", "shoal/lab")


async def test_a_broker_that_is_away_is_the_doctors_business_and_nobody_elses(
    data_dir: Path,
) -> None:
    with Mosquitto() as mosquitto, Listener(mosquitto.port, "shoal/lab/#") as listener:
        async with running_agent(data_dir, mqtt__brokers=f"home={mosquitto.url}") as agent:
            await until(lambda: checks(agent)["broker home"]["ok"])
            assert agent.bridge.connected() == [BrokerChanged("home", True)]
            root = f"shoal/lab/peer/{agent.member.keyring.peer}"
            await until(lambda: listener.on(f"{root}/state"))
            state = listener.on(f"{root}/state")[0].json()
            assert state["labels"]["broker.home"] == "true" and "load_permille" in state
            mosquitto.stop()
            await until(lambda: checks(agent)["broker home"]["ok"] is False)
            entry = checks(agent)["broker home"]
            assert "closed" in entry["text"] or "nothing listens" in entry["text"]
            assert entry["fix"]


async def test_a_topic_that_was_denied_once_is_the_doctors_business_for_a_while(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody may try it again, whose success would end that."""
    with Mosquitto(acl="topic readwrite shoal/#\n") as mosquitto:
        async with running_agent(data_dir, mqtt__brokers=f"home={mosquitto.url}") as agent:
            await until(lambda: checks(agent)["broker home"]["ok"])
            broker, ends = agent.brokers.named("home"), list[str]()
            assert broker is not None
            await until(lambda: broker.publish(Outgoing("denied/x", b"x"), ends.append))
            await until(lambda: ends)
            # It ends the connection as well, a moment after it has said so.
            told = "denied/x: not authorized"
            await until(lambda: told in checks(agent)["broker home"]["text"])
            monkeypatch.setattr(denied, "LISTED_S", 0.0)
            await until(lambda: checks(agent)["broker home"]["ok"])


async def test_a_broker_that_takes_less_than_there_is_to_report_stays_connected(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With MQTT 3.1.1, which cannot say so: it ends the connection over each that is too large."""
    monkeypatch.setattr(session, "RETRY_FIRST_S", 0.05)
    monkeypatch.setattr(session, "RETRY_MAX_S", 0.2)
    monkeypatch.setattr(suspects, "STEADY_S", 0.5)
    monkeypatch.setattr(suspects, "OTHERS_S", 0.1)
    with Mosquitto(more="max_packet_size 300") as mosquitto, Listener(mosquitto.port) as listener:
        (data_dir / "config.toml").write_text(
            f'[mqtt.brokers.home]\nurl = "{mosquitto.url}"\nversion = "3.1.1"\n'
            "home_assistant = true\n"
        )
        async with running_agent(data_dir) as agent:
            broker = agent.brokers.named("home")
            assert broker is not None
            connections, stands = -1, False
            with trio.fail_after(WITHIN_S):
                while not stands:
                    await until(lambda: broker.connected)
                    connections = mosquitto.log().count("New client connected")
                    await trio.sleep(3.0)  # in which its state and what it has were due again
                    more = mosquitto.log().count("New client connected") - connections
                    stands = broker.connected and not more
            assert "due to oversize packet" in mosquitto.log()
            await until(lambda: listener.on("/status")[-1].payload == b"online")


async def test_results_for_a_broker_that_is_configured_no_more_are_told_of(
    data_dir: Path,
) -> None:
    async with running_agent(data_dir) as agent:
        outbox = agent.driver.node.publishing.outbox
        outbox.add(Message("id", "old", JobId("j" * 32), "t", b"x"))
        entry = checks(agent)["results"]
        assert "1 results wait for broker old" in entry["text"]
        assert "[mqtt.brokers.old]" in entry["fix"]
