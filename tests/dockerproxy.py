"""Between an agent and its docker: requests and answers are passed on, and counted, and may be held
back, cut off, damaged or sent in pieces. Whatever arrives here is of a real docker."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

PIECE_BYTES: Final = 64 << 10
# Where docker breaks off, or cannot be reached, its SDK leaves sockets to the collector.
LEAVES_SOCKETS: Final = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)
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


@dataclass(eq=False)
class Fault:
    """What becomes of answers to some requests."""

    wanted: re.Pattern[bytes]
    after: int | re.Pattern[bytes] | None = None  # where they stop: behind so many bytes, or words
    cut: bool = False  # nothing comes after that
    was: bytes = b""  # and becomes
    becomes: bytes = b""
    size: int = PIECE_BYTES  # of pieces
    goes_on: threading.Event = field(default_factory=threading.Event)

    def stop(self, passed: bytes, data: bytes) -> int | None:
        """At which place of the data, which come after what has been passed on."""
        if isinstance(self.after, re.Pattern):
            found = self.after.search(passed + data)
            return max(0, found.end() - len(passed)) if found else None
        if self.after is None or len(passed) + len(data) <= self.after:
            return None
        return max(0, self.after - len(passed))


class DockerProxy:
    """A socket that leads to another; its threads end with the connections."""

    def __init__(self, path: Path, docker: Path) -> None:
        self.path = path
        self._docker = docker
        self.asked: list[bytes] = []  # the first line of each request
        self.hung = threading.Event()  # something is held back
        self.held = 0  # how many answers were
        self._requests: list[Request] = []
        self._faults: list[Fault] = []
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for fault in self._faults:
            fault.goes_on.set()
        for request in self._requests:
            request.let_go()
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self.path.unlink()

    def count(self, pattern: bytes) -> int:
        """How many requests with this pattern there were."""
        return sum(bool(re.search(pattern, each)) for each in list(self.asked))

    @contextlib.contextmanager
    def hanging(
        self, pattern: bytes, after: int | bytes = 0, *, cut: bool = False
    ) -> Iterator[None]:
        """Answers to requests that have this pattern stop after so many bytes, or behind such
        words, within the block. With `cut` they are cut off at its end, and do not go on."""
        self.hung.clear()
        stops = re.compile(after) if isinstance(after, bytes) else after
        with self._fault(Fault(re.compile(pattern), stops, cut)):
            yield

    @contextlib.contextmanager
    def cutting(self, pattern: bytes, after: int | bytes = 0) -> Iterator[None]:
        """Connections end after so many bytes of such an answer, or behind such words."""
        stops = re.compile(after) if isinstance(after, bytes) else after
        fault = Fault(re.compile(pattern), stops, cut=True)
        fault.goes_on.set()
        with self._fault(fault):
            yield

    @contextlib.contextmanager
    def damaging(self, pattern: bytes, was: bytes, becomes: bytes) -> Iterator[None]:
        """Such answers have other words, as long as those that they stand for."""
        assert len(was) == len(becomes), (was, becomes)
        with self._fault(Fault(re.compile(pattern), was=was, becomes=becomes)):
            yield

    @contextlib.contextmanager
    def slicing(self, pattern: bytes, size: int) -> Iterator[None]:
        """Such answers come in pieces of this many bytes."""
        with self._fault(Fault(re.compile(pattern), size=size)):
            yield

    @contextlib.contextmanager
    def _fault(self, fault: Fault) -> Iterator[None]:
        self._faults.append(fault)
        try:
            yield
        finally:
            self._faults.remove(fault)
            fault.goes_on.set()

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
                    self.asked.append(found[0])
                    for held in [each for each in self._requests if each.wanted.search(found[0])]:
                        held.wait()
                docker.sendall(data)
        with contextlib.suppress(OSError):
            docker.shutdown(socket.SHUT_RDWR)

    def _answer(self, agent: socket.socket, docker: socket.socket, request: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            self._pass_on(agent, docker, request)
        with contextlib.suppress(OSError):
            agent.shutdown(socket.SHUT_RDWR)

    def _pass_on(self, agent: socket.socket, docker: socket.socket, request: list[bytes]) -> None:
        asked, passed = b"", b""
        while data := docker.recv(PIECE_BYTES):
            if request[0] is not asked:
                asked, passed = request[0], b""
            faults = [each for each in self._faults if each.wanted.search(asked)]
            for fault in faults:
                if (stop := fault.stop(passed, data)) is not None:
                    agent.sendall(data[:stop])
                    passed, data = passed + data[:stop], data[stop:]
                    self.held += 1
                    self.hung.set()
                    fault.goes_on.wait()
                    if fault.cut:
                        return
                if fault.was:
                    data = data.replace(fault.was, fault.becomes)
            size = min((each.size for each in faults), default=PIECE_BYTES)
            for begin in range(0, len(data), size):
                agent.sendall(data[begin : begin + size])
            passed = passed + data if faults else b""
