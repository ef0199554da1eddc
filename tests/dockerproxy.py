"""Between an agent and its docker: requests and answers are passed on, and may be held back."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

PIECE_BYTES: Final = 64 << 10
_REQUEST: Final = re.compile(rb"^(?:GET|HEAD|POST|PUT|DELETE) [^\r\n]*", re.MULTILINE)


class Request:
    """One that is on its way: whoever sent it may be gone before it arrives."""

    def __init__(self, pattern: bytes) -> None:
        self.wanted = re.compile(pattern)
        self.sent = threading.Event()
        self._goes_on = threading.Event()

    def let_go(self) -> None:
        self._goes_on.set()

    def wait(self) -> None:
        self.sent.set()
        self._goes_on.wait()


class DockerProxy:
    """A socket that leads to another; its threads end with the connections."""

    def __init__(self, path: Path, docker: Path) -> None:
        self.path = path
        self._docker = docker
        self._hangs: Callable[[bytes], int | None] = lambda request: None
        self._go_on = threading.Event()
        self._go_on.set()
        self.hung = threading.Event()  # something is held back
        self.held = 0  # how many answers were
        self._requests: list[Request] = []
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._go_on.set()
        for request in self._requests:
            request.let_go()
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self.path.unlink()

    @contextlib.contextmanager
    def hanging(self, pattern: bytes, after: int = 0) -> Iterator[None]:
        """Answers to requests that have this pattern stop after so many bytes, within the block."""
        wanted = re.compile(pattern)
        self._go_on.clear()
        self.hung.clear()
        self._hangs = lambda request: after if wanted.search(request) else None
        try:
            yield
        finally:
            self._hangs = lambda request: None
            self._go_on.set()

    @contextlib.contextmanager
    def holding(self, pattern: bytes) -> Iterator[Request]:
        """Requests that have this pattern arrive when they are let go, at the latest after it."""
        request = Request(pattern)
        self._requests.append(request)
        try:
            yield request
        finally:
            self._requests.remove(request)
            request.let_go()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                agent, _ = self._listener.accept()
                docker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                try:
                    docker.connect(str(self._docker))
                except OSError:
                    agent.close()
                    continue
                self._open += [agent, docker]
                request = [b""]
                for work in (self._ask, self._answer):
                    threading.Thread(
                        target=work, args=(agent, docker, request), daemon=True
                    ).start()

    def _ask(self, agent: socket.socket, docker: socket.socket, request: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            while data := agent.recv(PIECE_BYTES):
                if found := _REQUEST.match(data):
                    request[0] = found[0]
                    for held in [each for each in self._requests if each.wanted.search(found[0])]:
                        held.wait()
                docker.sendall(data)
        with contextlib.suppress(OSError):
            docker.shutdown(socket.SHUT_RDWR)

    def _answer(self, agent: socket.socket, docker: socket.socket, request: list[bytes]) -> None:
        asked, passed = b"", 0
        with contextlib.suppress(OSError):
            while data := docker.recv(PIECE_BYTES):
                if request[0] is not asked:
                    asked, passed = request[0], 0
                after = self._hangs(asked)
                if after is not None and passed + len(data) > after:
                    agent.sendall(data[: after - passed])
                    data = data[after - passed :]
                    self.held += 1
                    self.hung.set()
                    self._go_on.wait()
                agent.sendall(data)
                passed += len(data)
        with contextlib.suppress(OSError):
            agent.shutdown(socket.SHUT_RDWR)
