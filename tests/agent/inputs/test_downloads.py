"""Downloads from a real HTTP server on loopback: kept by content, bounded, and checked."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trio

from agent.archives import ArchiveError, Archives
from agent.inputs import downloads
from agent.inputs.downloads import Download, Downloads
from agent.inputs.tags import Tag, Tags
from protocol.sources import UrlSource

BODY = b"measured\n" * 1000
DIGEST = hashlib.sha256(BODY).hexdigest()
ANY = ("*",)
Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers as the test's table says, by path."""

    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("If-None-Match")))
        self.server.answers[self.path](self)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def say(self, body: bytes, status: int = 200, length: int = -1, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length if length >= 0 else len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str | None]] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def store(tmp_path: Path) -> Archives:
    return Archives(tmp_path / "downloads", downloads.BYTES_MAX, downloads.QUOTA_BYTES)


def left_over(store: Archives) -> list[str]:
    return [path.name for path in store.directory.iterdir() if path.name.endswith(".part")]


async def test_a_file_is_kept_by_its_content(server: Server, store: Archives) -> None:
    server.answers["/data.csv"] = lambda to: to.say(BODY)
    found = await Downloads(store).fetch(UrlSource(server.url("/data.csv")), ANY)
    assert found == Download(store.path(DIGEST), "data.csv") and found.path.read_bytes() == BODY
    assert left_over(store) == []


async def test_what_is_known_by_its_digest_is_fetched_once(server: Server, store: Archives) -> None:
    server.answers["/f"] = lambda to: to.say(BODY)
    it = Downloads(store)
    for _ in range(2):
        await it.fetch(UrlSource(server.url("/f"), DIGEST), ANY)
    assert len(server.asked) == 1


async def test_a_copy_is_used_while_the_server_says_it_is_the_present_one(
    server: Server, store: Archives
) -> None:
    def answer(to: Handler) -> None:
        if to.headers.get("If-None-Match") == '"v1"':
            to.say(b"", 304)
        else:
            to.say(BODY, ETag='"v1"')

    server.answers["/f"] = answer
    source = UrlSource(server.url("/f"))
    await Downloads(store).fetch(source, ANY)
    assert (await Downloads(store).fetch(source, ANY)).path.read_bytes() == BODY
    assert server.asked == [("/f", None), ("/f", '"v1"')]
    store.path(DIGEST).unlink()
    anew = await Downloads(store).fetch(source, ANY)
    assert anew.path.read_bytes() == BODY
    server.answers["/f"] = lambda to: to.say(b"other", ETag='"v2"')
    assert (await Downloads(store).fetch(source, ANY)).path.read_bytes() == b"other"


async def test_other_bytes_than_the_job_says_are_refused(server: Server, store: Archives) -> None:
    server.answers["/f"] = lambda to: to.say(BODY + b"x")
    with pytest.raises(ArchiveError, match=r"/f has the SHA-256 [0-9a-f]{64}, and not the job's"):
        await Downloads(store).fetch(UrlSource(server.url("/f"), DIGEST), ANY)
    assert left_over(store) == [] and store.digests() == frozenset()


async def test_what_cannot_be_had_is_told_with_its_address(server: Server, store: Archives) -> None:
    it = Downloads(store)
    server.answers["/gone"] = lambda to: to.say(b"", 404)
    with pytest.raises(ArchiveError, match=r"/gone answers 404 Not Found"):
        await it.fetch(UrlSource(server.url("/gone")), ANY)
    server.answers["/short"] = lambda to: to.say(b"half", length=100)
    with pytest.raises(ArchiveError, match=r"/short (broke off after 4 of 100|cannot be fetched)"):
        await it.fetch(UrlSource(server.url("/short")), ANY)
    with pytest.raises(ArchiveError, match=r"http://127\.0\.0\.1:1/f cannot be fetched: .*refused"):
        await it.fetch(UrlSource("http://127.0.0.1:1/f"), ANY)
    assert left_over(store) == []


def endless(to: Handler) -> None:
    to.send_response(200)
    to.end_headers()
    try:
        while True:
            to.wfile.write(bytes(65536))
            time.sleep(0.001)
    except OSError:
        pass


