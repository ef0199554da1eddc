"""A bucket of a real S3 server: what is written in parts, and what never passes through memory."""

from __future__ import annotations

import hashlib
import io
import ssl
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import urllib3

from agent.archives import ArchiveError
from agent.bucket import PART_BYTES, Bucket
from agent.s3 import BucketError
from agent.s3keys import Keys
from protocol.s3 import Place
from tests.mosquitto import Certificates
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


class Answering(BaseHTTPRequestHandler):
    """A server that answers as a test has it, and remembers what it was asked."""

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        for name, value in (("ETag", '"v"'), ("Content-Type", "application/xml")):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def note(self) -> int:
        """How many requests there were before."""
        asked: list[str] = self.server.asked  # type: ignore[attr-defined]
        asked.append(f"{self.command} {self.path}")
        return len(asked) - 1

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(
    handler: type[Answering], tls: Certificates | None = None
) -> Iterator[tuple[Place, list[str]]]:
    """The bucket there, and all it was asked so far."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.certificate, tls.key)
            # Shaken hands in a thread of its own, at the first byte that is read.
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        server.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            scheme = "http" if tls is None else "https"
            place = Place("results", f"{scheme}://127.0.0.1:{server.server_address[1]}")
            yield place, server.asked  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()


class Forgetful(Answering):
    """Takes an upload in parts, and falls silent once it is to be put together."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.note()
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


def test_an_upload_is_put_together_once_though_nobody_hears_of_it() -> None:
    with serving(Forgetful) as (place, asked):
        it = Bucket(place, Keys("a", "b"), "", lambda: None)
        with pytest.raises(BucketError) as caught:
            it.write("long", io.BytesIO(bytes(LONG)), LONG)
    assert caught.value.passing
    assert sum("uploadId" in each for each in asked) == 1


# ---- lists ------------------------------------------------------------------------------------

LIST = '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>results</Name>'


def page(contents: str, more: bool) -> bytes:
    end = "<IsTruncated>true</IsTruncated><NextContinuationToken>n</NextContinuationToken>"
    return f"{LIST}{contents}{end if more else ''}</ListBucketResult>".encode()


class Endless(Answering):
    """Each page of its list is empty, and says that there is another."""

    def do_GET(self) -> None:
        self.note()
        self.answer(page("", more=True))


def test_a_list_without_an_end_is_left_when_nobody_wants_it_any_more() -> None:
    with serving(Endless) as (place, asked):

        def go_on() -> None:
            if len(asked) >= 3:
                raise ArchiveError("no longer wanted")

        with pytest.raises(ArchiveError, match="no longer wanted"):
            Bucket(place, None, "", go_on).list("a", 10)
        assert len(asked) == 3


def test_a_list_without_an_end_is_refused_though_it_were_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent.bucket.PAGES_MAX", 4)
    with serving(Endless) as (place, asked):
        it = Bucket(place, None, "", lambda: None)
        text = r"s3://results/a\*: its list is longer than 4 pages"
        for times in (1, 2):  # each list is counted by itself
            with pytest.raises(BucketError, match=text) as caught:
                it.list("a", 10)
            assert not caught.value.passing and len(asked) == 4 * times


class Listing(Answering):
    def do_GET(self) -> None:
        self.answer(page("<Contents><Key>a</Key><Size>1</Size></Contents>", False))


class Negative(Answering):
    """One of its objects has a size with which a sum of sizes is no bound any more."""

    def do_GET(self) -> None:
        sizes = (2_000_000_000, -1_999_999_999)
        each = "<Contents><Key>{}</Key><ETag>e</ETag><Size>{}</Size></Contents>"
        self.answer(page("".join(each.format(n, size) for n, size in enumerate(sizes)), False))

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "-7")
        self.end_headers()


def test_no_object_is_smaller_than_nothing() -> None:
    with serving(Negative) as (place, _):
        it = Bucket(place, None, "", lambda: None)
        for asks in (lambda: it.list("", 10), lambda: it.stat("a")):
            with pytest.raises(BucketError, match="a size of -") as caught:
                asks()
            assert not caught.value.passing


# ---- TLS --------------------------------------------------------------------------------------


