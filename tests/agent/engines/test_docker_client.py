"""docker_client: docker's moments, names and events, and what its SDK raises, in our own words."""

from __future__ import annotations

import base64
import http.server
import json
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import docker.errors
import pytest
import requests.exceptions
import urllib3.exceptions
from hypothesis import given
from hypothesis import strategies as st

from agent.engines import docker_client
from agent.engines.docker_client import (
    LABEL,
    DockerClient,
    EngineFailed,
    Events,
    NotAnswering,
    NotThere,
    moment_ns,
)

SECOND = 1_000_000_000
DIGEST = "sha256:" + "ab" * 32


# ---- moments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01Z", SECOND),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1970-01-01T00:00:00.5Z", SECOND // 2),
        ("1970-01-01T00:00:00.123456789Z", 123_456_789),
        ("2026-02-03T04:05:06.7Z", 1_770_091_506 * SECOND + 700_000_000),
        ("2026-02-03T05:05:06.7+01:00", 1_770_091_506 * SECOND + 700_000_000),
        ("2026-02-02T22:35:06.7-05:30", 1_770_091_506 * SECOND + 700_000_000),
        ("2024-02-29T00:00:00Z", 1_709_164_800 * SECOND),
    ],
)
def test_a_moment_is_nanoseconds_since_1970(text: str, moment: int) -> None:
    assert moment_ns(text) == moment


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00"])
def test_not_yet_is_zero(text: str) -> None:
    assert moment_ns(text) == 0


def test_before_1970_is_zero() -> None:
    assert moment_ns("1969-12-31T23:59:59.9Z") == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-02-03",
        "2026-02-03 04:05:06Z",
        "2026-02-03T04:05:06",
        "2026-02-03T04:05:06.Z",
        "2026-02-03T04:05:06.1234567890Z",
        "2026-02-03T04:05:06.5+0100",
        " 2026-02-03T04:05:06Z",
    ],
)
def test_what_is_no_moment_is_zero(text: str) -> None:
    assert moment_ns(text) == 0


@given(st.integers(0, 200 * 365 * 86400), st.integers(0, SECOND - 1), st.integers(-720, 840))
def test_every_moment_docker_writes_is_read_exactly(
    seconds: int, fraction_ns: int, offset_min: int
) -> None:
    local = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds, minutes=offset_min)
    sign = "-" if offset_min < 0 else "+"
    zone = f"{sign}{abs(offset_min) // 60:02d}:{abs(offset_min) % 60:02d}"
    text = f"{local:%Y-%m-%dT%H:%M:%S}.{fraction_ns:09d}{zone}"
    assert moment_ns(text) == seconds * SECOND + fraction_ns


# ---- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("busybox", ("busybox", "latest")),
        ("busybox:1.37.0", ("busybox", "1.37.0")),
        ("ghcr.io/owner/name", ("ghcr.io/owner/name", "latest")),
        ("ghcr.io/owner/name:v1", ("ghcr.io/owner/name", "v1")),
        ("localhost:5000/name", ("localhost:5000/name", "latest")),
        ("localhost:5000/a/b:v1", ("localhost:5000/a/b", "v1")),
        (f"busybox@{DIGEST}", ("busybox", DIGEST)),
        (f"localhost:5000/name@{DIGEST}", ("localhost:5000/name", DIGEST)),
        (f"busybox:1.37.0@{DIGEST}", ("busybox:1.37.0", DIGEST)),
    ],
)
def test_a_name_is_taken_apart_as_the_sdk_has_it(image: str, parts: tuple[str, str]) -> None:
    assert docker_client._split(image) == parts


# ---- events ------------------------------------------------------------------------------------


class Stream:
    def __init__(self, *events: dict[str, Any], failure: Exception | None = None) -> None:
        self.events = events
        self.failure = failure
        self.closed = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from self.events
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        self.closed += 1
        raise OSError("no socket here")


def event(action: str, **attributes: str) -> dict[str, Any]:
    return {"Action": action, "Actor": {"Attributes": attributes}}


def test_ends_and_signals_that_are_to_end_it_are_told() -> None:
    stream = Stream(
        event("die", **{LABEL: "e1"}),
        event("die", name="of somebody else"),
        event("kill", **{LABEL: "e2", "signal": "15"}),
        event("kill", **{LABEL: "e3", "signal": "1"}),
        event("kill", **{LABEL: "e4", "signal": "9"}),
        {"Action": "die"},
    )
    assert list(Events(stream)) == [("e1", "die"), ("e2", "kill"), ("e4", "kill")]


def test_a_stream_that_breaks_is_docker_not_answering() -> None:
    events = iter(Events(Stream(event("die", **{LABEL: "e1"}), failure=ReadFailed)))
    assert next(events) == ("e1", "die")
    with pytest.raises(NotAnswering, match="docker cannot be reached: it broke"):
        next(events)


def test_closing_a_stream_whose_socket_is_gone_says_nothing() -> None:
    stream = Stream()
    Events(stream).close()
    assert stream.closed == 1


ReadFailed = urllib3.exceptions.ProtocolError("it broke")


