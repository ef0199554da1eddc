"""Objects from a real S3 server that checks signatures, and from servers that do as they like."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.archives import ArchiveError, Archives
from agent.config import S3 as Settings
from agent.inputs import objects
from agent.inputs.objects import Objects
from agent.s3 import S3
from protocol.s3 import S3Source
from protocol.tree import Node
from tests.s3server import S3Server

BODY = b"measured\n" * 1000
DIGEST = hashlib.sha256(BODY).hexdigest()


class Bench:
    """Objects of one device, with the server's good keys or others."""

    def __init__(self, root: Path, server: S3Server, secret: str = "") -> None:
        self.endpoint = server.endpoint
        self.store = Archives(root / "downloads", objects.BYTES_MAX, 2 << 30)
        credentials = server.credentials(root / "credentials", secret)
        self.objects = Objects(self.store, S3(Settings(credentials=credentials)))
        self.target = root / "work" / "in"

    async def put(self, key: str, **params: Any) -> dict[str, bytes]:
        """The files that are there then."""
        tree = {"Bucket": "readings", "Endpoint": self.endpoint, "Key": key, **params}
        await self.objects.put(S3Source.read(Node(tree)), self.target)
        found = [path for path in self.target.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.target)): path.read_bytes() for path in found}

    async def refused(self, key: str, **params: Any) -> str:
        with pytest.raises(ArchiveError) as caught:
            await self.put(key, **params)
        assert not self.target.exists(), "nothing is beside the task"
        assert not list(self.store.directory.glob("*.part")), "no partial file is left"
        return str(caught.value)


@pytest.fixture
def bench(tmp_path: Path, s3: S3Server) -> Bench:
    return Bench(tmp_path, s3)


def put(s3: S3Server, *keys: str) -> None:
    for key in keys:
        s3.put("readings", key, key.encode())


# ---- what is fetched ---------------------------------------------------------------------------


async def test_an_object_has_the_last_part_of_its_key(bench: Bench, s3: S3Server) -> None:
    put(s3, "one/deep/a b+ä.csv")
    assert await bench.put("one/deep/a b+ä.csv") == {"a b+ä.csv": "one/deep/a b+ä.csv".encode()}


async def test_many_have_the_rest_of_theirs(bench: Bench, s3: S3Server) -> None:
    put(s3, "many/a", "many/b/c", "many/r-1", "many/r-2/x", "manyother", "many/")
    found = await bench.put("many/")
    assert sorted(found) == ["a", "b/c", "r-1", "r-2/x"]
    assert found["b/c"] == b"many/b/c"
    assert sorted(await Bench(bench.target / "1", s3).put("many/r-*")) == ["r-1", "r-2/x"]


async def test_a_filter_looks_at_what_comes_behind_the_key(bench: Bench, s3: S3Server) -> None:
    put(s3, "filter/a.csv", "filter/a.txt", "filter/deep/b.csv")
    assert sorted(await bench.put("filter/*", Filter=r"^[a-z]+\.csv$")) == ["a.csv"]


async def test_nothing_that_begins_so_is_an_empty_directory_as_in_bacalhau(bench: Bench) -> None:
    assert await bench.put("nothing/*") == {}
    assert bench.target.is_dir()


async def test_a_version_is_had_though_a_later_one_is_there(bench: Bench, s3: S3Server) -> None:
    first = s3.put("readings", "versions/a", b"first")
    s3.put("readings", "versions/a", b"second")
    assert await bench.put("versions/a", VersionID=first) == {"a": b"first"}
    assert await bench.put("versions/a") == {"a": b"second"}


