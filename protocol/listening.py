"""Listening: which devices hear a trigger's messages, by what each says of itself.

The owner of a device lists the templates that MQTT may run there ([mqtt] allow), and its brokers;
both are in its advert, so that all agree on who is to fire. Neither authorises anything: a run is
authorised by its template's author alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from protocol.ids import JobId
from protocol.job import NAMESPACE_DEFAULT
from protocol.trigger import MqttTrigger

TEMPLATE: Final = "template/"  # before a template's name in [mqtt] allow
RUN_OF: Final = "template"  # user property of a result: the template that a message ran
ANY: Final = "*"  # at the end of a word
BROKER_LABEL: Final = "broker."  # of a device where one of the name behind it is configured
FIRES_LABEL: Final = "shoal/fires"  # what of [mqtt] allow is templates; more in those behind it
FIRES_LABELS_MAX: Final = 8  # of the 64 labels that an advert has room for
VALUE_CHARS_MAX: Final = 256  # bounds.Value


@dataclass(frozen=True, slots=True)
class TopicWatch:
    """One trigger whose messages are to be heard here."""

    template: JobId
    namespace: str
    name: str
    mqtt: MqttTrigger


def word_of(namespace: str, name: str) -> str:
    """How a template is called in [mqtt] allow, without its kind."""
    return name if namespace == NAMESPACE_DEFAULT else f"{namespace}/{name}"


def listed(words: Iterable[str], word: str) -> bool:
    """A star stands for any rest of a name; for namespaces only where none of one is written."""
    return any(_stands_for(each, word) for each in words)


def _stands_for(pattern: str, word: str) -> bool:
    if not pattern.endswith(ANY):
        return word == pattern
    start = pattern[:-1]
    whole = start == "" or start.endswith("/")
    return word.startswith(start) and (whole or "/" not in word[len(start) :])


def fires_labels(allow: Iterable[str]) -> dict[str, str]:
    """The labels that tell others; what they have no room for is not fired here."""
    words = sorted({each.removeprefix(TEMPLATE) for each in allow if each.startswith(TEMPLATE)})
    values = [""]
    for word in words:
        longer = f"{values[-1]},{word}" if values[-1] else word
        if len(longer) <= VALUE_CHARS_MAX:
            values[-1] = longer
        else:
            values.append(word)
    found = {f"{FIRES_LABEL}{at or ''}": value for at, value in enumerate(values) if value}
    return dict(list(found.items())[:FIRES_LABELS_MAX])


def allows(labels: Mapping[str, str], namespace: str, name: str) -> bool:
    """Whether the owner of a device with these labels lets MQTT run the template there."""
    word = word_of(namespace, name)
    values = [labels.get(f"{FIRES_LABEL}{at or ''}", "") for at in range(FIRES_LABELS_MAX)]
    return any(listed(value.split(","), word) for value in values if value)


def has_broker(labels: Mapping[str, str], mqtt: MqttTrigger) -> bool:
    return f"{BROKER_LABEL}{mqtt.broker}" in labels