# ---- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "kind", "sentence"),
    [
        (docker.errors.NotFound("x", explanation="No such container: a"), NotThere,
         "No such container: a"),
        (docker.errors.ImageNotFound("x", explanation="No such image"), NotThere, "No such image"),
        (docker.errors.APIError("x", explanation="conflict"), EngineFailed, "conflict"),
        (docker.errors.APIError("only this"), EngineFailed, "only this"),
        (requests.exceptions.ReadTimeout("x"), NotAnswering, "docker did not answer within 60 s"),
        (requests.exceptions.ConnectionError("refused"), NotAnswering,
         "docker cannot be reached: refused"),
        (docker.errors.DockerException("bad version"), NotAnswering,
         "docker cannot be reached: bad version"),
        (ReadFailed, NotAnswering, "docker cannot be reached: it broke"),
        (docker.errors.StreamParseError("half a line"), NotAnswering,
         "what docker says cannot be read: half a line"),
        (struct.error("requires 8 bytes"), NotAnswering,
         "what docker says cannot be read: requires 8 bytes"),
    ],
)  # fmt: skip
def test_what_the_sdk_raises_is_one_of_three_with_a_sentence(
    raised: Exception, kind: type[EngineFailed], sentence: str
) -> None:
    with pytest.raises(EngineFailed) as caught, docker_client._told():
        raise raised
    assert (type(caught.value), str(caught.value)) == (kind, sentence)


def test_sentences_are_bounded() -> None:
    with pytest.raises(EngineFailed) as caught, docker_client._told():
        raise docker.errors.APIError("x", explanation="y" * 5000)
    assert str(caught.value) == "y" * 400


def test_our_own_bugs_are_not_docker_s() -> None:
    with pytest.raises(ZeroDivisionError), docker_client._told():
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "text", ["2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-01-01T00:00:00+99:00"]
)
def test_a_moment_that_does_not_exist_is_zero(text: str) -> None:
    """In a damaged log.stdout it is a ValueError out of read_kept."""
    assert moment_ns(text) == 0


WITHIN_S = 20.0


class Stalled(http.server.BaseHTTPRequestHandler):
    """A docker whose registry says one word, or none, and then nothing."""

    protocol_version = "HTTP/1.1"
    done = threading.Event()
    words = b""
    credentials: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        known = {"Plugins": {"Log": []}, "ApiVersion": "1.44"}
        data = json.dumps(known).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        self.credentials.append(self.headers.get("X-Registry-Auth", ""))
        if self.words:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(self.words), self.words))
            self.wfile.flush()
        self.done.wait(WITHIN_S)
        self.close_connection = True

    def address_string(self) -> str:
        return "a unix socket has none"

    def log_message(self, *_: object) -> None: ...


class Docker(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


def test_credentials_are_read_at_each_pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person may log in to a registry, or its password change, while the agent runs."""
    monkeypatch.setattr("agent.engines.docker_client.QUIET_S", 0.1)
    monkeypatch.setattr(Stalled, "done", threading.Event())
    monkeypatch.setattr(Stalled, "credentials", [])
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with Docker(str(tmp_path / "d.sock"), Stalled) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = None
        try:
            for password in (b"old", b"new"):
                known = {"auth": base64.b64encode(b"me:" + password).decode()}
                config = {"auths": {"registry.lan": known}}
                (tmp_path / "config.json").write_text(json.dumps(config))
                client = client or DockerClient(tmp_path / "d.sock", "me")
                with pytest.raises(NotAnswering):
                    list(client.pull("registry.lan/a:1"))
        finally:
            Stalled.done.set()
            server.shutdown()
            assert client is not None
            client.close()
    sent = [json.loads(base64.urlsafe_b64decode(text)) for text in Stalled.credentials]
    assert [each["password"] for each in sent] == ["old", "new"]


@pytest.mark.parametrize(
    ("machine", "built_for", "fits"),
    [
        ("x86_64", "amd64", True),
        ("x86_64", "386", True),
        ("x86_64", "arm64", False),
        ("aarch64", "arm", True),
        ("aarch64", "386", False),
        ("armv7l", "arm64", False),
        ("x86_64", "", True),
    ],
)
def test_an_image_fits_a_processor_that_runs_it(
    monkeypatch: pytest.MonkeyPatch, machine: str, built_for: str, fits: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    client = object.__new__(DockerClient)
    client._api = SimpleNamespace(inspect_image=lambda image: {"Architecture": built_for})
    assert client.foreign_kind("a:1") == ("" if fits else built_for)


@pytest.mark.parametrize("words", [b"", b'{"status": "Pulling from library/busybox"}\n'])
def test_a_pull_of_which_docker_says_nothing_for_long_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: bytes
) -> None:
    """The SDK waits for ever, and with it a thread, and a place among those that may pull."""
    monkeypatch.setattr("agent.engines.docker_client.QUIET_S", 0.3)
    monkeypatch.setattr(Stalled, "done", threading.Event())
    monkeypatch.setattr(Stalled, "words", words)
    heard: list[str] = []
    with Docker(str(tmp_path / "d.sock"), Stalled) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = DockerClient(tmp_path / "d.sock", "me")
        try:
            began = time.monotonic()
            with pytest.raises(NotAnswering):
                for line in client.pull("busybox"):
                    heard.append(str(line["status"]))
            assert time.monotonic() - began < WITHIN_S / 2
        finally:
            Stalled.done.set()
            client.close()
            server.shutdown()
    assert len(heard) == bool(words)
