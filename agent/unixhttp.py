"""HTTP/1.1 as the agent's server speaks it, over a socket that is connected already.

Not `http.client`: importing it (email, ssl) takes longer than all the rest of a small command.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

LINE_MAX = 64 * 1024  # of a response's head


class Lost(Exception):
    """The connection ended before the answer did."""


class Silent(Exception):
    """Nothing came within the connection's timeout."""


class Connection:
    """Requests go out in one piece each, answers are read as our server writes them."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rb", buffering=64 * 1024)

    def request(self, method: str, target: str, body: bytes) -> Answer:
        head = f"{method} {target} HTTP/1.1\r\nhost: shoal\r\ncontent-length: {len(body)}\r\n\r\n"
        try:
            self._sock.sendall(head.encode("ascii") + body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all of it was read: the answer is there, or its absence tells
        except TimeoutError:
            raise Silent from None
        except OSError:
            raise Lost from None
        return Answer(cast("BinaryIO", self._file))

    def set_timeout(self, timeout_s: float) -> None:
        self._sock.settimeout(timeout_s)

    def is_open(self) -> bool:
        """Whether the agent has closed it, as far as is known here."""
        timeout_s = self._sock.gettimeout()
        self._sock.settimeout(0)
        try:
            return self._sock.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self._sock.settimeout(timeout_s)

    def shut_down(self) -> None:
        """End it under whoever reads from it."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._file.close()
        self._sock.close()


class Answer:
    """One response (RFC 9112): its status, then either all of its body or its lines."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.status = self._status()
        headers = dict(self._headers())
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self._length = int(headers.get("content-length", "0"))
        self.closes = headers.get("connection", "").lower() == "close"

    def body(self) -> bytes:
        return b"".join(self._chunks()) if self._chunked else self._exactly(self._length)

    def lines(self) -> Iterator[bytes]:
        rest = b""
        for chunk in self._chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
        if rest:
            raise Lost

    def _chunks(self) -> Iterator[bytes]:
        while size := self._number(self._line().partition(b";")[0], 16):
            yield self._exactly(size)
            self._line()
        while self._line():  # trailers; there are none
            pass

    def _status(self) -> int:
        while True:
            version, _, rest = self._line().partition(b" ")
            status = self._number(rest[:3], 10)
            if not version.startswith(b"HTTP/1."):
                raise Lost
            if status != 100:
                return status
            dict(self._headers())

    def _headers(self) -> Iterator[tuple[str, str]]:
        while line := self._line():
            name, _, value = line.decode("latin-1").partition(":")
            yield name.strip().lower(), value.strip()

    def _number(self, text: bytes, radix: int) -> int:
        try:
            return int(text, radix)
        except ValueError:
            raise Lost from None

    def _line(self) -> bytes:
        line = self._reading(lambda: self._file.readline(LINE_MAX))
        if not line.endswith(b"\n"):
            raise Lost
        return line.rstrip(b"\r\n")

    def _exactly(self, size: int) -> bytes:
        data = self._reading(lambda: self._file.read(size))
        if len(data) != size:
            raise Lost
        return data

    def _reading(self, read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except TimeoutError:
            raise Silent from None
        except (OSError, ValueError):
            raise Lost from None
