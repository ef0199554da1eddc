"""Lasts: the later run counts, who was away is told, and nothing is told that did not change."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from agent.mqtt import lasts as lasts_module
from agent.mqtt.lasts import Lasts
from agent.mqtt.message import Outgoing
from agent.mqtt.refusal import LOST
from tests.agent.mqtt.test_reports import Brokers, Standing


class Keeping(Standing):
    """A broker whose answers the test gives."""

    def publish(self, message: Outgoing, done: Any) -> bool:
        self.done = done
        return super().publish(message, done)


class Told:
    def __init__(self, *brokers: Standing) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        brokers_of: Any = Brokers(brokers)
        self.lasts = Lasts(brokers_of, self.runs.get)

    def run(self, job: str, state: str, at_ms: int, template: str = "look") -> None:
        view = {"template": template, "job": job, "state": state, "created_ms": at_ms}
        self.runs[job] = view
        self.lasts.told({"job": job, "kind": f"job.{state}"})


async def test_the_latest_run_is_retained_and_an_earlier_one_changes_nothing(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    broker, silent = Keeping(), Standing("silent", report=False)
    it = Told(broker, silent)
    nursery.start_soon(it.lasts.run)
    it.run("one", "running", 1)
    await trio.sleep(1)
    it.run("two", "running", 2)
    await trio.sleep(1)
    it.run("one", "completed", 1)
    it.run("two", "running", 2)
    it.lasts.told({"job": "another device's", "kind": "job.completed"})
    it.lasts.told({"job": None, "kind": "peer.dead"})
    await trio.sleep(1)
    it.run("two", "failed", 2)
    await trio.sleep(1)
    told = broker.on("shoal/home/template/look/last")
    assert [(view["job"], view["state"]) for view in told] == [
        ("one", "running"), ("two", "running"), ("two", "failed"),
    ]  # fmt: skip
    assert all(each.retain and each.qos == 1 for each in broker.published)
    assert silent.published == []


async def test_a_broker_that_takes_few_at_once_is_told_all_the_same(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    broker = Keeping()
    broker.room = broker.window = 1
    it = Told(broker)
    nursery.start_soon(it.lasts.run)
    it.run("one", "completed", 1)
    await trio.sleep(60)
    assert broker.on("/last")


async def test_what_is_gone_by_then_is_told_no_more(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """The template was deleted while the broker was away."""
    broker = Keeping()
    broker.connected = False
    it = Told(broker)
    nursery.start_soon(it.lasts.run)
    it.run("one", "completed", 1)
    await trio.sleep(1)
    it.runs.clear()
    broker.connected = True
    it.lasts.connected()
    await trio.sleep(60)
    assert broker.published == []


async def test_who_was_away_or_busy_or_lost_it_is_told_later(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    broker = Keeping()
    broker.connected = False
    it = Told(broker)
    nursery.start_soon(it.lasts.run)
    it.run("one", "running", 1)
    it.run("one", "completed", 1)
    await trio.sleep(60)
    assert broker.published == []
    broker.connected, broker.room = True, 2
    it.lasts.connected()
    await trio.sleep(1)
    assert broker.published == []
    broker.room = 20
    await trio.sleep(6)
    assert [view["state"] for view in broker.on("last")] == ["completed"]
    broker.done(LOST)
    await trio.sleep(6)
    assert len(broker.published) == 2
    broker.done("not authorized")
    await trio.sleep(60)
    assert len(broker.published) == 2


async def test_templates_without_end_are_forgotten(
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lasts_module, "TEMPLATES_MAX", 3)
    broker = Keeping()
    broker.connected = False
    it = Told(broker)
    nursery.start_soon(it.lasts.run)
    for number in range(10):
        it.run(f"job {number}", "running", number, f"t{number}")
    broker.connected = True
    await trio.sleep(1)
    assert [message.topic[-7:] for message in broker.published] == ["t7/last", "t8/last", "t9/last"]
