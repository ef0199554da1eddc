"""Streamed answers: one JSON value a line, as it happens, for as long as somebody reads.

Starlette's own streaming response is not used: it cancels its writer as soon as hypercorn says
that the connection is closing, which for `Connection: close` is before the end has been written.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agent.control.backend import RequestError, View

log = logging.getLogger(__name__)

encode = msgspec.json.Encoder().encode
HEARTBEAT = b"\n"  # an empty line: readers of lines of JSON skip it

Emit = Callable[[View], Awaitable[None]]


class JsonAnswer(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return encode(content)


def plain_log(line: View) -> View:
    """A log line in JSON: bytes as text where they are UTF-8, else in base64, which it says."""
    data = line["data"]
    if isinstance(data, bytes):
        try:
            return {**line, "data": data.decode()}
        except UnicodeDecodeError:
            return {**line, "encoding": "base64"}  # what msgspec makes of bytes
    return line


@dataclass(slots=True)
class LineWriter:
    """Writes lines of one answer, from any of its tasks, one at a time."""

    send: Send
    lock: trio.Lock = field(default_factory=trio.Lock)
    quiet_since: float = field(default_factory=trio.current_time)

    async def emit(self, view: View) -> None:
        await self.write(encode(view) + b"\n")

    async def write(self, line: bytes) -> None:
        async with self.lock:
            await self.send({"type": "http.response.body", "body": line, "more_body": True})
            self.quiet_since = trio.current_time()


class LineStream(Response):
    """Answers with the lines that `produce` emits. It is cancelled when the client goes away.

    An error in it becomes the last line, `{"error": ...}`: by then the status has been sent.
    `at_end` is called once, however it ends.
    """

    media_type = "application/x-ndjson"

    def __init__(
        self,
        produce: Callable[[Emit], Awaitable[None]],
        heartbeat_s: float,
        at_end: Callable[[], None],
    ) -> None:
        super().__init__(headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._produce = produce
        self._heartbeat_s = heartbeat_s
        self._at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(receive, send)
        finally:
            self._at_end()

    async def _answer(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        writer = LineWriter(send)
        gone = False

        async def watch() -> None:
            nonlocal gone
            while (await receive())["type"] != "http.disconnect":
                pass
            gone = True
            nursery.cancel_scope.cancel()

        await writer.write(HEARTBEAT)  # takes the head along, however long nothing happens
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            nursery.start_soon(self._beat, writer)
            await self._run(writer)
            nursery.cancel_scope.cancel()
        if not gone:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _run(self, writer: LineWriter) -> None:
        try:
            await self._produce(writer.emit)
        except RequestError as error:
            await writer.emit({"error": error.text, "status": error.status})
        except Exception:
            log.exception("a stream of the control API failed")
            await writer.emit({"error": "the agent failed at this; its log says how"})

    async def _beat(self, writer: LineWriter) -> None:
        """A line now and then, so that whoever only pretends to read is found out."""
        while True:
            await trio.sleep_until(writer.quiet_since + self._heartbeat_s)
            if trio.current_time() >= writer.quiet_since + self._heartbeat_s:
                await writer.write(HEARTBEAT)
