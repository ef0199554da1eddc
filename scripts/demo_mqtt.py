"""The demo of MQTT: a sensor publishes, a template runs on a peer, the result comes on a topic, and
the broker is killed meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from scripts.demo import NAMES, Demo, DemoFailed, found_shoal, say
from tests.mosquitto import Mosquitto
from tests.mqttlistener import Listener

READINGS: Final = 12
# Who is to get what is on its disk at once: one that is killed knows no more than that.
KEEPS: Final = "autosave_on_changes true\nautosave_interval 1"
TEMPLATE: Final = """\
# Runs for each reading that is warm, on whichever device is free.
Name: warm
Type: batch
Parameters: []
Trigger:
  Mqtt:
    Broker: home
    Topic: sensors/+/reading
    When: t > `20`
    Dedup: {Key: id}
    Input: stdin
Tasks:
  - Engine:
      Type: process
      Params:
        Command: 'read reading; echo "$SHOAL_TRIGGER_TOPIC is warm: $reading"'
    Publisher:
      Type: mqtt
      Params: {Broker: home, Topic: "alarms/{name}"}
"""


class Sensor:
    """A board with MQTT 5 that keeps each reading until the broker has acknowledged it."""

    def __init__(self, port: int) -> None:
        self._client = Client(CallbackAPIVersion.VERSION2, client_id="sensor", protocol=MQTTv5)
        self._client.reconnect_delay_set(0.2, 1.0)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        self._client.connect("127.0.0.1", port, clean_start=False, properties=properties)
        self._client.loop_start()

    def publish(self, number: int, celsius: int) -> None:
        reading = {"id": f"attic-1-{number}", "t": celsius}
        self._client.publish("sensors/attic/reading", json.dumps(reading), qos=1)
        print(f"sensor: {json.dumps(reading)}", flush=True)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def main() -> int:
    if shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        print(
            "scripts/demo --mqtt starts a broker of its own: sudo apt-get install mosquitto",
            file=sys.stderr,
        )
        return 1
    directory = Path(tempfile.mkdtemp(prefix="shoal-demo-"))
    directory.chmod(0o711)
    demo = Demo(directory)
    try:
        with Mosquitto(more=KEEPS) as broker:
            os.environ["SHOAL_MQTT_BROKERS"] = f"home={broker.url}"
            os.environ["SHOAL_MQTT_ALLOW"] = "template/warm"
            try:
                found_shoal(demo)
                with Listener(broker.port, "alarms/#", "person") as listener:
                    readings(demo, broker, listener)
            finally:
                demo.stop_all()
    except DemoFailed as failure:
        print(f"\nThe demo failed: {failure}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    say("Done")
    return 0


def readings(demo: Demo, broker: Mosquitto, listener: Listener) -> None:
    say("A template that messages run, kept by every device")
    file = demo.directory / "warm.yaml"
    file.write_text(TEMPLATE)
    demo.shoal("attic", "template", "set", "warm", str(file))
    demo.until(lambda: "sensors/+/reading" in str(demo.try_ask("garage", "doctor")), "it is heard")
    say("A sensor publishes; the broker is killed half-way, and comes back")
    sensor = Sensor(broker.port)
    warm = set()
    for number in range(READINGS):
        celsius = 18 + number % 4 * 2  # 18 and 20 are not warm
        sensor.publish(number, celsius)
        if celsius > 20:
            warm.add(f"attic-1-{number}")
        if number == READINGS // 2:
            demo.until(lambda: listener.heard, "the first alarm is heard")
            broker.stop(signal.SIGKILL)
            print("\nthe broker is gone\n", flush=True)
            threading.Timer(3.0, broker.start).start()
    demo.until(lambda: len(ids(listener)) >= len(warm), "every warm reading has its alarm")
    sensor.close()
    for heard in listener.heard:
        print(f"{heard.topic}: {heard.json()['stdout'].strip()}", flush=True)
    if ids(listener) != warm:
        raise DemoFailed(f"alarms for {sorted(ids(listener))}, not {sorted(warm)}")
    runs = [job for job in demo.ask("kitchen", "job", "list")["jobs"] if job.get("source")]
    print(
        f"\n{READINGS} readings, {len(warm)} of them warm: {len(runs)} jobs on {', '.join(NAMES)}"
    )
    if len(runs) != len(warm):
        raise DemoFailed(f"{len(runs)} jobs for {len(warm)} messages")
    demo.shoal("kitchen", "job", "list")


def ids(listener: Listener) -> set[str]:
    """Of the readings whose alarms were heard."""
    lines = (heard.json()["stdout"] for heard in list(listener.heard))
    return {json.loads(line.partition(": ")[2])["id"] for line in lines if ": " in line}


if __name__ == "__main__":
    raise SystemExit(main())
