"""Extracting archives that somebody else made: regular files and directories, within bounds.

tarfile's own filters came with Python 3.11.4, and Debian 12 has 3.11.2. Standard library only: the
command line uses it, too.
"""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final, NoReturn

# What tarfile reads whole before there is a member: names that are too long for a header, and other
# facts about one. Linux takes paths of 4 KiB.
EXTENSION_BYTES_MAX: Final = 64 * 1024
FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_EXTENSIONS: Final = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip


# What a device says of itself. A name that is too long, a file that is a directory as well, are the
# archive's fault.
_DEVICES: Final = frozenset((
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EINVAL,
    errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT,  # of a share, or a stick
))  # fmt: skip


class NotExtracted(Exception):
    """What an archive holds is not taken; a sentence for a person."""


class NotWritten(NotExtracted):
    """Nothing is wrong with the archive: it is the device that does not take it."""


class NoRoom(NotWritten):
    """The disk is full."""


class _Bounded(tarfile.TarInfo):
    """A member whose description fits: a kilobyte of an archive can unpack to a megabyte of one."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.type == tarfile.GNUTYPE_SPARSE:
            self._proc_gnusparse_10()
        if self.type in _EXTENSIONS and self.size > EXTENSION_BYTES_MAX:
            raise NotExtracted(f"a description of {self.size} bytes of one file")
        return super()._proc_member(archive)  # type: ignore[misc]

    def _proc_gnusparse_10(self, *_: object) -> NoReturn:
        raise NotExtracted("it has files with holes (tar --sparse)")


def extract(
    archive: Path,
    into: Path,
    bytes_max: int,
    files_max: int,
    *,
    strict: bool = True,
    look: Callable[[int], None] = lambda size: None,
) -> None:
    """Put what a tar.gz holds below `into`, in place of what is there under these names.

    Blocks. With `strict` anything but files and directories is refused, else it is left out.
    `look` is told of each file's size before it is written, and may raise NotExtracted.
    Raises NotExtracted, where the device is at fault NotWritten, of a full disk NoRoom; what came
    out before that is there.
    """
    try:
        with tarfile.open(archive, "r:gz", tarinfo=_Bounded) as opened:
            _all(opened, into, bytes_max, files_max, _refuse if strict else _leave_out, look)
    except NotExtracted:
        raise
    except Exception as error:  # tarfile, gzip and zlib raise a dozen kinds at damaged bytes
        if isinstance(error, OSError) and error.errno in FULL:
            raise NoRoom("the disk is full") from None
        if isinstance(error, OSError) and error.errno in _DEVICES:
            raise NotWritten(error.strerror or repr(error)) from None
        raise NotExtracted(f"{error!r:.200}") from None


def extract_stream(tar: IO[bytes], into: Path, bytes_max: int, files_max: int) -> None:
    """As `extract`, of a plain tar that is read once, into a directory that nobody else writes to.

    A hard link is a file by its second name. Whatever else is no file or directory leaves a pipe
    in its place, so that whoever looks there sees that something was left out.
    """
    try:
        with tarfile.open(fileobj=tar, mode="r|", tarinfo=_Bounded) as opened:
            _all(opened, into, bytes_max, files_max, _link_or_mark)
    except (NotExtracted, OSError):
        raise
    except Exception as error:
        raise NotExtracted(f"{error!r:.200}") from None


def _all(
    opened: tarfile.TarFile,
    into: Path,
    bytes_max: int,
    files_max: int,
    other: Callable[[tarfile.TarInfo, Path], None],
    look: Callable[[int], None] = lambda size: None,
) -> None:
    """`other` is told of what is neither a file nor a directory."""
    total = 0
    for count, member in enumerate(opened):
        total += member.size
        if count >= files_max or total > bytes_max or member.size < 0:
            raise NotExtracted("too many files, or too large unpacked")
        if member.isreg() or member.isdir():
            look(member.size)
            _put(opened, member, into)
        else:
            other(member, into)


def _refuse(member: tarfile.TarInfo, into: Path) -> NoReturn:
    raise NotExtracted(f"{member.name!r:.100}: only files and directories are taken")


def _leave_out(member: tarfile.TarInfo, into: Path) -> None: ...


def _link_or_mark(member: tarfile.TarInfo, into: Path) -> None:
    target = _place(member.name, into)
    target.parent.mkdir(parents=True, exist_ok=True)
    if member.islnk():
        with suppress(OSError, NotExtracted):  # what it names was left out itself
            # No link is ever made here, so none is met on the way.
            os.link(_place(member.linkname, into), target, follow_symlinks=False)
            return
    with suppress(OSError):
        os.mkfifo(target, 0o600)


def _place(name: str, into: Path) -> Path:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:  # an absolute name lands inside, as with tar
        raise NotExtracted(f"{name!r:.100}: leads out of the directory")
    return into.joinpath(*parts)


def _put(archive: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> None:
    target = _place(member.name, into)
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source = archive.extractfile(member)
    assert source is not None, member
    # No link is ever made here, and one that was there is not written through.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with source, open(os.open(target, flags, 0o600), "wb") as file:
        shutil.copyfileobj(source, file)
        os.fchmod(file.fileno(), (member.mode | 0o600) & 0o755)
    with suppress(OSError, OverflowError, ValueError):
        os.utime(target, (member.mtime, member.mtime))