def test_one_without_tls_is_told_of_by_what_the_endpoint_has_to_be(s3: S3Server) -> None:
    place = Place("results", s3.endpoint.replace("http://", "https://"))
    it = Bucket(place, Keys(s3.access, s3.secret), "", lambda: None)
    with pytest.raises(BucketError) as caught:
        it.stat("a")
    text = f"s3://results/a: no TLS there; without it its Endpoint is {s3.endpoint}"
    assert str(caught.value) == text and not caught.value.passing


def test_a_later_openssl_has_other_words_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = urllib3.exceptions.SSLError(ssl.SSLError(1, "[SSL] record layer failure (_ssl.c:1033)"))
    at_once = urllib3.exceptions.MaxRetryError(urllib3.HTTPSConnectionPool("m"), "/", inner)
    own = "https://minio.lan:9000"
    for endpoint, error, said, passing in (
        (own, at_once, "no TLS there; without it its Endpoint is http://minio.lan:9000", False),
        (own, inner, "record layer failure", True),  # in the midst of an object
        ("", at_once, "record layer failure", True),  # something stands before AWS
    ):
        it = Bucket(Place("results", endpoint), None, "", lambda: None)

        def urlopen(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(urllib3.PoolManager, "urlopen", urlopen)
        with pytest.raises(BucketError, match=said) as caught:
            it.stat("a")
        assert caught.value.passing == passing


class Encrypted(Answering):
    """Answers who speaks without TLS as servers in Go, so MinIO, do that speak it alone."""

    def do_GET(self) -> None:
        self.send_response(400)
        self.end_headers()
        self.close_connection = True
        if self.command == "GET":
            self.wfile.write(b"Client sent an HTTP request to an HTTPS server.\n")

    do_HEAD = do_GET


def test_one_that_wants_tls_is_told_of_likewise() -> None:
    with serving(Encrypted) as (place, _):
        it = Bucket(place, None, "", lambda: None)
        for asks in (lambda: it.list("a", 10), lambda: it.stat("a")):
            with pytest.raises(BucketError) as caught:
                asks()
            hint = f"; one that wants TLS does so: its Endpoint is {place.endpoint}"
            assert str(caught.value).endswith(hint.replace("http://", "https://"))
            assert not caught.value.passing


def test_an_authority_of_one_s_own_is_trusted_where_the_device_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Certificates(tmp_path)
    with serving(Listing, made) as (place, _):
        with pytest.raises(BucketError) as caught:
            Bucket(place, None, "", lambda: None).list("", 10)
        said = "its certificate is not trusted here: unable to get local issuer certificate"
        assert str(caught.value) == f"s3://results/*: {said}"
        assert caught.value.passing, "the device's clock may be wrong as yet"
        monkeypatch.setenv("SSL_CERT_FILE", str(made.ca))
        (found,) = Bucket(place, None, "", lambda: None).list("", 10)
        assert found.key == "a"


# ---- servers in trouble -----------------------------------------------------------------------


class Busy(Answering):
    """Says twice that it is busy, and does not end with saying so."""

    def do_GET(self) -> None:
        if self.note() >= 2:
            self.answer(page("<Contents><Key>a</Key><Size>1</Size></Contents>", False))
            return
        self.send_response(503)
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):  # the other end has gone
            while True:
                self.wfile.write(bytes(1 << 16))


def test_a_busy_server_is_asked_again_whatever_it_says_and_however_long() -> None:
    with serving(Busy) as (place, asked):
        found = Bucket(place, None, "", lambda: None).list("", 10)
        assert [each.key for each in found] == ["a"] and len(asked) == 3


class Tired(Answering):
    def do_GET(self) -> None:
        self.note()
        self.send_error(503)


def test_nobody_waits_for_a_busy_server_who_is_to_stop() -> None:
    with serving(Tired) as (place, asked):

        def go_on() -> None:
            if asked:
                raise ArchiveError("no longer wanted")

        with pytest.raises(ArchiveError, match="no longer wanted"):
            Bucket(place, None, "", go_on).list("", 10)
        assert len(asked) == 1
        with pytest.raises(BucketError, match="503") as caught:
            Bucket(place, None, "", lambda: None).list("", 10)
        assert caught.value.passing and len(asked) == 4
