"""The ops journal: which revisions of ops jobs were started on this device, ever (DESIGN 6).

A row is on disk before the start, in the same commit as the execution, and stays when the
execution is forgotten. What was once in it is not started again, whoever awards it.

The journal is as old as its database. Each database has a `memory`, drawn when it was made and
told in the peer's advert; the awards of a list carry it. So an award made for another memory is
older than the loss of that database: it may have been started, and nobody can know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from protocol.effects import Bucket
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId, Revision
from protocol.records import Assignment, Result, Verdict
from protocol.unread import Unread
from protocol.wire import dumps, loads

# As many as fences are kept: more ops jobs than a device runs while an award can still be on its
# way; 100 bytes each.
ENTRIES_MAX: Final = 20_000
FORGOTTEN: Final = "it ran here before, and its output is kept no longer"
UNKNOWN: Final = "it was started here, and what became of it is not known"
OTHER_MEMORY: Final = (
    "unknown: this device has lost its database since the job was accepted, and with it whether "
    "it ran; it is not started"
)

Row = tuple[Bucket, str, bytes | None]


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """One start; how it ended, once that is known."""

    ended: bool = False
    verdict: int = int(Verdict.FAULT)
    exit_code: int = -1
    unknown: bool = True


@dataclass(slots=True)
class OpsJournal:
    """At most one start per revision, as long as `memory` lasts."""

    memory: bytes
    entries: dict[Revision, Entry] = field(default_factory=dict)

    def restore(self, rows: Mapping[str, bytes], unreadable: list[Unread]) -> None:
        """Read it from disk. Of a row that cannot be read the start counts, its end is unknown."""
        for key in sorted(rows):
            try:
                entry = msgspec.convert(loads(rows[key]), Entry)
            except (RemoteProtocolError, ValueError) as error:
                unreadable.append(Unread("ops", key, str(error)))
                entry = Entry()
            self.entries[Revision(key)] = entry

    def start(self, revision: Revision) -> list[Row]:
        """The rows that have to be durable before the task is started."""
        assert revision not in self.entries, revision
        return self._put(revision, Entry())

    def end(self, result: Result) -> list[Row]:
        """How it ended, for whoever asks when its execution is forgotten."""
        entry = Entry(True, result.verdict, result.exit_code, result.unknown)
        return self._put(result.revision, entry)

    def stop(self, revision: Revision) -> list[Row]:
        """It was withdrawn."""
        return self._put(revision, Entry(True, int(Verdict.STOPPED), -1, False))

    def _put(self, revision: Revision, entry: Entry) -> list[Row]:
        rows: list[Row] = [("ops", revision, dumps(list(msgspec.structs.astuple(entry))))]
        self.entries[revision] = entry
        if len(self.entries) > ENTRIES_MAX:
            oldest = next(iter(self.entries))
            del self.entries[oldest]
            rows.append(("ops", oldest, None))
        return rows

    def answer(self, assignment: Assignment, executor: PeerId) -> Result | None:
        """What is to be said instead of starting it; None where it may be started."""
        entry = self.entries.get(assignment.revision)
        if entry is None and assignment.memory == self.memory:
            return None
        reason = OTHER_MEMORY
        if entry is not None:
            reason = UNKNOWN if entry.unknown else FORGOTTEN
            entry = entry if entry.ended else Entry()
        entry = entry or Entry()
        return Result(
            job=assignment.job,
            revision=assignment.revision,
            slot=assignment.slot,
            fence=assignment.fence,
            executor=executor,
            verdict=entry.verdict,
            exit_code=entry.exit_code,
            reason="" if entry.verdict == Verdict.SUCCESS else reason,
            started_ms=0,
            ended_ms=0,
            duration_ms=0,
            unknown=entry.unknown,
        )
