"""Files into a container and out of it. All of it blocks, and is done in threads."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, cast

from agent.archives import ArchiveError, check_room
from agent.engines.container import TASK_DIR, ContainerLaunch, within
from agent.engines.docker_client import DockerClient, NotThere
from agent.extract import NotExtracted, extract_stream

RESULT_BYTES_MAX: Final = 1024**3  # as results.RESULT_BYTES_MAX: more is not kept anyhow
RESULT_FILES_MAX: Final = 10_000
LOOK_BYTES: Final = 4 << 20  # so much is written between two looks at the disk


def put_files(client: DockerClient, launch: ContainerLaunch, work: Path, spool: Path) -> None:
    """Shipped files, and directories for results, which the container's user may write to, whoever
    that is. They live in the container: what its user made, the agent's may not be able to delete.
    Raises OSError where they would leave the agent itself too little disk, and EngineFailed.
    """
    if not launch.has_task_dir and not launch.results:
        return
    with tempfile.TemporaryFile(dir=spool) as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            own = (TASK_DIR,) if launch.has_task_dir else ()
            for path in own + tuple(path for path in launch.results if not _mounted(path, launch)):
                info = tarfile.TarInfo(path.lstrip("/"))
                info.type, info.mtime = tarfile.DIRTYPE, int(time.time())
                tar.addfile(_anybodys(info))
            if launch.has_task_dir:
                mounted = {f"{TASK_DIR}{path}".lstrip("/") for path in launch.inputs}
                size = 0

                def shipped(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
                    nonlocal size
                    if info.name in mounted:
                        return None
                    size += info.size
                    if size > LOOK_BYTES:  # a script goes in wherever there is any room
                        _check_room(spool, info.size)
                    return _anybodys(info)

                for entry in sorted(os.listdir(work)):
                    tar.add(work / entry, f"{TASK_DIR}/{entry}", filter=shipped)
        file.seek(0)
        client.put(launch.execution_id, cast("IO[bytes]", file))


def open_volumes(client: DockerClient, launch: ContainerLaunch, spool: Path) -> None:
    """A volume that holds nothing yet may be written to by the container's user, whoever that is.
    What an image has at its place docker has put there, and whose that is, is the image's to say.
    """
    for _, target, writable in launch.volumes:
        own = _empty_directory(client, launch.execution_id, target) if writable else None
        if own is None or own.mode & 0o002:
            continue
        own.name, own.mode = target.lstrip("/"), own.mode | 0o777
        with tempfile.TemporaryFile(dir=spool) as file:
            with tarfile.open(fileobj=file, mode="w") as tar:
                tar.addfile(own)
            file.seek(0)
            client.put(launch.execution_id, cast("IO[bytes]", file))


def _empty_directory(client: DockerClient, execution_id: str, path: str) -> tarfile.TarInfo | None:
    """What docker says of a directory, if there is nothing in it."""
    pieces = client.get(execution_id, path)
    try:
        raw = io.BufferedReader(_Pieces(pieces, None, threading.Event()))
        with tarfile.open(fileobj=raw, mode="r|") as tar:
            own = tar.next()
            return own if own is not None and own.isdir() and tar.next() is None else None
    finally:
        pieces.close()


def fetch_files(
    client: DockerClient,
    execution_id: str,
    path: str,
    out: Path,
    bytes_max: int,
    given_up: threading.Event,
) -> int:
    """What is at a result path, to the same path below `out`, with marks for what is no file (see
    extract_stream); how many bytes docker sent. Nothing there is no error. Raises OSError."""
    place = out / path.lstrip("/")
    for parent in reversed(place.relative_to(out).parents):
        if (out / parent).is_fifo():  # a link within an earlier path, which leads to this one
            (out / parent).unlink()
    place.parent.mkdir(parents=True, exist_ok=True)
    tar = client.get(execution_id, within(path))
    try:
        raw = _Pieces(tar, out, given_up)
        extract_stream(io.BufferedReader(raw), place.parent, bytes_max, RESULT_FILES_MAX)
        return raw.count
    except NotThere:
        return 0
    except NotExtracted as error:
        raise OSError(str(error)) from None
    finally:
        tar.close()  # docker keeps the container locked while it sends


def open_up(tree: Path) -> None:
    """Readable to all below `tree`, which stands in a directory that nobody else may pass: the user
    of a container is anybody."""
    for directory, _, files in os.walk(tree):
        for path in (directory, *(os.path.join(directory, name) for name in files)):
            if not os.path.islink(path):
                os.chmod(path, _for_all(os.stat(path).st_mode & 0o777, 0o044))


def _mounted(path: str, launch: ContainerLaunch) -> bool:
    """Whether it lies in a part of the device, which docker would change with what it unpacks, or
    in what its slot keeps."""
    places = (*launch.mounts, *launch.volumes)
    return any(path == at or path.startswith(f"{at}/") for _, at, _ in places)


def _anybodys(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mode = 0o777 if info.isdir() else _for_all(info.mode, 0o666)
    return info


def _for_all(mode: int, rights: int) -> int:
    """And whatever its owner may run or pass through, all may."""
    return mode | rights | (0o111 if mode & 0o100 else 0)


def _check_room(where: Path, size: int) -> None:
    """Raises OSError, which tarfile lets through with its sentence."""
    try:
        check_room(where, size)
    except ArchiveError as error:
        raise OSError(str(error)) from None


class _Pieces(io.RawIOBase):
    """A file of pieces as they come."""

    def __init__(
        self, pieces: Iterator[bytes], out: Path | None, given_up: threading.Event
    ) -> None:
        """`out`: where they are written to, if they are."""
        self._pieces = pieces
        self._out = out
        self._given_up = given_up
        self._rest = b""
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._given_up.is_set():
            raise OSError("the agent ends")
        if not self._rest:
            self._rest = next(self._pieces, b"")
            passed = self.count // LOOK_BYTES != (self.count + len(self._rest)) // LOOK_BYTES
            if passed and self._out is not None:
                _check_room(self._out, 0)
            self.count += len(self._rest)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
