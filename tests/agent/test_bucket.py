"""A bucket of a real S3 server: what is written in parts, and what never passes through memory."""

from __future__ import annotations

import hashlib
import io
import threading
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agent.archives import ArchiveError
from agent.bucket import PART_BYTES, Bucket
from agent.s3 import BucketError
from agent.s3keys import Keys
from protocol.s3 import Place
from tests.s3server import S3Server

LONG = 5 * PART_BYTES + 1


def bucket(s3: S3Server, name: str = "results") -> Bucket:
    return Bucket(Place(name, s3.endpoint), Keys(s3.access, s3.secret), "", lambda: None)


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1])
def test_what_is_written_is_there_in_parts_or_not(s3: S3Server, size: int) -> None:
    data = bytes(index % 251 for index in range(1000)) * (size // 1000 + 1)
    bucket(s3).write("size", io.BytesIO(data), size)
    assert s3.get("results", "size") == data[:size]


def test_what_is_written_again_takes_its_place(s3: S3Server) -> None:
    for body in (b"one", b"two"):
        bucket(s3).write("again", io.BytesIO(body), 3)
    assert s3.get("results", "again") == b"two"


def test_a_long_object_never_is_in_memory(s3: S3Server, tmp_path: Path) -> None:
    path, digest = tmp_path / "long", hashlib.sha256(bytes(LONG)).hexdigest()
    with path.open("wb") as file:
        file.truncate(LONG)
    it = bucket(s3)
    tracemalloc.start()
    try:
        with path.open("rb") as file:
            it.write("long", file, LONG)
        found = it.stat("long")
        with path.open("wb") as into:
            assert it.read(found, into) == digest
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found.size_bytes, path.stat().st_size) == (LONG, LONG)
    assert peak < LONG, f"{peak >> 20} MiB for an object of {LONG >> 20} MiB"


def test_an_upload_that_is_given_up_leaves_no_parts(s3: S3Server, tmp_path: Path) -> None:
    path = tmp_path / "long"
    with path.open("wb") as file:
        file.truncate(LONG)
    parts = 0

    def go_on() -> None:
        nonlocal parts
        parts += 1
        if parts > 3:
            assert s3.uploads("results") == ["given-up"], "it has begun"
            raise ArchiveError("no longer wanted")

    place, keys = Place("results", s3.endpoint), Keys(s3.access, s3.secret)
    with path.open("rb") as file, pytest.raises(ArchiveError, match="no longer wanted"):
        Bucket(place, keys, "", go_on).write("given-up", file, LONG)
    assert s3.uploads("results") == [] and "given-up" not in s3.keys("results")


def test_a_bucket_that_is_not_there_is_no_passing_trouble(s3: S3Server) -> None:
    with pytest.raises(BucketError, match="NoSuchBucket") as caught:
        bucket(s3, "no-such-bucket").write("a", io.BytesIO(b"x"), 1)
    assert not caught.value.passing


def test_without_keys_requests_are_not_signed() -> None:
    it = Bucket(Place("readings", "http://127.0.0.1:1"), None, "", lambda: None)
    with pytest.raises(BucketError, match="Connection refused") as caught:
        it.stat("a")
    assert caught.value.passing


class Forgetful(BaseHTTPRequestHandler):
    """Takes an upload in parts, and falls silent once it is to be put together."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.posts.append(self.path)  # type: ignore[attr-defined]
        if "uploadId" in self.path:
            self.close_connection = True
            return
        text = b"<InitiateMultipartUploadResult><UploadId>u</UploadId>"
        self.answer(text + b"</InitiateMultipartUploadResult>")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(b"")

    def do_DELETE(self) -> None:
        self.answer(b"")

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        for name, value in (("ETag", '"v"'), ("Content-Type", "application/xml")):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_an_upload_is_put_together_once_though_nobody_hears_of_it() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Forgetful) as server:
        server.posts = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        place = Place("results", f"http://127.0.0.1:{server.server_address[1]}")
        it = Bucket(place, Keys("a", "b"), "", lambda: None)
        with pytest.raises(BucketError) as caught:
            it.write("long", io.BytesIO(bytes(LONG)), LONG)
        server.shutdown()
        thread.join()
    assert caught.value.passing
    completing = [path for path in server.posts if "uploadId" in path]  # type: ignore[attr-defined]
    assert len(completing) == 1
