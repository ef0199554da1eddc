"""Remembered: which filters a broker may have us subscribed to, over restarts.

A session outlives the agent, and MQTT has no way to ask what is subscribed in it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from agent import durable

BYTES_MAX: Final = 4 * 1024**2  # beyond, it is not ours
_log = logging.getLogger("shoal.mqtt")


class Remembered:
    """By broker, in a small file; written when something changes, which is seldom."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._filters = _read(path)

    def of(self, broker: str) -> tuple[str, ...]:
        return tuple(self._filters.get(broker, ()))

    def add(self, filters: Iterable[tuple[str, str]]) -> None:
        """Brokers with filters, before these are subscribed to."""
        new = [each for each in filters if each[1] not in self._filters.get(each[0], {})]
        for broker, topic_filter in new:
            self._filters.setdefault(broker, {})[topic_filter] = None
        if new:
            self._write()

    def remove(self, broker: str, topic_filter: str) -> None:
        """The broker has said that it is none any more."""
        known = self._filters.get(broker, {})
        if topic_filter in known:
            del known[topic_filter]
            self._write()

    def _write(self) -> None:
        data = {broker: list(known) for broker, known in self._filters.items() if known}
        try:
            durable.write(self._path, json.dumps(data, ensure_ascii=False).encode())
        except OSError as error:  # what is forgotten costs messages that nobody hears
            _log.warning("%s: %s", self._path, error)


def _read(path: Path) -> dict[str, dict[str, None]]:
    try:
        with path.open("rb") as file:
            data = json.loads(file.read(BYTES_MAX))
        return {
            str(broker): {each: None for each in known if isinstance(each, str)}
            for broker, known in data.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        _log.warning("%s is left out: %s", path, error)
        return {}
