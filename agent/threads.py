"""Threads for what blocks, where a device that can begin none is one more thing that fails."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import trio

_T = TypeVar("_T")


class NoThread(OSError):
    """As many run as the system allows, or there is no memory for a stack."""


async def in_thread(
    work: Callable[..., _T], *args: Any, limiter: trio.CapacityLimiter | None = None
) -> _T:
    """Do it in a thread, to its end. Raises NoThread, and what the work raises."""
    return await _run(partial(work, *args), limiter, abandons=False)


async def abandonable(work: Callable[[], _T], limiter: trio.CapacityLimiter | None = None) -> _T:
    """As `in_thread`, of work that changes nothing, or is ended in another way: cancelled, it goes
    on to its end, and nobody hears of that.

    It keeps its place in `limiter` until then; without one it takes nobody's place.
    """
    return await _run(work, limiter or trio.CapacityLimiter(1), abandons=True)


async def _run(
    work: Callable[[], _T], limiter: trio.CapacityLimiter | None, *, abandons: bool
) -> _T:
    begun = False

    def begin() -> _T:
        nonlocal begun
        begun = True
        return work()

    try:
        return await trio.to_thread.run_sync(
            begin,
            abandon_on_cancel=abandons,  # type: ignore[call-arg]  # libp2p brings older stubs
            limiter=limiter,
        )
    except RuntimeError as error:
        if begun:
            raise
        raise NoThread(f"no thread could be begun: {error}") from None
