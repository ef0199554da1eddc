"""Unix sockets: bound with narrow rights from the first moment, whatever the path's length."""

from __future__ import annotations

import grp
import os
import socket
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import ShoalError

MODE = 0o660  # the agent's user and group; everybody else is kept out by the kernel
GROUP = "shoal"  # the installer's group for people who may use an agent that runs as root
BACKLOG = 128


class SocketError(ShoalError):
    """The control socket cannot be had; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A listening socket and the file it was bound as."""

    socket: socket.socket
    path: Path
    inode: int

    def remove(self) -> None:
        """Remove the file, unless another agent has put its own there since."""
        with suppress(OSError):
            if self.path.lstat().st_ino == self.inode:
                self.path.unlink()


def bind(path: Path, mode: int = MODE) -> Bound:
    """Listen on `path`, in place of a dead agent's socket if there is one.

    Bound under a private name, given its rights, then renamed: it is never reachable with wider
    ones, and the process' umask is left alone. Raises SocketError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_free(path)
        return _bind(path, mode)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SocketError(
            f"cannot listen on {path}: {reason}; choose another place with --socket or "
            "make its directory writable"
        ) from None


def _bind(path: Path, mode: int) -> Bound:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".socket-") as private:  # 0700
            directory = os.open(private, os.O_PATH | os.O_DIRECTORY)
            try:
                # A socket's address has room for 107 bytes only; a descriptor's name is short.
                listener.bind(f"/proc/self/fd/{directory}/s")
            finally:
                os.close(directory)
            fresh = Path(private) / "s"
            _hand_to_group(fresh)
            fresh.chmod(mode)
            listener.listen(BACKLOG)
            inode = fresh.lstat().st_ino
            fresh.rename(path)
    except BaseException:
        listener.close()
        raise
    return Bound(listener, path, inode)


def _check_free(path: Path) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SocketError(f"{path} is there and is no socket; move it away or use --socket")
        if _answers(path):
            raise SocketError(
                f"another agent answers on {path}; stop it first, or give this one a data "
                "directory of its own with --data-dir"
            )


def _answers(path: Path) -> bool:
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(f"/proc/self/fd/{directory}/{path.name}")
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except TimeoutError:  # its queue is full: somebody is there
        return True
    finally:
        os.close(directory)
    return True


def _hand_to_group(path: Path) -> None:
    """As root, give the socket to the group `shoal` where the device has one."""
    if os.geteuid() != 0:
        return
    with suppress(KeyError, OSError):
        os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
