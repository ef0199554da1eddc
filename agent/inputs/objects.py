"""Objects: inputs from a bucket of S3, each fetched once as long as it stays the same.

They are kept beside downloads, by the SHA-256 of their bytes. What a server says of keys is not
trusted: they become names of files only where they are plain ones.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from agent import durable
from agent.archives import ArchiveError, Archives, check_room
from agent.inputs.filtering import found_in
from agent.inputs.tags import Tag, Tags
from agent.s3 import S3, BucketError
from agent.threads import abandonable, in_thread
from protocol.s3 import S3Source

if TYPE_CHECKING:
    from agent.bucket import Bucket, Object

BYTES_MAX: Final = 1024**3  # of all objects of one source, as of a download
OBJECTS_MAX: Final = 10_000  # as of files in an archive
DEPTH_MAX: Final = 32  # of directories, likewise
NAME_BYTES_MAX: Final = 255  # what file systems take
FETCH_S: Final = 540.0  # within coordination's start_max_s
GIVEN_UP_S: Final = 30.0  # after that a thread that hangs in the network is left behind
FREE_BYTES_MIN: Final = 128 * 1024**2  # of the disk are left alone, as with results
AT_ONCE_MAX: Final = 2  # a device's link has one width
TRIES_MAX: Final = 4
PAUSE_S: Final = 1.0  # before the next, doubling


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file of the store, and its name below the target."""

    digest: str
    name: str


class Objects:
    def __init__(self, store: Archives, s3: S3) -> None:
        self._store = store
        self._s3 = s3
        self._tags = Tags(store)
        self._slots = trio.Semaphore(AT_ONCE_MAX)

    async def put(self, source: S3Source, target: Path) -> None:
        """Put them below `target`, a directory then. Raises ArchiveError with a sentence that names
        the object, and OSError."""
        given_up = threading.Event()
        try:
            async with self._slots:
                with trio.fail_after(FETCH_S + GIVEN_UP_S):
                    found = await abandonable(lambda: self._fetch(source, given_up))
        except trio.TooSlowError:
            raise ArchiveError(f"{source.url} was not fetched within {FETCH_S:.0f} s") from None
        finally:
            given_up.set()
        # Not in a thread that is left behind: it would write where there is nothing any more.
        await in_thread(self._copy, found, target)

    # ---- in a thread -------------------------------------------------------------------------

    def _copy(self, found: list[Fetched], target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        paths = [(self._store.path(each.digest), target / each.name) for each in found]
        check_room(target, sum(path.stat().st_size for path, _ in paths))
        for path, into in paths:
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, into)

    def _fetch(self, source: S3Source, given_up: threading.Event) -> list[Fetched]:
        if source.digest and self._store.holds(source.digest):
            return [self._used(source.digest, _name_of(source.key, source))]
        go_on = self._go_on(source, given_up)
        for attempt in range(TRIES_MAX):
            if attempt:
                given_up.wait(PAUSE_S * 2 ** (attempt - 1))
            go_on()
            try:
                return self._fetch_once(source, go_on)
            except BucketError as error:
                failure = error
            if not failure.passing:
                break
        raise ArchiveError(str(failure))

    def _fetch_once(self, source: S3Source, go_on: Callable[[], None]) -> list[Fetched]:
        bucket = self._s3.open(source.place, go_on)
        objects = self._objects(bucket, source)
        total = sum(each.size_bytes for each in objects)
        if total > BYTES_MAX:
            limit = BYTES_MAX >> 20
            raise ArchiveError(f"{source.url} is {total >> 20} MiB; allowed: {limit} MiB")
        names = [_name_of(each.key, source) for each in objects]
        _check_names(names, source)
        check_room(self._store.directory, total)
        found: list[Fetched] = []
        try:
            for each, name in zip(objects, names, strict=True):
                found.append(self._used(self._have(bucket, each, source, go_on), name))
        finally:  # what was had before it went wrong is there for the next try
            self._store.prune(*(each.digest for each in found))
            self._tags.sweep_if_due()
        return found

    def _objects(self, bucket: Bucket, source: S3Source) -> list[Object]:
        if not source.many:
            return [bucket.stat(source.key, source.version)]
        objects = bucket.list(source.key, OBJECTS_MAX)
        if source.filter:
            rests = [each.key.removeprefix(source.key) for each in objects]
            objects = [objects[at] for at in found_in(source.filter, rests)]
        return objects

    def _have(
        self, bucket: Bucket, each: Object, source: S3Source, go_on: Callable[[], None]
    ) -> str:
        """Its digest, once it is here; what is here already is not fetched again."""
        place = source.place
        address = f"{place.endpoint} {place.bucket} {each.key} {each.version}"
        known = self._tags.of(address)
        if known is not None and each.etag and known.etag == each.etag and not source.digest:
            return known.digest
        partial = self._store.partial()
        try:
            with partial.open("wb") as file:
                digest = bucket.read(each, file)
                file.flush()
                durable.sync(file.fileno())
            if source.digest and digest != source.digest:
                raise ArchiveError(f"{source.url} has the SHA-256 {digest}, and not the job's")
            go_on()
            self._store.adopt(partial, digest)
        finally:
            partial.unlink(missing_ok=True)
        if each.etag:
            self._tags.remember(address, Tag(each.etag, digest))
        return digest

    def _used(self, digest: str, name: str) -> Fetched:
        os.utime(self._store.path(digest))
        return Fetched(digest, name)

    def _go_on(self, source: S3Source, given_up: threading.Event) -> Callable[[], None]:
        until = time.monotonic() + FETCH_S

        def go_on() -> None:
            if given_up.is_set():
                raise ArchiveError(f"{source.url} is no longer wanted")
            if time.monotonic() > until:
                raise ArchiveError(f"{source.url} was not fetched within {FETCH_S:.0f} s")
            if shutil.disk_usage(self._store.directory).free < FREE_BYTES_MIN:
                text = f"less than {FREE_BYTES_MIN >> 20} MiB of disk are free"
                raise ArchiveError(f"{source.url} is not fetched: {text}")

        return go_on


def _name_of(key: str, source: S3Source) -> str:
    """Of one the last part of its key; of many what comes behind the directory of theirs."""
    return key.removeprefix(source.key[: source.key.rfind("/") + 1])


def _check_names(names: list[str], source: S3Source) -> None:
    """Keys are any text; a file has a plain path, and is no directory. Raises ArchiveError."""
    directories: dict[str, None] = {}
    for name in names:
        parts = name.split("/")
        odd = not name.isprintable() or any(part in ("", ".", "..") for part in parts)
        long = any(len(part.encode(errors="replace")) > NAME_BYTES_MAX for part in parts)
        if odd or long or len(parts) > DEPTH_MAX:
            raise ArchiveError(f"{source.url} has the key {name[:100]!r}, which is no path here")
        directories |= dict.fromkeys("/".join(parts[:count]) for count in range(1, len(parts)))
    for name in names:
        if name in directories:
            text = f"has {name[:100]!r} as an object and as a part of another's key"
            raise ArchiveError(f"{source.url} {text}; a Filter can leave one out")
