"""Tasks: the transport's nursery, in which nothing that goes wrong about one peer ends the rest."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from agent.transport.counters import Counters

logger = logging.getLogger(__name__)


class Tasks:
    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[trio.Nursery]:
        """Tasks can be started within this block; they are cancelled at its end."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                yield nursery
            finally:
                self._nursery = None
                nursery.cancel_scope.cancel()

    def start(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run in the background; a no-op while the transport does not run."""
        if self._nursery is not None:
            self._nursery.start_soon(self.guard, function, *args)

    async def guard(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """Whatever fails about one peer costs that peer its connection, not the agent its life."""
        try:
            await function(*args)
        except Exception:
            self._counters.count("failed.task")
            logger.exception("in %s", function)
