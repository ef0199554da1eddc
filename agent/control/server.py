"""The server: Starlette on hypercorn's trio connections, over a unix socket, inside the agent.

hypercorn is pinned: four of its habits are cured here, each held by a test.

- It shields its writes from cancellation, so one client that stops reading would block the agent's
  end: every write has a deadline, and at the end sockets are closed under whoever is stuck.
- A connection that is answered before its body was read waits for ever for somebody to take the
  rest, and may never be closed: it is closed, and cancelled as soon as hypercorn has done so.
- Cancelled while it closes, it leaves the socket open: it is closed here in any case.
- It changes to HTTP/2 or a websocket where a client asks for it: neither is used here, or loaded.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import trio
from starlette.applications import Starlette

from agent import diet
from agent.control.backend import Backend
from agent.control.routes import build_app
from agent.control.sockets import bind

with diet.without(diet.HYPERCORN):
    import h11
    import hypercorn.protocol
    from hypercorn.app_wrappers import ASGIWrapper
    from hypercorn.config import Config
    from hypercorn.events import Closed, Event
    from hypercorn.protocol.h11 import H11Protocol
    from hypercorn.trio.tcp_server import TCPServer
    from hypercorn.trio.worker_context import WorkerContext
    from hypercorn.typing import LifespanState

log = logging.getLogger(__name__)

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
    b"connection: close\r\ncontent-length: 52\r\n\r\n"
    b'{"error":"the agent has too many open connections"}\n'
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one agent grants all its clients together."""

    connections_max: int = 128  # 33 KB each (measured)
    followers_max: int = 64  # streams; a person has a few terminals, a web page one or two
    body_bytes_max: int = 256 * 1024  # a spec of 64 KiB in CBOR is below that in JSON
    archive_bytes_max: int = 16 * 1024**2  # what `run -f` and `-C` may ship
    body_s: float = 30.0  # for a body to arrive whole; it comes from the same device, or over ssh
    write_s: float = 30.0  # for a client to read on; `events | less` may stand that long
    idle_s: float = 60.0  # a kept connection without a request, or with half of one
    heartbeat_s: float = 15.0  # between lines of a quiet stream
    look_s: float = 1.0  # at a job that another peer coordinates, at first
    ending_s: float = 0.5  # at the agent's end, for answers under way


async def serve_control(
    backend: Backend,
    path: Path,
    *,
    limits: Limits | None = None,
    task_status: Any = trio.TASK_STATUS_IGNORED,  # trio.TaskStatus[Path]
) -> None:
    """Serve until cancelled; the socket file is removed then. Raises SocketError at the start."""
    limits = limits or Limits()
    await serve_app(build_app(backend, limits), path, limits, task_status=task_status)


async def serve_app(
    app: Starlette, path: Path, limits: Limits, *, task_status: Any = trio.TASK_STATUS_IGNORED
) -> None:
    """The same with any application."""
    bound = bind(path)
    try:
        server = Server(app, limits)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound.socket))
        await server.run(listener, partial(task_status.started, path))
    finally:
        bound.remove()
        bound.socket.close()


