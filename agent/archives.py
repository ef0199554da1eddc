"""Archives: files shipped beside a job, kept by the SHA-256 of their bytes, fetched from peers."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final, Protocol

import trio

from agent import durable
from agent.extract import NotExtracted, extract
from agent.threads import in_thread
from protocol.errors import RemoteProtocolError, ShoalError
from protocol.ids import PeerId
from protocol.messages import ArchiveAnswer, ArchiveRequest
from protocol.wire import decode_as, encode_message

ARCHIVE_BYTES_MAX: Final = 16 * 1024**2  # what `shoal run -f` ships at most
UNPACKED_BYTES_MAX: Final = 512 * 1024**2  # a gzip bomb stops here
FILES_MAX: Final = 10_000
QUOTA_BYTES: Final = 512 * 1024**2  # of all kept archives; the longest unused go first
# Likewise, and of small ones: all are looked at for each that comes. Twice what one job may bring.
KEPT_MAX: Final = 20_000
KEEP_S: Final = 7 * 86_400.0  # as long as jobs are kept
FETCH_S: Final = 10.0  # from one peer, and besides
SLOW_BYTES_S: Final = 300_000  # what it sends in a second at least
CHUNK_BYTES: Final = 64 * 1024
FREE_BYTES_MIN: Final = 128 * 1024**2  # of the disk are left alone: the agent lives on it
DIGESTS_MAX: Final = 1000  # that are told of as being here
NOT_HERE: Final = "is not here"  # on the wire; earlier versions say the same
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger("shoal.archives")


class ArchiveError(ShoalError):
    """An archive that cannot be had or unpacked; a sentence for a person."""


class ByteStream(Protocol):
    """What is needed of a stream to another peer."""

    async def read_frame(self) -> bytes: ...
    async def write_frame(self, frame: bytes) -> None: ...
    async def receive_some(self, n: int = ..., timeout_s: float = ...) -> bytes: ...
    async def send_all(self, data: bytes) -> None: ...
    async def aclose(self) -> None: ...


class Dialler(Protocol):
    async def __call__(self, peer: PeerId) -> ByteStream: ...


class Archives:
    """The archives of one data directory. Writing and unpacking happen in threads."""

    def __init__(
        self,
        directory: Path,
        bytes_max: int = ARCHIVE_BYTES_MAX,
        quota_bytes: int = QUOTA_BYTES,
        spared: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        """`bytes_max` is of one archive, `quota_bytes` of all that are kept; those that are
        `spared` count in that, and stay nevertheless. That is asked in threads."""
        self.directory = directory
        self.bytes_max = bytes_max
        self._quota_bytes = quota_bytes
        self._spared = spared
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for partial in directory.glob("*.part"):
            partial.unlink(missing_ok=True)
        self.prune()
        self._fetching: dict[str, trio.Lock] = {}

    def path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise ArchiveError(f"{digest[:80]!r} is not a SHA-256")
        return self.directory / digest

    def holds(self, digest: str) -> bool:
        return self.path(digest).exists()

    def digests(self) -> frozenset[str]:
        """What is here, at most DIGESTS_MAX of them. A look at one directory."""
        names = (name for name in os.listdir(self.directory) if _DIGEST.fullmatch(name))
        return frozenset(itertools.islice(names, DIGESTS_MAX))

    def size_of(self, digest: str) -> int:
        """In bytes; -1 where it is not here."""
        try:
            return self.path(digest).stat().st_size
        except (OSError, ArchiveError):
            return -1

    async def put(self, chunks: AsyncIterator[bytes]) -> tuple[str, int]:
        """Keep what comes, durably; returns digest and size. Raises ArchiveError when too long."""
        partial = self.partial()
        digest, size = hashlib.sha256(), 0
        try:
            with partial.open("wb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > self.bytes_max:
                        raise ArchiveError(f"more than {self.bytes_max >> 20} MiB to ship")
                    digest.update(chunk)
                    await in_thread(file.write, chunk)
                await in_thread(durable.sync, file.fileno())
            name = digest.hexdigest()
            partial.rename(self.directory / name)
            await in_thread(durable.sync_directory, self.directory)
        finally:
            partial.unlink(missing_ok=True)
        await in_thread(self.prune, name)
        return name, size

    def partial(self) -> Path:
        """Where a new one may be written; what is left there is removed at the next start."""
        return self.directory / f"{secrets.token_hex(8)}.part"

    def adopt(self, partial: Path, digest: str) -> None:
        """Keep what was written there, and is on disk, under its digest. Whoever adopts prunes,
        once for all of it. Blocks."""
        partial.rename(self.path(digest))
        durable.sync_directory(self.directory)

    async def fetch(self, digest: str, size: int, sources: Sequence[PeerId], dial: Dialler) -> Path:
        """The archive's path, from disk or from the first source that has it.

        Raises ArchiveError naming what each of them said.
        """
        path = self.path(digest)
        if size > self.bytes_max:
            raise ArchiveError(f"archive {digest[:12]} is over {self.bytes_max >> 20} MiB")
        said: list[str] = []
        try:
            async with self._fetching.setdefault(digest, trio.Lock()):
                for source in sources:
                    if path.exists():
                        break
                    try:
                        with trio.fail_after(FETCH_S + size / SLOW_BYTES_S):
                            await self._fetch_from(digest, size, await dial(source))
                    except (ShoalError, OSError, EOFError, trio.TooSlowError) as error:
                        said.append(f"{source[-8:]}: {str(error) or type(error).__name__}")
        finally:
            self._fetching.pop(digest, None)
        if not path.exists():
            raise ArchiveError(
                f"the shipped files ({digest[:12]}) could not be fetched: "
                + ("; ".join(said) or "no peer is known to have them")
            )
        os.utime(path)
        return path

    async def _fetch_from(self, digest: str, size: int, stream: ByteStream) -> None:
        try:
            await stream.write_frame(encode_message(ArchiveRequest(digest, 0)))
            answer = decode_as(await stream.read_frame(), ArchiveAnswer)
            if answer.error:
                raise ArchiveError(answer.error)
            await in_thread(check_room, self.directory, size)
            if answer.size != size:
                raise ArchiveError(f"has {answer.size} bytes under this digest, not {size}")
            async with aclosing(_received(stream, size)) as chunks:
                found, _ = await self.put(chunks)
            if found != digest:
                self.path(found).unlink(missing_ok=True)
                raise ArchiveError("sent other bytes than the digest names")
        finally:
            await stream.aclose()

    async def read(self, digest: str, offset: int) -> AsyncGenerator[bytes, None]:
        """What is kept under `digest`, from `offset` on. Raises ArchiveError if it is not here."""
        try:
            file = self.path(digest).open("rb")
        except OSError:
            raise ArchiveError(NOT_HERE) from None
        with file:
            file.seek(offset)
            while chunk := await in_thread(file.read, CHUNK_BYTES):
                yield chunk

    def prune(self, *fresh: str) -> None:
        """Delete what has not been used for long, and the longest unused over the quota or one too
        many; never what is `fresh`, whatever the clock says, nor what is spared. Blocks."""
        kept: list[tuple[float, int, Path]] = []
        for path in self.directory.iterdir():
            if _DIGEST.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    kept.append((status.st_mtime, status.st_size, path))
        before, total = time.time() - KEEP_S, sum(size for _, size, _ in kept)
        few = total <= self._quota_bytes and len(kept) <= KEPT_MAX
        if few and all(used >= before for used, _, _ in kept):
            return
        staying = self._spared().union(fresh)
        kept.sort(key=lambda each: (each[2].name in staying, *each), reverse=True)
        total = 0
        for count, (used, size, path) in enumerate(kept, 1):
            total += size
            over = total > self._quota_bytes or count > KEPT_MAX or used < before
            if over and path.name not in staying:
                path.unlink(missing_ok=True)


async def serve(stream: ByteStream, stores: Sequence[Archives]) -> None:
    """Answer one request of another member, from the first of `stores` that has it."""
    request = decode_as(await stream.read_frame(), ArchiveRequest)
    found = [(store, size) for store in stores if (size := store.size_of(request.digest)) >= 0]
    if not found:
        await stream.write_frame(encode_message(ArchiveAnswer(0, NOT_HERE)))
        return
    store, size = found[0]
    await stream.write_frame(encode_message(ArchiveAnswer(size)))
    offset = min(max(request.offset, 0), size)
    with contextlib.suppress(ArchiveError):  # deleted just now: the reader misses its end
        async with aclosing(store.read(request.digest, offset)) as chunks:
            async for chunk in chunks:
                await stream.send_all(chunk)
    await stream.aclose()


async def _received(stream: ByteStream, size: int) -> AsyncGenerator[bytes, None]:
    """Exactly `size` bytes, or RemoteProtocolError."""
    left = size
    while left:
        chunk = await stream.receive_some(min(left, CHUNK_BYTES))
        if not chunk:
            raise RemoteProtocolError("ended early")
        left -= len(chunk)
        yield chunk


def check_room(where: Path, size: int) -> None:
    """Raises ArchiveError where so much more would leave the agent itself too little."""
    free = shutil.disk_usage(where).free - size
    if free < FREE_BYTES_MIN:
        raise ArchiveError(f"the disk is too full for {size >> 20} MiB more")


def unpack(
    data: Path, into: Path, bytes_max: int = UNPACKED_BYTES_MAX, files_max: int = FILES_MAX
) -> None:
    """Unpack shipped files: regular ones and directories only, none outside `into`, within bounds,
    and as long as the agent has room left.

    Blocks; run it in a thread. Raises ArchiveError.
    """

    def look(size: int) -> None:
        try:
            check_room(into, size)
        except ArchiveError as error:
            raise NotExtracted(str(error)) from None

    try:
        extract(data, into, bytes_max, files_max, look=look)
    except NotExtracted as error:
        raise ArchiveError(f"the shipped files cannot be unpacked: {error}") from None
