"""The client of the control API, for the command line and for programs.

    with Client("/run/shoal/shoal.sock") as shoal:
        for line in shoal.run(spec):
            print(line)

Standard library only, and synchronous: a command that asks one thing starts in tens of
milliseconds. A client belongs to one thread; the connection is kept from one question to the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Protocol, Self, cast
from urllib.parse import quote, urlencode

TIMEOUT_S = 30.0  # for an answer; asking around among silent peers takes a few seconds
QUIET_S = 60.0  # for the next line of a stream; the agent sends an empty one every 15 s

_LINE_MAX = 64 * 1024  # of a response's head
_SILENT = "the agent does not answer; it may be stopped or overloaded"


class AgentError(Exception):
    """The agent refused: `status` as in HTTP, `text` for a person, `path` in a job spec or ""."""

    def __init__(self, status: int, text: str, path: str = "") -> None:
        super().__init__(f"{path}: {text}" if path else text)
        self.status = status
        self.text = text
        self.path = path


class Unreachable(AgentError):
    """No agent answers there; the text says what to do."""

    def __init__(self, text: str) -> None:
        super().__init__(0, text)


class Route(Protocol):
    """A way to an agent."""

    def connect(self, timeout_s: float) -> socket.socket:
        """A connection to the agent's socket. Raises Unreachable."""

    def explain(self) -> str:
        """Why a connection may have ended before an answer; a sentence."""

    def close(self) -> None: ...