async def test_what_is_here_and_has_not_changed_is_not_fetched_again(
    bench: Bench, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.bucket import Bucket

    read, fetched = Bucket.read, []

    def counted(self: Bucket, each: Any, file: Any) -> str:
        fetched.append(each.key)
        return read(self, each, file)

    monkeypatch.setattr(Bucket, "read", counted)
    put(s3, "cached/a", "cached/b")
    for _ in range(2):
        assert len(await bench.put("cached/")) == 2
    assert fetched == ["cached/a", "cached/b"]
    s3.put("readings", "cached/b", b"changed")
    assert (await bench.put("cached/"))["b"] == b"changed"
    assert fetched == ["cached/a", "cached/b", "cached/b"]


async def test_the_objects_of_one_source_do_not_push_each_other_out(
    bench: Bench, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.archives.KEPT_MAX", 2)
    put(s3, "pushed/a", "pushed/b", "pushed/c", "pushing/d")
    assert sorted(await bench.put("pushed/")) == ["a", "b", "c"]
    assert len(bench.store.digests()) == 3, "and all of them are used"
    assert "d" in await bench.put("pushing/")
    assert len(bench.store.digests()) == 2


async def test_what_is_known_by_its_checksum_needs_no_server(bench: Bench, s3: S3Server) -> None:
    s3.put("readings", "sum/a", BODY)
    await bench.put("sum/a", ChecksumSHA256=DIGEST)
    bench.endpoint = "http://127.0.0.1:1"
    assert await bench.put("sum/a", ChecksumSHA256=DIGEST) == {"a": BODY}


# ---- what goes wrong ---------------------------------------------------------------------------


async def test_other_bytes_than_the_job_says_are_refused(bench: Bench, s3: S3Server) -> None:
    s3.put("readings", "wrong/a", BODY + b"x")
    said = await bench.refused("wrong/a", ChecksumSHA256=DIGEST)
    assert said.startswith("s3://readings/wrong/a has the SHA-256 ")
    assert bench.store.digests() == frozenset()


async def test_what_is_not_there_is_said_with_its_name(bench: Bench) -> None:
    assert "s3://readings/absent: the server says NoSuchKey" in await bench.refused("absent")
    said = await bench.refused("a/*", Bucket="no-such-bucket")
    assert "s3://no-such-bucket/a/*: the server says NoSuchBucket" in said


@pytest.mark.parametrize("key", ["signed/a", "signed/*"])
async def test_wrong_keys_are_said_and_not_shown(tmp_path: Path, s3: S3Server, key: str) -> None:
    put(s3, "signed/a")
    bench = Bench(tmp_path, s3, secret="not-the-secret-at-all")
    said = await bench.refused(key)
    assert "AccessDenied" in said or "SignatureDoesNotMatch" in said
    assert "not-the-secret" not in said


async def test_an_endpoint_where_nobody_listens_is_tried_again_and_then_told_of(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "PAUSE_S", 0.01)
    bench.endpoint = "http://127.0.0.1:1"
    assert (await bench.refused("a")).endswith("a: [Errno 111] Connection refused")


async def test_more_than_the_bound_is_not_fetched(
    bench: Bench, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("readings", "large/a", bytes(1 << 20))
    s3.put("readings", "large/b", bytes(1 << 20))
    monkeypatch.setattr(objects, "BYTES_MAX", (2 << 20) - 1)
    assert "s3://readings/large/ is 2 MiB; allowed: 1 MiB" in await bench.refused("large/")
    assert (await bench.put("large/a"))["a"] == bytes(1 << 20)


async def test_a_full_disk_stops_it(
    bench: Bench, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3, "full/a")
    monkeypatch.setattr(objects, "FREE_BYTES_MIN", 1 << 60)
    assert "MiB of disk are free" in await bench.refused("full/a")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (("odd1/../../etc/cron.d/x",), "has the key '../../etc/cron.d/x', which is no path here"),
        (("odd2/./x",), "has the key './x', which is no path here"),
        (("odd3//x",), "has the key '/x', which is no path here"),
        (("odd4/a\u202eb",), r"has the key 'a\u202eb', which is no path here"),
        (("odd5/" + "x" * 256,), "which is no path here"),
        (("odd6/" + "x/" * 40 + "x",), "which is no path here"),
        (("odd7/a", "odd7/a/b"), "has 'a' as an object and as a part of another's key"),
    ],
)
async def test_keys_that_are_no_paths_are_none_here(
    tmp_path: Path, s3_any_key: S3Server, keys: tuple[str, ...], said: str
) -> None:
    put(s3_any_key, *keys)
    assert said in await Bench(tmp_path, s3_any_key).refused(f"{keys[0][:5]}*")


# ---- servers that do as they like --------------------------------------------------------------

Answer = Callable[["Handler"], None]
HEAD = {"ETag": '"v1"', "Last-Modified": "Fri, 01 Jan 2027 00:00:00 GMT"}


class Handler(BaseHTTPRequestHandler):
    """Says of each object that it has five bytes, and answers as the test has it."""

    server: Odd

    def do_HEAD(self) -> None:
        self.server.head(self)

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.get(self)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def say(self, body: bytes, status: int = 200, length: int = -1, **more: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length if length >= 0 else len(body)))
        for name, value in {**HEAD, **more}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Odd(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.head: Answer = lambda to: to.say(bytes(5))
        self.get: Answer = lambda to: to.say(b"hello")
        self.asked: list[str] = []


@pytest.fixture
def odd() -> Iterator[Odd]:
    with Odd() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def strange(tmp_path: Path, odd: Odd, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(objects, "PAUSE_S", 0.01)
    server = S3Server(f"http://127.0.0.1:{odd.server_address[1]}", "key", "secret")
    return Bench(tmp_path, server)


def endless(to: Handler) -> None:
    to.send_response(200)
    for name, value in {**HEAD, "Content-Type": "application/xml"}.items():
        to.send_header(name, value)
    to.end_headers()
    try:
        while True:
            to.wfile.write(b"<" * 65536)
    except OSError:
        pass


async def test_a_body_without_end_ends_where_it_should_have(strange: Bench, odd: Odd) -> None:
    odd.get = endless
    assert "is longer than the 5 bytes it was to have" in await strange.refused("a")


async def test_a_list_without_end_is_bounded(strange: Bench, odd: Odd) -> None:
    odd.get = endless
    assert "its answer is longer than 8 MiB" in await strange.refused("*")


def page(number: int, last: int) -> bytes:
    """One page of a list, of three keys."""
    more = number < last
    token = f"<NextContinuationToken>t{number}</NextContinuationToken>" if more else ""
    content = "".join(
        f"<Contents><Key>a/{number}-{at}</Key><Size>5</Size><ETag>v</ETag></Contents>"
        for at in range(3)
    )
    head = f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}"
    text = f"<ListBucketResult><Name>readings</Name>{head}{content}</ListBucketResult>"
    return text.encode()


async def test_all_pages_of_a_list_count_up_to_the_bound(
    strange: Bench, odd: Odd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(to: Handler) -> None:
        if "list-type=2" not in to.path:
            return to.say(b"hello")
        number = int(to.path.partition("continuation-token=t")[2][:1] or -1) + 1
        return to.say(page(number, 2), **{"Content-Type": "application/xml"})

    odd.get = answer
    assert len(await strange.put("a/")) == 9
    monkeypatch.setattr(objects, "OBJECTS_MAX", 5)
    strange.target = strange.target.with_name("again")
    assert "s3://readings/a/* are more than 5 objects" in await strange.refused("a/")


async def test_two_executions_may_fetch_the_same_objects_at_once(strange: Bench, odd: Odd) -> None:
    together = threading.Barrier(2)

    def answer(to: Handler) -> None:
        if "list-type=2" in to.path:
            number = int(to.path.partition("continuation-token=t")[2][:1] or -1) + 1
            return to.say(page(number, 9), **{"Content-Type": "application/xml"})
        together.wait(60)  # both have it at the same moment, one object after the other
        to.say(b"hello")

    odd.get = answer
    tree = {"Bucket": "readings", "Endpoint": strange.endpoint, "Key": "a/*"}
    targets = [strange.target / name for name in ("one", "two")]
    async with trio.open_nursery() as nursery:
        for target in targets:
            nursery.start_soon(strange.objects.put, S3Source.read(Node(tree)), target)
    assert [len(list(target.iterdir())) for target in targets] == [30, 30]


async def test_a_body_that_breaks_off_is_fetched_again(strange: Bench, odd: Odd) -> None:
    def answer(to: Handler) -> None:
        to.close_connection = True
        to.say(b"hello" if len(odd.asked) > 2 else b"he", length=5)

    odd.get = answer
    assert await strange.put("a") == {"a": b"hello"}
    assert len(odd.asked) == 3


async def test_a_server_that_is_busy_is_asked_again_and_not_for_ever(
    strange: Bench, odd: Odd
) -> None:
    odd.get = lambda to: to.say(b"", 503, **{"Retry-After": "3600"})
    assert "the server answers 503" in await strange.refused("a")
    assert len(odd.asked) == objects.TRIES_MAX * 3


async def test_a_server_leads_nowhere_else(strange: Bench, odd: Odd) -> None:
    odd.get = lambda to: to.say(b"", 307, Location="http://192.0.2.1/readings/a")
    began = time.monotonic()
    assert "s3://readings/a: the server" in await strange.refused("a")
    assert time.monotonic() - began < 5 and len(odd.asked) == 1


@pytest.mark.parametrize("body", [b"", b"<html>", b"<a/>", b"\xff" * 100, b"<ListBucketResult/>"])
async def test_what_is_no_list_of_s3_is_told_of_or_empty(
    strange: Bench, odd: Odd, body: bytes
) -> None:
    odd.get = lambda to: to.say(body, **{"Content-Type": "application/xml"})
    try:
        assert await strange.put("*") == {}
    except ArchiveError as error:
        assert str(error).startswith("s3://readings/*: ")
    assert odd.asked


async def test_one_that_falls_silent_is_given_up(
    strange: Bench, odd: Odd, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = threading.Event()

    def silent(to: Handler) -> None:
        to.send_response(200)
        to.end_headers()
        to.wfile.write(b"x")
        done.wait(60)

    odd.get = silent
    monkeypatch.setattr("agent.bucket.SILENCE_S", 0.2)
    try:
        assert "timed out" in await strange.refused("a")
    finally:
        done.set()


async def test_cancelled_it_leaves_nothing_behind(strange: Bench, odd: Odd) -> None:
    started = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def slow(to: Handler) -> None:
        token.run_sync_soon(started.set)
        to.send_response(200)
        to.send_header("Content-Length", str(1 << 30))
        to.end_headers()
        try:
            while True:
                to.wfile.write(b"x")
                time.sleep(0.01)
        except OSError:
            pass

    odd.head = lambda to: to.say(b"", length=1 << 30)
    odd.get = slow
    async with trio.open_nursery() as nursery:
        nursery.start_soon(strange.put, "a")
        await started.wait()
        nursery.cancel_scope.cancel()
    with trio.fail_after(60):
        while list(strange.store.directory.glob("*.part")):  # noqa: ASYNC110 -- a thread's end
            await trio.sleep(0.01)
    assert not strange.target.exists()


async def test_two_devices_of_one_owner_see_the_same(
    tmp_path: Path, s3: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of the keys is in the log, at any level."""
    put(s3, "log/a")
    with caplog.at_level(logging.DEBUG):
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            assert await Bench(tmp_path / name, s3).put("log/a") == {"a": b"log/a"}
        wrong = replace(s3, secret="another-secret")
        (tmp_path / "three").mkdir()
        await Bench(tmp_path / "three", wrong).refused("log/a")
    assert s3.secret not in caplog.text and "another-secret" not in caplog.text
