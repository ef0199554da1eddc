"""Tags: what was last had from an address, so that it is fetched again only when it has changed."""

from __future__ import annotations

import hashlib
import math
import secrets
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec

from agent.archives import KEPT_MAX, ArchiveError, Archives

DIRECTORY: Final = "tags"  # below the store
TAGS_MAX: Final = KEPT_MAX  # one for each file that is kept; few addresses share one
NEW_MAX: Final = 10_000  # between two looks at all: as many as one source of a bucket brings
LOOK_S: Final = 3600.0  # at all of them, each a file that is opened: seconds on a card
FRESH: Final = ".new"  # of one that is being written


class Tag(msgspec.Struct, frozen=True):
    """A file of the store, by digest, and what the server calls that version of it."""

    etag: str
    digest: str
    name: str | None = None  # of a download, where the server said one; None: nobody looked


class Tags:
    """One small file for each address. All of it blocks, in as many threads as fetch."""

    def __init__(self, store: Archives) -> None:
        self._store = store
        self._directory = store.directory / DIRECTORY
        self._directory.mkdir(exist_ok=True)
        for fresh in self._directory.glob(f"*{FRESH}"):
            fresh.unlink(missing_ok=True)
        self._new = 0
        self._look_at = -math.inf

    def of(self, address: str) -> Tag | None:
        """What was had from there, if it still is here."""
        tag, used = self._read(self._path(address))
        return tag if used else None

    def remember(self, address: str, tag: Tag) -> None:
        # Two executions may have had it at once: each writes a file of its own.
        fresh = self._directory / f"{secrets.token_hex(8)}{FRESH}"
        fresh.write_bytes(msgspec.json.encode(tag))
        fresh.rename(self._path(address))
        self._new += 1

    def sweep_if_due(self) -> None:
        """Once an hour, or when many have come."""
        if monotonic() >= self._look_at or self._new >= NEW_MAX:
            self.sweep()

    def sweep(self) -> None:
        """Forget those whose file is here no more, and of too many those whose was not used for
        longest."""
        self._look_at, self._new = monotonic() + LOOK_S, 0
        kept: list[tuple[float, Path]] = []
        for path in self._directory.iterdir():
            if path.suffix == FRESH:  # which another thread is about to rename
                continue
            _, used = self._read(path)
            if used:
                kept.append((used, path))
            else:
                path.unlink(missing_ok=True)  # another thread may sweep as well
        kept.sort(reverse=True)
        for _, path in kept[TAGS_MAX:]:
            path.unlink(missing_ok=True)

    def _read(self, path: Path) -> tuple[Tag | None, float]:
        """A tag, and when its file was last used, in Unix seconds; 0 where it is not here."""
        try:
            tag = msgspec.json.decode(path.read_bytes(), type=Tag)
            return tag, self._store.path(tag.digest).stat().st_mtime
        except (OSError, msgspec.MsgspecError, ArchiveError):
            return None, 0.0

    def _path(self, address: str) -> Path:
        return self._directory / hashlib.sha256(address.encode()).hexdigest()
