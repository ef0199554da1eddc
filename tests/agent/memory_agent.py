"""An agent in a thread: the real control server over a real socket, with the backend in memory."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from agent.control.server import Limits, serve_control
from tests.agent.memory_backend import MemoryBackend


class MemoryAgent:
    """Context manager; inside, `call` runs something within the agent's thread."""

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        self.path = path
        self.limits = limits
        self.backend: MemoryBackend
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "MemoryAgent":
        self._thread.start()
        assert self._ready.wait(60)
        if self._failure:
            raise self._failure
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        with suppress(trio.RunFinishedError):
            trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self._failure:
            raise self._failure

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return trio.from_thread.run_sync(lambda: function(*args), trio_token=self._token)

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self.backend = MemoryBackend()
        with trio.CancelScope() as self._scope:
            async with self.backend.running(), trio.open_nursery() as nursery:
                await nursery.start(
                    lambda task_status: serve_control(
                        self.backend, self.path, limits=self.limits, task_status=task_status
                    )
                )
                self._ready.set()
                await self.backend.ended.wait()
                nursery.cancel_scope.cancel()
