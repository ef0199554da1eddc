"""Commanding: the shoal's own topics for commands, heard where [mqtt] allow lists anything.

What a command may do is the node's to decide. None of them waits at the broker for a device that is
away: a switch that comes hours late would undo what was done since then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from agent.mqtt.broker import Brokers
from agent.mqtt.message import Incoming
from protocol.events import Commanded, CommandHeard, Event

PAYLOAD_BYTES_MAX: Final = 64  # of which the node sees so much: no command is longer
# A name, or a namespace and a name, between the two.
TOPICS: Final = {Commanded.DAEMON: ("daemon/", "/set"), Commanded.TEMPLATE: ("trigger/", "")}


def topic_of(root: str, kind: Commanded, word: str) -> str:
    begin, end = TOPICS[kind]
    return f"{root}/{begin}{word}{end}"


class Commanding:
    """Subscribes at once, for good, with every broker."""

    def __init__(
        self, brokers: Brokers, allow: Sequence[str], post: Callable[[Event], None]
    ) -> None:
        self._root = brokers.root
        self._post = post
        for kind in Commanded:
            if any(word.startswith(f"{kind.value}/") for word in allow):
                for broker in brokers:
                    for words in ("+", "+/+"):
                        topics = topic_of(self._root, kind, words)
                        broker.subscribe(topics, 0, partial(self._heard, kind))

    def _heard(self, kind: Commanded, message: Incoming) -> None:
        begin, end = TOPICS[kind]
        word = message.topic.removeprefix(f"{self._root}/{begin}").removesuffix(end)
        payload = message.payload[:PAYLOAD_BYTES_MAX]
        self._post(CommandHeard(message.broker, kind, word, payload, message.retain))
        message.ack()