async def test_an_address_that_never_ends_is_bounded_in_bytes_and_in_time(
    server: Server, store: Archives, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/endless"] = endless
    source, it = UrlSource(server.url("/endless")), Downloads(store)
    monkeypatch.setattr(downloads, "BYTES_MAX", 1 << 20)
    with pytest.raises(ArchiveError, match="/endless is longer than 1 MiB"):
        await it.fetch(source, ANY)
    monkeypatch.setattr(downloads, "BYTES_MAX", 1 << 40)
    monkeypatch.setattr(downloads, "FETCH_S", 0.2)
    with pytest.raises(ArchiveError, match="/endless was not fetched within 0 s"):
        await it.fetch(source, ANY)
    assert left_over(store) == []


async def test_one_that_falls_silent_is_given_up(
    server: Server, store: Archives, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = threading.Event()

    def silent(to: Handler) -> None:
        to.send_response(200)
        to.end_headers()
        to.wfile.write(b"x")
        done.wait(60)

    server.answers["/silent"] = silent
    monkeypatch.setattr(downloads, "SILENCE_S", 0.2)
    try:
        with pytest.raises(ArchiveError, match="/silent cannot be fetched: timed out"):
            await Downloads(store).fetch(UrlSource(server.url("/silent")), ANY)
    finally:
        done.set()
    assert left_over(store) == []


async def test_a_server_that_drips_its_headers_takes_nobodys_place(
    server: Server, store: Archives, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = threading.Event()

    def drip(to: Handler) -> None:
        try:
            while not done.wait(0.02):
                to.wfile.write(b"x")
                to.wfile.flush()
        except OSError:
            pass

    server.answers["/drip"] = drip
    server.answers["/f"] = lambda to: to.say(BODY)
    monkeypatch.setattr(downloads, "FETCH_S", 0.1)
    monkeypatch.setattr(downloads, "SILENCE_S", 0.2)
    it = Downloads(store)
    try:
        for _ in range(downloads.AT_ONCE_MAX + 1):
            with pytest.raises(ArchiveError, match="/drip was not fetched within"):
                await it.fetch(UrlSource(server.url("/drip")), ANY)
        monkeypatch.setattr(downloads, "FETCH_S", 60.0)
        assert (await it.fetch(UrlSource(server.url("/f")), ANY)).path.read_bytes() == BODY
    finally:
        done.set()


async def test_a_full_disk_stops_it(
    server: Server, store: Archives, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/f"] = lambda to: to.say(BODY)
    monkeypatch.setattr(downloads, "FREE_BYTES_MIN", 1 << 60)
    with pytest.raises(ArchiveError, match="MiB of disk are free"):
        await Downloads(store).fetch(UrlSource(server.url("/f")), ANY)
    assert left_over(store) == []


async def test_two_jobs_that_want_one_file_fetch_it_one_after_the_other(
    server: Server, store: Archives
) -> None:
    server.answers["/f"] = lambda to: (
        to.say(BODY, ETag='"v1"') if len(server.asked) == 1 else (to.say(b"", 304))
    )
    it = Downloads(store)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(it.fetch, UrlSource(server.url("/f")), ANY)
    assert [tag for _, tag in server.asked] == [None, '"v1"', '"v1"']


async def test_redirects_lead_nowhere_the_owner_does_not_allow(
    server: Server, store: Archives
) -> None:
    server.answers["/f"] = lambda to: to.say(BODY)
    server.answers["/near"] = lambda to: to.say(b"", 302, Location=server.url("/f"))
    server.answers["/file"] = lambda to: to.say(b"", 302, Location="file:///etc/passwd")
    server.answers["/far"] = lambda to: to.say(b"", 302, Location="http://192.0.2.1/f")
    it = Downloads(store)
    found = await it.fetch(UrlSource(server.url("/near")), ("127.0.0.1",))
    assert found.path.read_bytes() == BODY
    with pytest.raises(ArchiveError, match=r"/far leads to .* where nothing is fetched from"):
        await it.fetch(UrlSource(server.url("/far")), ("127.0.0.1",))
    with pytest.raises(ArchiveError, match=r"/file answers 302 Found - Redirection .* not allowed"):
        await it.fetch(UrlSource(server.url("/file")), ("127.0.0.1",))
    assert left_over(store) == []


# ---- what the task sees it as ------------------------------------------------------------------


def leading(server: Server, to: str, disposition: str = "") -> None:
    """/latest leads to the address `to`, where the file has a name in Content-Disposition."""
    more = {"Content_Disposition": disposition} if disposition else {}
    server.answers["/latest"] = lambda it: it.say(b"", 302, Location=server.url(to))
    server.answers[to] = lambda it: it.say(BODY, ETag='"v1"', **more)


@pytest.mark.parametrize(
    ("to", "disposition", "name"),
    [
        ("/v1/data%20set.csv?key=a/b", "", "data set.csv"),
        ("/v1/data.csv", 'attachment; filename="days.csv"', "days.csv"),
        ("/v1/", 'attachment; filename="days.csv"', "days.csv"),
        ("/v1/", "", "v1"),
        ("/", "", "latest"),
        ("/v1/data.csv", 'inline; filename="../etc/days.csv"', "days.csv"),
        ("/v1/data.csv", 'inline; filename=".."', "data.csv"),
        ("/v1/data.csv", f'inline; filename="{"x" * 256}"', "data.csv"),
        ("/v1/data.csv", 'inline; filename="a\tb"', "data.csv"),
        ("/v1/data.csv", "inline; filename=", "data.csv"),
        ("/v1/data.csv", "inline", "data.csv"),
        ("/v1/data.csv", ";;filename", "data.csv"),
        ("/v1/data.csv", "attachment; filename=\"e.csv\"; filename*=UTF-8''%e2%82%ac.csv", "€.csv"),
        ("/v1/data.csv", "attachment; filename*=none''days.csv", "days.csv"),
        ("/v1/data.csv", "attachment; filename=\"\u00c3\u00bc.csv\"", "ü.csv"),
    ],
)  # fmt: skip
async def test_after_a_redirect_it_has_the_name_that_it_has_there(
    server: Server, store: Archives, to: str, disposition: str, name: str
) -> None:
    leading(server, to, disposition)
    found = await Downloads(store).fetch(UrlSource(server.url("/latest")), ANY)
    assert (found.name, found.path.read_bytes()) == (name, BODY)


async def test_without_a_redirect_it_has_the_name_in_the_address(
    server: Server, store: Archives
) -> None:
    named = 'attachment; filename="days.csv"'
    server.answers["/data.csv"] = lambda to: to.say(BODY, Content_Disposition=named)
    found = await Downloads(store).fetch(UrlSource(server.url("/data.csv")), ANY)
    assert found.name == "data.csv"


async def test_by_its_digest_it_has_the_name_in_the_jobs_address_fetched_or_not(
    server: Server, store: Archives
) -> None:
    leading(server, "/v1/data.csv", 'attachment; filename="days.csv"')
    it, source = Downloads(store), UrlSource(server.url("/latest"), DIGEST)
    assert [(await it.fetch(source, ANY)).name for _ in range(2)] == ["latest"] * 2
    assert len(server.asked) == 2, "the redirect and the file, once"


@pytest.mark.parametrize(
    ("first", "later", "name"),
    [
        ('inline; filename="days.csv"', "", "days.csv"),
        ('inline; filename="days.csv"', 'inline; filename="weeks.csv"', "weeks.csv"),
        ("", "", "data.csv"),
    ],
)
async def test_a_copy_that_is_the_present_one_has_its_name_still(
    server: Server, store: Archives, first: str, later: str, name: str
) -> None:
    leading(server, "/v1/data.csv", first)
    source = UrlSource(server.url("/latest"))
    await Downloads(store).fetch(source, ANY)
    more = {"Content_Disposition": later} if later else {}
    server.answers["/v1/data.csv"] = lambda to: to.say(b"", 304, **more)
    found = await Downloads(store).fetch(source, ANY)
    assert (found.name, found.path.read_bytes()) == (name, BODY)
    assert server.asked[-1] == ("/v1/data.csv", '"v1"')


async def test_a_copy_of_which_nobody_knows_the_name_is_fetched_anew(
    server: Server, store: Archives
) -> None:
    """An earlier version kept no names."""
    leading(server, "/v1/data.csv", 'attachment; filename="days.csv"')
    source = UrlSource(server.url("/latest"))
    await Downloads(store).fetch(source, ANY)
    Tags(store).remember(source.url, Tag('"v1"', DIGEST))
    assert (await Downloads(store).fetch(source, ANY)).name == "days.csv"
    assert [etag for _, etag in server.asked] == [None] * 4


async def test_cancelled_it_leaves_nothing_behind(server: Server, store: Archives) -> None:
    server.answers["/endless"] = endless
    with trio.move_on_after(0.3):
        await Downloads(store).fetch(UrlSource(server.url("/endless")), ANY)
    with trio.fail_after(60):
        while left_over(store):  # noqa: ASYNC110 -- a thread's end
            await trio.sleep(0.01)
