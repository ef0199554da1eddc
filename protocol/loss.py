"""The loss of a device's database: when it was noticed, and until when that matters.

Of one-off jobs from before nothing is remembered here, but their coordinators may still send slots
back to the volumes that they have on this device. So nothing counts as forgotten before it would
have been forgotten with the database whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from protocol.clock import Now
from protocol.effects import DropVolumes, Effect, Save
from protocol.errors import RemoteProtocolError
from protocol.wire import dumps, load_row

LOST: Final = "lost_database"  # a row of meta, written as the new database is made
NOTICED: Final = "lost_at"  # another: Unix milliseconds of the first trusted time since then


@dataclass(slots=True)
class Loss:
    """`spares` until the loss is `retain_s` ago by a trusted clock; never without a loss."""

    spares: bool
    retain_s: float
    noticed_ms: int = 0  # 0 until the time is known

    @classmethod
    def restore(cls, meta: Mapping[str, bytes], retain_s: float) -> Loss:
        """From the rows of `meta`. A date that cannot be read is taken anew: later, not earlier."""
        loss = cls(LOST in meta, retain_s)
        if NOTICED in meta:
            try:
                loss.noticed_ms = max(0, load_row(meta[NOTICED], int))
            except RemoteProtocolError:
                loss.noticed_ms = 0
        return loss

    def review(self, now: Now) -> list[Effect]:
        """Date it once the time is known; once it is over, volumes are looked through."""
        if not self.spares or not now.wall_trusted:
            return []
        if not self.noticed_ms:
            self.noticed_ms = now.wall_ms
            return [Save((("meta", NOTICED, dumps(self.noticed_ms)),))]
        if now.wall_ms < self.noticed_ms + int(self.retain_s * 1000):
            return []
        self.spares = False
        return [DropVolumes()]
