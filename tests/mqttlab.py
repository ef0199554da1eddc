"""Labs whose agents have a broker: templates there, what is sent to them, and what became of it."""

from __future__ import annotations

from base64 import b64decode
from collections import Counter
from typing import Any, Final

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.lab import Device, Lab
from tests.mosquitto import Mosquitto

ALLOW: Final = "template/*"  # all that MQTT may run
SENT_S: Final = 30.0
BURST_S: Final = 120.0


def with_broker(size: int, mosquitto: Mosquitto, allow: str = ALLOW) -> Lab:
    """Not started yet; each device has the broker as `home`."""
    lab = Lab(size)
    for device in lab.devices:
        give_broker(device, mosquitto.port, allow)
    return lab


def give_broker(device: Device, port: int, allow: str = "") -> None:
    """By whatever way leads to it; `allow` is what its owner lets MQTT run there."""
    device.environment["SHOAL_MQTT_BROKERS"] = f"home=mqtt://127.0.0.1:{port}"
    if allow:
        device.environment["SHOAL_MQTT_ALLOW"] = allow


# ---- templates --------------------------------------------------------------------------------


def spec_of(name: str, topic: str, script: str = "cat", **mqtt: Any) -> dict[str, Any]:
    words = {"Broker": "home", "Topic": topic, "Input": "stdin", **mqtt}
    engine = {"Type": "process", "Params": {"Command": ["sh", "-c", script]}}
    return {
        "Name": name,
        "Type": "batch",
        "Parameters": [],
        "Trigger": {"Mqtt": words},
        "Tasks": [{"Engine": engine}],
    }


def template(lab: Lab, name: str, topic: str, script: str = "cat", **mqtt: Any) -> None:
    with lab[0].client() as client:
        client.submit(spec_of(name, topic, script, **mqtt))
    least = min(2, len(lab.devices)) if "Dedup" in mqtt else 1  # without ids one is elected
    lab.until(lambda: hearing(lab, topic) >= least, f"{topic} is heard")


def hearing(lab: Lab, topic: str, without: Device | None = None) -> int:
    """How many devices hear it."""
    told = []
    for device in lab.devices:
        if device is without:
            continue
        with device.client() as client:
            told += [check["text"] for check in client.doctor() if check["check"] == "broker home"]
    return sum(topic in text for text in told)


def part_at(device: Device, name: str) -> dict[str, Any]:
    """What a device says of its own part in a template. Raises KeyError while it has none."""
    with device.client() as client:
        (view,) = client.templates(name)
    parts: dict[str, dict[str, Any]] = {each["peer"]: each for each in view["trigger"]["devices"]}
    return parts[device.peer]


# ---- messages ---------------------------------------------------------------------------------


def send(
    mosquitto: Mosquitto,
    topic: str,
    payload: str | bytes,
    id: str = "",
    retain: bool = False,
    reply: str = "",
    correlation: bytes = b"",
    qos: int = 1,
) -> None:
    """Acknowledged when it returns, but for QoS 0."""
    properties = Properties(PacketTypes.PUBLISH)
    if reply:
        properties.ResponseTopic = reply
    if correlation:
        properties.CorrelationData = correlation
    if id:
        properties.UserProperty = ("id", id)
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    client.connect("127.0.0.1", mosquitto.port)
    client.loop_start()
    try:
        sent = client.publish(topic, payload, qos, retain, properties)
        sent.wait_for_publish(SENT_S)
        assert sent.is_published()
    finally:
        client.disconnect()
        client.loop_stop()


def burst(mosquitto: Mosquitto, topic: str, count: int, *, ids: bool = True) -> None:
    """As fast as the broker acknowledges them, each saying its number, and with an id."""
    client = Client(CallbackAPIVersion.VERSION2, client_id="burst", protocol=MQTTv5)
    client.max_queued_messages_set(0)
    client.connect("127.0.0.1", mosquitto.port)
    client.loop_start()
    try:
        sent = []
        for number in range(count):
            properties = Properties(PacketTypes.PUBLISH)
            if ids:
                properties.UserProperty = ("id", f"burst-{number}")
            sent.append(client.publish(topic, f"{number}\n", 1, False, properties))
        for each in sent:
            each.wait_for_publish(BURST_S)
            assert each.is_published()
    finally:
        client.disconnect()
        client.loop_stop()


def acknowledged(mosquitto: Mosquitto, device: str) -> int:
    """How many PUBACKs the broker has had of a device's triggers."""
    return mosquitto.log().count(f"Received PUBACK from shoal-{device[-12:]}-triggers")


# ---- what became of them ----------------------------------------------------------------------


def runs(lab: Lab, name: str) -> list[dict[str, Any]]:
    """All that became of a template, once each, as any device tells."""
    with lab[-1].client() as client:
        listed = client.jobs(limit=1000, name=name)["jobs"]
        views = [client.job(view["id"]) for view in listed]
    return [view for view in views if view.get("source")]


def outputs(lab: Lab, name: str) -> Counter[str]:
    """What those that have completed printed."""
    found = [run for run in runs(lab, name) if run["state"] == "completed"]
    return Counter(run["slots"][0]["stdout_tail"] for run in found)


def heard_of(device: Device, name: str, **filters: str) -> Counter[str]:
    """How many jobs each message of a template has become, by its payload, as a device knows.
    What a task printed while its agent was away is in its log, and not in the view."""
    with device.client() as client:
        views = client.jobs(limit=1000, detail=True, name=name, **filters)["jobs"]
    runs = [view for view in views if view.get("source")]
    urls = [run["spec"]["Tasks"][0]["InputSources"][-1]["Source"]["Params"]["URL"] for run in runs]
    return Counter(b64decode(url.partition(",")[2]).decode() for url in urls)
