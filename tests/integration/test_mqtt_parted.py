"""A message that two halves of a shoal hear at one broker, while they do not see each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import pytest
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.lab import Device, alive_at
from tests.mosquitto import Mosquitto
from tests.mqttlab import hearing, spec_of
from tests.netlab import NetLab

BROKER: Final = 100  # its host's number on the switch
APART_S: Final = 60.0  # on a loaded machine
HEALED_S: Final = 90.0  # redials back off up to a minute


@pytest.fixture(scope="module")
def parts() -> Iterator[tuple[NetLab, Mosquitto]]:
    """Two that hear a template's messages; the broker both reach, whatever is cut between them."""
    with (
        closing(NetLab(2)) as lab,
        Mosquitto(within=lab.host("broker", BROKER)) as mosquitto,
    ):
        for device in lab.devices:
            url = f"mqtt://10.77.0.{BROKER}:{mosquitto.port}"
            device.environment["SHOAL_MQTT_BROKERS"] = f"home={url}"
            device.environment["SHOAL_MQTT_ALLOW"] = "template/*"
        with lab:
            with lab[0].client() as client:
                client.submit(spec_of("look", "in/look", Dedup={}))
            lab.until(lambda: hearing(lab, "in/look") == 2, "both hear it")
            yield lab, mosquitto


def send(mosquitto: Mosquitto, topic: str, payload: str, id: str) -> None:
    """At QoS 1, and acknowledged when it returns."""
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = ("id", id)
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5, transport="unix")
    client.connect(str(mosquitto.socket))
    client.loop_start()
    try:
        sent = client.publish(topic, payload, 1, False, properties)
        sent.wait_for_publish(30)
        assert sent.is_published()
    finally:
        client.disconnect()
        client.loop_stop()


def runs_at(device: Device, name: str) -> dict[str, dict[str, Any]]:
    """What became of a template, by its id, as this device alone knows it."""
    with device.client() as client:
        views = [client.job(view["id"]) for view in client.jobs()["jobs"] if view["name"] == name]
    return {view["id"]: view for view in views if view.get("source")}


def know(lab: NetLab, number: int) -> bool:
    """Whether each holds so many for alive, itself among them."""
    return all(len(alive_at(device)) == number for device in lab.devices)


def completed(device: Device, number: int) -> bool:
    states = [view["state"] for view in runs_at(device, "look").values()]
    return states == ["completed"] * number


def executions(view: dict[str, Any]) -> dict[str, str]:
    return {each["id"]: each["peer"] for each in view["executions"]}


def test_a_message_with_an_id_is_one_job_when_two_halves_that_ran_it_meet(
    parts: tuple[NetLab, Mosquitto],
) -> None:
    lab, mosquitto = parts
    lab.partition([lab[0]], [lab[1]])
    lab.until(lambda: know(lab, 1), "each is alone", APART_S)
    send(mosquitto, "in/look", "ON", id="m1")
    for device in lab.devices:
        lab.until(lambda device=device: completed(device, 1), "it runs on both sides", APART_S)
    (job, here), *more = runs_at(lab[0], "look").items()
    there = runs_at(lab[1], "look")[job]
    assert not more and here["revision"] == there["revision"]
    ran = executions(here) | executions(there)
    assert [*executions(here).values(), *executions(there).values()] == [
        d.peer for d in lab.devices
    ]
    assert len(ran) == 2, "each side has run it once"
    lab.heal()
    lab.until(lambda: know(lab, 2), "they meet", HEALED_S)

    def told(device: Device) -> tuple[str, dict[str, str], str]:
        (view,) = runs_at(device, "look").values()
        (slot,) = view["slots"]
        return view["id"], executions(view), slot["execution"]

    lab.until(lambda: told(lab[0]) == told(lab[1]), "both say the same", HEALED_S)
    found, known, counts = told(lab[0])
    assert (found, known) == (job, ran), "one job, and what ran of it on both sides"
    assert counts in ran, "of which one result counts"
    send(mosquitto, "in/look", "ON", id="m1")
    send(mosquitto, "in/look", "OFF", id="m2")
    lab.until(lambda: all(completed(each, 2) for each in lab.devices), "the next one runs", APART_S)
    assert all(executions(runs_at(each, "look")[job]) == ran for each in lab.devices)
    (last,) = (view for id, view in runs_at(lab[0], "look").items() if id != job)
    assert len(executions(last)) == 1, "once, now that they see each other"
