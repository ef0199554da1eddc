"""Ask a template a question over MQTT 5 and print the answer: python3 ask.py HOST PORT TOPIC TEXT

Needs paho-mqtt 2. The question has an id, so that sending it again, after a lost connection for
instance, is no second run, and is answered again. Exits with 0 if the run has completed, 1 if it
has not, 2 if no answer came in time.
"""

import json
import sys
import time
import uuid

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

ANSWER_S = 60.0  # longer than the template's QueueTimeout and ExecutionTimeout together
AGAIN_S = 20.0


def ask(host: str, port: int, topic: str, text: str) -> int:
    question = uuid.uuid4().bytes  # comes back as it is: this answer is that of this question
    reply = f"replies/{uuid.uuid4().hex}"  # a topic that nobody else hears
    answers = []
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)

    def heard(client, _, message):
        if getattr(message.properties, "CorrelationData", b"") == question:
            answers.append(json.loads(message.payload))

    def send():
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic = reply
        properties.CorrelationData = question
        properties.UserProperty = ("id", question.hex())
        client.publish(topic, text, 1, False, properties)

    client.on_message = heard
    client.on_connect = lambda *_: client.subscribe(reply, 1)
    client.on_subscribe = lambda *_: send()  # not before: the answer could be there first
    client.connect(host, port)
    client.loop_start()
    end, again = time.monotonic() + ANSWER_S, time.monotonic() + AGAIN_S
    while not answers and time.monotonic() < end:
        time.sleep(0.05)
        if time.monotonic() > again and client.is_connected():
            again += AGAIN_S
            send()
    client.disconnect()
    client.loop_stop()
    if not answers:
        print("no answer", file=sys.stderr)
        return 2
    answer = answers[0]
    if answer["state"] == "completed":
        print(answer["stdout"], end="")
        return 0
    print(f"{answer['state']}: {answer['error']}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(ask(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]))
