"""Checks: whether what runs is well, found out by asking it, again and again until it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Final

import trio

from agent.engines.engine import Engines
from agent.threads import abandonable
from protocol.check import CheckSpec, split_address
from protocol.effects import CheckTask
from protocol.events import HealthChanged
from protocol.ids import ExecutionId

if TYPE_CHECKING:
    from trio_typing import TaskStatus

FIRST_S: Final = 1.0  # the first check comes soon, so that what is well is known to be so early
REASON_CHARS_MAX: Final = 200
_log = logging.getLogger("shoal.checks")


class Checks:
    """One task for each execution that has a check. Nothing that a check does raises here."""

    def __init__(self, engines: Engines, post: Callable[[HealthChanged], None]) -> None:
        self._engines = engines
        self._post = post
        self._nursery: trio.Nursery | None = None
        self._watched: dict[ExecutionId, bool | None] = {}  # what was told last, None for nothing
        self._rng = Random()

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def watch(self, effect: CheckTask) -> None:
        """Ordered again (by a node that was built anew), it is watched once and told of anew."""
        assert self._nursery is not None
        if effect.execution not in self._watched:
            self._nursery.start_soon(self._watch, effect.execution, effect.check)
        self._watched[effect.execution] = None

    async def _watch(self, execution: ExecutionId, check: CheckSpec) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask, execution, check)
            try:
                await self._engines.of(execution).wait(execution)
            except (KeyError, ValueError, OSError) as error:  # it is gone: others tell of that
                _log.debug("checking %s: %s", execution, error)
            nursery.cancel_scope.cancel()
        del self._watched[execution]

    async def _ask(self, execution: ExecutionId, check: CheckSpec) -> None:
        failures, limiter = 0, trio.CapacityLimiter(1)
        await trio.sleep(min(FIRST_S, check.every_s))
        while True:
            reason = await self._fails(execution, check, limiter)
            failures = failures + 1 if reason else 0
            told = self._watched[execution]
            if not reason and told is not True:
                self._watched[execution] = True
                self._post(HealthChanged(execution, True))
            elif failures >= check.failures and told is not False:
                self._watched[execution] = False
                self._post(HealthChanged(execution, False, reason[:REASON_CHARS_MAX]))
            await trio.sleep(check.every_s * self._rng.uniform(0.9, 1.1))

    async def _fails(
        self, execution: ExecutionId, check: CheckSpec, limiter: trio.CapacityLimiter
    ) -> str:
        """Why the check does not pass; empty where it does."""
        try:
            with trio.fail_after(check.timeout_s):
                if check.command:
                    return await self._run(execution, check.command)
                if check.address:
                    return await _connect(check.address)
                return await _fetch_aside(check.url, check.timeout_s, limiter)
        except trio.TooSlowError:
            return f"no answer within {check.timeout_s} s"
        except Exception as error:  # a device without memory, a name that does not resolve, ...
            return str(error) or type(error).__name__

    async def _run(self, execution: ExecutionId, command: tuple[str, ...]) -> str:
        code, said = await self._engines.of(execution).run_beside(execution, command)
        if code == 0:
            return ""
        return f"{command[0]} ended with exit code {code}{f': {said}' if said else ''}"


async def _fetch_aside(url: str, timeout_s: float, limiter: trio.CapacityLimiter) -> str:
    """In a thread, left to itself when the time is over: one for each execution, so that a page
    that drips for minutes keeps none but its own check waiting."""
    return await abandonable(lambda: _fetch(url, timeout_s), limiter)


async def _connect(address: str) -> str:
    host, port = split_address(address)
    try:
        stream = await trio.open_tcp_stream(host, port)
    except OSError as error:
        return f"{address}: {error.strerror or error}"
    await stream.aclose()
    return ""


def _fetch(url: str, timeout_s: float) -> str:
    import urllib.error  # a megabyte that few devices need
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_s) as answer:
            answer.read(1)
    except urllib.error.HTTPError as error:
        error.close()
        return f"{url} answers {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return f"{url}: {error.reason}"
    return ""
