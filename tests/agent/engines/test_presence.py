"""Presence: what a docker that is well, ill, silent or not there looks like from outside."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agent.engines import presence
from agent.engines.presence import Presence

DIGEST = "sha256:" + "ab" * 32
WITHIN_S = 20.0
IMAGES = [
    {"RepoTags": ["busybox:1.37.0", "ghcr.io/owner/name:v1"], "RepoDigests": []},
    {"RepoTags": None, "RepoDigests": [f"busybox@{DIGEST}"]},
    {"RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"]},
    {},
]
NAMES = frozenset(
    {
        "docker.io/library/busybox:1.37.0",
        "ghcr.io/owner/name:v1",
        f"docker.io/library/busybox@{DIGEST}",
    }
)


class Docker:
    """A socket that answers each connection with these bytes, or with silence until it is left."""

    def __init__(self, path: Path, answer: bytes | None) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
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
                self.requests.append(request)
                if self.answer is None:
                    connection.recv(1)
                else:
                    connection.sendall(self.answer)

    def stop(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(str(self._path))
        self._thread.join(WITHIN_S)
        assert not self._thread.is_alive()
        self._server.close()
        self._path.unlink()


@contextmanager
def docker(path: Path, answer: bytes | None) -> Iterator[Docker]:
    it = Docker(path, answer)
    with ExitStack() as stack:
        stack.callback(it.stop)
        yield it


def answer(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[begin : begin + size] for begin in range(0, len(body), size)]
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(
        b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b"")
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "d.sock"


# ---- well --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [answer(json.dumps(IMAGES).encode()), chunked(json.dumps(IMAGES).encode(), 50)],
    ids=["whole", "chunked"],
)
async def test_it_is_there_with_its_images_by_their_full_names(path: Path, said: bytes) -> None:
    it = Presence(path)
    assert (it.present, it.trouble, it.images) == (False, "", frozenset())
    with docker(path, said) as host:
        await it.look()
    assert (it.present, it.trouble, it.images) == (True, "", NAMES)
    (request,) = host.requests
    assert request.startswith(b"GET /images/json HTTP/1.1\r\nhost: ")


async def test_without_images_it_is_there(path: Path) -> None:
    it = Presence(path)
    with docker(path, answer(b"[]")):
        await it.look()
    assert (it.present, it.trouble, it.images) == (True, "", frozenset())


async def test_so_many_images_are_looked_at(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "IMAGES_MAX", 2)
    images = [{"RepoTags": [f"image:{number}"]} for number in range(4)]
    it = Presence(path)
    with docker(path, answer(json.dumps(images).encode())):
        await it.look()
    assert it.images == {"docker.io/library/image:0", "docker.io/library/image:1"}


async def test_each_look_sees_what_there_is_now(path: Path) -> None:
    it = Presence(path)
    with docker(path, answer(json.dumps(IMAGES).encode())) as host:
        await it.look()
        host.answer = answer(b'[{"RepoTags": ["fresh:1"]}]')
        await it.look()
    assert it.images == {"docker.io/library/fresh:1"}


async def test_what_is_of_no_use_is_not_told_of_until_another_has_its_name(path: Path) -> None:
    def said(id: str) -> bytes:
        return answer(json.dumps([{"Id": id, "RepoTags": ["a:1"]}, {"RepoTags": ["b:1"]}]).encode())

    it, (a, b) = Presence(path), ("docker.io/library/a:1", "docker.io/library/b:1")
    with docker(path, said("sha256:1")) as host:
        await it.look()
        assert it.images == {a, b}
        it.leave_out(a)
        assert it.images == {b}
        await it.look()
        assert (it.images, it.ids[a]) == ({b}, "sha256:1")
        host.answer = said("sha256:2")
        await it.look()
        assert it.images == {a, b}
        host.answer = said("sha256:1")
        await it.look()
        assert it.images == {a, b}, "it is looked into again"


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


async def test_once_seen_it_is_missed_until_it_is_back(path: Path) -> None:
    it = Presence(path)
    with docker(path, answer(b"[]")):
        await it.look()
    await it.look()
    assert it.present
    assert it.trouble == "docker does not answer: [Errno 2] No such file or directory"
    with docker(path, answer(json.dumps(IMAGES).encode())):
        await it.look()
    assert (it.present, it.trouble, it.images) == (True, "", NAMES)


# ---- ill ---------------------------------------------------------------------------------------

ILL = {
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


@pytest.mark.parametrize("said", ILL.values(), ids=ILL)
async def test_whatever_else_it_says_is_no_docker_that_was_ever_there(
    path: Path, said: bytes
) -> None:
    it = Presence(path)
    with docker(path, said):
        await it.look()
    assert (it.present, it.trouble, it.images) == (False, "", frozenset())


@pytest.mark.parametrize("said", ILL.values(), ids=ILL)
async def test_whatever_else_it_says_is_trouble_where_it_was_there(path: Path, said: bytes) -> None:
    it = Presence(path, expected=True)
    with docker(path, said):
        await it.look()
    assert it.present and it.trouble.startswith("docker does not answer: ")


async def test_trouble_says_what_it_answered(path: Path) -> None:
    it = Presence(path, expected=True)
    with docker(path, ILL["status"]):
        await it.look()
    assert it.trouble == "docker does not answer: it answers 500"


async def test_silence_is_waited_for_so_long_and_no_longer(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "TIMEOUT_S", 0.05)
    it, expected = Presence(path), Presence(path, expected=True)
    with docker(path, None) as host:
        await it.look()
        await expected.look()
    assert len(host.requests) == 2
    assert (it.present, it.trouble) == (False, "")
    assert expected.present
    assert expected.trouble == "docker does not answer: no answer within 0 s"


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
    with docker(tmp_path / "d.sock", answer(body)):
        await it.look()
    assert it.trouble


@pytest.mark.parametrize("said", [b"", b"SSH-2.0\r\n", b"HTTP/1.1 200 OK\r\n"])
async def test_trouble_has_a_reason(tmp_path: Path, said: bytes) -> None:
    """Lost has no text: the sentence ends in a colon."""
    it = Presence(tmp_path / "d.sock", expected=True)
    with docker(tmp_path / "d.sock", said):
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
