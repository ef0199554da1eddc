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
        self._over = False
        self._early: list[tuple[Callable[..., Awaitable[object]], tuple[object, ...]]] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[trio.Nursery]:
        """Tasks run within this block, and are cancelled at its end."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for function, args in self._early:
                self.start(function, *args)
            self._early.clear()
            try:
                yield nursery
            finally:
                self._nursery, self._over = None, True
                nursery.cancel_scope.cancel()

    def start(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run in the background; as soon as the transport does, if called before."""
        if self._nursery is not None:
            self._nursery.start_soon(self.guard, function, *args)
        elif not self._over:
            self._early.append((function, args))

    async def guard(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """Whatever fails about one peer costs that peer its connection, not the agent its life."""
        try:
            await function(*args)
        except Exception:
            self._counters.count("failed.task")
            logger.exception("in %s", function)
