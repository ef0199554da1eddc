"""What Home Assistant is told, checked by its own schemas and read by a Home Assistant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from paho.mqtt import publish

from agent.mqtt.homeassistant import Button, Switch, peer_topic, shoal_topic
from tests.agent.mqtt import introduced
from tests.agent.mqtt.introduced import ABOUT, MEASURED, peer_payload, shoal_payload
from tests.homeassistant.home import HomeAssistant
from tests.mosquitto import Mosquitto

PEER = peer_topic("homeassistant", ABOUT.peer)
SHOAL = shoal_topic("homeassistant", ABOUT.shoal)
MANY = tuple(
    Switch(f"d{at}", "x" * 63 + str(at), f"s/daemon/{at}/state", f"s/daemon/{at}/set" * (at % 2))
    for at in range(300)
)


@pytest.fixture(scope="module")
def mosquitto() -> Iterator[Mosquitto]:
    with Mosquitto() as broker:
        yield broker


@pytest.fixture(scope="module")
def home(mosquitto: Mosquitto) -> Iterator[HomeAssistant]:
    with HomeAssistant(mosquitto.port) as home:
        yield home


def send(mosquitto: Mosquitto, topic: str, payload: bytes | str) -> None:
    publish.single(topic, payload, qos=1, retain=True, port=mosquitto.port)


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (PEER, peer_payload()),
        (PEER, peer_payload(json.dumps({"old": "sensor"}).encode())),
        (SHOAL, shoal_payload()),
        (SHOAL, shoal_payload(buttons=(), switches=())),
        (SHOAL, shoal_payload(json.dumps({"gone": "button"}).encode(), switches=MANY)),
        (SHOAL, shoal_payload(buttons=(Button("t", "lab/über", "a/b c"),))),
    ],
)
def test_messages_keep_to_its_schemas(home: HomeAssistant, topic: str, payload: bytes) -> None:
    assert home.check(topic, payload) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"p": "toaster"}, "['platform']"),
        ({"dev_cla": "warmth"}, "['device_class']"),
        ({"unit_of_meas": "furlong"}, "furlong"),
        ({"val_tpl": "{{ x"}, "template"),
        ({"no_such_key": 1}, "no_such_key"),
    ],
)
def test_what_breaks_them_is_found(home: HomeAssistant, change: dict[str, Any], why: str) -> None:
    device = json.loads(peer_payload())
    device["cmps"]["temperature"] |= change
    wrong = home.check(PEER, json.dumps(device).encode())
    assert wrong and why in wrong[0]


def test_our_reference_says_what_home_assistant_says(home: HomeAssistant) -> None:
    facts = home.ask("facts")
    for name, ours in (
        ("abbreviations", introduced.ABBREVIATIONS),
        ("device", introduced.DEVICE),
        ("origin", introduced.ORIGIN),
    ):
        assert {key: facts[name].get(key) for key in ours} == ours


def test_it_shows_what_a_device_is_and_has(home: HomeAssistant, mosquitto: Mosquitto) -> None:
    send(mosquitto, PEER, peer_payload())
    home.until(lambda: home.state("sensor.porch_load") == "unavailable", "it waits for the device")
    state = {**MEASURED, "running": 2, "problems": ["disk"]}
    send(mosquitto, f"shoal/lab/peer/{ABOUT.peer}/state", json.dumps(state))
    send(mosquitto, f"shoal/lab/peer/{ABOUT.peer}/status", "online")
    home.until(lambda: home.state("sensor.porch_load") not in ("unavailable", "unknown"), "load")
    shown = home.states
    assert float(shown["sensor.porch_load"][0]) == 25.0
    assert float(shown["sensor.porch_memory_free"][0]) == 512
    assert float(shown["sensor.porch_disk_free"][0]) == 1.5
    assert float(shown["sensor.porch_temperature"][0]) == 48.2
    assert shown["sensor.porch_temperature"][1]["unit_of_measurement"] == "°C"
    assert shown["sensor.porch_running"][0] == "2"
    state_of_it, attributes = shown["binary_sensor.porch_problem"]
    assert state_of_it == "on" and attributes["problems"] == ["disk"]
    send(
        mosquitto,
        f"shoal/lab/peer/{ABOUT.peer}/state",
        json.dumps({**state, "temperature_mc": -1, "problems": []}),
    )
    home.until(lambda: home.state("sensor.porch_temperature") == "unknown", "it cannot be told")
    assert home.state("binary_sensor.porch_problem") == "off"
    send(mosquitto, f"shoal/lab/peer/{ABOUT.peer}/status", "offline")
    home.until(lambda: home.state("sensor.porch_load") == "unavailable", "the device is gone")
    send(mosquitto, PEER, "")
    home.until(lambda: not home.state("sensor.porch_load"), "the device was forgotten")
    assert home.complaints == []


def test_it_follows_the_shoals_switches_buttons_and_jobs(
    home: HomeAssistant, mosquitto: Mosquitto
) -> None:
    send(mosquitto, SHOAL, shoal_payload())
    send(mosquitto, "shoal/lab/peer/12D3other/status", "online")
    send(mosquitto, "shoal/lab/daemon/pump/state", "ON")
    send(mosquitto, "shoal/lab/daemon/secret/state", "OFF")
    home.until(lambda: home.state("switch.shoal_lab_pump") == "on", "a switch")
    assert home.state("binary_sensor.shoal_lab_secret") == "off"
    assert home.state("button.shoal_lab_run_tidy") == "unknown", "it was never pressed"
    for state in ("running", "completed"):
        job = json.dumps({"job": "j", "name": "tidy", "state": state})
        publish.single("shoal/lab/job/j/state", job, port=mosquitto.port)
    event = "event.shoal_lab_job_ended"
    home.until(lambda: home.state(event) not in ("", "unknown"), "a job has ended")
    assert home.states[event][1]["event_type"] == "completed"
    assert home.states[event][1]["name"] == "tidy"
    note = json.dumps({"jobs": "event", "switch_d1": "switch", "button_t1": "button"}).encode()
    send(mosquitto, SHOAL, shoal_payload(note, buttons=(), switches=()))
    home.until(lambda: not home.state("switch.shoal_lab_pump"), "what is no more is taken away")
    assert not home.state("button.shoal_lab_run_tidy") and home.state(event)
    send(mosquitto, SHOAL, "")
    home.until(lambda: not home.state(event), "all is taken away")
    assert home.complaints == []
