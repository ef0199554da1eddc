"""The sensors of the firmware notes and real agents at a real Mosquitto: the page's template, its
payloads byte by byte, published as the two examples do, and one example itself."""

from __future__ import annotations

import hashlib
import importlib.util
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
import yaml
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.firmware.bridge import value_of
from tests.firmware.pages import NOTES, block, bytes_of
from tests.firmware.test_micropython import Board, Silent
from tests.firmware.test_reading import checked
from tests.lab import Device, Lab
from tests.mosquitto import Mosquitto
from tests.mqttlab import hearing, outputs, part_at, runs, template, with_broker
from tests.mqttlistener import Listener

PAGE: Final = "sensors.md"
READINGS: Final = ("reading", "frost", "broken")
TOPIC: Final = "sensors/+/reading"
# What the page's template calls, as the device's owner has it: which message it was, and its bytes.
RECORD: Final = """#!/bin/sh
printf '%s %s ' "$SHOAL_TRIGGER_ID" "$SHOAL_TRIGGER_TOPIC"
sha256sum
"""


def publisher() -> ModuleType:
    """The one of the MicroPython example; it runs under CPython, too."""
    path = NOTES / "micropython" / "publisher.py"
    spec = importlib.util.spec_from_file_location("firmware_publisher", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PUBLISHER: Final = publisher()


@pytest.fixture(scope="module")
def lab(mosquitto: Mosquitto) -> Iterator[Lab]:
    """Both hear what the page's template is run by, and another one of broken sensors."""
    with with_broker(2, mosquitto, "template/climate, template/broken, template/cold") as lab:
        record = lab.directory / "record-climate"
        record.write_text(RECORD)
        record.chmod(0o755)
        spec = yaml.safe_load(block(PAGE, "yaml"))
        params = spec["Tasks"][0]["Engine"]["Params"]
        assert params == {"Command": [record.name]} and spec["Trigger"]["Mqtt"]["Topic"] == TOPIC
        params["Command"] = [str(record)]
        keep(lab, "climate", spec)
        spec["Trigger"]["Mqtt"]["When"] = block(PAGE, "jmespath", "broken").strip()
        keep(lab, "broken", {**spec, "Name": "broken"})
        lab.until(lambda: hearing(lab, TOPIC) == 2, "both hear")
        for name in ("climate", "broken"):
            lab.until(lambda name=name: all(part_at(d, name)["hears"] for d in lab.devices), name)
        yield lab


def keep(lab: Lab, name: str, spec: dict[str, Any]) -> None:
    """As a person does it."""
    path = lab.directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump(spec))
    done = lab.shoal(lab[0], "template", "set", name, str(path))
    assert done.code == 0, done.err


def as_esp32(
    mosquitto: Mosquitto,
    payload: bytes,
    id: str,
    device: str = "porch",
    content_type: str = "application/cbor",
    topic: str = "sensors/{device}/reading",
) -> None:
    """As main.c does: MQTT 5, a connection for itself, QoS 1, gone once it is acknowledged."""
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = ("id", id)
    if content_type:
        properties.ContentType = content_type
    client = Client(CallbackAPIVersion.VERSION2, client_id=device, protocol=MQTTv5)
    client.connect("127.0.0.1", mosquitto.port)
    client.loop_start()
    try:
        sent = client.publish(topic.format(device=device), payload, 1, False, properties)
        sent.wait_for_publish(60)
        assert sent.is_published()
    finally:
        client.disconnect()
        client.loop_stop()


def as_micropython(mosquitto: Mosquitto, payload: bytes, device: str) -> None:
    """MQTT 3.1.1: its id is in the payload alone."""
    connected = PUBLISHER.Publisher(
        "127.0.0.1", mosquitto.port, device, device, "of this device alone", timeout_s=60
    )
    try:
        connected.publish(f"sensors/{device}/reading", payload)
    finally:
        connected.close()


def recorded(id: str, device: str, payload: bytes) -> str:
    return f"{id} sensors/{device}/reading {hashlib.sha256(payload).hexdigest()}  -\n"


def results(listener: Listener, name: str) -> Counter[str]:
    """What came back of a template, each result once."""
    heard = [e.json() for e in listener.heard if "/result/" in e.topic and e.payload]
    found = {told["id"]: told for told in heard if told["name"] == name}
    wanted = set(value_of(block(PAGE, "json", "result").encode(), "application/json"))
    assert all(set(told) == wanted for told in found.values()), "the fields that the page shows"
    return Counter(told["stdout"] for told in found.values())


