"""Downloads: files of the web as inputs, each fetched once as long as it stays the same.

What is kept is named by the SHA-256 of its bytes. A job that says the digest needs no network where
that is here; one that does not asks the server whether its copy is still the present one (ETag).

What the task sees it as is Bacalhau's rule (urldownload/storage.go): the last part of the address,
of the last one after a redirect, unless that says another name (Content-Disposition). Of a file by
its digest nobody has to be asked: it has the name in the job's own address.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from agent import durable
from agent.archives import ArchiveError, Archives
from agent.inputs.tags import Tag, Tags
from agent.threads import abandonable
from protocol.asks import matching
from protocol.sources import UrlSource, last_part, plain_name

if TYPE_CHECKING:
    import urllib.request
    from email.message import Message

BYTES_MAX: Final = 1024**3  # of one file; larger ones are for an object store
QUOTA_BYTES: Final = 2 * 1024**3  # of all that are kept; the longest unused go first
FETCH_S: Final = 540.0  # within coordination's start_max_s
SILENCE_S: Final = 30.0  # of a server that sends nothing
FREE_BYTES_MIN: Final = 128 * 1024**2  # of the disk are left alone, as with results
CHUNK_BYTES: Final = 256 * 1024
AT_ONCE_MAX: Final = 2  # a device's link has one width
_log = logging.getLogger("shoal.inputs")


@dataclass(frozen=True, slots=True)
class Download:
    """A file that is here, and what the task is to see it as."""

    path: Path
    name: str


class Downloads:
    def __init__(self, store: Archives) -> None:
        self._store = store
        self._tags = Tags(store)
        self._turns: dict[str, trio.Lock] = {}
        self._slots = trio.Semaphore(AT_ONCE_MAX)

    async def fetch(self, source: UrlSource, hosts: Sequence[str]) -> Download:
        """`hosts` may be fetched from, see asks.matching. Raises ArchiveError with a sentence that
        names the address."""
        if source.digest and self._store.holds(source.digest):
            return self._used(source.digest, source.file_name)
        turn, given_up = self._turns.setdefault(source.url, trio.Lock()), threading.Event()
        try:
            async with turn, self._slots:
                with trio.fail_after(FETCH_S + SILENCE_S):  # a server can drip its headers for ever
                    found = await abandonable(lambda: self._fetch(source, hosts, given_up))
        except trio.TooSlowError:
            text = f"{source.url} was not fetched within {FETCH_S + SILENCE_S:.0f} s"
            raise ArchiveError(text) from None
        finally:
            given_up.set()
            if not turn.locked():
                self._turns.pop(source.url, None)
        return self._used(*found)

    def _used(self, digest: str, name: str) -> Download:
        path = self._store.path(digest)
        os.utime(path)
        return Download(path, name)

    # ---- in a thread -------------------------------------------------------------------------

    def _fetch(
        self, source: UrlSource, hosts: Sequence[str], given_up: threading.Event
    ) -> tuple[str, str]:
        """Its digest, and its name."""
        import http.client

        known = self._tags.of(source.url)
        try:
            return self._get(source, known, hosts, given_up)
        except ArchiveError:
            raise
        except (OSError, ValueError, http.client.HTTPException) as error:
            why = getattr(error, "reason", None) or error
            raise ArchiveError(f"{source.url} cannot be fetched: {why}") from None

    def _get(
        self,
        source: UrlSource,
        known: Tag | None,
        hosts: Sequence[str],
        given_up: threading.Event,
    ) -> tuple[str, str]:
        import urllib.error
        import urllib.request

        headers = {"User-Agent": "shoal"}
        if known is not None and known.name is not None and not source.digest:
            headers["If-None-Match"] = known.etag
        request = urllib.request.Request(source.url, headers=headers)
        opener = urllib.request.build_opener(_redirects(hosts))
        try:
            answer = opener.open(request, timeout=SILENCE_S)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 304 and known is not None:
                # It may leave out what it said of the file the first time (RFC 9110, 15.4.5).
                said = _said(error.headers) or known.name or ""
                return known.digest, _name(source, error.url, said)
            text = f"{source.url} answers {error.code} {error.reason}"
            raise ArchiveError(text) from None
        partial = self._store.partial()
        try:
            with answer, partial.open("wb") as file:
                digest = _receive(answer, file, source.url, self._go_on(source.url, given_up))
                file.flush()
                durable.sync(file.fileno())
            if source.digest and digest != source.digest:
                raise ArchiveError(f"{source.url} has the SHA-256 {digest}, and not the job's")
            self._store.adopt(partial, digest)
            self._store.prune(digest)
        finally:
            partial.unlink(missing_ok=True)
        said = _said(answer.headers)
        if etag := answer.headers.get("ETag"):
            self._tags.remember(source.url, Tag(etag, digest, said))
            self._tags.sweep_if_due()
        return digest, _name(source, answer.url, said)

    def _go_on(self, url: str, given_up: threading.Event) -> Callable[[], None]:
        until = time.monotonic() + FETCH_S

        def go_on() -> None:
            if given_up.is_set():
                raise ArchiveError(f"{url} is no longer wanted")
            if time.monotonic() > until:
                raise ArchiveError(f"{url} was not fetched within {FETCH_S:.0f} s")
            if shutil.disk_usage(self._store.directory).free < FREE_BYTES_MIN:
                text = f"less than {FREE_BYTES_MIN >> 20} MiB of disk are free"
                raise ArchiveError(f"{url} is not fetched: {text}")

        return go_on


def _receive(answer: Any, file: Any, url: str, go_on: Callable[[], None]) -> str:
    digest, size = hashlib.sha256(), 0
    while chunk := answer.read1(CHUNK_BYTES):
        size += len(chunk)
        if size > BYTES_MAX:
            raise ArchiveError(f"{url} is longer than {BYTES_MAX >> 20} MiB")
        go_on()
        digest.update(chunk)
        file.write(chunk)
    length = answer.headers.get("Content-Length")
    if length is not None and length.isdigit() and int(length) != size:
        raise ArchiveError(f"{url} broke off after {size} of {length} bytes")
    return digest.hexdigest()


def _name(source: UrlSource, url: str, said: str) -> str:
    """`url`: where the answer came from; `said`: the name that it had there. What neither of the
    two can be a file's has the name in the job's address, which can."""
    if source.digest or url == source.url:
        return source.file_name
    return said or plain_name(last_part(url)) or source.file_name


def _said(headers: Message) -> str:
    """The file's name in Content-Disposition, without directories; empty where there is none."""
    from email.utils import collapse_rfc2231_value

    params = headers.get_params([], "content-disposition")
    values = [value for key, value in params if key.lower() == "filename"]
    # That of `filename*` comes first, wherever it stands (RFC 6266, 4.3).
    values.sort(key=lambda value: isinstance(value, str))
    if not values:
        return ""
    name: str = collapse_rfc2231_value(values[0])
    if isinstance(values[0], str):  # bytes as they came, which http.client takes for Latin-1
        name = name.encode("latin-1", "replace").decode("utf-8", "replace")
    return plain_name(name.rstrip("/").rpartition("/")[2])


def _redirects(hosts: Sequence[str]) -> urllib.request.HTTPRedirectHandler:
    """Followed within http and https, to hosts that may be fetched from."""
    import urllib.request
    from urllib.parse import urlsplit

    class Redirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(
            self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
        ) -> urllib.request.Request | None:
            parts = urlsplit(newurl)
            host = (parts.hostname or "").lower()
            allowed = any(matching(host, pattern) for pattern in hosts)
            if parts.scheme not in ("http", "https") or not allowed:
                fp.close()
                text = f"{req.full_url} leads to {newurl:.200}, where nothing is fetched from"
                raise ArchiveError(text)
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    return Redirects()
