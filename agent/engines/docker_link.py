"""The link to docker: its client, calls to it in threads, and the stream that tells of ends."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, Final, TypeVar

import trio

from agent.engines.docker_client import DockerClient, EngineFailed, Events, NotAnswering, NotAsked
from agent.threads import NoThread, abandonable

_T = TypeVar("_T")
CALLS_MAX: Final = 16  # at a time; each is a thread that waits for docker
LATE_S: Final = 5.0  # after it is well again, for what it had queued
AGAIN_S: Final = 0.5  # before what docker broke off is asked for again
LOOK_S: Final = 15.0  # between tries to reach a docker that is not there
PAUSES_S: Final = (0.2, 10.0)  # before the stream of events is opened again: first, and at most
_log = logging.getLogger("shoal.docker")


class DockerLink:
    """Connected when it is first used; then it listens, whatever becomes of the stream."""

    def __init__(
        self,
        connect: Callable[[], DockerClient],
        on_event: Callable[[str, str], None],
        on_open: Callable[[], Awaitable[None]],
    ) -> None:
        """`on_event` hears of each execution and what befell it; `on_open` is awaited whenever the
        stream stands again, since ends may have been missed."""
        self._connect = connect
        self._on_event = on_event
        self._on_open = on_open
        self._client: DockerClient | None = None
        self._limiter = trio.CapacityLimiter(CALLS_MAX)
        self._connecting = trio.Lock()
        self._listens = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._doubtful = False  # a call had no answer
        self._away: tuple[float, float] | None = None  # Unix times: broken, and stood again
        self._kept = False  # what runs outlived docker's going
        self._failed = (-math.inf, EngineFailed())  # when the last try to connect ended, and how

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await trio.sleep_forever()
        finally:
            self._nursery = None
            if self._client is not None:
                self._client.close()

    def spawn(self, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Do it beside all else; what goes wrong with it is logged. Nothing is begun once this has
        ended: docker may tell of more while the agent stops."""
        if self._nursery is not None:
            self._nursery.start_soon(_guarded, work, args)

    async def client(self) -> DockerClient:
        """Once events are listened to, so that no end is missed. Raises EngineFailed."""
        begun = trio.current_time()
        async with self._connecting:
            if self._client is None:
                failed_at, failure = self._failed
                if failed_at > begun:  # whoever waited for this try does not try it again
                    raise type(failure)(str(failure))
                try:
                    self._client = await self.ask(self._connect)
                except EngineFailed as error:
                    self._failed = (trio.current_time(), error)
                    raise
                self.spawn(self._listen)
        with trio.move_on_after(PAUSES_S[1]):  # where docker hangs, the call that follows says so
            await self._listens.wait()
        return self._client

    async def when_there(self) -> None:
        """Keep trying to reach it."""
        while self._client is None:
            try:
                await self.client()
            except EngineFailed:
                await trio.sleep(LOOK_S)

    async def ask(self, work: Callable[[], _T]) -> _T:
        """In a thread, whose end the client's timeout bounds. An agent that ends does not wait for
        that: what was asked for may be done yet, and the next life looks. Raises NotAsked."""
        try:
            return await abandonable(work, self._limiter)
        except NotAnswering:
            self._doubtful = True
            raise
        except NoThread as error:
            raise NotAsked(f"docker was not asked: {error}") from None

    def doubt(self) -> None:
        """Something failed that has to be tried again."""
        self._doubtful = True

    async def trying(self, work: Callable[..., Awaitable[None]], name: str, *args: Any) -> None:
        """Do it for that execution: where it fails it keeps the others from nothing, and is tried
        again."""
        try:
            await work(name, *args)
        except OSError as error:
            _log.warning("%s: %s", name, error)
            self.doubt()

    def look_again(self) -> None:
        """It is well now: do what it did not do when it was not. A docker that hung for a while
        breaks no stream."""
        if self._doubtful and self._listens.is_set():
            self._doubtful = False
            self.spawn(self._look_twice)

    async def _look_twice(self) -> None:
        """What was asked of it while it hung it may do yet, though nobody waits for that now."""
        await self._on_open()
        await trio.sleep(LATE_S)
        await self._on_open()

    def was_away(self, finished: float) -> bool:
        """Whether docker saw what ended then only as it came back."""
        return self._away is not None and self._away[0] <= finished <= self._away[1]

    def took_down(self, finished: float) -> bool:
        """Whether what ended then ended with docker itself, and not of its own accord."""
        return self.was_away(finished) and not self._kept

    async def _listen(self) -> None:
        pause_s, broken, restores = PAUSES_S[0], 0.0, False
        while True:
            try:
                client = await self._renewed() if broken else self._client
                assert client is not None
                events = await abandonable(client.events)  # it has no timeout
                if broken:
                    self._away = (broken, time.time())
                    self._kept = restores and client.live_restore
                restores = client.live_restore
                self._listens.set()
                self.spawn(self._on_open)
                pause_s = PAUSES_S[0]
                await self._hear(events)
            except EngineFailed as error:
                _log.debug("events: %s", error)
            except Exception:  # without them no end would be heard of any more
                _log.exception("events")
            if self._listens.is_set():
                broken, self._listens = time.time(), trio.Event()
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSES_S[1])

    async def _renewed(self) -> DockerClient:
        """Docker was away: it may be another version now, with which the old client has no API in
        common, or have other settings."""
        fresh, old = await self.ask(self._connect), self._client
        self._client = fresh
        if old is not None and old is not fresh:
            old.close()
        return fresh

    async def _hear(self, events: Events) -> None:
        token = trio.lowlevel.current_trio_token()

        def hear(stream: Iterator[tuple[str, str]]) -> None:
            with suppress(trio.RunFinishedError):
                for execution_id, action in stream:
                    token.run_sync_soon(self._on_event, execution_id, action)

        try:
            await abandonable(lambda: hear(iter(events)))
        finally:
            events.close()  # the thread ends with it


async def _guarded(work: Callable[..., Awaitable[None]], args: tuple[Any, ...]) -> None:
    try:
        await work(*args)
    except OSError as error:
        _log.warning("%s", error)
    except Exception:
        _log.exception("in the docker engine")
