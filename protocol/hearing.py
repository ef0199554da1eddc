"""Hearing: whether what is subscribed to here arrives, as others are to take it into account.

A device whose password is wrong, or that a broker's list denies a topic, has that broker all the
same, and may rank first for its messages. What has not been heard for a while is told in its advert
(`shoal/deaf`), and others hear in its place; so is what is heard again, once that lasts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from protocol.clock import NEVER
from protocol.config import TriggersConfig
from protocol.ids import JobId

DEAF_LABEL: Final = "shoal/deaf"  # brokers, and templates whose topic is denied, between commas
ID_CHARS: Final = 12  # of a template's id: enough to tell a device's own apart
TEMPLATES_MAX: Final = 12  # of one broker that are named; beyond them the broker is
VALUE_CHARS_MAX: Final = 256  # bounds.Value


@dataclass(slots=True)
class Ear:
    """For one broker, or one template's topic there."""

    broker: str
    hears: bool
    since: float  # monotonic
    deaf: bool = False  # as others are told


@dataclass(slots=True)
class Hearing:
    """The one writer of what this device does not hear."""

    config: TriggersConfig
    _ears: dict[str, Ear] = field(default_factory=dict)  # by word

    def on_broker(self, broker: str, connected: bool, now: float) -> None:
        self._hear(broker, broker, connected, now)

    def on_topic(self, template: JobId, broker: str, granted: bool, now: float) -> None:
        self._hear(_word(template), broker, granted, now)

    def keep(self, templates: Iterable[JobId]) -> None:
        """Only these are subscribed to; of others nothing is known."""
        words = {_word(template): None for template in templates}
        for word, ear in list(self._ears.items()):
            if word != ear.broker and word not in words:
                del self._ears[word]

    def _hear(self, word: str, broker: str, hears: bool, now: float) -> None:
        ear = self._ears.get(word)
        if ear is None or ear.broker != broker:
            ear = self._ears[word] = Ear(broker, True, now)
        if ear.hears is not hears:
            ear.hears, ear.since = hears, now

    # ---- what others are told ----------------------------------------------------------------

    def label(self) -> dict[str, str]:
        deaf = [(word, ear.broker) for word, ear in self._ears.items() if ear.deaf]
        brokers = {broker: 0 for word, broker in deaf if word == broker}
        topics = [(word, broker) for word, broker in deaf if broker not in brokers]
        for broker in dict.fromkeys(broker for _, broker in topics):
            if sum(1 for _, each in topics if each == broker) > TEMPLATES_MAX:
                brokers[broker] = 0
        words = sorted([*brokers, *(word for word, broker in topics if broker not in brokers)])
        value = ""
        for word in words:
            longer = f"{value},{word}" if value else word
            value = longer if len(longer) <= VALUE_CHARS_MAX else value
        return {DEAF_LABEL: value} if value else {}

    @property
    def deadline(self) -> float:
        turning = [ear.since for ear in self._ears.values() if ear.deaf is ear.hears]
        return min(turning, default=NEVER) + self.config.deaf_s

    def on_deadline(self, now: float) -> None:
        for ear in self._ears.values():
            if ear.deaf is ear.hears and ear.since + self.config.deaf_s <= now:
                ear.deaf = not ear.hears


def hears(labels: Mapping[str, str], broker: str, template: JobId) -> bool:
    """Whether a device with these labels hears the messages of a template at a broker it has."""
    words = labels.get(DEAF_LABEL, "").split(",")
    return broker not in words and _word(template) not in words


def reaches(labels: Mapping[str, str], broker: str) -> bool:
    """Whether such a device is connected to a broker it has, as far as it says."""
    return broker not in labels.get(DEAF_LABEL, "").split(",")


def _word(template: JobId) -> str:
    """No name of a broker has a colon."""
    return f":{template[:ID_CHARS]}"
