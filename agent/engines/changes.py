"""Changes: what tells who follows a task's output that there is more, without looking all the time
(inotify(7)).

    with Changes(directory) as changes:
        while True:
            ...  # read what there is
            await changes.wait(0.2)

What was written before `wait` is not missed: the kernel keeps it until the next one. The library is
loaded by the first reader: an agent whose output nobody follows does without.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import trio

if TYPE_CHECKING:
    from inotify_simple import INotify

PAUSE_S: Final = 0.05  # between wakes: who writes without end is read twenty times a second
SURE_S: Final = 10.0  # of those with inotify: a file system that tells of no change is seldom
_log = logging.getLogger("shoal.process")


class Changes:
    """Of the files directly in one directory, for one reader. Where the kernel gives no more of
    these (fs.inotify.max_user_instances), or the directory is not there, `wait` just waits."""

    def __init__(self, directory: Path) -> None:
        self._inotify: INotify | None = None
        self._woken_at = 0.0
        from inotify_simple import INotify, flags

        try:
            inotify = INotify(nonblocking=True)
        except OSError as error:
            _log.debug("no inotify: %s", error)
            return
        try:
            inotify.add_watch(directory, flags.MODIFY | flags.CREATE)
        except OSError as error:
            _log.debug("no inotify of %s: %s", directory, error)
            inotify.close()
        else:
            self._inotify = inotify

    async def wait(self, poll_s: float) -> None:
        """Until there is more to read, or may be: `poll_s` where nobody tells."""
        if self._inotify is None:
            await trio.sleep(poll_s)
            return
        with trio.move_on_after(SURE_S):
            await trio.lowlevel.wait_readable(self._inotify.fileno())
            await trio.sleep_until(self._woken_at + PAUSE_S)
        self._woken_at = trio.current_time()
        with contextlib.suppress(BlockingIOError):
            self._inotify.read(timeout=0)  # before who waited reads: what comes later wakes again

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._inotify is not None:
            self._inotify.close()
