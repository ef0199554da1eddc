"""Removing a tree that a hostile task made: no link is followed, no depth is too deep.

shutil.rmtree recurses and holds a descriptor for each level, so a task that nests ten thousand
directories outlives it. Here every directory met is first moved up beside the others.
"""

import contextlib
import os
from pathlib import Path

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path) -> None:
    """Missing is fine. Raises OSError for what cannot be removed (immutable, a mount)."""
    with contextlib.suppress(OSError):  # most tasks leave nothing; whose it is does not matter then
        return path.rmdir()
    try:
        top = _open_dir(str(path), None)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        path.unlink(missing_ok=True)
        return
    try:
        _empty(top)
    finally:
        os.close(top)
    path.rmdir()


def _empty(top: int) -> None:
    hoisted = 0
    while names := os.listdir(top):
        for name in names:
            if _unlinked(name, top):
                continue
            inner = _open_dir(name, top)
            try:
                hoisted = _hoist_directories(inner, top, hoisted)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=top)


def _hoist_directories(inner: int, top: int, hoisted: int) -> int:
    """Unlink the files of `inner` and move its directories into `top` under names of ours."""
    for name in os.listdir(inner):
        if _unlinked(name, inner):
            continue
        os.close(_open_dir(name, inner))  # moving a directory takes the right to write in it
        while True:
            hoisted += 1
            try:
                os.mkdir(f".hoisted-{hoisted}", 0o700, dir_fd=top)
                break
            except FileExistsError:
                continue
        os.rename(name, f".hoisted-{hoisted}", src_dir_fd=inner, dst_dir_fd=top)
    return hoisted


def _unlinked(name: str, directory: int) -> bool:
    """False if it is a directory."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return True
    except (IsADirectoryError, PermissionError):
        return False
    return True


def _open_dir(name: str, directory: int | None) -> int:
    """Open it, giving ourselves the rights that its owner took away (mode 000) first."""
    pinned = os.open(
        name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory
    )
    try:
        with contextlib.suppress(PermissionError):  # another's: root needs no chmod, we cannot
            os.chmod(f"/proc/self/fd/{pinned}", 0o700)
        return os.open(".", _OPEN, dir_fd=pinned)
    finally:
        os.close(pinned)
