"""A bucket of an S3 server: what is listed, read and written there, and bounds on all it answers.

Imports the minio client (12 MB measured), so it is imported itself where it is used. All of it
blocks, and belongs into a thread.
"""

from __future__ import annotations

import hashlib
import io
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error, ServerError

from agent.printable import clean
from agent.s3 import BucketError
from agent.s3keys import Keys
from protocol.s3 import AWS, Place

CONNECT_S: Final = 10.0
SILENCE_S: Final = 30.0  # of a server that sends nothing
COMPLETE_S: Final = 300.0  # likewise, while it puts an upload together: minutes at AWS
ANSWER_S: Final = 60.0  # for the whole of an answer that is no object
ANSWER_BYTES_MAX: Final = 8 << 20  # likewise; a page of a list is a thousand keys, at most 3 MB
CHUNK_BYTES: Final = 256 * 1024
PART_BYTES: Final = 8 << 20  # of an upload; one is in memory at a time. S3 takes no less than 5
REGION: Final = "us-east-1"  # what servers that have none want to hear
SAID_CHARS_MAX: Final = 200  # of what a server says, in a sentence for people
BARE: Final = "Bad request"  # what the client says of a 400 without a body
# What OpenSSL makes of an answer without TLS: before 3.2, and from then on.
NO_TLS: Final = ("wrong version number", "record layer failure")
PASSING: Final = ("SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout")
# A page has a thousand keys, but servers may send fewer, and AWS none where many were deleted.
PAGES_MAX: Final = 1000
# What completes an upload in parts (a POST) may have done so, though nobody heard of it.
REPEATED: Final = ("GET", "HEAD", "PUT", "DELETE")
# What a connection that broke costs; the caller tries again with longer pauses. A server may not
# lead elsewhere: the device's owner has allowed this one. Nothing of statuses here: such an answer
# would be read to its end, which may never come (see _Connections).
RETRY: Final = urllib3.Retry(
    total=2,
    redirect=False,
    allowed_methods=REPEATED,
    backoff_factor=0.3,
    raise_on_status=False,
    respect_retry_after_header=False,
)
BUSY: Final = (500, 502, 503, 504)  # answers of a server that is asked again
BUSY_S: Final = (0.3, 0.6)  # before each time

GoOn = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Object:
    """One version of an object, as the server tells of it."""

    key: str
    size_bytes: int
    etag: str  # empty where there is none
    version: str = ""


