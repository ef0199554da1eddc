"""The rival of the bench of MQTT: what a person would write with bare paho, in its own process.

python -m scripts.rival_mqtt answer PORT TOPIC RESULTS        # run `cat` for each message
python -m scripts.rival_mqtt publish PORT TOPIC COUNT BYTES WINDOW
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any, Final

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

WAIT_S: Final = 120.0
READY: Final = "ready"  # what it prints when it is subscribed


def main(words: list[str]) -> None:
    verb, port, topic, *rest = words
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    if verb == "answer":
        answer(client, topic, rest[0])
        client.connect("127.0.0.1", int(port))
        client.loop_forever()
    else:
        publish(client, int(port), topic, *map(int, rest))


def answer(client: Client, topic: str, results: str) -> None:
    """Run a program for each message, one after the other, and publish what it says."""

    def heard(_: Client, __: Any, message: MQTTMessage) -> None:
        done = subprocess.run(["cat"], check=True, input=message.payload, stdout=subprocess.PIPE)
        client.publish(results, done.stdout, qos=1)

    client.on_message = heard
    client.on_connect = lambda *_: client.subscribe(topic, 1)
    client.on_subscribe = lambda *_: print(READY, flush=True)


def publish(client: Client, port: int, topic: str, count: int, size: int, window: int) -> None:
    """So many messages at QoS 1, at most `window` of them on their way."""
    client.max_inflight_messages_set(window)
    client.max_queued_messages_set(0)
    client.connect("127.0.0.1", port)
    client.loop_start()
    for number in range(count):
        last = client.publish(topic, str(number).encode().ljust(size, b"."), qos=1)
    last.wait_for_publish(WAIT_S)
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main(sys.argv[1:])
