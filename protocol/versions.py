"""The versions: what a standing job's latest specs were before the present one.

Of this peer's disk alone: no other needs them, and who was away for one has not got it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from protocol.effects import Bucket
from protocol.errors import RemoteProtocolError
from protocol.ids import JobId, PeerId, Revision, revision_of
from protocol.job import JobSpec
from protocol.records import Keyring, Spec
from protocol.unread import Unread
from protocol.wire import RECORD_BYTES_MAX, dumps, loads, open_sealed

KEPT: Final = 5  # of one job, beside the present one: what somebody may want to go back to
BYTES_MAX: Final = 4 * 1024 * 1024  # of all jobs together: most specs are under 1 KB
ROW_BYTES_MAX: Final = KEPT * (RECORD_BYTES_MAX + 32)

Row = tuple[Bucket, str, bytes | None]


@dataclass(frozen=True, slots=True)
class Version:
    """One spec record of a standing job; `spec` is None where this version cannot read it."""

    since_ms: int  # wall; when this peer first held it
    generation: int
    revision: Revision
    author: PeerId
    spec: JobSpec | None

    @classmethod
    def of(cls, data: bytes, since_ms: int, keyring: Keyring) -> Version:
        """Raises RemoteProtocolError for what is no spec record."""
        sealed = open_sealed(data, keyring)
        record = sealed.record
        if not isinstance(record, Spec):
            raise RemoteProtocolError("a spec record is needed")
        try:
            spec = JobSpec.decode(record.body)
        except (RemoteProtocolError, ValueError):
            spec = None
        return cls(since_ms, record.generation, revision_of(sealed.body), sealed.author, spec)


@dataclass(slots=True)
class Versions:
    """By job, the oldest first: sealed, with the time since when it was held here. What cannot be
    read of them at the start keeps its place, is shown to nobody, and goes when its turn comes."""

    keyring: Keyring
    held: dict[JobId, list[tuple[bytes, int]]] = field(default_factory=dict)
    _unread: dict[bytes, None] = field(default_factory=dict)
    _bytes: int = 0

    def restore(self, rows: Mapping[str, bytes]) -> list[Unread]:
        """Rebuild from disk; returns the rows of which something could not be read."""
        unreadable: list[Unread] = []
        for key in sorted(rows):
            try:
                pairs = _pairs(rows[key])
            except (RemoteProtocolError, ValueError) as error:
                unreadable.append(Unread("version", key, str(error)))
                continue
            if why := self._note_unread(pairs):
                unreadable.append(Unread("version", key, why))
            self.held[JobId(key)] = pairs
            self._bytes += sum(len(data) for data, _ in pairs)
        return unreadable

    def _note_unread(self, pairs: list[tuple[bytes, int]]) -> str:
        """Why the last that cannot be read is none; empty where all can."""
        why = ""
        for data, since_ms in pairs:
            try:
                Version.of(data, since_ms, self.keyring)
            except RemoteProtocolError as error:
                self._unread[data] = None
                why = str(error)
        return why

    def keep(self, job: JobId, data: bytes, since_ms: int) -> list[Row]:
        """A spec that another one has taken the place of; the row to save.

        The oldest of the same job makes room; where that is not enough, nothing more is kept.
        """
        mine = self.held.pop(job, [])
        mine.append((data, since_ms))
        self._bytes += len(data)
        while mine and (len(mine) > KEPT or self._bytes > BYTES_MAX):
            self._bytes -= len(mine.pop(0)[0])
        if not mine:
            return [("version", job, None)]
        self.held[job] = mine
        return [("version", job, dumps([[each, since] for each, since in mine]))]

    def forget(self, job: JobId) -> list[Row]:
        """The job was deleted: nobody goes back to anything of it."""
        mine = self.held.pop(job, [])
        self._bytes -= sum(len(data) for data, _ in mine)
        return [("version", job, None)] if mine else []

    def of(self, job: JobId) -> list[Version]:
        pairs = [each for each in self.held.get(job, ()) if each[0] not in self._unread]
        return [Version.of(data, since, self.keyring) for data, since in pairs]


def _pairs(row: bytes) -> list[tuple[bytes, int]]:
    """A row's entries, of which a later version may say more. Raises RemoteProtocolError or
    ValueError."""
    entries = msgspec.convert(loads(row, ROW_BYTES_MAX), list[list[object]])
    return msgspec.convert([entry[:2] for entry in entries], list[tuple[bytes, int]])
