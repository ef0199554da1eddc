"""A question: a message that says where its answer goes (MQTT 5, 4.10), and whether it may.

Who may publish a trigger chooses the topic, so it is looked at as anything from outside is.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from protocol.bounds import TOPIC_CHARS_MAX
from protocol.records import Heard
from protocol.trigger import key_of, matches

CORRELATION_BYTES_MAX: Final = 256  # bounds.Correlation


class Question(msgspec.Struct, array_like=True, frozen=True):
    """Where the answer goes: the broker by its name, a topic there, and what goes back with it."""

    broker: str
    reply: str
    correlation: bytes = b""


def why_unanswerable(reply: str, correlation: bytes, root: str, topics: tuple[str, ...]) -> str:
    """Why nothing is published there; empty where it may be. `root` is the shoal's own tree, and
    `topics` are the filters that the device's owner has for what jobs publish ([accept] topics)."""
    if len(reply) > TOPIC_CHARS_MAX:
        return f"a response topic over {TOPIC_CHARS_MAX} characters"
    if len(correlation) > CORRELATION_BYTES_MAX:
        return f"correlation data over {CORRELATION_BYTES_MAX} bytes"
    if "+" in reply or "#" in reply:
        return "a response topic with a wildcard"
    if reply.startswith("$"):
        return "a response topic of the broker's own ($)"
    if not reply.isprintable():  # brokers end the connection over it (MQTT 5, 1.5.4)
        return "a response topic with a sign that cannot be printed"
    if reply == root or reply.startswith(f"{root}/"):
        return "a response topic among the shoal's own"
    if not any(matches(each, reply) for each in topics):
        line = ", ".join(f'"{each}"' for each in topics)
        return f"a response topic that jobs may not publish to ([accept] topics = [{line}])"
    return ""


def without_question(message: Heard) -> Heard:
    return Heard(message.topic, message.payload)


def whole_key(message: Heard) -> str:
    """A key for a message that has none: the same at each device that hears it."""
    h = hashlib.sha256()
    for part in (message.topic.encode(), message.reply.encode(), message.correlation):
        h.update(len(part).to_bytes(4, "big") + part)
    h.update(message.payload)
    return key_of(h.digest())
