"""What is missing of output that was asked for, told beside it on standard error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from agent.cli import units
from agent.cli.tables import note

NAMES_MAX: Final = 8  # of devices, in one line
WAITING: Final = "waiting"  # it may come yet


@dataclass(slots=True)
class Missing:
    """What cannot be had of the output: told at once where it is followed, else below it, in one
    line for all devices of which the same is to be said."""

    at_once: bool
    some: bool = False
    _waiting: int = 0
    _names: dict[str, list[str]] = field(default_factory=dict)  # by sentence
    _last: dict[str, str] = field(default_factory=dict)  # by device

    def take(self, line: dict[str, Any]) -> None:
        name, text = units.named(line.get("peer_name", ""), line["peer"]), line.get("note")
        if not text:
            self._last.pop(name, None)  # it is there again, and may go again
            return
        self.some |= bool(line["missing"])
        if self._last.get(name) == text:  # of its other stream
            return
        self._last[name] = text
        if line["cause"] == WAITING:
            self._waiting += 1
            if self._waiting <= NAMES_MAX:  # of many some will do
                note(f"output on {name} {text}")
        elif self.at_once:
            note(f"output on {name} {text}")
        else:
            names = self._names.setdefault(text, [])
            names += [name] if name not in names else []

    def tell(self) -> None:
        for text, names in self._names.items():
            more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
            note(f"output on {', '.join(names[:NAMES_MAX])}{more} {text}")
