"""Trigger: which messages run a template, and how the task is given the one that did.

What a JMESPath expression means is not decided here: this module holds its text, the agent reads
and evaluates it (`agent.mqtt.expressions`).
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from enum import StrEnum
from typing import Final

import msgspec

from protocol.bounds import PAYLOAD_BYTES_MAX, TOPIC_CHARS_MAX
from protocol.errors import JobSpecError
from protocol.quantities import format_duration, format_size, parse_duration_s, parse_size_bytes
from protocol.records import Heard
from protocol.tree import Node, Plain, shown

FIELDS: Final = ("Mqtt", "Prefer")
MQTT_FIELDS: Final = (
    "Broker",
    "Topic",
    "QoS",
    "When",
    "Input",
    "Debounce",
    "MaxPerMinute",
    "Dedup",
    "Retained",
    "BytesMax",
    "Answers",
)
DEDUP_FIELDS: Final = ("Key",)
PREFER_FIELDS: Final = ("NearTrigger",)
FIRED_FIELDS: Final = ("Topic", "Key", "Input", "Payload", "Near")

TOPIC_BYTES_MAX: Final = TOPIC_CHARS_MAX
EXPRESSION_BYTES_MAX: Final = 1024
QOS_MAX: Final = (
    1  # a key makes exactly one job of what comes twice; QoS 2 does not outlive a crash
)
BYTES_DEFAULT: Final = 16 * 1024
BYTES_MAX: Final = PAYLOAD_BYTES_MAX
PER_MINUTE_MAX: Final = 6_000
DEBOUNCE_S_MAX: Final = 86_400
KEY_CHARS_MAX: Final = 128  # derived.RUN_KEY_CHARS_MAX

BROKER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
BROKER_ALLOWED: Final = "allowed: the name of a broker in the devices' configuration"
MESSAGE: Final = "message"  # where the task finds it: a file in its own directory
_OCTETS: Final = "data:application/octet-stream;base64,"


class Input(StrEnum):
    """How the task is given the message."""

    FILE = "file"  # whatever it holds
    STDIN = "stdin"
    ENV = "env"  # text alone: a variable holds neither NUL nor what is no UTF-8


class MqttTrigger(msgspec.Struct, frozen=True, kw_only=True):
    """Messages of one topic filter at one broker, as far as they pass what else stands here."""

    broker: str
    topic: str  # with + and #
    qos: int = QOS_MAX
    when: str = ""  # JMESPath over the payload; runs where it gives something true
    input: Input = Input.FILE
    debounce_s: int = 0  # after one that fires, those within so long are dropped
    per_minute: int = 0  # more are refused; zero: as many as come
    keyed: bool = False  # each message has a key; every device that may hears it, and one fires
    key: str = ""  # JMESPath over the payload, for a message that brings no id itself
    retained: bool = False  # whether one that the broker has kept from earlier fires
    bytes_max: int = BYTES_DEFAULT
    answers: str = ""  # a filter of the topics that answers may go to; empty: any

    @classmethod
    def read(cls, node: Node) -> MqttTrigger:
        fields = node.fields(*MQTT_FIELDS)
        return cls(
            broker=fields.need("Broker").matching(BROKER, BROKER_ALLOWED),
            topic=_read_filter(fields.need("Topic")),
            qos=fields.read("QoS", lambda at: at.integer(0, QOS_MAX), QOS_MAX),
            when=fields.read("When", _read_expression, ""),
            input=Input(fields.get_or("Input", Input.FILE).choice(tuple(Input), "an input")),
            debounce_s=fields.read("Debounce", _read_debounce_s, 0),
            per_minute=fields.read("MaxPerMinute", lambda at: at.integer(1, PER_MINUTE_MAX), 0),
            keyed=fields.get("Dedup") is not None,
            key=fields.read("Dedup", _read_dedup, ""),
            retained=fields.read("Retained", Node.flag, False),
            bytes_max=fields.read("BytesMax", _read_bytes_max, BYTES_DEFAULT),
            answers=fields.read("Answers", _read_filter, ""),
        )

    def to_plain(self) -> dict[str, Plain]:
        tree: dict[str, Plain] = {
            "Broker": self.broker,
            "Topic": self.topic,
            "QoS": self.qos,
            "Input": self.input.value,
            "Retained": self.retained,
            "BytesMax": self.bytes_max,
        }
        parts: dict[str, Plain] = {
            "When": self.when,
            "Debounce": self.debounce_s,
            "MaxPerMinute": self.per_minute,
            "Answers": self.answers,
        }
        if self.keyed:
            tree["Dedup"] = {"Key": self.key} if self.key else {}
        return tree | {name: part for name, part in parts.items() if part}

    def longest(self) -> Heard:
        """As long a message as there may be: what a run of it takes, no other exceeds."""
        return Heard("x" * TOPIC_BYTES_MAX, b"x" * self.bytes_max)


class Trigger(msgspec.Struct, frozen=True, kw_only=True):
    """What runs a template by itself."""

    mqtt: MqttTrigger
    near: bool = False  # its runs prefer the device that heard the message

    @classmethod
    def read(cls, node: Node) -> Trigger:
        """Read a template's `Trigger`. Raises JobSpecError."""
        fields = node.fields(*FIELDS)
        mqtt = MqttTrigger.read(fields.need("Mqtt"))
        return cls(mqtt=mqtt, near=fields.read("Prefer", _read_near, False))

    def to_plain(self) -> dict[str, Plain]:
        tree: dict[str, Plain] = {"Mqtt": self.mqtt.to_plain()}
        return {**tree, "Prefer": {"NearTrigger": True}} if self.near else tree

    def fired(self, message: Heard, key: str) -> Fired:
        """What a run of this message knows of it. Raises JobSpecError for one that a variable
        cannot hold."""
        payload = ""
        if self.mqtt.input is Input.ENV:
            payload = text_of(message.payload)
        return Fired(
            topic=message.topic, key=key, input=self.mqtt.input, payload=payload, near=self.near
        )


