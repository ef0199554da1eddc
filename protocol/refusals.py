"""Refusals: messages that ran nothing, or are not answered, told of by reason once a minute."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from protocol.bounds import clipped
from protocol.clock import NEVER
from protocol.effects import Effect, Tell
from protocol.ids import JobId, PeerId

TELL_S: Final = 60.0  # a broken sensor sends a hundred a second
KINDS_MAX: Final = 64  # of template and reason; the reasons of some quote what came
OTHER: Final = "other reasons"


@dataclass(slots=True)
class Kind:
    """Those of one template and reason. Names may be whatever a topic says: the first stands for
    all, or who publishes could make a kind of each."""

    name: str
    count: int = 0
    others: bool = False  # some were of another name

    def add(self, name: str) -> None:
        self.count += 1
        self.others = self.others or name != self.name

    @property
    def whose(self) -> str:
        return f"{self.name} and others" if self.others else self.name


@dataclass(slots=True)
class Refusals:
    """The first of its kind is told of at once, those of the next minute together."""

    me: PeerId
    kind: str = "trigger.refused"
    what: str = "refused"
    _untold: dict[tuple[JobId, str], Kind] = field(default_factory=dict)
    _tell_at: dict[JobId, float] = field(default_factory=dict)  # monotonic; not before

    def add(self, template: JobId, name: str, reason: str, now: float) -> list[Effect]:
        key = (template, clipped(reason))
        if key not in self._untold and len(self._untold) >= KINDS_MAX:
            key = (template, OTHER)
        self._untold.setdefault(key, Kind(name)).add(name)
        return self.on_deadline(now)

    @property
    def deadline(self) -> float:
        times = [self._tell_at.get(template, 0.0) for template, _ in self._untold]
        return min(times, default=NEVER)

    def on_deadline(self, now: float) -> list[Effect]:
        due = [key for key in self._untold if self._tell_at.get(key[0], 0.0) <= now]
        told: list[Effect] = []
        for key in due:
            (template, reason), kind = key, self._untold.pop(key)
            self._tell_at.pop(template, None)
            self._tell_at[template] = now + TELL_S
            messages = "a message was" if kind.count == 1 else f"{kind.count} messages were"
            text = f"{kind.whose}: {messages} {self.what}: {reason}"
            fields: dict[str, object] = {"count": kind.count, "reason": reason}
            told.append(Tell(self.kind, text, template, self.me, fields))
        while len(self._tell_at) > KINDS_MAX:
            del self._tell_at[next(iter(self._tell_at))]
        return told
