"""Packing: what a task left at its ResultPaths, as one archive named by the SHA-256 of its bytes.

The files are whatever the task made of them, so nothing of them is trusted: links are not followed,
and only regular files and directories are taken.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from agent import durable

FILES_MAX: Final = 10_000
DEPTH_MAX: Final = 32  # each level is a descriptor, of which a process has some hundred
NOTES_MAX: Final = 3
NOTE_CHARS_MAX: Final = 150
LOOK_BYTES: Final = 4 << 20  # so much is written between two looks at whether to go on
# Links, sockets and pipes, what went away meanwhile, what an agent that is not root may not read.
UNREADABLE: Final = (errno.ELOOP, errno.ENXIO, errno.ENOENT, errno.EACCES, errno.EPERM)
NO_FILE: Final = "neither a file nor a directory"
BUFFER_BYTES: Final = 256 * 1024


class TooMuch(Exception):
    """More files or bytes than are kept; a sentence for a person."""


@dataclass(frozen=True, slots=True)
class Packed:
    """An archive on disk, or why there is none. `note` says what was left out; `lost`: there may
    have been files, and none is kept."""

    digest: str = ""
    size_bytes: int = 0
    note: str = ""
    lost: bool = False


def pack(
    work: Path,
    paths: Sequence[tuple[str, str]],
    into: Path,
    bytes_max: int,
    owner: int | None = None,
    go_on: Callable[[], None] = lambda: None,
) -> Packed:
    """Pack what is at `paths`, pairs of a name and a path below `work`, as a tar.gz at `into`.

    Blocks; run it in a thread. `into` is there afterwards exactly if the answer has a digest, and
    is on disk then. With `owner`, a user's number, files of others are left out: a task could have
    linked them. `go_on` is called now and then, and what it raises ends it. Raises OSError where
    the disk is full.
    """
    made = False
    try:
        with into.open("xb") as file:
            sink = _Hashed(file, go_on)
            packer = _Packer(bytes_max, owner)
            # Level 1: on a Pi the card is faster than the processor at any other.
            with (
                gzip.GzipFile(fileobj=sink, mode="wb", compresslevel=1, mtime=0) as packed,
                tarfile.open(fileobj=packed, mode="w|", bufsize=BUFFER_BYTES) as archive,
            ):
                for name, path in paths:
                    packer.add_path(archive, work, name, path)
            file.flush()
            durable.sync(file.fileno())
        made = packer.entries > 0
        digest = sink.digest.hexdigest() if made else ""
        return Packed(digest, sink.size if made else 0, packer.note())
    except TooMuch as error:
        made = False
        return Packed(note=str(error), lost=True)
    finally:
        if not made:
            into.unlink(missing_ok=True)


class _Hashed:
    """A file that is hashed as it is written."""

    def __init__(self, file: BinaryIO, go_on: Callable[[], None]) -> None:
        self._file = file
        self._go_on = go_on
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        if self.size // LOOK_BYTES != (self.size + len(data)) // LOOK_BYTES:
            self._go_on()
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


@dataclass(slots=True)
class _Packer:
    bytes_max: int
    owner: int | None
    entries: int = 0
    total: int = 0
    looked_at: int = 0
    left_out: int = 0
    notes: list[str] = field(default_factory=list)  # of what was left out, the first few

    def add_path(self, archive: tarfile.TarFile, work: Path, name: str, path: str) -> None:
        """One ResultPath: a directory's content stands below its name, and so does a file."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        descriptor = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts:
                below = _open(part, descriptor)
                os.close(descriptor)
                descriptor = below
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                self._add(archive, descriptor, name, 0)
            elif reason := self._why_not(status):
                self._leave(f"{path}: {reason}")
            else:
                self._directory(archive, name, 0o755, 0)
                self._add(archive, descriptor, f"{name}/{parts[-1]}", 0)
        except FileNotFoundError:
            self._leave(f"{path}: nothing is there")
        except NotADirectoryError:
            self._leave(f"{path}: a part of the path is no directory")
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
            what = "a part of the path is a link" if error.errno == errno.ELOOP else _why(error)
            self._leave(f"{path}: {what}")
        finally:
            with suppress(OSError):
                os.close(descriptor)

    def _add(self, archive: tarfile.TarFile, descriptor: int, name: str, depth: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            self._directory(archive, name, stat.S_IMODE(status.st_mode), int(status.st_mtime))
            self._below(archive, descriptor, name, depth)
        elif reason := self._why_not(status):
            self._leave(f"{name}: {reason}")
        else:
            self._file(archive, descriptor, name, status)

    def _why_not(self, status: os.stat_result) -> str:
        """Why something is not packed as a file; empty where it is."""
        if not stat.S_ISREG(status.st_mode):
            return NO_FILE
        theirs = self.owner is not None and status.st_uid != self.owner
        return "belongs to another user than the task's" if theirs else ""

    def _below(self, archive: tarfile.TarFile, descriptor: int, name: str, depth: int) -> None:
        if depth >= DEPTH_MAX:
            self._leave(f"{name}: more than {DEPTH_MAX} directories deep")
            return
        with os.scandir(descriptor) as found:
            entries = []
            for entry in found:
                entries.append(entry.name)
                self._look()
        for entry_name in sorted(entries):
            inner = f"{name}/{os.fsencode(entry_name).decode(errors='replace')}"
            try:
                child = _open(entry_name, descriptor)
            except OSError as error:
                if error.errno not in UNREADABLE:
                    raise
                self._leave(f"{inner}: {_why(error)}")
                continue
            try:
                self._add(archive, child, inner, depth + 1)
            finally:
                os.close(child)

    def _directory(self, archive: tarfile.TarFile, name: str, mode: int, mtime: int) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.mtime = tarfile.DIRTYPE, mode & 0o777, mtime
        self.entries += 1
        archive.addfile(info)

    def _file(
        self, archive: tarfile.TarFile, descriptor: int, name: str, status: os.stat_result
    ) -> None:
        self.entries += 1
        self.total += status.st_size
        if self.total > self.bytes_max:
            limit = self.bytes_max >> 20
            raise TooMuch(f"more than {limit} MiB of result files: none is kept")
        info = tarfile.TarInfo(name)
        info.size, info.mode = status.st_size, stat.S_IMODE(status.st_mode) & 0o777
        info.mtime = int(status.st_mtime)
        with open(descriptor, "rb", closefd=False) as file:
            archive.addfile(info, file)

    def _look(self) -> None:
        """What is left out counts as well: a task can make links by the million."""
        self.looked_at += 1
        if self.looked_at > FILES_MAX:
            raise TooMuch(f"more than {FILES_MAX} result files: none is kept")

    def _leave(self, note: str) -> None:
        self.left_out += 1
        if len(self.notes) < NOTES_MAX:
            self.notes.append(note[:NOTE_CHARS_MAX])

    def note(self) -> str:
        """What was left out, the first of it."""
        more = self.left_out - len(self.notes)
        return "; ".join(self.notes) + (f"; and {more} more" if more else "")


def _why(error: OSError) -> str:
    return "may not be read" if error.errno in (errno.EACCES, errno.EPERM) else NO_FILE


def _open(name: str, directory: int) -> int:
    """Never through a link, and never waiting for who writes to a pipe."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    return os.open(name, flags, dir_fd=directory)
