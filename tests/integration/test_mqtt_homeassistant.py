"""What Home Assistant would see and do, on real agents at a real Mosquitto."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from protocol.ids import PeerId, rendezvous
from tests.lab import Device, Lab
from tests.mosquitto import Mosquitto
from tests.mqttlistener import Listener

ALLOW = '["daemon/pump*", "template/tidy*"]'
DISCOVERY = "homeassistant/device/"


def configure(device: Device, mosquitto: Mosquitto, home_assistant: bool, allow: str) -> None:
    (device.data_dir / "config.toml").write_text(
        f"[mqtt]\nallow = {allow}\n[mqtt.brokers.home]\nurl = '{mosquitto.url}'\n"
        f"home_assistant = {'true' if home_assistant else 'false'}\n"
    )


@pytest.fixture(scope="module")
def three(mosquitto: Mosquitto) -> Iterator[Lab]:
    """The first two introduce themselves and list what messages may command; the third has the
    broker, and nothing of that."""
    lab = Lab(3)
    for device in lab.devices[:2]:
        configure(device, mosquitto, True, ALLOW)
    configure(lab[2], mosquitto, False, "[]")
    with lab:
        yield lab


@pytest.fixture
def lab(three: Lab, mosquitto: Mosquitto) -> Iterator[Lab]:
    yield three
    if mosquitto.process is None:
        mosquitto.start()
    three.start(*(device for device in three.devices if device.process is None))
    with three[0].client() as client:
        for view in client.jobs()["jobs"]:
            if view["type"] in ("daemon", "template"):
                client.delete(view["id"])


@pytest.fixture
def home(mosquitto: Mosquitto) -> Iterator[Home]:
    with Listener(mosquitto.port, client_id=f"listener-{time.monotonic_ns()}") as listener:
        yield Home(mosquitto, listener)


class Home:
    """Whoever is where Home Assistant would be: what stands at the broker, and what it sends."""

    def __init__(self, mosquitto: Mosquitto, listener: Listener) -> None:
        self.mosquitto = mosquitto
        self.listener = listener

    def send(self, topic: str, payload: str, retain: bool = False) -> None:
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        client.connect("127.0.0.1", self.mosquitto.port)
        client.loop_start()
        try:
            sent = client.publish(topic, payload, 1, retain)
            sent.wait_for_publish(30)
            assert sent.is_published()
        finally:
            client.disconnect()
            client.loop_stop()

    def text(self, topic: str) -> str:
        """What was heard there last; empty for nothing."""
        heard = [each for each in list(self.listener.heard) if each.topic == topic]
        return heard[-1].payload.decode() if heard else ""

    def device(self, of: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.text(f"{DISCOVERY}shoal_{of}/config") or "{}")
        return found

    def devices(self) -> list[str]:
        topics = dict.fromkeys(each.topic for each in list(self.listener.heard))
        return [t for t in topics if t.startswith(DISCOVERY) and self.text(t)]

    def component(self, of: str, platform: str, name: str) -> dict[str, Any]:
        """Empty where there is none of that name."""
        components = self.device(of).get("cmps", {}).values()
        return next((c for c in components if (c["p"], c.get("name")) == (platform, name)), {})


def shoal_of(lab: Lab) -> str:
    with lab[0].client() as client:
        return str(client.status()["shoal"])


def daemon(name: str) -> dict[str, Any]:
    engine = {"Type": "process", "Params": {"Command": ["sleep", "3600"]}}
    return {"Name": name, "Type": "daemon", "Tasks": [{"Engine": engine}]}


def template(name: str) -> dict[str, Any]:
    engine = {"Type": "process", "Params": {"Command": ["echo", "tidied"]}}
    return {"Name": name, "Type": "batch", "Parameters": [], "Tasks": [{"Engine": engine}]}


def submit(device: Device, spec: dict[str, Any]) -> str:
    with device.client() as client:
        return str(client.submit(spec)["job"])


def delete(device: Device, job: str) -> None:
    with device.client() as client:
        client.delete(job)


def running(lab: Lab, job: str) -> list[str]:
    """Peers on which it runs."""
    with lab[0].client() as client:
        return [s["executor"] for s in client.job(job)["slots"] if s["state"] == "running"]


def told(lab: Lab, kind: str) -> list[str]:
    found = []
    for device in lab.devices:
        if device.process is not None:
            with device.client() as client:
                found += [each["text"] for each in client.events() if each["kind"] == kind]
    return found


def runs(lab: Lab, name: str) -> list[str]:
    """How those of a template are."""
    with lab[0].client() as client:
        views = client.jobs()["jobs"]
    return [v["state"] for v in views if v["name"] == name and v["type"] == "batch"]


def test_who_opts_in_is_introduced_and_nobody_else(lab: Lab, home: Home) -> None:
    shoal = shoal_of(lab)
    wanted = {lab[0].peer, lab[1].peer, shoal}
    home.listener.until(lambda: all(home.device(of) for of in wanted), "three devices")
    assert sorted(home.devices()) == sorted(f"{DISCOVERY}shoal_{of}/config" for of in wanted)
    device = home.device(lab[0].peer)
    status = f"shoal/lab/peer/{lab[0].peer}/status"
    assert device["avty"] == [{"t": status}] and home.text(status) == "online"
    assert {"load", "memory", "disk", "running", "problem"} <= set(device["cmps"])
    state = home.listener.until(lambda: home.text(device["stat_t"]), "what it shows")
    assert json.loads(state)["problems"] == [] and json.loads(state)["load_permille"] >= 0
    peers = [each["t"].split("/")[3] for each in home.device(shoal)["avty"]]
    assert sorted(peers) == sorted([lab[0].peer, lab[1].peer])


def test_a_press_runs_a_template_once(lab: Lab, home: Home) -> None:
    submit(lab[2], template("tidy-up"))
    shoal = shoal_of(lab)
    button = home.listener.until(lambda: home.component(shoal, "button", "Run tidy-up"), "a button")
    home.send(button["cmd_t"], button.get("pl_prs", "PRESS"))
    lab.until(lambda: runs(lab, "tidy-up") == ["completed"], "it has run")
    home.send(button["cmd_t"], "PRESS")
    lab.until(lambda: runs(lab, "tidy-up") == ["completed"] * 2, "it has run again")
    ended = home.component(shoal, "event", "Job ended")
    assert ended["stat_t"] == "shoal/lab/job/+/state"


def test_a_press_runs_a_template_whose_trigger_hears_presses(lab: Lab, home: Home) -> None:
    trigger = {"Mqtt": {"Broker": "home", "Topic": "shoal/lab/trigger/tidy-heard"}}
    submit(lab[2], {**template("tidy-heard"), "Trigger": trigger})
    shoal = shoal_of(lab)
    name = "Run tidy-heard"
    button = home.listener.until(lambda: home.component(shoal, "button", name), "a button")
    assert button["cmd_t"] == trigger["Mqtt"]["Topic"]
    with lab[0].client() as client:
        job = next(v["id"] for v in client.jobs()["jobs"] if v["type"] == "template")

    def heard() -> bool:
        with lab[0].client() as client:
            return any(each["hears"] for each in client.job(job)["trigger"]["devices"])

    lab.until(heard, "its trigger listens")
    home.send(button["cmd_t"], "PRESS")
    lab.until(lambda: runs(lab, "tidy-heard") == ["completed"], "it has run")


def test_who_takes_over_takes_away_what_went_meanwhile(lab: Lab, home: Home) -> None:
    job = submit(lab[2], template("tidy-late"))
    shoal = shoal_of(lab)
    home.listener.until(lambda: home.component(shoal, "button", "Run tidy-late"), "a button")
    peers = [PeerId(device.peer) for device in lab.devices[:2]]
    first = next(d for d in lab.devices[:2] if d.peer == rendezvous(shoal, peers)[0])
    lab.freeze(first)  # who tells of it: it does not hear of what follows
    delete(lab[2], job)
    lab.kill(first)

    def told() -> bool:
        device = home.device(shoal)
        button = device["cmps"].get(f"button_{job}")
        return len(device["avty"]) == 1 and button == {"p": "button"}

    home.listener.until(told, "the other tells that it is gone")


def test_a_switch_turns_a_daemon_off_and_on_everywhere(lab: Lab, home: Home) -> None:
    job = submit(lab[2], daemon("pump"))
    peers = [device.peer for device in lab.devices]
    lab.until(lambda: sorted(running(lab, job)) == sorted(peers), "it runs everywhere")
    shoal = shoal_of(lab)
    switch = home.listener.until(lambda: home.component(shoal, "switch", "pump"), "a switch")
    home.listener.until(lambda: home.text(switch["stat_t"]) == "ON", "it is on")
    home.send(switch["cmd_t"], "OFF")
    lab.until(lambda: not running(lab, job), "it runs nowhere")
    home.listener.until(lambda: home.text(switch["stat_t"]) == "OFF", "it is off")
    own = f"shoal/lab/daemon/pump/{lab[1].peer}/state"
    home.listener.until(lambda: json.loads(home.text(own))["state"] == "stopped", "its state")
    home.send(switch["cmd_t"], "ON")
    lab.until(lambda: sorted(running(lab, job)) == sorted(peers), "it runs everywhere again")
    home.listener.until(lambda: home.text(switch["stat_t"]) == "ON", "it is on again")
    with lab[0].client() as client:
        view = client.job(job)
    assert (view["generation"], view["control"]) == (1, 2), "of three devices one has acted"
    assert len(told(lab, "daemon.switched")) == 2
    delete(lab[2], job)
    home.listener.until(lambda: not home.text(switch["stat_t"]) + home.text(own), "it is gone")
    home.listener.until(lambda: not home.component(shoal, "switch", "pump"), "so is its switch")
    assert home.device(shoal)["cmps"][f"switch_{job}"] == {"p": "switch"}


def test_what_nobody_lists_is_shown_and_not_switched(lab: Lab, home: Home) -> None:
    job = submit(lab[2], daemon("secret"))
    submit(lab[2], template("hidden"))
    shoal = shoal_of(lab)
    home.listener.until(lambda: home.component(shoal, "binary_sensor", "secret"), "a sensor")
    assert not home.component(shoal, "switch", "secret")
    assert not home.component(shoal, "button", "Run hidden")
    lab.until(lambda: len(running(lab, job)) == 3, "it runs everywhere")
    home.send("shoal/lab/daemon/secret/set", "OFF")
    home.send("shoal/lab/trigger/hidden", "PRESS")
    for what in ("daemon secret", "template hidden"):
        lab.until(
            lambda what=what: any(what in text for text in told(lab, "command.refused")), what
        )
    assert len(running(lab, job)) == 3 and runs(lab, "hidden") == []


def test_home_assistant_is_told_again_when_it_has_started(lab: Lab, home: Home) -> None:
    wanted = [lab[0].peer, lab[1].peer, shoal_of(lab)]
    home.listener.until(lambda: all(home.device(of) for of in wanted), "three devices")
    before = len(home.listener.heard)
    home.send("homeassistant/status", "online")

    def again() -> bool:
        topics = {each.topic for each in home.listener.heard[before:] if each.payload}
        return {f"{DISCOVERY}shoal_{of}/config" for of in wanted} <= topics

    home.listener.until(again, "all once more")


def test_a_broker_that_comes_late_and_a_killed_agent_change_nothing(
    lab: Lab, home: Home, mosquitto: Mosquitto
) -> None:
    shoal = shoal_of(lab)
    home.send("shoal/lab/daemon/pump-late/set", "OFF", retain=True)
    home.listener.until(lambda: home.device(lab[0].peer) and home.device(shoal), "devices")
    before = home.device(lab[0].peer)
    mosquitto.stop()
    lab.kill(lab[0])
    submit(lab[1], daemon("pump-late"))
    lab.start(lab[0])
    mosquitto.start()
    home.listener.until(lambda: home.component(shoal, "switch", "pump-late"), "a switch", 120)
    topic = "shoal/lab/daemon/pump-late/state"
    home.listener.until(lambda: home.text(topic) == "ON", "its state")
    home.listener.until(lambda: home.device(lab[0].peer) == before, "the same ids as before")
    lab.until(
        lambda: any("the broker has kept it" in text for text in told(lab, "command.refused")),
        "what the broker has kept is refused",
    )
    home.send("shoal/lab/daemon/pump-late/set", "", retain=True)
    assert home.text(topic) == "ON"
    home.send(f"{DISCOVERY}shoal_{shoal}/config", "", retain=True)  # somebody tidies up
    home.listener.until(lambda: home.component(shoal, "switch", "pump-late"), "it is put right", 90)


def test_what_is_switched_off_or_forgotten_is_taken_away(
    lab: Lab, home: Home, mosquitto: Mosquitto
) -> None:
    """The last one: it leaves the shoal smaller."""
    shoal = shoal_of(lab)
    submit(lab[0], daemon("pump-end"))
    gone = [f"shoal/lab/peer/{lab[1].peer}/{what}" for what in ("status", "state")]
    gone += [f"shoal/lab/daemon/pump-end/{lab[1].peer}/state"]
    gone += [f"{DISCOVERY}shoal_{lab[1].peer}/config"]
    home.listener.until(lambda: all(home.text(topic) for topic in gone), "what it left")
    lab.kill(lab[1])
    home.listener.until(lambda: home.text(gone[0]) == "offline", "its will", 120)
    with lab[0].client() as client:
        lab.until(lambda: client.forget(lab[1].peer), "it is forgotten")
    home.listener.until(lambda: not any(home.text(topic) for topic in gone), "all is gone")
    home.listener.until(lambda: len(home.device(shoal)["avty"]) == 1, "the shoal goes on")
    lab.kill(lab[0])
    configure(lab[0], mosquitto, False, ALLOW)
    lab.start(lab[0])
    home.listener.until(lambda: home.devices() == [], "it has opted out")
    own = f"shoal/lab/daemon/pump-end/{lab[0].peer}/state"
    assert all(each.payload for each in home.listener.heard if each.topic == own), "that stays"
    lab.devices.remove(lab[1])
