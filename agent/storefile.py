"""The store's file: one SQLite database, its integrity, and what a full disk leaves.

Everything here blocks and belongs to one thread at a time; `store.Store` is what the agent uses.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent import durable
from agent.storesql import (
    EVENTS_KEPT,
    Change,
    EventWrite,
    Rows,
    Statement,
    StoreCorrupt,
    StoreFailed,
    event_statements,
    invite_statements,
    migrate,
    read_rows,
    row_statements,
)
from protocol.loss import LOST

DATABASE_FILE: Final = "shoal.db"
RESERVE_FILE: Final = "reserve"
RESERVE_BYTES: Final = 1 << 20  # DESIGN 8: set aside so that stop and status go on working
REFILL_FREE_BYTES: Final = 16 << 20  # set aside again only when there is room for work as well
CORRUPT_KEPT: Final = 2  # a failing card must not fill itself with its own wreckage
CHECKPOINT_COMMITS: Final = 64  # of three to five pages each: a WAL of about 1 MiB
CHECKPOINT_BYTES: Final = 1 << 19

_PRAGMAS: Final = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "busy_timeout=5000",  # somebody who looks at the file with the sqlite3 shell
    "cache_size=-512",
    "wal_autocheckpoint=2048",  # pages of 4 KiB: only should ours fail, see checkpoint_if_due
    "journal_size_limit=1048576",
    "temp_store=MEMORY",
)
_CORRUPT: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class StoreFile:
    """An open database. `aside` names what a corrupt one was renamed to when this was opened."""

    def __init__(self, data_dir: Path, *, seen_before: bool = False) -> None:
        """Open or make `<data>/shoal.db`, setting aside one that is corrupt.

        `seen_before`: this directory had a database once, so finding none is a loss as well.
        Raises StoreFailed.
        """
        self.data_dir = data_dir
        self.path = data_dir / DATABASE_FILE
        self.aside: str = ""
        self.commits = 0
        self.checkpoints = 0
        self.disk_full = False
        self._commits_due = CHECKPOINT_COMMITS
        self._bytes_due = CHECKPOINT_BYTES
        self._rows: Rows | None = None  # from the check at opening, until taken or changed
        self._connection = self._open_or_replace(seen_before)
        self.refill_reserve()

    def load(self) -> Rows:
        """Every row by bucket and key; each known bucket is there. Raises StoreFailed."""
        rows, self._rows = self._rows, None
        try:
            return read_rows(self._connection, self.path) if rows is None else rows
        except sqlite3.Error as error:
            raise _failure(error, self.path) from error

    def load_invites(self) -> dict[tuple[str, str], bytes]:
        """Values by invite id and peer id. Raises StoreFailed."""
        try:
            found = self._connection.execute("SELECT id, peer, value FROM invite")
            return {(invite, peer): value for invite, peer, value in found}
        except sqlite3.Error as error:
            raise _failure(error, self.path) from error

    def load_events(self) -> list[EventWrite]:
        """The newest EVENTS_KEPT, in order. Raises StoreFailed."""
        try:
            found = self._connection.execute(
                "SELECT seq, at_ms, value FROM event ORDER BY seq DESC LIMIT ?", (EVENTS_KEPT,)
            ).fetchall()
        except sqlite3.Error as error:
            raise _failure(error, self.path) from error
        return [(seq, at_ms, value) for seq, at_ms, value in reversed(found)]

    def commit(self, changes: Sequence[Change], events: Sequence[EventWrite]) -> None:
        """Write all of it in one transaction, durable on return. Raises StoreFailed.

        On a full disk the reserve is given up first and the transaction tried once more.
        """
        statements = row_statements(changes) + invite_statements(changes)
        self._rows = None
        try:
            try:
                self._run(statements + event_statements(events))
            except sqlite3.Error as error:
                if not _is_full(error):
                    raise
                self.disk_full = True
                if not self._release_reserve():
                    raise
                self._run(statements)
        except sqlite3.Error as error:
            raise _failure(error, self.path) from error
        self.commits += 1
        self._commits_due -= 1
        self._bytes_due -= sum(len(v) for c in changes for *_, v in c.rows if v is not None)

    def checkpoint_if_due(self) -> None:
        """Fold the WAL into the database now and then: after a commit was acknowledged, not in it.

        A failure is no loss, the WAL still holds everything, and the next commit will say it.
        """
        if self._commits_due > 0 and self._bytes_due > 0:
            return
        self._commits_due, self._bytes_due = CHECKPOINT_COMMITS, CHECKPOINT_BYTES
        self.checkpoints += 1
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def refill_reserve(self) -> bool:
        """Set space aside again if the disk has room; True where it is set aside."""
        path = self.data_dir / RESERVE_FILE
        try:
            if not path.exists() or path.stat().st_size != RESERVE_BYTES:
                disk = os.statvfs(self.data_dir)
                if disk.f_bavail * disk.f_frsize < REFILL_FREE_BYTES:
                    self.disk_full = True
                    return False
                # Written, not truncated to size: a hole would set nothing aside.
                durable.write(path, bytes(RESERVE_BYTES))
        except OSError:
            self.disk_full = True
            return False
        self.disk_full = False
        return True

    def close(self) -> None:
        """Close the database, which also folds the WAL into it; harmless when repeated."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    # ---- opening ---------------------------------------------------------------------------------

    def _open_or_replace(self, seen_before: bool) -> sqlite3.Connection:
        try:
            connection, made = self._open()
            if made and seen_before:
                self.aside = "missing"
        except StoreCorrupt:
            self.aside = self._set_aside()
            connection, made = self._open()
        if made and self.aside:
            self._remember_loss(connection)
        return connection

    def _open(self) -> tuple[sqlite3.Connection, bool]:
        """Open, migrate and check; True where there was no schema. Raises StoreFailed."""
        try:
            # Made by us first: SQLite would take the umask's rights, and its -wal takes the file's.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            durable.sync_directory(self.data_dir)
        except OSError as error:
            raise StoreFailed(f"{self.path} cannot be opened: {error.strerror}") from error
        connection = sqlite3.connect(
            self.path, check_same_thread=False, isolation_level=None, cached_statements=64
        )
        try:
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            made = migrate(connection, self.path)
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise StoreCorrupt(f"{self.path} is damaged: {verdict}")
            self._rows = read_rows(connection, self.path)
        except sqlite3.Error as error:
            connection.close()
            raise _failure(error, self.path) from error
        except StoreFailed:
            connection.close()
            raise
        return connection, made

    def _set_aside(self) -> str:
        """Rename the database with its -wal and -shm. Raises StoreFailed."""
        try:
            aside = durable.set_aside(self.path, "corrupt")
            assert aside is not None, "it was opened a moment ago"
            for side in ("-wal", "-shm"):
                companion = self.path.with_name(self.path.name + side)
                if companion.exists():
                    os.replace(companion, aside.with_name(aside.name + side))
            self._forget_old_corrupt()
            durable.sync_directory(self.data_dir)
        except OSError as error:
            raise StoreFailed(f"{self.path} cannot be set aside: {error.strerror}") from error
        return aside.name

    def _forget_old_corrupt(self) -> None:
        pattern = re.compile(rf"{re.escape(self.path.name)}\.corrupt-(\d+)")
        numbered = sorted(
            (int(found[1]), path)
            for path in self.data_dir.iterdir()
            if (found := pattern.fullmatch(path.name))
        )
        for _, path in numbered[:-CORRUPT_KEPT]:
            for side in ("", "-wal", "-shm"):
                path.with_name(path.name + side).unlink(missing_ok=True)

    def _remember_loss(self, connection: sqlite3.Connection) -> None:
        loss = Change(rows=(("meta", LOST, self.aside.encode()),))
        try:
            ((statement, values),) = row_statements((loss,))
            connection.execute(statement, values)
            self._rows = read_rows(connection, self.path)
        except sqlite3.Error as error:
            connection.close()
            raise _failure(error, self.path) from error

    # ---- writing ---------------------------------------------------------------------------------

    def _run(self, statements: Sequence[Statement]) -> None:
        """Run them as one transaction; a single one is a transaction by itself."""
        connection = self._connection
        if len(statements) == 1:
            connection.execute(*statements[0])
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.execute(*statement)
            connection.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            raise

    def _release_reserve(self) -> bool:
        """Give up the space set aside; False where that was done before."""
        try:
            (self.data_dir / RESERVE_FILE).unlink()
        except OSError:
            return False
        return True


def _is_full(error: sqlite3.Error) -> bool:
    """A quota that is used up is an error of writing, not SQLITE_FULL."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE)


def _failure(error: sqlite3.Error, path: Path) -> StoreFailed:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    kind = StoreCorrupt if code in _CORRUPT else StoreFailed
    return kind(f"{path}: {error}")
