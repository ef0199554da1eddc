"""The store's SQL: the schema with its migrations, and what a transaction is made of."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.effects import BUCKETS
from protocol.errors import ShoalError

EVENTS_KEPT: Final = 2000  # about 0.5 MB
ROWS_A_STATEMENT: Final = 64

Rows = dict[str, dict[str, bytes]]
RowWrite = tuple[str, str, bytes | None]  # bucket, key, value; None deletes
InviteWrite = tuple[str, str, bytes | None]  # invite id, peer id or "", value
EventWrite = tuple[int, int, str]  # seq, Unix milliseconds, JSON

Statement = tuple[str, tuple[object, ...]]

# `crc` because SQLite checks its own structure but not a byte that flipped within a value.
_MIGRATIONS: Final = (
    """
    CREATE TABLE row(bucket TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
      crc INTEGER NOT NULL, PRIMARY KEY(bucket, key)) WITHOUT ROWID;
    CREATE TABLE invite(id TEXT NOT NULL, peer TEXT NOT NULL, value BLOB NOT NULL,
      PRIMARY KEY(id, peer)) WITHOUT ROWID;
    CREATE TABLE event(seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, value TEXT NOT NULL);
    CREATE TABLE migration(version INTEGER PRIMARY KEY);
    """,
)


class StoreFailed(ShoalError):
    """The disk did not take it or give it back. The store is unusable until it is reloaded."""


class StoreCorrupt(StoreFailed):
    """What the file holds cannot be trusted."""


@dataclass(frozen=True, slots=True)
class Change:
    """What goes into one transaction."""

    rows: Sequence[RowWrite] = ()
    invites: Sequence[InviteWrite] = ()


def migrate(connection: sqlite3.Connection, path: Path) -> bool:
    """Bring the schema up to date; True where there was none. Raises StoreFailed."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(_MIGRATIONS):
        raise StoreFailed(
            f"{path} was made by a newer version of shoal (schema {version}, this one knows "
            f"{len(_MIGRATIONS)}): update shoal on this device"
        )
    if version == 0 and connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise StoreCorrupt(f"{path} has tables but no version")
    for number, script in enumerate(_MIGRATIONS[version:], version + 1):
        connection.execute("BEGIN IMMEDIATE")
        for statement in filter(str.strip, script.split(";")):
            connection.execute(statement)
        connection.execute("INSERT INTO migration VALUES(?)", (number,))
        connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
    return bool(version == 0)


def read_rows(connection: sqlite3.Connection, path: Path) -> Rows:
    """Every row by bucket and key; each bucket is there. Raises StoreCorrupt, sqlite3.Error."""
    connection.text_factory = _lenient
    rows: Rows = {bucket: {} for bucket in BUCKETS}
    before = ("", "")
    for bucket, key, value, crc in connection.execute(
        "SELECT bucket, key, value, crc FROM row ORDER BY bucket, key"
    ):
        # The order is that of the tree, nothing is sorted: quick_check does not look at it.
        whole = isinstance(value, bytes) and crc == _crc(str(bucket), str(key), value)
        if not whole or (bucket, key) <= before:
            raise StoreCorrupt(f"a row of {path} is damaged")
        before = (bucket, key)
        rows.setdefault(bucket, {})[key] = value
    return rows


# Few statements of many rows: the interpreter lock changes hands at each, up to 5 ms under load.


def row_statements(changes: Sequence[Change]) -> list[Statement]:
    """What is left of `changes` once a later write of a row replaced the earlier."""
    last: dict[tuple[str, str], bytes | None] = {}
    for change in changes:
        for bucket, key, value in change.rows:
            last[bucket, key] = value
    kept = [
        (bucket, key, value, _crc(bucket, key, value))
        for (bucket, key), value in last.items()
        if value is not None
    ]
    gone = [at for at, value in last.items() if value is None]
    return _many("INSERT OR REPLACE INTO row VALUES {}", kept) + _many(
        "DELETE FROM row WHERE (bucket, key) IN (VALUES {})", gone
    )


def invite_statements(changes: Sequence[Change]) -> list[Statement]:
    statements: list[Statement] = []
    for change in changes:
        for invite, peer, value in change.invites:
            if value is None:
                gone = "DELETE FROM invite WHERE id = ? AND peer = ?"
                statements.append((gone, (invite, peer)))
            else:
                put = "INSERT OR REPLACE INTO invite VALUES(?, ?, ?)"
                statements.append((put, (invite, peer, value)))
    return statements


def event_statements(events: Sequence[EventWrite]) -> list[Statement]:
    """Append to the ring; what is over its size goes now and then, not with each event."""
    statements = _many("INSERT OR REPLACE INTO event VALUES {}", events)
    if events and events[-1][0] // 128 != (events[0][0] - 1) // 128:
        oldest = "(SELECT seq FROM event ORDER BY seq DESC LIMIT 1 OFFSET ?)"
        statements.append((f"DELETE FROM event WHERE seq <= {oldest}", (EVENTS_KEPT,)))
    return statements


def _many(statement: str, tuples: Sequence[tuple[object, ...]]) -> list[Statement]:
    """`statement` with a VALUES list, as often as the tuples need."""
    made: list[Statement] = []
    for start in range(0, len(tuples), ROWS_A_STATEMENT):
        part = tuples[start : start + ROWS_A_STATEMENT]
        group = "(" + ",".join("?" * len(part[0])) + ")"
        flat = tuple(value for values in part for value in values)
        made.append((statement.format(",".join([group] * len(part))), flat))
    return made


def _crc(bucket: str, key: str, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(f"{bucket}\0{key}\0".encode()))


def _lenient(text: bytes) -> str:
    """A flipped byte in a key is for the CRC to find, not an error of decoding."""
    return text.decode("utf-8", "replace")
