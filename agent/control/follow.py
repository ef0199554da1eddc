"""Following one job to its end: its events, its output if wanted, then its final state.

Lines are `{"event": ...}`, `{"log": ...}` and, last, `{"final": job view}`. The end is pushed by
the job's own event. A look at the job now and then is the repair for an event that was lost, since
the job's coordinator may have died and the one that took over be out of touch.
"""

from __future__ import annotations

import trio

from agent.control.backend import (
    FINAL_KINDS,
    FINAL_STATES,
    Backend,
    LogQuery,
    RequestError,
    View,
)
from agent.control.streams import Emit, plain_log
from agent.shortfall import Cause

PATIENCE = 0.1  # of the time it has taken so far: who waits for a long job can wait a little more
LOGS_END_S = 10.0  # the job has ended; its output may still be on its way from other devices
_HAS_OUTPUT = (
    "execution.started",
    "execution.running",
    "execution.ended",
    "daemon.started",
    *FINAL_KINDS,
)


async def follow_job(
    backend: Backend,
    job: str,
    emit: Emit,
    *,
    events: bool,
    logs: bool,
    look_first: bool,
    look_s: float,
    look_max_s: float,
) -> None:
    """Emit what happens to `job` until it has ended.

    `look_first` for a job that may have ended before this began; `look_s` to `look_max_s` between
    later looks: of a job that is coordinated elsewhere no event comes here.
    """
    follower = _JobFollower(backend, job, emit, events, look_s, look_max_s)
    async with trio.open_nursery() as nursery:
        await follower.until_end(nursery if logs else None, look_first)
        nursery.cancel_scope.deadline = trio.current_time() + LOGS_END_S
        if logs and not follower.reading:
            nursery.start_soon(follower.read_logs)
    if nursery.cancel_scope.cancelled_caught:
        text = f"not all of it came within {LOGS_END_S:.0f} s of the end; `shoal logs` says more"
        await emit({"log_error": text})
    await emit({"final": follower.final})


class _JobFollower:
    def __init__(
        self,
        backend: Backend,
        job: str,
        emit: Emit,
        events: bool,
        look_s: float,
        look_max_s: float,
    ) -> None:
        self.backend = backend
        self.job = job
        self.emit = emit
        self.events = events
        self.look_s = look_s
        self.look_max_s = look_max_s
        self.reading = False
        self.final: View = {}

    async def until_end(self, output: trio.Nursery | None, look_first: bool) -> None:
        """Emit events until the job has ended; its output is read in `output`, if wanted."""
        events = self.backend.events(0, self.job)
        try:
            if look_first and await self._ended():
                for event in self.backend.recent(0, self.job) if self.events else ():
                    await self.emit({"event": event})
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._look, nursery.cancel_scope)
                async for event in events:
                    if self.events:
                        await self.emit({"event": event})
                    if output and not self.reading and event["kind"] in _HAS_OUTPUT:
                        self.reading = True
                        output.start_soon(self.read_logs)
                    if event["kind"] in FINAL_KINDS and await self._ended():
                        break
                nursery.cancel_scope.cancel()
        finally:
            await events.aclose()

    async def read_logs(self) -> None:
        lines = self.backend.logs(self.job, LogQuery(follow=True))
        try:
            async for line in lines:
                if line.get("cause") != Cause.NONE:  # `final` says why it did not begin
                    await self.emit({"log": plain_log(line)})
        except RequestError as error:
            await self.emit({"log_error": error.text})
        finally:
            await lines.aclose()

    async def _look(self, scope: trio.CancelScope) -> None:
        begun = trio.current_time()
        while True:
            pause = max(self.look_s, PATIENCE * (trio.current_time() - begun))
            await trio.sleep(min(pause, self.look_max_s))
            if await self._ended():
                scope.cancel()

    async def _ended(self) -> bool:
        """Whether the job has ended; not if nobody who holds it answers just now."""
        try:
            view = await self.backend.job(self.job)
        except RequestError:
            return False
        if view["state"] in FINAL_STATES:
            self.final = view
        return bool(self.final)
