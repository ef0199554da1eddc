"""Showing: who says what at which broker, as devices, daemons and templates come and go."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import trio
import trio.testing

from agent.control.backend import View
from agent.mqtt.homeassistant import About
from agent.mqtt.retained import Retained
from agent.mqtt.showing import GRACE_S, LOOK_S, Showing
from agent.storesql import RowWrite
from protocol.clock import Now
from protocol.config import NodeConfig, OutboxConfig, ReportingConfig, TriggersConfig
from protocol.events import ForgetRequested
from protocol.ids import PeerId
from protocol.node import Node
from protocol.records import Desired, Role
from tests.agent.mqtt.introduced import MEASURED, STATE, wrong_with
from tests.agent.mqtt.standingbroker import StandingBroker, StandingBrokers
from tests.protocol.daemonnet import DaemonNet
from tests.protocol.standingbook import daemon
from tests.protocol.test_commands import template

ALL = tuple(Role)
PEER, SHOAL = "homeassistant/device/shoal_{}/config", "homeassistant/device/shoal_s/config"


class Shown:
    """Nodes on a desk, of which each shows itself at one broker of all."""

    def __init__(
        self,
        *names: str,
        allow: tuple[str, ...] = ("daemon/*", "template/*"),
        lists: tuple[str, ...] = (),
    ) -> None:
        """`lists`: who alone does, where somebody is named."""
        config = NodeConfig(
            triggers=TriggersConfig(allow=allow),
            reporting=ReportingConfig(("home",), ("home",)),
            outbox=OutboxConfig(root="shoal/lab"),
        )
        configs = dict.fromkeys(names, config)
        if lists:
            none = replace(config, triggers=TriggersConfig())
            configs |= {name: none for name in names if name not in lists}
            only = ReportingConfig(("home",))
            configs |= {name: replace(config, reporting=only) for name in lists}
        self.net = DaemonNet(*names, configs=configs, roles=dict.fromkeys(names, ALL))
        for name in names:
            box = self.net.boxes[name]
            box.described = replace(
                box.described, labels={**box.described.labels, "broker.home": "true"}
            )
            self.net.handle(name, box.described)
        self.net.run(5.0)
        self.stood: dict[str, bytes] = {}  # what the broker has kept
        self.devices = {name: Showed(self, name) for name in names}

    async def settle(self) -> None:
        self.net.run(5.0)
        await trio.sleep(GRACE_S + LOOK_S)


class Showed:
    """One of them; the agent's part is real, its broker and disk are not."""

    def __init__(self, all: Shown, name: str, **settings: Any) -> None:
        self.all = all
        self.name = name
        self.broker = StandingBroker(**{"home_assistant": True, **settings})
        self.broker.retained = all.stood
        self.measured = dict(MEASURED)
        self.rows: dict[str, bytes] = {}
        self.start()

    def start(self, **settings: Any) -> None:
        if settings:
            self.broker.settings = replace(self.broker.settings, **settings)
        brokers: Any = StandingBrokers([self.broker])
        retained = Retained(brokers, dict(self.rows), self.save)
        about = About(self.name, "s", "lab", "0.1", "shoal/lab")
        self.showing = Showing(brokers, retained, self, about)

    async def save(self, rows: Sequence[RowWrite]) -> None:
        for _, key, value in rows:
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value

    @property
    def node(self) -> Node:
        return self.all.net[self.name]

    def now(self) -> Now:
        return self.all.net.clock(self.name)

    def state(self) -> tuple[View, View]:
        return STATE, self.measured


def text(shown: Shown, topic: str) -> str:
    return shown.stood.get(topic, b"").decode()


def cmps(shown: Shown, topic: str = SHOAL) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shown.stood[topic])["cmps"]
    return found


