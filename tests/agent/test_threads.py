"""Threads: what goes wrong in one is told as it is, and that there is none is one more failure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
import trio.testing

from agent.threads import NoThread, abandonable, in_thread


@contextmanager
def no_threads() -> Iterator[None]:
    """As on a device that has as many as its system allows."""

    def refuse(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trio._threads.start_thread_soon", refuse)
        yield


Run = Callable[..., Awaitable[Any]]


@pytest.mark.parametrize("run", [in_thread, abandonable])
async def test_a_device_that_can_begin_none_fails_as_its_disk_may(run: Run) -> None:
    limiter = trio.CapacityLimiter(1)
    with no_threads(), pytest.raises(NoThread, match=r"can't start new thread$"):
        await run(int, limiter=limiter)
    assert issubclass(NoThread, OSError)
    assert (limiter.borrowed_tokens, await run(int, limiter=limiter)) == (0, 0)


@pytest.mark.parametrize("run", [in_thread, abandonable])
async def test_what_the_work_raises_is_its_own(run: Run) -> None:
    def work() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await run(work, limiter=trio.CapacityLimiter(1))
