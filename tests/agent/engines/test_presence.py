"""Presence: a docker that is not there, and whoever else has its place.

One that is there is in tests/integration/test_presence.py.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agent.engines import presence
from agent.engines.presence import Presence

WITHIN_S = 20.0


class Stranger:
    """Somebody who is no docker has its socket, and answers each connection with these bytes."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self._answer = answer
        self._path = path
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._server.accept()
            with connection:
                connection.settimeout(WITHIN_S)
                request = b""
                while not request.endswith(b"\r\n\r\n"):
                    if not (data := connection.recv(4096)):
                        return
                    request += data
                connection.sendall(self._answer)

    def stop(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(str(self._path))
        self._thread.join(WITHIN_S)
        assert not self._thread.is_alive()
        self._server.close()
        self._path.unlink()


@contextmanager
def stranger(path: Path, answer: bytes) -> Iterator[None]:
    it = Stranger(path, answer)
    try:
        yield
    finally:
        it.stop()


def answer(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "d.sock"


# ---- not there ---------------------------------------------------------------------------------


async def test_where_nobody_listens_it_is_no_trouble(path: Path) -> None:
    it = Presence(path)
    await it.look()
    assert (it.present, it.trouble, it.images) == (False, "", frozenset())


async def test_a_socket_that_nobody_serves_any_more_is_no_trouble(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(path))
    it = Presence(path)
    await it.look()
    assert (it.present, it.trouble) == (False, "")


async def test_where_it_ran_something_its_absence_is_trouble(path: Path) -> None:
    it = Presence(path, expected=True)
    assert (it.present, it.trouble) == (True, "")
    await it.look()
    assert it.present
    assert it.trouble == "docker does not answer: [Errno 2] No such file or directory"


# ---- somebody else -----------------------------------------------------------------------------

STRANGE = {
    "status": answer(b'{"message": "it is ill"}', "500 Internal Server Error"),
    "object": answer(b"{}"),
    "number": answer(b"5"),
    "null": answer(b"null"),
    "not json": answer(b"[ not json"),
    "names": answer(b'[{"RepoTags": 5}]'),
    "name": answer(b'[{"RepoTags": [5]}]'),
    "other protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "no status": b"HTTP/1.1 abc\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n[]",
    "cut off": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[]",
    "negative": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n[]",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n[]",
    "half a head": b"HTTP/1.1 200 OK\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("said", STRANGE.values(), ids=STRANGE)
async def test_whatever_else_it_says_is_no_docker_that_was_ever_there(
    path: Path, said: bytes
) -> None:
    it = Presence(path)
    with stranger(path, said):
        await it.look()
    assert (it.present, it.trouble, it.images) == (False, "", frozenset())


@pytest.mark.parametrize("said", STRANGE.values(), ids=STRANGE)
async def test_whatever_else_it_says_is_trouble_where_it_was_there(path: Path, said: bytes) -> None:
    it = Presence(path, expected=True)
    with stranger(path, said):
        await it.look()
    assert it.present and it.trouble.startswith("docker does not answer: ")


async def test_a_queue_before_it_that_does_not_move_is_trouble(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "TIMEOUT_S", 0.05)
    it = Presence(path, expected=True)
    with ExitStack() as stack:
        hung = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        hung.bind(str(path))
        hung.listen(0)
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        waiting.connect(str(path))
        await it.look()
    assert it.present and it.trouble.startswith("docker does not answer: ")


@pytest.mark.parametrize("body", [b"[5]", b"[null]", b'["x"]', b"[" * 100_000])
async def test_json_of_another_shape_is_trouble_and_no_crash(tmp_path: Path, body: bytes) -> None:
    it = Presence(tmp_path / "d.sock", expected=True)
    with stranger(tmp_path / "d.sock", answer(body)):
        await it.look()
    assert it.trouble


@pytest.mark.parametrize("said", [b"", b"SSH-2.0\r\n", b"HTTP/1.1 200 OK\r\n"])
async def test_trouble_has_a_reason(tmp_path: Path, said: bytes) -> None:
    """Lost has no text: the sentence ends in a colon."""
    it = Presence(tmp_path / "d.sock", expected=True)
    with stranger(tmp_path / "d.sock", said):
        await it.look()
    assert it.trouble.removeprefix("docker does not answer:").strip()


async def test_a_full_queue_is_silence(tmp_path: Path) -> None:
    """connect() to a unix socket with a full backlog is EAGAIN at once, never TimeoutError."""
    path = str(tmp_path / "d.sock")
    with socket.socket(socket.AF_UNIX) as hung, socket.socket(socket.AF_UNIX) as waiting:
        hung.bind(path)
        hung.listen(0)
        waiting.connect(path)
        it = Presence(Path(path), expected=True)
        await it.look()
    assert "Resource temporarily unavailable" not in it.trouble