async def test_each_shows_itself_and_one_what_is_the_shoals(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    shown = Shown("a", "b")
    shown.net.ran("a")
    for device in shown.devices.values():
        nursery.start_soon(device.showing.run)
    await shown.settle()
    assert {PEER.format("a"), PEER.format("b"), SHOAL} <= shown.stood.keys()
    assert all(wrong_with(each) == [] for topic, each in shown.stood.items() if "/config" in topic)
    assert text(shown, "shoal/lab/daemon/collect/state") == "ON"
    for name in "ab":
        assert (
            json.loads(text(shown, f"shoal/lab/daemon/collect/{name}/state"))["state"] == "running"
        )
    told = [
        (topic, name)
        for name, device in shown.devices.items()
        for topic in (SHOAL, "shoal/lab/daemon/collect/state")
        if any(message.topic == topic for message in device.broker.published)
    ]
    assert len(told) == 2, "each is told by one"


async def test_switches_and_buttons_come_and_go_with_what_they_are_of(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    shown = Shown("a")
    nursery.start_soon(shown.devices["a"].showing.run)
    shown.net.ran("a")
    shown.net.submit("a", template())
    await shown.settle()
    assert sorted(each["p"] for each in cmps(shown).values()) == ["button", "event", "switch"]
    shown.net.controlled("a", Desired.STOPPED)
    await shown.settle()
    assert text(shown, "shoal/lab/daemon/collect/state") == "OFF"
    shown.net.controlled("a", Desired.DELETED)
    await shown.settle()
    assert [each for each in cmps(shown).values() if each["p"] == "switch"] == [{"p": "switch"}]
    assert not [topic for topic in shown.stood if "/daemon/" in topic]


async def test_of_many_templates_that_go_at_once_no_button_stays(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    shown = Shown("a")
    for number in range(40):
        shown.net.submit("a", template(f"look-{number}"))
    nursery.start_soon(shown.devices["a"].showing.run)
    await shown.settle()
    there = {key for key, each in cmps(shown).items() if each["p"] == "button"}
    assert len(there) == 40
    for job, held in list(shown.net["a"].steward.standing.jobs.items()):
        if held.kind == "template":
            shown.net.stop("a", job, Desired.DELETED)
    for _ in range(3):
        await shown.settle()
    assert {key for key, each in cmps(shown).items() if each == {"p": "button"}} == there


async def test_what_nobody_lists_has_no_switch_and_no_button(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    shown = Shown("a", allow=("daemon/other",))
    nursery.start_soon(shown.devices["a"].showing.run)
    shown.net.ran("a")
    shown.net.submit("a", template())
    await shown.settle()
    assert sorted(each["p"] for each in cmps(shown).values()) == ["binary_sensor", "event"]


async def test_another_takes_over_when_the_one_that_tells_is_gone(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    shown = Shown("a", "b")
    for device in shown.devices.values():
        nursery.start_soon(device.showing.run)
    await shown.settle()
    first = next(n for n, d in shown.devices.items() if f"home {SHOAL}" in d.rows)
    other = "b" if first == "a" else "a"
    shown.devices[first].broker.connected = False
    shown.net.part(first, other)
    shown.net.run(20.0)
    await shown.settle()
    assert f"home {SHOAL}" in shown.devices[other].rows
    assert json.loads(text(shown, SHOAL))["avty"] == [{"t": f"shoal/lab/peer/{other}/status"}]


async def test_who_takes_over_takes_away_what_went_meanwhile(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """A component is taken away by a message that names it, and who had told of it knew."""
    shown = Shown("a", "b")
    for device in shown.devices.values():
        nursery.start_soon(device.showing.run)
    shown.net.submit("a", template())
    await shown.settle()
    (button,) = [key for key, each in cmps(shown).items() if each["p"] == "button"]
    first = next(n for n, d in shown.devices.items() if f"home {SHOAL}" in d.rows)
    other = "b" if first == "a" else "a"
    shown.devices[first].broker.connected = False
    shown.net.part(first, other)
    shown.net.run(3.0)
    (held,) = shown.net[other].steward.standing.jobs
    shown.net.stop(other, held, Desired.DELETED)
    shown.net.run(20.0)
    await shown.settle()
    await shown.settle()
    assert json.loads(shown.stood[SHOAL])["avty"] == [{"t": f"shoal/lab/peer/{other}/status"}]
    assert cmps(shown)[button] == {"p": "button"}


async def test_home_assistants_greeting_has_all_told_again_unless_it_is_an_old_one(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    shown = Shown("a")
    device = shown.devices["a"]
    nursery.start_soon(device.showing.run)
    shown.net.ran("a")
    await shown.settle()
    for payload, retain, again in (
        (b"offline", False, 0),
        (b"online", True, 0),
        (b"online", False, 2),
    ):
        before = len(device.broker.published)
        assert device.broker.say("homeassistant/status", payload, retain=retain)
        await shown.settle()
        assert len(device.broker.published) - before == again, "and daemons stay as they are"


async def test_who_opts_out_takes_away_what_it_had_told_and_nothing_else(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shown = Shown("a")
    device = shown.devices["a"]
    shown.net.ran("a")
    async with trio.open_nursery() as first:
        first.start_soon(device.showing.run)
        await shown.settle()
        first.cancel_scope.cancel()
    assert SHOAL in shown.stood
    device.start(home_assistant=False)
    async with trio.open_nursery() as second:
        second.start_soon(device.showing.run)
        await shown.settle()
        second.cancel_scope.cancel()
    kept = ["shoal/lab/daemon/collect/a/state", "shoal/lab/daemon/collect/state"]
    assert sorted(shown.stood) == kept


async def test_of_a_template_that_is_deleted_the_last_run_goes(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    shown = Shown("a", "b")
    for device in shown.devices.values():
        nursery.start_soon(device.showing.run)
    shown.net.submit("a", template())
    await shown.settle()
    last = "shoal/lab/template/tidy/last"
    shown.stood[last] = b"{}"
    (held,) = shown.net["a"].steward.standing.jobs
    for desired, stays in ((Desired.STOPPED, True), (Desired.DELETED, False)):
        shown.net.stop("a", held, desired)
        shown.net.run(5.0)
        for name, device in shown.devices.items():
            told = [tell for tell in shown.net.boxes[name].tells if tell.job == held][-1]
            device.showing.told({"kind": told.kind, "job": told.job, "peer": told.peer})
        await shown.settle()
        assert (last in shown.stood) is stays
    cleared = [name for name, device in shown.devices.items()
               if any(message.topic == last for message in device.broker.published)]  # fmt: skip
    assert len(cleared) == 1


async def test_of_a_peer_that_is_forgotten_nothing_stays(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    shown = Shown("a")
    device = shown.devices["a"]
    nursery.start_soon(device.showing.run)
    shown.net.ran("a")
    shown.net.ran("a", daemon("old"))
    theirs = [f"shoal/lab/peer/b/{what}" for what in ("status", "state")]
    theirs += [f"shoal/lab/daemon/{name}/b/state" for name in ("collect", "old")]
    shown.stood |= dict.fromkeys([*theirs, PEER.format("b")], b"x")
    await shown.settle()
    for peer in ("a", "b"):
        device.showing.told({"kind": "peer.forgotten", "peer": peer})
    await shown.settle()
    assert not [topic for topic in (*theirs, PEER.format("b")) if topic in shown.stood]
    assert PEER.format("a") in shown.stood, "a device does not forget itself"
    assert not [key for key in device.rows if "/b/" in key or "shoal_b" in key]


async def test_the_shoals_own_goes_with_the_last_device_that_told_of_it(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """It is gone for good, and the one where that is said tells Home Assistant nothing itself."""
    shown = Shown("a", "b", "c")
    for name in "abc":
        told = ReportingConfig(("home",), () if name == "a" else ("home",))
        shown.net.boxes[name].config = replace(shown.net.boxes[name].config, reporting=told)
        shown.net.kill(name)
        shown.net.boot(name)
    shown.net.run(10.0)
    device = shown.devices["a"]
    device.start(home_assistant=False)
    nursery.start_soon(device.showing.run)
    await shown.settle()
    shown.stood[SHOAL] = b"{}"
    for request, peer, stays in ((9_001, "b", True), (9_002, "c", False)):
        shown.net.kill(peer)
        shown.net.run(60.0)
        shown.net.handle("a", ForgetRequested(request, PeerId(peer)))
        device.showing.told({"kind": "peer.forgotten", "peer": peer})
        await shown.settle()
        assert (SHOAL in shown.stood) is stays


async def test_what_a_device_lists_that_is_away_for_a_while_stays_and_goes_when_it_is_forgotten(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """Home Assistant forgets what a person has set for an entity that is taken away."""
    shown = Shown("a", "b", lists=("b",))
    device = shown.devices["a"]
    device.broker.settings = replace(device.broker.settings, home_assistant=True)
    shown.net.ran("a")
    shown.net.submit("a", template())
    nursery.start_soon(device.showing.run)
    await shown.settle()
    wanted = ["button", "event", "switch"]
    assert sorted(each["p"] for each in cmps(shown).values()) == wanted
    shown.net.kill("b")
    shown.net.run(60.0)
    await shown.settle()
    assert sorted(each["p"] for each in cmps(shown).values() if len(each) > 1) == wanted
    shown.net.kill("a")  # and who has heard nothing of it in this life
    shown.net.boot("a")
    await shown.settle()
    assert sorted(each["p"] for each in cmps(shown).values() if len(each) > 1) == wanted
    shown.net.handle("a", ForgetRequested(9_999, PeerId("b")))
    await shown.settle()
    assert sorted(each["p"] for each in cmps(shown).values() if len(each) > 1) == [
        "binary_sensor",
        "event",
    ]


async def test_a_figure_that_fails_after_a_restart_keeps_its_place(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shown = Shown("a")
    device = shown.devices["a"]
    for temperature in (21_500, -1):
        device.measured["temperature_mc"] = temperature
        device.start()
        async with trio.open_nursery() as life:
            life.start_soon(device.showing.run)
            await shown.settle()
            life.cancel_scope.cancel()
        assert len(cmps(shown, PEER.format("a"))["temperature"]) > 1


async def test_a_figure_that_fails_once_keeps_its_place(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    shown = Shown("a")
    device = shown.devices["a"]
    device.measured["battery_percent"] = -1
    nursery.start_soon(device.showing.run)
    await shown.settle()
    assert "temperature" in cmps(shown, PEER.format("a"))
    assert "battery" not in cmps(shown, PEER.format("a"))
    device.measured["temperature_mc"] = -1
    await shown.settle()
    assert "temperature" in cmps(shown, PEER.format("a"))


async def test_a_broker_without_reports_is_told_nothing(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    shown = Shown("a")
    device = shown.devices["a"]
    device.start(report=False, home_assistant=False)
    nursery.start_soon(device.showing.run)
    shown.net.ran("a")
    await shown.settle()
    assert device.broker.published == []
    device.showing.told({"kind": "peer.forgotten", "peer": "b"})
    await shown.settle()
    assert device.broker.published == []
