"""How far an image has been fetched, from what docker says of its layers line by line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

SAY_S: Final = 2.0  # between two words about it: each is a small message to whoever holds the job
MB: Final = 1_000_000  # as docker's own command counts
_LOADED: Final = ("Verifying Checksum", "Download complete", "Extracting", "Pull complete")


class Pulling:
    """Of one image. `clock`: monotonic seconds."""

    def __init__(self, image: str, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._image = image
        self._say = say
        self._clock = clock
        self._layers: dict[str, tuple[int, int]] = {}  # bytes: here, and in all
        self._unpacks = False
        self._due = -SAY_S
        self._said = ""

    def take(self, line: Mapping[str, Any]) -> None:
        """One line of docker's; now and then it says how far it is, if that is news."""
        status, layer = str(line.get("status") or ""), str(line.get("id") or "")
        detail = line.get("progressDetail") or {}
        here, total = _count(detail, "current"), _count(detail, "total")
        if status == "Downloading" and total:
            self._layers[layer] = (min(here, total), total)
        elif status in _LOADED and layer in self._layers:
            self._layers[layer] = (self._layers[layer][1], self._layers[layer][1])
            self._unpacks = self._unpacks or status == "Extracting"
        now, text = self._clock(), self.text
        if now >= self._due and text != self._said:
            self._due, self._said = now + SAY_S, text
            self._say(text)

    @property
    def text(self) -> str:
        here = sum(layer[0] for layer in self._layers.values())
        total = sum(layer[1] for layer in self._layers.values())
        if not total:
            return f"pulling {self._image}"
        if here == total and self._unpacks:
            return f"pulling {self._image}: unpacking {_mb(total)} MB"
        return f"pulling {self._image}: {_mb(here)} of {_mb(total)} MB"


def _count(detail: Any, key: str) -> int:
    value = detail.get(key) if isinstance(detail, Mapping) else None
    return value if isinstance(value, int) and value > 0 else 0


def _mb(count: int) -> str:
    return f"{count / MB:.1f}" if count < 10 * MB else str(count // MB)