class Bucket:
    """One bucket. `go_on` is called now and then, and what it raises ends whatever is done."""

    def __init__(self, place: Place, keys: Keys | None, region: str, go_on: GoOn) -> None:
        """`region` is that of the device, where the place names none. Raises BucketError."""
        self._name = place.bucket
        self._endpoint = place.endpoint
        self._go_on = go_on
        self._pages: int | None = None  # of the list that is read just now
        at_aws = place.host == AWS
        with self._telling(place.name):
            self._client = Minio(
                place.host,
                access_key=keys.access if keys is not None else None,
                secret_key=keys.secret if keys is not None else None,
                session_token=keys.token or None if keys is not None else None,
                secure=not place.unencrypted,
                # That of a bucket of AWS is asked for, where nobody says.
                region=place.region or region or (None if at_aws else REGION),
                http_client=_Connections(self._ask),
            )

    def stat(self, key: str, version: str = "") -> Object:
        with self._telling(f"s3://{self._name}/{key}"):
            found = self._client.stat_object(self._name, key, version_id=version or None)
            return _object(key, found.size, found.etag, version)

    def list(self, prefix: str, objects_max: int) -> list[Object]:
        """All whose keys begin so, without those that stand for a directory."""
        what = f"s3://{self._name}/{prefix}*"
        found: list[Object] = []
        self._pages = 0
        try:
            with self._telling(what):
                for each in self._client.list_objects(self._name, prefix, recursive=True):
                    self._go_on()
                    key = str(each.object_name)
                    if each.is_dir or key.endswith("/"):
                        continue
                    found.append(_object(key, each.size, each.etag))
                    if len(found) > objects_max:
                        raise BucketError(f"{what} are more than {objects_max} objects", False)
        finally:
            self._pages = None
        return found

    def read(self, each: Object, file: BinaryIO) -> str:
        """Write it to `file`; returns the SHA-256 of its bytes."""
        what = f"s3://{self._name}/{each.key}"
        headers: dict[str, Any] = {"If-Match": f'"{each.etag}"'} if each.etag else {}
        digest, size = hashlib.sha256(), 0
        with self._telling(what):
            answer = self._client.get_object(
                self._name, each.key, request_headers=headers, version_id=each.version or None
            )
            try:
                while chunk := answer.read1(CHUNK_BYTES, decode_content=False):
                    size += len(chunk)
                    if size > each.size_bytes:
                        text = f"{what} is longer than the {each.size_bytes} bytes it was to have"
                        raise BucketError(text, False)
                    self._go_on()
                    digest.update(chunk)
                    file.write(chunk)
            finally:
                answer.close()
        if size != each.size_bytes:
            raise BucketError(f"{what} broke off after {size} of {each.size_bytes} bytes", True)
        return digest.hexdigest()

    def write(self, key: str, file: BinaryIO, size_bytes: int) -> None:
        """Put so much of `file` there, in parts where it is long; in place of what is there."""
        with self._telling(f"s3://{self._name}/{key}"):
            watched: Any = _Watched(file, self._go_on)
            self._client.put_object(
                self._name,
                key,
                watched,
                size_bytes,
                part_size=PART_BYTES,
                num_parallel_uploads=1,
            )

    def _ask(self) -> None:
        """A request is about to leave. Those of a list are the client's own: it asks for the next
        page as long as the server says that there is one."""
        self._go_on()
        if self._pages is not None:
            if self._pages == PAGES_MAX:
                raise ValueError(f"its list is longer than {PAGES_MAX} pages")
            self._pages += 1

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Whatever goes wrong between here and the server, as a BucketError."""
        try:
            yield
        except S3Error as error:
            said = clean(f"{error.code}: {error.message}"[:SAID_CHARS_MAX])
            status = getattr(error.response, "status", 0)
            text = f"{what}: the server says {said}"
            if error.message == BARE:  # with a region it is something else
                text += self._wants_tls(status)
            raise BucketError(text, error.code in PASSING or status >= 500) from None
        except MinioException as error:  # an answer that is not S3's
            status = error.status_code if isinstance(error, ServerError) else _code_in(error)
            text = f"{what}: the server answers {status or 'what is not S3'}"
            text += self._wants_tls(status)
            raise BucketError(text, status >= 500) from None
        except urllib3.exceptions.HTTPError as error:
            raise self._unreached(what, error) from None
        except (ValueError, SyntaxError, LookupError, TypeError, AttributeError) as error:
            # No XML, or not that of S3: the client looks into it without a second thought.
            said = clean(str(error)[:SAID_CHARS_MAX])
            raise BucketError(f"{what}: {said}", False) from None

    def _wants_tls(self, status: int) -> str:
        """What else such an answer may mean: servers in Go (MinIO) have no better one."""
        if status != 400 or not self._endpoint.startswith("http://"):
            return ""
        other = self._endpoint.replace("http://", "https://", 1)
        return f"; one that wants TLS does so: its Endpoint is {other}"

    def _unreached(self, what: str, error: urllib3.exceptions.HTTPError) -> BucketError:
        cause = getattr(error, "reason", None) or error
        inner = cause.args[0] if cause.args else None
        if isinstance(inner, ssl.SSLCertVerificationError):
            text = f"{what}: its certificate is not trusted here: {inner.verify_message}"
            return BucketError(text, True)  # the clock here may be wrong as yet
        # A connection that was good may break off in the same words.
        shaking_hands = isinstance(error, urllib3.exceptions.MaxRetryError)
        ours = self._endpoint.startswith("https://")  # else that of AWS, with something before it
        if ours and shaking_hands and any(words in str(inner) for words in NO_TLS):
            other = self._endpoint.replace("https://", "http://", 1)
            return BucketError(f"{what}: no TLS there; without it its Endpoint is {other}", False)
        said = clean(str(cause).rpartition(": ")[2][:SAID_CHARS_MAX])
        return BucketError(f"{what}: {said}", True)


def _object(key: str, size: int | None, etag: str | None, version: str = "") -> Object:
    """As the server tells of it. Raises ValueError for a size that none has."""
    if size is not None and size < 0:
        raise ValueError(f"a size of {size} bytes is none: {key}")
    return Object(key, size or 0, etag or "", version)


def _code_in(error: MinioException) -> int:
    return int(getattr(error, "_code", 0) or 0)


class _Connections(urllib3.PoolManager):
    """Connections whose answers are bounded: the client reads errors and lists into memory."""

    def __init__(self, go_on: GoOn) -> None:
        """`go_on` is called before each request, but those that clean up (DELETE)."""
        super().__init__(
            num_pools=2,
            timeout=urllib3.Timeout(connect=CONNECT_S, read=SILENCE_S),
            retries=RETRY,
            ssl_context=ssl.create_default_context(),  # the device's, or that of SSL_CERT_FILE
        )
        self._go_on = go_on

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, redirect: bool = True, **more: Any
    ) -> urllib3.BaseHTTPResponse:
        whole = more.pop("preload_content", True)
        if method == "POST":
            more["timeout"] = urllib3.Timeout(connect=CONNECT_S, read=COMPLETE_S)
        answer = self._answer(method, url, redirect, more)
        if answer.status in (200, 206) and not whole:
            return answer
        try:
            data = _bounded(answer, method)
        except BaseException:
            answer.close()
            raise
        answer.release_conn()
        return urllib3.HTTPResponse(
            io.BytesIO(data),
            headers=answer.headers,
            status=answer.status,
            reason=answer.reason,
            preload_content=True,
            decode_content=False,
            request_method=method,
        )

    def _answer(
        self, method: str, url: str, redirect: bool, more: dict[str, Any]
    ) -> urllib3.BaseHTTPResponse:
        """Unread. A busy server is asked again, and what it has to say of that is not heard."""
        pauses = iter(BUSY_S if method in REPEATED else ())
        while True:
            if method != "DELETE":
                self._go_on()
            answer = super().urlopen(method, url, redirect, preload_content=False, **more)
            pause_s = next(pauses, None) if answer.status in BUSY else None
            if pause_s is None:
                return answer
            answer.close()
            time.sleep(pause_s)


def _bounded(answer: urllib3.BaseHTTPResponse, method: str) -> bytes:
    until, data = time.monotonic() + ANSWER_S, bytearray()
    if method == "HEAD":
        return b""
    while chunk := answer.read1(CHUNK_BYTES, decode_content=False):
        data += chunk
        if len(data) > ANSWER_BYTES_MAX:
            raise ValueError(f"its answer is longer than {ANSWER_BYTES_MAX >> 20} MiB")
        if time.monotonic() > until:
            raise ValueError(f"its answer was not there within {ANSWER_S:.0f} s")
    return bytes(data)


class _Watched:
    """A file that is asked whether to go on each time it is read."""

    def __init__(self, file: BinaryIO, go_on: GoOn) -> None:
        self._file = file
        self._go_on = go_on

    def read(self, size: int) -> bytes:
        self._go_on()
        return self._file.read(size)
