"""Foreign records: those among the standing ones whose kind this version does not know.

They are kept and passed on byte for byte and never acted on, so that what a later version holds on
every peer reaches its peers through this one (DESIGN 4). Each is an item of its own, named by its
bytes, for nobody here knows what would take its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from protocol import ids
from protocol.effects import Bucket
from protocol.errors import RemoteProtocolError
from protocol.ids import JobId
from protocol.records import Keyring, Unknown
from protocol.unread import Unread
from protocol.wire import Sealed, open_sealed

BUCKET: Final[Bucket] = "foreign"
# Which role their author needs is not known here, so that any member could fill what is kept.
RECORDS_MAX: Final = 1_000
BYTES_MAX: Final = 4 * 1024 * 1024

Row = tuple[Bucket, str, bytes | None]


@dataclass(slots=True)
class Foreign:
    """The records by their names, which stand where other items have their job's id. `known` are
    those on disk that are foreign no more, since an upgrade: to be taken up elsewhere."""

    records: dict[JobId, bytes] = field(default_factory=dict)
    known: list[Sealed] = field(default_factory=list)
    _bytes: int = 0

    def restore(self, rows: Mapping[str, bytes], keyring: Keyring) -> list[Unread]:
        """Rebuild from disk; returns the rows that could not be read."""
        unreadable: list[Unread] = []
        for key in sorted(rows):
            try:
                sealed = open_sealed(rows[key], keyring)
            except RemoteProtocolError as error:
                unreadable.append(Unread(BUCKET, key, str(error)))
                continue
            if is_foreign(sealed):
                self.take(sealed)
            else:
                self.known.append(sealed)
        return unreadable

    def room(self, size_bytes: int) -> bool:
        return len(self.records) < RECORDS_MAX and self._bytes + size_bytes <= BYTES_MAX

    def take(self, sealed: Sealed) -> Row:
        """Hold one that was verified; the row to save."""
        key = name_of(sealed.data)
        if key not in self.records:
            self.records[key] = sealed.data
            self._bytes += len(sealed.data)
        return (BUCKET, key, sealed.data)


def gone(sealed: Sealed) -> Row:
    """The row that deletes it here."""
    return (BUCKET, name_of(sealed.data), None)


def is_foreign(sealed: Sealed) -> bool:
    return isinstance(sealed.record, Unknown)


def name_of(data: bytes) -> JobId:
    """The key of its item, of the form of a job's id."""
    return JobId(ids.derive("shoal/foreign/1", data))
