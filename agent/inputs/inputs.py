"""A task's inputs, put below its work directory one after the other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Final, assert_never

from agent.archives import (
    FILES_MAX,
    UNPACKED_BYTES_MAX,
    ArchiveError,
    Archives,
    Dialler,
    check_room,
    unpack,
)
from agent.inputs.downloads import Downloads
from agent.inputs.holders import Search
from agent.inputs.objects import Objects
from agent.packing import FILES_MAX as RESULT_FILES_MAX
from agent.results import RESULT_BYTES_MAX
from agent.threads import abandonable, in_thread
from protocol.asks import not_allowed
from protocol.config import PolicyConfig
from protocol.effects import StartTask
from protocol.ids import PeerId
from protocol.inputs import InputSource
from protocol.s3 import S3Source
from protocol.sources import ArchiveSource, DirectorySource, InlineSource, UrlSource

GZIP: Final = ("application/gzip", "application/x-gzip")
RESULT_ENTRIES_MAX: Final = 2 * RESULT_FILES_MAX  # with the directories that they are in


class Inputs:
    """All that fails is an ArchiveError, OSError or ValueError with a sentence."""

    def __init__(
        self,
        shipped: Archives,
        results: Archives,
        downloads: Downloads,
        objects: Objects,
        policy: PolicyConfig,
        dial: Dialler,
        around: Callable[[], Sequence[PeerId]],
    ) -> None:
        """`shipped` beside jobs, `results` of this device's own tasks and what was fetched of
        others'; those `around`, the nearest first, are asked for what anybody may have."""
        self._shipped = shipped
        self._results = results
        self._downloads = downloads
        self._objects = objects
        self._policy = policy
        self._dial = dial
        self._around = around

    async def put(self, task: StartTask, work: Path) -> dict[str, str]:
        """Of the device's own paths among them, where each leads, as it was found and allowed: who
        gives them on must not look again. Links come last: nothing may be written through one."""
        sources, given = task.spec.task.input_sources, dict[str, str]()
        for each in sorted(sources, key=lambda each: isinstance(each.source, DirectorySource)):
            real = await self._put(each, work / each.target.lstrip("/"), task)
            if isinstance(each.source, DirectorySource):
                given[each.source.path] = real
        return given

    async def _put(self, each: InputSource, target: Path, task: StartTask) -> str:
        match each.source:
            case ArchiveSource() as source:
                await self._unpack(source, target, task)
            case InlineSource() as source:
                await in_thread(_write, source, target)
            case UrlSource() as source:
                found = await self._downloads.fetch(source, self._policy.downloads)
                await in_thread(_copy, found.path, target / found.name)
            case S3Source() as source:
                await self._objects.put(source, target)
            case DirectorySource() as source:
                linked = task.spec.task.engine.type == "process"
                link = target if linked else None
                return await abandonable(lambda: self._give(source, link))
            case _:
                assert_never(each.source)
        return ""

    async def _unpack(self, source: ArchiveSource, target: Path, task: StartTask) -> None:
        if source.anywhere:
            path = await self._find(source, task)
            bounds = (RESULT_BYTES_MAX, RESULT_ENTRIES_MAX)
        else:
            digest, size_bytes = source.digest, source.size_bytes
            path = await self._shipped.fetch(digest, size_bytes, task.sources, self._dial)
            bounds = (UNPACKED_BYTES_MAX, FILES_MAX)
        await in_thread(_unpack, path, target, *bounds)

    async def _find(self, source: ArchiveSource, task: StartTask) -> Path:
        """A result of whoever has it: first of those who had to do with the job."""
        fetch = partial(self._results.fetch, source.digest, source.size_bytes)
        if self._results.holds(source.digest):
            return await fetch((), self._dial)
        search = Search(source.digest, source.size_bytes, self._dial)
        peers = list(dict.fromkeys([*task.sources, *self._around()]))
        async with aclosing(search.holders(peers)) as found:
            async for holders in found:
                try:
                    return await fetch(holders, self._dial)
                except ArchiveError as error:  # another may be nearer, or still have it
                    search.said.insert(0, str(error))
        raise ArchiveError(search.told())

    def _give(self, source: DirectorySource, link: Path | None) -> str:
        """See that it is there, and is what its owner allowed: a link may lead elsewhere. To a
        process it is given by a link, to a container or module by the engine. Where it leads to."""
        if not os.path.lexists(source.path):
            raise ArchiveError(f"{source.path} is not on this device")
        real = os.path.realpath(source.path)
        allowed = tuple(
            os.path.realpath(path.removesuffix(":rw")) + (":rw" if path.endswith(":rw") else "")
            for path in self._policy.directories
        )
        ask = f"directory {real}{':rw' if source.writable else ''}"
        if not_allowed(PolicyConfig(directories=allowed), (ask,)):
            raise ArchiveError(f"{source.path} leads to {real}, which its owner does not allow")
        for path in allowed:
            if path.endswith(":rw") and real.startswith(f"{path.removesuffix(':rw').rstrip('/')}/"):
                within = f"lies in {path.removesuffix(':rw')}, where tasks may put links"
                raise ArchiveError(f"{source.path} {within}: only that as a whole is given")
        if link is not None:
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(real)
        return real


def _unpack(
    path: Path, target: Path, bytes_max: int = UNPACKED_BYTES_MAX, files_max: int = FILES_MAX
) -> None:
    target.mkdir(parents=True, exist_ok=True)
    unpack(path, target, bytes_max, files_max)


def _write(source: InlineSource, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    content = source.content()
    if source.media_type in GZIP:
        packed = target.with_name(target.name + ".packed")
        packed.write_bytes(content)
        try:
            _unpack(packed, target)
        finally:
            packed.unlink()
    else:
        target.write_bytes(content)


def _copy(path: Path, target: Path) -> None:
    """The task may do with its own as it likes. Raises ArchiveError where the disk is too full."""
    check_room(target.parent.parent, path.stat().st_size)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
