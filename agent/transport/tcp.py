"""TCP: sockets that count their bytes, listeners that notice a taken port, and dials.

py-libp2p's own TCP transport is not used, for what was seen of 0.8.1:
- its listener sets SO_REUSEPORT, so that a second agent on the same port starts without an error
  and takes half of the connections;
- its accept handler holds a slot and a task for each connection that was ever accepted until the
  host ends, so that a host goes deaf after some 250 reconnects;
- its dial picks one address per transport, always waits out 250 ms, and bars a peer for 60 s;
- it reads two bytes and then the rest, one system call each.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from enum import Enum

import trio
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError

from agent.transport.addresses import Endpoint
from agent.transport.counters import Counters
from agent.transport.errors import AddressInvalid, PortInUse

READ_BYTES = 64 * 1024
BACKLOG = 128


class TcpStream(ReadWriteCloser):
    """A TCP connection as libp2p wants it: exact small reads out of one large buffer.

    trio sets TCP_NODELAY on every socket stream, and so a small frame leaves at once.
    """

    def __init__(self, stream: trio.SocketStream, counters: Counters) -> None:
        self._stream = stream
        self._counters = counters
        self._buffer = bytearray()
        peer = stream.socket.getpeername()
        self.remote: tuple[str, int] = (str(peer[0]), int(peer[1]))

    async def read(self, n: int | None = None) -> bytes:
        """Up to `n` bytes. Raises ConnectionClosedError at the end: libp2p asks a hundred times
        again where a read returns nothing."""
        if not self._buffer:
            try:
                data = await self._stream.receive_some(READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionClosedError(f"connection lost: {error}", transport="tcp") from error
            if not data:
                raise ConnectionClosedError("closed by peer", transport="tcp")
            self._counters.bytes_in += len(data)
            if n is None or n >= len(data):
                return bytes(data)
            self._buffer += data
        if n is None or n >= len(self._buffer):
            taken = bytes(self._buffer)
            self._buffer.clear()
            return taken
        taken = bytes(self._buffer[:n])
        del self._buffer[:n]
        return taken

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(f"connection lost: {error}", transport="tcp") from error
        self._counters.bytes_out += len(data)

    async def close(self) -> None:
        await self._stream.aclose()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self.remote


async def listen(endpoint: Endpoint) -> list[trio.SocketListener]:
    """Bind and listen. Raises PortInUse, and AddressInvalid where it cannot for another reason."""
    try:
        return list(
            await trio.open_tcp_listeners(endpoint.port, host=endpoint.host, backlog=BACKLOG)
        )
    except OSError as error:
        code = _errno_of(error)
        if code == errno.EADDRINUSE:
            raise PortInUse(str(endpoint)) from error
        why = (os.strerror(code) if code and code > 0 else str(error)).lower()
        if code == errno.EADDRNOTAVAIL:
            why = "this device has no such address; 0.0.0.0 is all that it has"
        elif code == errno.EACCES:
            why = "ports below 1024 are for root alone"
        raise AddressInvalid(f"cannot listen on {endpoint}: {why} (--listen)") from error


def bound_endpoint(listener: trio.SocketListener) -> Endpoint:
    host, port = listener.socket.getsockname()[:2]
    return Endpoint(str(host), int(port))


class Absence(Enum):
    """What a failed TCP dial says about the other side."""

    REFUSED = "refused"  # the host is there and nobody listens
    UNKNOWN = "unknown"  # no answer, no route, no name: nothing is known


class ConnectFailed(Exception):
    def __init__(self, absence: Absence, text: str) -> None:
        super().__init__(text)
        self.absence = absence


async def connect(endpoint: Endpoint, counters: Counters, timeout_s: float) -> TcpStream:
    """Dial one address. Raises ConnectFailed."""
    try:
        with trio.fail_after(timeout_s):
            stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
    except trio.TooSlowError:
        raise ConnectFailed(Absence.UNKNOWN, f"{endpoint}: no answer in {timeout_s:g} s") from None
    except OSError as error:
        refused = _errno_of(error) == errno.ECONNREFUSED
        absence = Absence.REFUSED if refused else Absence.UNKNOWN
        raise ConnectFailed(absence, f"{endpoint}: {error}") from None
    try:
        return TcpStream(stream, counters)
    except OSError as error:  # reset between the connect and getpeername
        await stream.aclose()
        raise ConnectFailed(Absence.UNKNOWN, f"{endpoint}: {error}") from None


def _errno_of(error: BaseException | None) -> int | None:
    """The errno inside trio's wrappers: a chained cause, or one of several failed attempts."""
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if isinstance(one, OSError) and one.errno is not None:
            return one.errno
        if one is not None:
            nested: Sequence[BaseException] = getattr(one, "exceptions", ())
            pending += [one.__cause__, *nested]
    return None
