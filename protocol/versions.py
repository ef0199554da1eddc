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
from protocol.wire import RECORD_BYTES_MAX, dumps, loads, open_sealed

KEPT: Final = 5  # of one job, beside the present one: what somebody may want to go back to
ROW_BYTES_MAX: Final = KEPT * (RECORD_BYTES_MAX + 32)

Row = tuple[Bucket, str, bytes | None]


@dataclass(frozen=True, slots=True)
class Version:
    """One spec record of a standing job; `spec` is None where this version cannot read it."""

    data: bytes
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
        except ValueError:
            spec = None
        revision = revision_of(sealed.body)
        return cls(data, since_ms, record.generation, revision, sealed.author, spec)


@dataclass(slots=True)
class Versions:
    """By job, the oldest first."""

    keyring: Keyring
    held: dict[JobId, tuple[Version, ...]] = field(default_factory=dict)

    def restore(self, rows: Mapping[str, bytes]) -> list[str]:
        """Rebuild from disk; returns the keys of rows that could not be read."""
        unreadable: list[str] = []
        for key in sorted(rows):
            try:
                pairs = msgspec.convert(loads(rows[key], ROW_BYTES_MAX), list[tuple[bytes, int]])
                found = tuple(Version.of(data, since, self.keyring) for data, since in pairs)
            except (RemoteProtocolError, ValueError):
                unreadable.append(key)
                continue
            self.held[JobId(key)] = found
        return unreadable

    def keep(self, job: JobId, data: bytes, since_ms: int) -> list[Row]:
        """A spec that another one has taken the place of; the row to save."""
        version = Version.of(data, since_ms, self.keyring)
        self.held[job] = (*self.held.get(job, ()), version)[-KEPT:]
        value = dumps([[each.data, each.since_ms] for each in self.held[job]])
        return [("version", job, value)]

    def forget(self, job: JobId) -> list[Row]:
        """The job was deleted: nobody goes back to anything of it."""
        return [("version", job, None)] if self.held.pop(job, None) is not None else []

    def of(self, job: JobId) -> tuple[Version, ...]:
        return self.held.get(job, ())