class Server:
    """One application behind one listener; the metrics' own port has another than the socket."""

    def __init__(self, app: Starlette, limits: Limits) -> None:
        self.limits = limits
        self.app = ASGIWrapper(app)  # type: ignore[arg-type]
        self.config = _config(limits)
        self.context = WorkerContext(None)
        self.live = _Live()

    async def run(self, listener: trio.SocketListener, started: Callable[[], object]) -> None:
        """Until cancelled; `started` is called once connections are taken."""
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(self._cut_at_end)
            started()
            await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, stream: trio.SocketStream) -> None:
        """One connection, whatever becomes of it."""
        if len(self.live.streams) >= self.limits.connections_max:
            with trio.move_on_after(1.0), suppress(OSError, trio.BrokenResourceError):
                await stream.send_all(_BUSY)
            await trio.aclose_forcefully(stream)
            return
        async with self.live.holding(stream):
            try:
                await _Connection(self, stream).run()
            except Exception:
                log.exception("a connection of the control API failed")

    async def _cut_at_end(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            deadline = trio.current_time() + self.limits.ending_s
            with trio.CancelScope(deadline=deadline, shield=True):
                await self.live.wait_empty()
            self.live.cut()


@dataclass(slots=True)
class _Live:
    """Open connections, so that the end can wait for them, a little."""

    streams: dict[trio.SocketStream, None] = field(default_factory=dict)
    empty: trio.Event = field(default_factory=trio.Event)

    @asynccontextmanager
    async def holding(self, stream: trio.SocketStream) -> AsyncIterator[None]:
        self.streams[stream] = None
        try:
            yield
        finally:
            stream.socket.close()
            del self.streams[stream]
            if not self.streams:
                self.empty.set()
                self.empty = trio.Event()

    async def wait_empty(self) -> None:
        if self.streams:
            await self.empty.wait()

    def cut(self) -> None:
        for stream in self.streams:
            stream.socket.close()


class _Http1(H11Protocol):
    """HTTP/1.1 and nothing else: a wish for another protocol is passed over (RFC 9110, 7.8)."""

    async def _check_protocol(self, event: h11.Request) -> None:
        """Upstream begins HTTP/2 here."""

    async def _create_stream(self, request: h11.Request) -> None:
        kept = [(name, value) for name, value in request.headers if name != b"upgrade"]
        await super()._create_stream(
            h11.Request(
                method=request.method,
                target=request.target,
                headers=kept,
                http_version=request.http_version,
            )
        )

    async def _maybe_recycle(self) -> None:
        """The application has ended. Upstream tells it first that its client is gone, and waits for
        a place in its queue; whoever reads the connection may wait for one already."""
        if self.stream is not None:
            self.stream.closed = True  # it is told nothing more
            queue = cast("Any", self.stream.app_put).__self__
            if queue.statistics().tasks_waiting_send:
                self.stream = None
                await self.send(Closed())
                return
        await super()._maybe_recycle()


vars(hypercorn.protocol)["H11Protocol"] = _Http1  # the name by which its connections take theirs


class _Connection(TCPServer):
    """hypercorn's connection with the cures above, and with SO_PEERCRED in the request's state."""

    def __init__(self, server: Server, stream: trio.SocketStream) -> None:
        raw = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        state = {"credentials": _CREDENTIALS.unpack(raw)}
        bounded = cast("Any", _Bounded(stream, server.limits.write_s))
        super().__init__(
            server.app, server.config, server.context, cast("LifespanState", state), bounded
        )
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        with self._scope:
            await super().run()

    async def _read_data(self) -> None:
        await super()._read_data()
        # Upstream lets the timer of an idle connection run on: one that the client closed would
        # count as open until then.
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        await super().protocol_send(event)
        if isinstance(event, Closed):
            self._scope.cancel()


class _Bounded:
    """A stream whose writes have a deadline, and which sends a response's head with what follows.

    hypercorn writes the head, the body and the end of every response one by one; a system call
    each is a quarter of a small request's time.
    """

    def __init__(self, stream: trio.SocketStream, write_s: float) -> None:
        self._stream = stream
        self._write_s = write_s
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def send_all(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 ") and data[9:10] != b"1":  # 100 Continue stands alone
            self._head = data
            return
        data, self._head = self._head + data, b""
        if not data:
            return
        with trio.move_on_after(self._write_s) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            log.info("a client of the control API stopped reading and was cut off")
            await trio.aclose_forcefully(self._stream)
            raise trio.BrokenResourceError("the client stopped reading")


def _config(limits: Limits) -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("agent.control.http")
    config.include_server_header = False
    config.include_date_header = False  # 10 % of a request's cost, of no use here
    config.keep_alive_timeout = limits.idle_s
    config.keep_alive_max_requests = 10**9  # a client that stays is welcome
    config.h11_max_incomplete_size = 16 * 1024  # request line and headers
    return config
