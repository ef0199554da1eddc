"""Reports: the device's state when it changes, events as they come, a job's state once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from agent.mqtt import reports as reports_module
from agent.mqtt.broker import has_room
from agent.mqtt.message import Outgoing
from agent.mqtt.refusal import HELD
from agent.mqtt.reports import FACTS_S, STATE_S, Reports
from agent.mqtt.settings import BrokerSettings


class Standing:
    """A broker that is connected, and keeps what it is given."""

    def __init__(self, name: str = "home", report: bool = True) -> None:
        self.name = name
        self.settings = BrokerSettings("mqtt://x", report=report)
        self.connected = True
        self.room = self.window = 20
        self.says = ""
        self.published: list[Outgoing] = []

    def has_room(self, spare: int) -> bool:
        return has_room(self.room, self.window, spare)

    def publish(self, message: Outgoing, done: Callable[[str], None]) -> bool:
        self.published.append(message)
        done(self.says)
        return True

    def on(self, suffix: str) -> list[Any]:
        found = [each for each in self.published if each.topic.endswith(suffix)]
        return [json.loads(each.payload) for each in found]


class Brokers(list[Standing]):
    root = "shoal/home"


class Reported:
    def __init__(self, *brokers: Standing) -> None:
        self.state: dict[str, Any] = {"running": 0}
        self.measured: dict[str, Any] = {"load_permille": 1}
        self.jobs: dict[str, dict[str, Any]] = {}
        brokers_of: Any = Brokers(brokers)
        self.reports = Reports(brokers_of, "p", lambda: (self.state, self.measured), self.jobs.get)

    def told(self, kind: str, job: str | None = None) -> None:
        event = {"seq": 1, "at_ms": 5, "kind": kind, "text": "x", "job": job, "peer": None}
        self.reports.told({**event, "fields": {}})


@pytest.fixture
def broker() -> Standing:
    return Standing()


async def test_a_broker_that_takes_few_at_once_is_told_all_the_same(
    broker: Standing, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    reported = Reported(broker)
    nursery.start_soon(reported.reports.run)
    broker.room = broker.window = 1
    reported.told("peer.dead")
    await trio.sleep(60)
    assert broker.on("/event") and broker.on("/state")


async def test_state_is_retained_and_told_when_something_changes(
    broker: Standing, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    it = Reported(broker)
    nursery.start_soon(it.reports.run)
    await trio.sleep(FACTS_S - 10)
    assert broker.on("peer/p/state") == [{"running": 0, "load_permille": 1}]
    assert broker.published[0].retain and broker.published[0].qos == 1
    it.measured = {"load_permille": 2}
    await trio.sleep(5)
    assert len(broker.published) == 1, "a measurement alone waits for its minute"
    it.state = {"running": 1}
    await trio.sleep(10)
    assert broker.on("state")[-1] == {"running": 1, "load_permille": 2}
    it.measured = {"load_permille": 3}
    await trio.sleep(FACTS_S + 10)
    assert broker.on("state")[-1] == {"running": 1, "load_permille": 3}
    it.reports.connected("home")
    await trio.sleep(2)
    assert len(broker.published) == 4, "a broker that was away has it again"


async def test_events_go_out_as_they_are_and_of_jobs_each_state_once(
    broker: Standing, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    it = Reported(broker)
    nursery.start_soon(it.reports.run)
    it.jobs["j"] = {"job": "j", "state": "running"}
    it.told("job.accepted", "j")
    it.told("job.awarded", "j")
    it.told("job.accepted", "of another device")
    await trio.sleep(2)
    assert [event["kind"] for event in broker.on("/event")] == [
        "job.accepted", "job.awarded", "job.accepted",
    ]  # fmt: skip
    assert broker.on("/event")[0]["peer"] == "p"
    assert broker.on("job/j/state") == [{"job": "j", "state": "running"}]
    it.jobs["j"] = {"job": "j", "state": "completed"}
    it.told("job.completed", "j")
    await trio.sleep(2)
    assert [job["state"] for job in broker.on("job/j/state")] == ["running", "completed"]


async def test_a_state_that_is_held_is_told_soon_and_jobs_have_one_topic_among_them(
    broker: Standing, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """As far as a broker is concerned that ends the connection over their topics."""
    it = Reported(broker)
    nursery.start_soon(it.reports.run)
    broker.says = HELD
    await trio.sleep(3 * STATE_S)
    assert 2 <= len(broker.on("state")) <= 4
    broker.says = ""
    await trio.sleep(2 * STATE_S)
    count = len(broker.on("state"))
    await trio.sleep(FACTS_S / 2)
    assert len(broker.on("state")) == count
    for job in ("a", "b"):
        it.jobs[job] = {"job": job, "state": "running"}
        it.told("job.accepted", job)
    await trio.sleep(2)
    states = [each for each in broker.published if "/job/" in each.topic]
    assert len(states) == 2 and {each.kin for each in states} == {"shoal/home/job/+/state"}


async def test_reports_are_lost_rather_than_waited_for_and_not_wanted_everywhere(
    broker: Standing,
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reports_module, "STATES_MAX", 1)
    busy, silent, away = Standing("busy"), Standing("silent", report=False), Standing("away")
    busy.room, away.connected = 2, False
    it = Reported(broker, busy, silent, away)
    nursery.start_soon(it.reports.run)
    for job in ("a", "b"):
        it.jobs[job] = {"job": job, "state": "running"}
        it.told("job.accepted", job)
    await trio.sleep(2)
    assert len(broker.on("/event")) == 2
    assert busy.published == silent.published == away.published == []
    busy.room = 20
    await trio.sleep(10)
    assert busy.on("state") == [{"running": 0, "load_permille": 1}]
    it.told("job.accepted", "a")
    await trio.sleep(2)
    assert len(broker.on("job/a/state")) == 2, "of too many jobs the oldest is forgotten"