class Fired(msgspec.Struct, frozen=True, kw_only=True):
    """What a run knows of the message that fired it; in no job file, the agent writes it."""

    topic: str
    key: str
    input: Input
    payload: str = ""  # where the task is given it as a variable
    near: bool = False

    @classmethod
    def read(cls, node: Node) -> Fired:
        fields = node.fields(*FIRED_FIELDS)
        return cls(
            topic=fields.need("Topic").text(TOPIC_BYTES_MAX),
            key=fields.need("Key").text(4 * KEY_CHARS_MAX),
            input=Input(fields.need("Input").choice(tuple(Input), "an input")),
            payload=fields.read("Payload", lambda at: at.text(BYTES_MAX), ""),
            near=fields.read("Near", Node.flag, False),
        )

    def to_plain(self) -> dict[str, Plain]:
        tree: dict[str, Plain] = {
            "Topic": self.topic,
            "Key": self.key,
            "Input": self.input.value,
        }
        tree |= {"Payload": self.payload} if self.payload else {}
        return {**tree, "Near": True} if self.near else tree

    @property
    def environment(self) -> dict[str, str]:
        """What the task sees of it beside its input."""
        found = {"SHOAL_TRIGGER_TOPIC": self.topic, "SHOAL_TRIGGER_ID": self.key}
        if self.input is Input.ENV:
            return {**found, "SHOAL_TRIGGER_PAYLOAD": self.payload}
        return {**found, "SHOAL_TRIGGER_FILE": MESSAGE}


def task_with(task: dict[str, Plain], fired: Fired, message: Heard) -> dict[str, Plain]:
    """The task's tree with the message among its inputs, where it is given as a file or stdin."""
    if fired.input is Input.ENV:
        return task
    url = _OCTETS + b64encode(message.payload).decode()
    source: Plain = {"Type": "inline", "Params": {"URL": url}}
    sources = task.get("InputSources", [])
    assert isinstance(sources, list)
    tree = {**task, "InputSources": [*sources, {"Source": source, "Target": MESSAGE}]}
    return {**tree, "Stdin": MESSAGE} if fired.input is Input.STDIN else tree


def text_of(payload: bytes) -> str:
    """The payload as the value of a variable. Raises JobSpecError."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        raise JobSpecError("", "the payload is no text in UTF-8, which Input: env needs") from None
    if "\0" in text:
        raise JobSpecError("", "the payload holds a NUL, which no variable can")
    return text


def key_of(given: str | bytes) -> str:
    """A run's key from what a message calls itself: as it is where it is short and printable, else
    its hash, so that two things of different names have different keys."""
    raw = given.encode(errors="surrogatepass") if isinstance(given, str) else given
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = ""
    if 0 < len(text) <= KEY_CHARS_MAX and text.isprintable() and not text.startswith(_HASHED):
        return text
    return _HASHED + hashlib.sha256(raw).hexdigest()


_HASHED: Final = "sha256:"


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a topic is among those of a filter (MQTT 5, 4.7): `+` is one level, `#` all that
    follow and the one above; neither begins with a `$` that is not written."""
    if topic.startswith("$") and topic_filter[:1] in ("+", "#"):
        return False
    levels, wanted = topic.split("/"), topic_filter.split("/")
    if wanted[-1] == "#":
        wanted = wanted[:-1]
        levels = levels[: len(wanted)]
    pairs = zip(wanted, levels, strict=False)
    return len(wanted) == len(levels) and all(want in ("+", level) for want, level in pairs)


def _read_filter(node: Node) -> str:
    text = node.text(TOPIC_BYTES_MAX)
    allowed = "allowed: levels between slashes, + for any one, # at the end for all that follow"
    levels = text.split("/")
    if not text or not text.isprintable():
        node.fail(f"{shown(text)} is no topic; {allowed}")
    for at, level in enumerate(levels):
        last = at == len(levels) - 1
        if level != "+" and "+" in level:
            node.fail(f"{shown(level)}: + stands for a whole level; {allowed}")
        if "#" in level and (level != "#" or not last):
            node.fail(f"{shown(level)}: # is a level of its own, and the last; {allowed}")
    if levels[0] == "$share":
        node.fail("a shared subscription is not needed: with a key one device fires, and no other")
    return text


def _read_expression(node: Node) -> str:
    text = node.text(EXPRESSION_BYTES_MAX).strip()
    if not text:
        node.fail("is empty; allowed: a JMESPath expression over the payload, e.g. state == 'ON'")
    return text


def _read_dedup(node: Node) -> str:
    return node.fields(*DEDUP_FIELDS).read("Key", _read_expression, "")


def _read_debounce_s(node: Node) -> int:
    return node.quantity(parse_duration_s, 0, DEBOUNCE_S_MAX, format_duration)


def _read_bytes_max(node: Node) -> int:
    return node.quantity(parse_size_bytes, 1, BYTES_MAX, format_size)


def _read_near(node: Node) -> bool:
    return node.fields(*PREFER_FIELDS).read("NearTrigger", Node.flag, False)
