"""A publisher: where results go, and in what form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from protocol.s3 import S3Target
from protocol.tree import Node, Plain

PUBLISHERS: Final = ("local", "mqtt", "s3")
FIELDS: Final = ("Type", "Params")
MQTT_FIELDS: Final = ("Broker", "Topic", "QoS", "Retain", "Format", "Lines")
FORMATS: Final = ("json", "cbor", "raw")
QOS_MAX: Final = 1  # at least once with a stable id; exactly once does not outlive a crash
TOPIC_BYTES_MAX: Final = 512  # as written; Mosquitto takes 64 KiB, and people read them
# What may stand in a topic, and is filled when it is published; the shoal's own topics begin with
# {root}, which is <prefix>/<shoal>.
PLACEHOLDERS: Final = ("root", "job", "slot", "peer", "name", "execution", "namespace")
RESULT_TOPIC: Final = "{root}/job/{job}/result/{slot}"
LINES_TOPIC: Final = "{root}/job/{job}/log/{peer}"
BROKER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
BROKER_ALLOWED: Final = "allowed: the name of a broker in the devices' configuration"
_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_]+)\}")


class MqttPublisher(msgspec.Struct, frozen=True, kw_only=True):
    """To a broker that the device has under this name. `topic` empty: the shoal's own, where a
    result is retained until its job is forgotten, and lines are sent once."""

    broker: str
    topic: str = ""
    qos: int = 1
    retain: bool = True
    format: str = "json"
    lines: bool = False  # one message for each line of stdout as it is written, and no result

    @classmethod
    def read(cls, node: Node) -> MqttPublisher:
        fields = node.fields(*MQTT_FIELDS)
        topic = fields.read("Topic", _read_topic, "")
        lines = fields.read("Lines", lambda at: at.flag(), False)
        logs = lines and not topic  # for whoever looks just now (DESIGN 10)
        form = fields.read(
            "Format", lambda at: at.choice(FORMATS, "a format"), "raw" if lines else "json"
        )
        return cls(
            broker=fields.need("Broker").matching(BROKER, BROKER_ALLOWED),
            topic=topic,
            qos=fields.read("QoS", lambda at: at.integer(0, QOS_MAX), 0 if logs else 1),
            retain=fields.read("Retain", lambda at: at.flag(), not topic and not lines),
            format=form,
            lines=lines,
        )

    def to_plain(self) -> dict[str, Plain]:
        tree: dict[str, Plain] = {
            "Broker": self.broker,
            "QoS": self.qos,
            "Retain": self.retain,
            "Format": self.format,
            "Lines": self.lines,
        }
        return {**tree, "Topic": self.topic} if self.topic else tree

    def topic_for(self, values: Mapping[str, str]) -> str:
        """Filled in; what stands in a place of its own can be no wildcard and no level more."""
        pattern = self.topic or (LINES_TOPIC if self.lines else RESULT_TOPIC)
        return _PLACEHOLDER.sub(lambda found: values[found[1].lower()], pattern)

    @property
    def own_topic(self) -> bool:
        """One of the shoal's own tree, which is cleared when the job is forgotten."""
        return not self.topic and not self.lines


class PublisherSpec(msgspec.Struct, frozen=True):
    """Where results go. `local`: kept by the executor, fetched by whoever asks, which all are.
    `s3`: brought to a bucket as well, `mqtt`: told to a broker."""

    type: str = "local"
    mqtt: MqttPublisher | None = None
    s3: S3Target | None = None

    @classmethod
    def read(cls, node: Node) -> PublisherSpec:
        fields = node.fields(*FIELDS)
        at = fields.get("Type")
        # Bacalhau writes an empty type where nothing was chosen.
        kind = "local" if at is None or at.value == "" else at.choice(PUBLISHERS, "a publisher")
        if kind == "mqtt":
            return cls(kind, MqttPublisher.read(fields.need("Params")))
        if kind == "s3":
            return cls(kind, s3=S3Target.read(fields.need("Params")))
        if params := fields.get("Params"):
            params.fields()  # `local` has none
        return cls(kind)

    def to_plain(self) -> dict[str, Plain]:
        params = self.mqtt or self.s3
        return {"Type": self.type, **({"Params": params.to_plain()} if params else {})}

    def check_standing(self, node: Node) -> None:
        """A task that never ends has no result to publish. Raises JobSpecError."""
        if self.mqtt is not None and not self.mqtt.lines:
            node.fail("a daemon or service has no result; write Lines: true for its output")


def _read_topic(node: Node) -> str:
    topic = node.word(TOPIC_BYTES_MAX)
    if any(sign in topic for sign in "+#") or topic.startswith("$"):
        node.fail("nothing is published to a wildcard; allowed: a topic without +, # and $")
    if not topic.isprintable():  # brokers end the connection over it (MQTT 5, 1.5.4)
        node.fail("a sign that cannot be printed; allowed: letters, digits and punctuation")
    for found in _PLACEHOLDER.findall(topic):
        if found.lower() not in PLACEHOLDERS:
            known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            node.fail(f"{{{found}}} stands for nothing; allowed: {known}")
    return topic
