"""What is missing of output that was asked for, told beside it on standard error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from agent.cli import units
from agent.cli.tables import note

NAMES_MAX: Final = 8  # of devices, in one line
WAITING: Final = "waiting"  # it may come yet
Key = tuple[str | None, str]


@dataclass(slots=True)
class Missing:
    """What cannot be had of the output: told at once where it is followed, else below it, in one
    line for all devices of which the same is to be said."""

    at_once: bool
    some: bool = False
    _waiting: int = 0
    _names: dict[str, list[str]] = field(default_factory=dict)  # by sentence
    # By device: what holds of each stream of an execution there.
    _holds: dict[str, dict[Key, str]] = field(default_factory=dict)

    def take(self, line: dict[str, Any]) -> None:
        name, text = units.named(line.get("peer_name", ""), line["peer"]), line.get("note")
        key, holds = (line.get("execution"), line["stream"]), self._holds.setdefault(name, {})
        if not text:
            if key in holds:  # it is there again, and may go again
                before = holds[key]
                self._holds[name] = {k: told for k, told in holds.items() if told != before}
            return
        self.some |= bool(line["missing"])
        told_before, holds[key] = text in holds.values(), text
        if told_before:  # of its other stream
            return
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
