"""Bursts of messages on real agents: each is a run where the broker keeps it, and what a broker as
it comes drops is told of."""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import Any, Final

import pytest
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.firmware.pages import block
from tests.integration.test_mqtt_triggers import hearing, template
from tests.lab import Device, Lab
from tests.mosquitto import Mosquitto

# More than the agents' disks and a broker as it comes have room for; 10,000 by scripts/test-kills.
BURST: Final = int(os.environ.get("SHOAL_TEST_BURST", "2000"))
RUN_S: Final = 0.5  # of one run at most, on a machine that others use too


def burst(mosquitto: Mosquitto, topic: str, count: int) -> None:
    """As fast as the broker acknowledges them, each with an id and saying its number."""
    client = Client(CallbackAPIVersion.VERSION2, client_id="burst", protocol=MQTTv5)
    client.max_queued_messages_set(0)
    client.connect("127.0.0.1", mosquitto.port)
    client.loop_start()
    try:
        sent = []
        for number in range(count):
            properties = Properties(PacketTypes.PUBLISH)
            properties.UserProperty = ("id", f"burst-{number}")
            sent.append(client.publish(topic, f"{number}\n", 1, False, properties))
        for each in sent:
            each.wait_for_publish(120)
            assert each.is_published()
    finally:
        client.disconnect()
        client.loop_stop()


def tallies(device: Device, name: str) -> dict[str, Any]:
    """What a device says of its own part in a template."""
    with device.client() as client:
        (view,) = client.templates(name)
    parts = view["trigger"]["devices"]
    return {part["peer"]: part for part in parts}[device.peer]


def with_broker(size: int, mosquitto: Mosquitto) -> Lab:
    lab = Lab(size)
    for device in lab.devices:
        device.environment["SHOAL_MQTT_BROKERS"] = f"home={mosquitto.url}"
        device.environment["SHOAL_MQTT_ALLOW"] = "template/*"
    return lab


@pytest.mark.timeout(max(600, RUN_S * BURST))
def test_of_a_burst_each_message_is_run() -> None:
    """At a broker as the page on provisioning has it; two devices hear each message."""
    keeps = block("provisioning.md", "conf", "keeps")
    with Mosquitto(queued_max=None, more=keeps) as mosquitto, with_broker(2, mosquitto) as lab:
        ran = lab.directory / "ran"
        ran.touch()
        ran.chmod(0o666)  # for tasks of another user
        template(lab, "burst", "in/burst", f"cat >> {ran}", Dedup={})
        lab.until(lambda: hearing(lab, "in/burst") == 2, "both hear")
        burst(mosquitto, "in/burst", BURST)
        wanted = Counter(str(number) for number in range(BURST))

        def lines() -> Counter[str]:
            return Counter(ran.read_text().split())

        def fired() -> int:
            return sum(int(tallies(device, "burst")["fired"]) for device in lab.devices)

        lab.until(lambda: set(lines()) == set(wanted), "all have run", RUN_S * BURST)
        lab.until(lambda: not any(tallies(d, "burst")["waiting"] for d in lab.devices), "no more")
        assert fired() >= BURST and lines() >= wanted
        # By its id it is one job; on a machine this busy both may fire it, each thinking that the
        # other is gone, and its task runs twice until their coordinators meet.
        twice = sum((lines() - wanted).values())
        print(f"a burst of {BURST}: all ran, {twice} twice; {fired() - BURST} were fired by both")
        assert not [d.name for d in lab.devices if "rebuilding from disk" in d.log()]


def test_what_a_broker_as_it_comes_drops_is_told_of_and_all_else_is_heard() -> None:
    """It acknowledges 1,500 for a device that is away, and keeps 1,000 of them."""
    sent = 1500
    broker = Mosquitto(queued_max=None, more="sys_interval 1")
    with broker as mosquitto, with_broker(1, mosquitto) as lab:
        template(lab, "away", "in/away", Dedup={}, MaxPerMinute=1)
        lab.kill(lab[0])
        burst(mosquitto, "in/away", sent)
        lab.start(lab[0])
        lab.until(lambda: dropped(lab[0]), "that it dropped some is told of")

        def settled() -> bool:
            """All that it has kept was heard, and has an end: one fires, the rest is over."""
            part = tallies(lab[0], "away")
            ended = part["fired"] + sum(part["refused"].values())
            return bool(part["heard"] == ended == sent - dropped(lab[0]))

        lab.until(settled, "the rest is heard")
        assert 400 < dropped(lab[0]) < 600


def dropped(device: Device) -> int:
    """As the doctor has it, who is silent where there are none."""
    with device.client() as client:
        entry = {each["check"]: each for each in client.doctor()}.get("queue home")
    if entry is None:
        return 0
    said = re.match(r"it has dropped (\d+) messages", entry["text"])
    assert said is not None and "max_queued_messages" in entry["fix"]
    return int(said[1])
