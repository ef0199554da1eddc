"""Denied: topics that a broker does not allow: not tried for a while, and told of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agent.mqtt.session import DENIED_S

TOPICS_MAX: Final = 256
# How long one is told of that nobody tries again: results are, once an hour, and that says anew.
LISTED_S: Final = 3600.0 + DENIED_S


class Denied:
    """By topic; the oldest go where there are too many."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._topics: dict[str, tuple[str, float]] = {}  # why, and when it was said

    def add(self, topic: str, why: str) -> None:
        self._topics.pop(topic, None)
        self._topics[topic] = (why, self._now())
        if len(self._topics) > TOPICS_MAX:
            del self._topics[next(iter(self._topics))]

    def remove(self, topic: str) -> None:
        """The broker took something there."""
        self._topics.pop(topic, None)

    def why(self, topic: str) -> str:
        """Why nothing is sent there just now; empty where it is."""
        why, said = self._topics.get(topic, ("", 0.0))
        return why if why and self._now() - said < DENIED_S else ""

    def listed(self) -> dict[str, str]:
        """Those to be told of, and why."""
        now = self._now()
        return {topic: why for topic, (why, said) in self._topics.items() if now - said < LISTED_S}
