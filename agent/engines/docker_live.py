"""Live output of containers: a thread reads what docker sends, a reader takes it when it likes."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from agent.engines.docker_client import EngineFailed
from agent.engines.engine import Crowded
from agent.threads import NoThread, abandonable

# Each is a thread and a connection. Lines of 256 executions (protocol/streams.py) and 96 who follow
# from other devices (logs.py) find a place beside those who follow here.
READERS_MAX: Final = 512
QUEUED_BYTES: Final = 256 << 10  # read ahead of a slow reader
_log = logging.getLogger("shoal.docker")


@dataclass(slots=True, eq=False)
class Follower:
    """Frames on their way from the thread to the reader."""

    frames: Iterator[bytes]
    wake: Callable[[], None]  # called from the thread when there is something for who waits
    _lock: threading.Condition = field(default_factory=threading.Condition)
    _queue: deque[bytes] = field(default_factory=deque)
    _bytes: int = 0
    _ended: bool = False
    failure: OSError | None = None  # why it ended, where docker did not answer or nobody read
    _closed: bool = False

    def run(self) -> None:
        """In a thread, until the output's end or `close`."""
        try:
            for frame in self.frames:
                with self._lock:
                    while self._bytes > QUEUED_BYTES and not self._closed:
                        self._lock.wait()
                    if self._closed:
                        return
                    self._queue.append(frame)
                    self._bytes += len(frame)
                    first = len(self._queue) == 1
                if first:
                    self.wake()
        except EngineFailed as error:
            self.failure = error
        except Exception as error:  # whatever the socket says when it is closed under us
            _log.debug("output ends: %r", error)
        finally:
            self._end()

    def fail(self, failure: OSError) -> None:
        """In place of `run`, where there is no thread for it."""
        self.failure = failure
        self._end()

    def _end(self) -> None:
        with self._lock:
            self._ended = True
        self.wake()

    def take(self) -> tuple[list[bytes], bool]:
        """What there is, and whether nothing comes after it."""
        with self._lock:
            taken = list(self._queue)
            self._queue.clear()
            self._bytes = 0
            self._lock.notify()
            return taken, self._ended

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._lock.notify()


async def live(
    frames: Iterator[bytes],
    source: Any,
    limiter: trio.CapacityLimiter,
    spawn: Callable[..., None],
) -> AsyncGenerator[list[bytes], None]:
    """Frames as they come, until the output's end. Raises EngineFailed where it broke off, and
    Crowded where the limiter has no place, for which one might wait for hours, or the device no
    thread.

    `source` is what `close` ends them with; `spawn` begins a task elsewhere: a nursery must not
    stay open over a generator's yield.
    """
    token, waiting = trio.lowlevel.current_trio_token(), [trio.Event()]

    def rouse() -> None:
        waiting[0].set()

    def wake() -> None:
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(rouse)

    follower = Follower(frames, wake)
    try:
        check_place(limiter)
        limiter.acquire_on_behalf_of_nowait(follower)
        spawn(_read, follower, limiter)
        ended = False
        while not ended:
            await waiting[0].wait()
            waiting[0] = trio.Event()
            taken, ended = follower.take()
            if taken:
                yield taken
        if follower.failure is not None:
            raise follower.failure
    finally:
        follower.close()
        with contextlib.suppress(Exception):  # the socket under it may be gone
            source.close()


def check_place(limiter: trio.CapacityLimiter) -> None:
    """Raises Crowded."""
    if limiter.available_tokens < 1:
        raise Crowded(
            f"{limiter.total_tokens} follow the output of containers there, and no more may"
        )


async def _read(follower: Follower, limiter: trio.CapacityLimiter) -> None:
    try:
        await abandonable(follower.run)
    except NoThread as error:
        follower.fail(Crowded(f"that output cannot be followed: {error}"))
    finally:
        limiter.release_on_behalf_of(follower)