class LocalRoute:
    """The agent's unix socket on this device."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)

    def connect(self, timeout_s: float) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            connect_unix(sock, self.path)
        except OSError as error:
            sock.close()
            raise Unreachable(unreachable_text(self.path, error)) from None
        return sock

    def explain(self) -> str:
        return "the agent ended before it answered; its log says why"

    def close(self) -> None:
        pass


def connect_unix(sock: socket.socket, path: str) -> None:
    """Connect to a path of any length; the address itself has room for 107 bytes."""
    if len(os.fsencode(path)) < 108:
        return sock.connect(path)
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    try:
        return sock.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    finally:
        os.close(directory)


def unreachable_text(path: str, error: OSError) -> str:
    """Why the socket cannot be reached and what to do, in a sentence."""
    if isinstance(error, PermissionError):
        return f"not allowed to use the agent's socket {path}: {_whose(path)}"
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)):
        return (
            f"no agent is running: nothing answers on {path}; start it with `shoal up`, "
            "or name its place with --data-dir or --socket"
        )
    return f"the agent's socket {path} cannot be reached: {error.strerror or error}"


def _whose(path: str) -> str:
    """Who may use the socket, as far as that may be seen."""
    import grp

    try:
        group = grp.getgrgid(os.stat(path).st_gid).gr_name
    except (OSError, KeyError):
        return "its directory is closed to you; ask as the user that runs the agent, or with sudo"
    if group == "root":
        return "it belongs to root alone; use sudo, or make a group `shoal` and restart the agent"
    return (
        f"it belongs to the group `{group}`; `sudo usermod -aG {group} $USER` and log in again, "
        "or use sudo"
    )


class Client:
    """One agent, as its API answers. Every method raises AgentError or Unreachable."""

    def __init__(self, route: Route | str | os.PathLike[str], timeout_s: float = TIMEOUT_S) -> None:
        self._route: Route = LocalRoute(route) if isinstance(route, (str, os.PathLike)) else route
        self._timeout_s = timeout_s
        self._kept: _Connection | None = None
        self._streaming: list[_Connection] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Also ends streams that another thread may be reading: they raise Unreachable there."""
        for connection in self._streaming:
            connection.shut_down()
        if self._kept:
            self._kept.close()
            self._kept = None
        self._route.close()

    def status(self) -> dict[str, Any]:
        return self._ask("GET", "/v1/status")

    def peers(self) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", self._ask("GET", "/v1/peers")["peers"])

    def config(self) -> dict[str, Any]:
        return self._ask("GET", "/v1/config")

    def doctor(self) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", self._ask("GET", "/v1/doctor")["checks"])

    def submit(self, spec: dict[str, Any], key: str = "") -> dict[str, Any]:
        """Submit a job; `key` makes a repeated call the same job (random if none is given)."""
        return self._ask("POST", "/v1/jobs", _submission(spec, key))

    def run(
        self, spec: dict[str, Any], key: str = "", *, events: bool = True, logs: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Submit a job and follow it to its end, in one exchange.

        Gives {"submitted": ...}, then {"event": ...} and {"log": ...} as they happen, and at last
        {"final": job view}.
        """
        query = urlencode({"follow": 1, "events": int(events), "logs": int(logs)})
        return self._stream("POST", f"/v1/run?{query}", _submission(spec, key))

    def follow(
        self, job: str, *, events: bool = True, logs: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Follow a job to its end, as `run` does."""
        query = urlencode({"events": int(events), "logs": int(logs)})
        return self._stream("GET", f"{_job(job)}/follow?{query}")

    def jobs(
        self, prefix: str = "", limit: int = 100, *, detail: bool = False, **filters: str
    ) -> dict[str, Any]:
        """{jobs, silent}; filters are state, type, namespace and name, each a comma list."""
        query = {"prefix": prefix, "limit": limit, "detail": int(detail), **filters}
        return self._ask("GET", f"/v1/jobs?{urlencode(query)}")

    def job(self, wanted: str) -> dict[str, Any]:
        """A job by its id, the beginning of its id, or its name."""
        return self._ask("GET", _job(wanted))

    def stop(self, job: str) -> dict[str, Any]:
        return self._ask("POST", f"{_job(job)}/stop")

    def logs(
        self,
        job: str,
        slot: int | None = None,
        stream: str = "both",
        tail: int = -1,
        follow: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Output as {slot, peer, stream, data}; see `log_bytes`."""
        query = {"stream": stream, "tail": tail, "follow": int(follow)}
        if slot is not None:
            query["slot"] = slot
        return self._stream("GET", f"{_job(job)}/logs?{urlencode(query)}")

    def events(self, since: int = 0, job: str = "") -> list[dict[str, Any]]:
        """The events that the agent remembers."""
        query = urlencode({"since": since} | ({"job": job} if job else {}))
        answer = self._ask("GET", f"/v1/events?{query}")
        return cast("list[dict[str, Any]]", answer["events"])

    def follow_events(self, since: int = 0, job: str = "") -> Iterator[dict[str, Any]]:
        """The events that the agent remembers, then those that happen; it never ends by itself."""
        query = urlencode({"since": since, "follow": 1} | ({"job": job} if job else {}))
        return self._stream("GET", f"/v1/events?{query}")

    def invite(
        self,
        expires_s: int = 900,
        uses: int = 1,
        roles: list[str] | None = None,
        labels: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """A join token as {token, expires_ms}; no roles means the usual ones."""
        wanted = {"expires_s": expires_s, "uses": uses, "roles": roles or []}
        return self._ask(
            "POST", "/v1/invites", _encode({**wanted, "labels": labels or {}}), repeat=False
        )

    def put_archive(self, data: bytes) -> dict[str, Any]:
        """Ship an archive: {digest, size}."""
        return self._ask("POST", "/v1/archives", data)

    def shutdown(self) -> dict[str, Any]:
        return self._ask("POST", "/v1/shutdown")

    def _ask(
        self, method: str, target: str, body: bytes = b"", *, repeat: bool = True
    ) -> dict[str, Any]:
        """One request on the kept connection.

        The agent may have closed it meanwhile: what may be repeated then is, on a fresh one.
        """
        if kept := self._take_kept():
            kept.set_timeout(self._timeout_s)
            try:
                return self._answer(kept, method, target, body)
            except _Lost:
                if not repeat:
                    raise Unreachable(self._route.explain()) from None
        try:
            return self._answer(self._connect(self._timeout_s), method, target, body)
        except _Lost:
            raise Unreachable(self._route.explain()) from None

    def _answer(
        self, connection: _Connection, method: str, target: str, body: bytes
    ) -> dict[str, Any]:
        try:
            answer = connection.request(method, target, body)
            data = answer.body()
        except BaseException:
            connection.close()
            raise
        if answer.closes:
            connection.close()
        else:
            self._kept = connection
        return _checked(answer.status, data)

    def _stream(self, method: str, target: str, body: bytes = b"") -> Iterator[dict[str, Any]]:
        connection = self._take_kept() or self._connect(QUIET_S)
        connection.set_timeout(QUIET_S)
        self._streaming.append(connection)
        ended = False
        try:
            answer = connection.request(method, target, body)
            if answer.status != 200:
                _checked(answer.status, answer.body())
            for line in answer.lines():
                if line:  # an empty one only says that the agent is there
                    yield _unwrapped(json.loads(line))
            ended = not answer.closes
        except _Lost:
            raise Unreachable(self._route.explain()) from None
        finally:
            self._streaming.remove(connection)
            if ended and self._kept is None:
                self._kept = connection
            else:
                connection.close()

    def _take_kept(self) -> _Connection | None:
        """The kept connection, unless the agent has closed it meanwhile."""
        kept, self._kept = self._kept, None
        if kept is not None and not kept.is_open():
            kept.close()
            return None
        return kept

    def _connect(self, timeout_s: float) -> _Connection:
        return _Connection(self._route.connect(timeout_s))


class _Lost(Exception):
    """The connection ended before the answer did."""


class _Connection:
    """One connection: a request goes out in one piece, its answer is read as our server writes it.

    Not `http.client`: importing it (email, ssl) takes longer than all the rest of a small command.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rb", buffering=64 * 1024)

    def request(self, method: str, target: str, body: bytes) -> _Answer:
        head = f"{method} {target} HTTP/1.1\r\nhost: shoal\r\ncontent-length: {len(body)}\r\n\r\n"
        try:
            self._sock.sendall(head.encode("ascii") + body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all of it was read: the answer is there, or its absence tells
        except TimeoutError:
            raise Unreachable(_SILENT) from None
        except OSError:
            raise _Lost from None
        return _Answer(cast("BinaryIO", self._file))

    def set_timeout(self, timeout_s: float) -> None:
        self._sock.settimeout(timeout_s)

    def is_open(self) -> bool:
        """Whether the agent has closed it, as far as is known here."""
        timeout_s = self._sock.gettimeout()
        self._sock.settimeout(0)
        try:
            return self._sock.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self._sock.settimeout(timeout_s)

    def shut_down(self) -> None:
        """End it under whoever reads from it."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._file.close()
        self._sock.close()


class _Answer:
    """One response (RFC 9112): its status, then either all of its body or its lines."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.status = self._status()
        headers = dict(self._headers())
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self._length = int(headers.get("content-length", "0"))
        self.closes = headers.get("connection", "").lower() == "close"

    def body(self) -> bytes:
        return b"".join(self._chunks()) if self._chunked else self._exactly(self._length)

    def lines(self) -> Iterator[bytes]:
        rest = b""
        for chunk in self._chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
        if rest:
            raise _Lost

    def _chunks(self) -> Iterator[bytes]:
        while size := self._number(self._line().partition(b";")[0], 16):
            yield self._exactly(size)
            self._line()
        while self._line():  # trailers; there are none
            pass

    def _status(self) -> int:
        while True:
            version, _, rest = self._line().partition(b" ")
            status = self._number(rest[:3], 10)
            if not version.startswith(b"HTTP/1."):
                raise _Lost
            if status != 100:
                return status
            dict(self._headers())

    def _headers(self) -> Iterator[tuple[str, str]]:
        while line := self._line():
            name, _, value = line.decode("latin-1").partition(":")
            yield name.strip().lower(), value.strip()

    def _number(self, text: bytes, radix: int) -> int:
        try:
            return int(text, radix)
        except ValueError:
            raise _Lost from None

    def _line(self) -> bytes:
        line = self._reading(lambda: self._file.readline(_LINE_MAX))
        if not line.endswith(b"\n"):
            raise _Lost
        return line.rstrip(b"\r\n")

    def _exactly(self, size: int) -> bytes:
        data = self._reading(lambda: self._file.read(size))
        if len(data) != size:
            raise _Lost
        return data

    def _reading(self, read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except TimeoutError:
            raise Unreachable(_SILENT) from None
        except (OSError, ValueError):
            raise _Lost from None


def log_bytes(line: dict[str, Any]) -> bytes:
    """The bytes of one log line."""
    if line.get("encoding") == "base64":
        import base64

        return base64.b64decode(line["data"])
    return cast("str", line["data"]).encode()


def _job(wanted: str) -> str:
    return f"/v1/jobs/{quote(wanted, safe='')}"


def _submission(spec: dict[str, Any], key: str) -> bytes:
    return _encode({"spec": spec, "key": key or os.urandom(16).hex()})


def _encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _unwrapped(view: dict[str, Any]) -> dict[str, Any]:
    """One line of a stream; an error within it comes as the last."""
    if "error" in view:
        raise AgentError(view.get("status", 500), view["error"])
    return view


def _checked(status: int, data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data)
    except ValueError:
        raise AgentError(status, f"the agent's answer ({status}) is not JSON") from None
    if status >= 400:
        raise AgentError(status, answer.get("error", f"status {status}"), answer.get("path", ""))
    return cast("dict[str, Any]", answer)
