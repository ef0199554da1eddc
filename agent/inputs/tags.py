"""Tags: what was last had from an address, so that it is fetched again only when it has changed."""

from __future__ import annotations

import hashlib
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from agent.archives import ArchiveError, Archives

DIRECTORY: Final = "tags"  # below the store
KEEP_S: Final = 30 * 86_400  # those whose file is gone, which nobody asked for again
FRESH: Final = ".new"  # of one that is being written


class Tag(msgspec.Struct, frozen=True):
    """A file of the store, by digest, and what the server calls that version of it."""

    etag: str
    digest: str


class Tags:
    """One small file for each address. All of it blocks, in as many threads as fetch."""

    def __init__(self, store: Archives) -> None:
        self._store = store
        self._directory = store.directory / DIRECTORY
        self._directory.mkdir(exist_ok=True)
        for fresh in self._directory.glob(f"*{FRESH}"):
            fresh.unlink(missing_ok=True)

    def of(self, address: str) -> Tag | None:
        """What was had from there, if it still is here."""
        try:
            tag = msgspec.json.decode(self._path(address).read_bytes(), type=Tag)
            return tag if self._store.holds(tag.digest) else None
        except (OSError, msgspec.MsgspecError, ArchiveError):
            return None

    def remember(self, address: str, tag: Tag) -> None:
        # Two executions may have had it at once: each writes a file of its own.
        fresh = self._directory / f"{secrets.token_hex(8)}{FRESH}"
        fresh.write_bytes(msgspec.json.encode(tag))
        fresh.rename(self._path(address))

    def sweep(self) -> None:
        """Forget those that are old."""
        for path in self._directory.iterdir():
            with suppress(FileNotFoundError):  # another thread sweeps as well
                if time.time() - path.stat().st_mtime > KEEP_S:
                    path.unlink()

    def _path(self, address: str) -> Path:
        return self._directory / hashlib.sha256(address.encode()).hexdigest()