def test_the_pages_readings_run_what_the_page_says_each_once(
    lab: Lab, mosquitto: Mosquitto
) -> None:
    """Each is sent twice, as by a sensor that saw no acknowledgement; in CBOR by the porch's, in
    JSON by the shed's. The porch's come in JSON, too: property and key are one id."""
    cbor = {name: bytes_of(block(PAGE, "hex", name)) for name in READINGS}
    json = {name: block(PAGE, "json", name).strip() for name in READINGS}
    ids = {name: value_of(payload, "application/cbor")["id"] for name, payload in cbor.items()}
    shed = {name: text.replace("porch", "shed").encode() for name, text in json.items()}
    with Listener(mosquitto.port, "shoal/#") as listener:
        for name in READINGS:
            for _ in range(2):
                as_esp32(mosquitto, cbor[name], ids[name])
                as_micropython(mosquitto, shed[name], "shed")
            as_micropython(mosquitto, json[name].encode(), "porch")

        def wanted(name: str) -> Counter[str]:
            other = ids[name].replace("porch", "shed")
            porch = recorded(ids[name], "porch", cbor[name])
            return Counter([porch, recorded(other, "shed", shed[name])])

        unwanted = 2 * 5  # messages: two of the readings, each sent five times

        def heard(device: Device) -> bool:
            """All of it; what it knows already of what is wanted it does not count again."""
            parts = [part_at(device, name) for name in ("climate", "broken")]
            return all(p["filtered"] == unwanted and p["heard"] >= unwanted + 2 for p in parts)

        lab.until(lambda: all(heard(device) for device in lab.devices), "both hear all of it", 60)
        for name, runs_by in (("climate", "frost"), ("broken", "broken")):
            all_of_it = wanted(runs_by)
            listener.until(lambda n=name, a=all_of_it: results(listener, n) == a, "the results")
            lab.until(lambda n=name, a=all_of_it: outputs(lab, n) == a, "the runs are over", 60)
            assert len(runs(lab, name)) == 2, name
            parts = [part_at(device, name) for device in lab.devices]
            # On a machine this busy both may fire one, as the one job that it is.
            assert 2 <= sum(p["fired"] for p in parts) <= 4
            assert not any(p["refused"] for p in parts)
            assert not any(p["waiting"] for p in parts), parts


def test_a_sensor_that_hears_no_acknowledgement_runs_each_reading_once(
    lab: Lab, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """main.py itself on a cold night: it sends its first reading again, a period older, with the
    next one."""
    board = Board(tmp_path, mosquitto.port, device="attic")
    (tmp_path / "sensor").write_bytes(checked(0x2000) + checked(0x8000))
    with Silent(mosquitto.port) as silent:
        board.set(port=silent.port)
        assert "not sent" in board.wake()
    board.set(port=mosquitto.port)
    assert board.wake() == ""

    def ran() -> list[str]:
        found = [run["slots"][0]["stdout_tail"].split() for run in runs(lab, "climate")]
        return [words[0] for words in found if words and words[1] == "sensors/attic/reading"]

    wanted = [f"attic-{board.boot}-{seq}" for seq in (1, 2)]
    lab.until(lambda: sorted(ran()) == wanted, "both have run", 60)
    assert mosquitto.log().count("Received PUBLISH from attic") == 3, "one of them came twice"


def test_the_content_type_says_what_a_payload_is(lab: Lab, mosquitto: Mosquitto) -> None:
    """0x24 is -5 in CBOR, and the text $ where nobody says so."""
    template(lab, "cold", "sensors/cold", "cat", When="@ == `-5`", Dedup={})
    lab.until(lambda: all(part_at(device, "cold")["hears"] for device in lab.devices), "both hear")
    for kind in ("application/cbor", "", "text/plain", "application/json"):
        as_esp32(mosquitto, b"\x24", f"as {kind}", content_type=kind, topic="sensors/cold")
    as_esp32(mosquitto, b"-5", "json", content_type="application/json", topic="sensors/cold")
    wanted = Counter({"$": 1, "-5": 1})
    lab.until(lambda: outputs(lab, "cold") == wanted, "what says -5 has run", 60)

    def counted(device: Device) -> bool:
        told = part_at(device, "cold")
        assert sum(told["refused"].values()) <= 1, told
        return bool(told["filtered"] == 2 and told["heard"] == 5)

    lab.until(lambda: all(counted(device) for device in lab.devices), "all is heard", 60)
    for device in lab.devices:
        (reason,) = part_at(device, "cold")["refused"]
        assert reason.startswith("invalid JSON"), reason
    assert len(runs(lab, "cold")) == 2
