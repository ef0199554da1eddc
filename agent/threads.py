"""Threads that may be left behind: their work changes nothing, or is ended in another way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

_T = TypeVar("_T")


async def abandonable(work: Callable[[], _T], limiter: trio.CapacityLimiter | None = None) -> _T:
    """Do it in a thread; cancelled, it goes on to its end, and nobody hears of that.

    It keeps its place in `limiter` until then; without one it takes nobody's place.
    """
    return await trio.to_thread.run_sync(
        work,
        abandon_on_cancel=True,  # type: ignore[call-arg]  # libp2p brings stubs of an older trio
        limiter=limiter or trio.CapacityLimiter(1),
    )
