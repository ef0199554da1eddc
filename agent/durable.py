"""Durable files: small files that a power cut leaves whole: the old one, the new one, or none.

Whatever of the agent's own is synced to the disk, but for the database, is synced here, so that it
is counted: an SD card wears out by it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from itertools import count
from pathlib import Path

_counter = count()
_lock = threading.Lock()
_synced = {"files": 0}


def sync(descriptor: int) -> None:
    """Have the disk keep what was written to it. Raises OSError."""
    with _lock:
        _synced["files"] += 1
    os.fsync(descriptor)


def syncs() -> int:
    """How often that was done in this process, in all its threads."""
    return _synced["files"]


def write(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put `data` in place of whatever is at `path`; durable on return. Raises OSError."""
    staged = _stage(path, data, mode)
    try:
        os.replace(staged, path)
    except OSError:
        staged.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def create(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Like `write`, but never over a file that exists, not even one made at this moment.

    Raises FileExistsError, or another OSError.
    """
    staged = _stage(path, data, mode)
    try:
        os.link(staged, path)  # unlike rename, this fails where the name is taken
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        if path.exists():  # a file system without hard links: the next best
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(staged, path)
    finally:
        staged.unlink(missing_ok=True)
    sync_directory(path.parent)


def set_aside(path: Path, suffix: str) -> Path | None:
    """Rename `path` to `<path>.<suffix>-<n>`, n one over the highest; None where there is no file.

    The caller syncs the directory, once for all that it sets aside. Raises OSError.
    """
    if not path.exists():
        return None
    numbered = re.compile(rf"{re.escape(path.name)}\.{suffix}-(\d+)")
    taken = [int(m[1]) for other in path.parent.iterdir() if (m := numbered.match(other.name))]
    aside = path.with_name(f"{path.name}.{suffix}-{max(taken, default=0) + 1}")
    os.rename(path, aside)
    return aside


def make_directory(path: Path) -> None:
    """Make a data directory that only its owner can read, where there is none. Raises OSError."""
    if not path.is_dir():
        path.mkdir(parents=True, mode=0o700, exist_ok=True)
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in `path` durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync(fd)
    finally:
        os.close(fd)


def _stage(path: Path, data: bytes, mode: int) -> Path:
    """Write `data` durably under a name beside `path` that nobody else uses."""
    staged = path.with_name(f".{path.name}.{os.getpid()}-{next(_counter)}.tmp")
    with contextlib.suppress(FileNotFoundError):
        staged.unlink()  # of an earlier life with our process id
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            sync(file.fileno())
    except OSError:
        staged.unlink(missing_ok=True)
        raise
    return staged
