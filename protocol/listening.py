"""Listening: which devices hear messages, by what each says of itself.

The owner of a device lists the templates that MQTT may run there and the daemons that it may switch
([mqtt] allow), and its brokers; all is in its advert, so that all agree on who is to act. Neither
authorises anything: a run is authorised by its template's author, a daemon's record by the
certificate of the device that signs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from protocol.ids import JobId
from protocol.job import NAMESPACE_DEFAULT
from protocol.trigger import MqttTrigger

TEMPLATE: Final = "template/"  # before a template's name in [mqtt] allow
DAEMON: Final = "daemon/"  # before a daemon's
RUN_OF: Final = "template"  # user property of a result: the template that a message ran
ANY: Final = "*"  # at the end of a word
BROKER_LABEL: Final = "broker."  # of a device where one of the name behind it is configured
FIRES_LABEL: Final = "shoal/fires"  # what of [mqtt] allow is templates; more in those behind it
FIRES_LABELS_MAX: Final = 8  # of the 64 labels that an advert has room for
SWITCHES_LABEL: Final = "shoal/switches"  # the same of daemons
SWITCHES_LABELS_MAX: Final = 4
VALUE_CHARS_MAX: Final = 256  # bounds.Value


@dataclass(frozen=True, slots=True)
class TopicWatch:
    """One trigger whose messages are to be heard here."""

    template: JobId
    namespace: str
    name: str
    mqtt: MqttTrigger


def word_of(namespace: str, name: str) -> str:
    """How a template or daemon is called in [mqtt] allow and in topics, without its kind."""
    return name if namespace == NAMESPACE_DEFAULT else f"{namespace}/{name}"


def named(word: str) -> tuple[str, str]:
    """Namespace and name of what is called so."""
    namespace, _, name = word.rpartition("/")
    return namespace or NAMESPACE_DEFAULT, name


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
    return _labels(allow, TEMPLATE, FIRES_LABEL, FIRES_LABELS_MAX)


def switches_labels(allow: Iterable[str]) -> dict[str, str]:
    """The same of daemons."""
    return _labels(allow, DAEMON, SWITCHES_LABEL, SWITCHES_LABELS_MAX)


def _labels(allow: Iterable[str], kind: str, label: str, labels_max: int) -> dict[str, str]:
    words = sorted({each.removeprefix(kind) for each in allow if each.startswith(kind)})
    values = [""]
    for word in words:
        longer = f"{values[-1]},{word}" if values[-1] else word
        if len(longer) <= VALUE_CHARS_MAX:
            values[-1] = longer
        else:
            values.append(word)
    found = {f"{label}{at or ''}": value for at, value in enumerate(values) if value}
    return dict(list(found.items())[:labels_max])


def allows(labels: Mapping[str, str], namespace: str, name: str) -> bool:
    """Whether the owner of a device with these labels lets MQTT run the template there."""
    return _allows(labels, word_of(namespace, name), FIRES_LABEL, FIRES_LABELS_MAX)


def switches(labels: Mapping[str, str], namespace: str, name: str) -> bool:
    """Whether the owner of a device with these labels lets MQTT switch the daemon from there."""
    return _allows(labels, word_of(namespace, name), SWITCHES_LABEL, SWITCHES_LABELS_MAX)


def _allows(labels: Mapping[str, str], word: str, label: str, labels_max: int) -> bool:
    values = [labels.get(f"{label}{at or ''}", "") for at in range(labels_max)]
    return any(listed(value.split(","), word) for value in values if value)


def has_broker(labels: Mapping[str, str], broker: str) -> bool:
    return f"{BROKER_LABEL}{broker}" in labels
