"""The client of the control API, for the command line and for programs.

    with Client("/run/shoal/shoal.sock") as shoal:
        for line in shoal.run(spec):
            print(line)

Standard library only, and synchronous: a command that asks one thing starts in tens of
milliseconds. A client belongs to one thread; the connection is kept from one question to the next.
"""

from __future__ import annotations

import json
import os
import socket
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self, cast
from urllib.parse import quote, urlencode

from agent.unixhttp import Connection, Lost, Silent

TIMEOUT_S = 30.0  # for an answer; asking around among silent peers takes a few seconds
QUIET_S = 60.0  # for the next line of a stream; the agent sends an empty one every 15 s
FRESH = "fresh-"  # begins a key made for one call: only its own repetition can have it
THIS_DEVICE = "@self"  # in place of a peer's name; no name begins so
SILENT = "the agent does not answer; it may be stopped or overloaded"


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
        return "the agent closed the connection: it was stopped, or its log says why"

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
    from agent import config  # for errors alone: what asks starts without

    if isinstance(error, PermissionError):
        return f"not allowed to use the agent's socket {path}: {_whose(path)}"
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)):
        if path == str(config.SYSTEM_SOCKET) and config.SYSTEM_UNIT.exists():
            return (
                f"the service shoal does not run: nothing answers on {path}; `systemctl status "
                "shoal` and `sudo journalctl -u shoal` say why, `sudo systemctl start shoal` "
                "starts it"
            )
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
        self._kept: Connection | None = None
        self._streaming: list[Connection] = []
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Also ends streams that another thread may be reading: they raise Unreachable there."""
        self._closed = True
        for connection in list(self._streaming):
            connection.shut_down()
        if self._kept:
            self._kept.close()
            self._kept = None
        self._route.close()

    def status(self) -> dict[str, Any]:
        return self._ask("GET", "/v1/status")

    def peers(self) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", self._ask("GET", "/v1/peers")["peers"])

    def peer(self, wanted: str = THIS_DEVICE) -> dict[str, Any]:
        """A peer by its name, its id, or either end of its id."""
        return self._ask("GET", _peer(wanted))

    def drain(self, draining: bool = True, wanted: str = THIS_DEVICE) -> dict[str, Any]:
        """Take no new batch and service work, or take it again: {peer, name, draining, running}."""
        return self._ask("POST", f"{_peer(wanted)}/drain", _encode({"draining": draining}))

    def forget(self, wanted: str) -> dict[str, Any]:
        """Remember a peer no longer that is gone: {peer, name}."""
        return self._ask("POST", f"{_peer(wanted)}/forget", repeat=False)

    def labels(self) -> list[dict[str, Any]]:
        """Of the agent's own device, as {name, value, source}."""
        return cast("list[dict[str, Any]]", self._ask("GET", "/v1/labels")["labels"])

    def label(self, given: dict[str, str], taken: list[str] | None = None) -> list[dict[str, Any]]:
        """Set and unset labels of the agent's device, all or none; what it has then."""
        body = _encode({"set": given, "unset": taken or []})
        answer = self._ask("POST", "/v1/labels", body, repeat=False)
        return cast("list[dict[str, Any]]", answer["labels"])

    def config(self) -> dict[str, Any]:
        return self._ask("GET", "/v1/config")

    def doctor(self) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", self._ask("GET", "/v1/doctor")["checks"])

    def metrics(self) -> str:
        """Figures in Prometheus' text format."""
        status, data = self._exchange("GET", "/metrics")
        if status != 200:
            _checked(status, data)
        return data.decode()

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

    def run_template(
        self, name: str, params: dict[str, str], key: str = "", namespace: str = "default"
    ) -> dict[str, Any]:
        """Run a template; of runs with one key there is one, at whatever peer. As `submit`."""
        wanted = {"params": params, "key": key or _fresh(), "namespace": namespace}
        return self._ask("POST", f"/v1/templates/{_quoted(name)}/run", _encode(wanted))

    def templates(self, name: str = "", namespace: str = "") -> list[dict[str, Any]]:
        """Job views of templates, with what they ask for; of one name, or all."""
        given = {"type": "template", "name": name, "namespace": namespace}
        filters = {key: value for key, value in given.items() if value}
        return cast("list[dict[str, Any]]", self.jobs("", 1000, detail=True, **filters)["jobs"])

    def jobs(
        self, prefix: str = "", limit: int = 100, *, detail: bool = False, **filters: str
    ) -> dict[str, Any]:
        """{jobs, silent}; filters are state, type, namespace and name, each a comma list."""
        query = {"prefix": prefix, "limit": limit, "detail": int(detail), **filters}
        return self._ask("GET", f"/v1/jobs?{urlencode(query)}")

    def job(self, wanted: str) -> dict[str, Any]:
        """A job by its id, the beginning of its id, or its name."""
        return self._ask("GET", _job(wanted))

    def versions(self, job: str) -> list[dict[str, Any]]:
        """The specs of a standing job that the agent remembers, the present one first."""
        answer = self._ask("GET", f"{_job(job)}/versions")
        return cast("list[dict[str, Any]]", answer["versions"])

    def stop(self, job: str) -> dict[str, Any]:
        return self._ask("POST", f"{_job(job)}/stop")

    def delete(self, job: str) -> dict[str, Any]:
        """End a standing job for good: its name is free again."""
        return self._ask("POST", f"{_job(job)}/delete")

    def logs(
        self,
        job: str,
        slot: int | None = None,
        stream: str = "both",
        tail: int = -1,
        follow: bool = False,
        peer: str = "",
        since_ms: int = 0,
    ) -> Iterator[dict[str, Any]]:
        """Output as {slot, peer, stream, data}; see `log_bytes`. Where some cannot be had a line
        without data says so in `note`, and whether something may be missing in `missing`."""
        query: dict[str, str | int] = {"stream": stream, "tail": tail, "follow": int(follow)}
        more = {"slot": slot, "peer": peer or None, "since_ms": since_ms or None}
        query |= {name: value for name, value in more.items() if value is not None}
        return self._stream("GET", f"{_job(job)}/logs?{urlencode(query)}")

    def results(self, job: str, slot: int = 0, offset: int = 0) -> Iterator[bytes]:
        """The archive of a slot's result files from `offset` on: a tar.gz; see the slot's view."""
        query = urlencode({"slot": slot, "offset": offset})
        for line in self._stream("GET", f"{_job(job)}/results?{query}"):
            yield b64decode(line["data"])

    def missing(self, job: str) -> list[dict[str, Any]]:
        """Slots whose result files cannot be had just now: {slot, reason}."""
        answer = self._ask("GET", f"{_job(job)}/missing")
        return cast("list[dict[str, Any]]", answer["missing"])

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
        """A join token as {token, id, expires_ms}; no roles means the usual ones."""
        wanted = {"expires_s": expires_s, "uses": uses, "roles": roles or []}
        return self._ask(
            "POST", "/v1/invites", _encode({**wanted, "labels": labels or {}}), repeat=False
        )

    def invites(self) -> list[dict[str, Any]]:
        """Those made there that still admit somebody, the newest first."""
        return cast("list[dict[str, Any]]", self._ask("GET", "/v1/invites")["invites"])

    def withdraw_invite(self, invite: str) -> dict[str, Any]:
        """By its id or the beginning of that: {id}."""
        return self._ask("POST", f"/v1/invites/{_quoted(invite)}/withdraw", repeat=False)

    def init(
        self,
        name: str,
        device: str | None = None,
        passphrase: str | None = None,
        labels: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Start a shoal on an agent's device that waits for that: {shoal, name, peer, backup,
        passphrase, content}, the last of them the backup in base64."""
        body = {"name": name, "device": device, "passphrase": passphrase, "labels": labels or {}}
        return self._ask("POST", "/v1/init", _encode(body), repeat=False)

    def join(
        self, token: str, name: str | None = None, new_identity: bool = False
    ) -> dict[str, Any]:
        """Have its device join: {shoal, shoal_name, peer, name}, and `already` if it had."""
        body = {"token": token, "name": name, "new_identity": new_identity}
        return self._ask("POST", "/v1/join", _encode(body), repeat=False)

    def put_archive(self, data: bytes) -> dict[str, Any]:
        """Ship an archive: {digest, size}."""
        return self._ask("POST", "/v1/archives", data)

    def shutdown(self) -> dict[str, Any]:
        return self._ask("POST", "/v1/shutdown")

    def _ask(
        self, method: str, target: str, body: bytes = b"", *, repeat: bool = True
    ) -> dict[str, Any]:
        return _checked(*self._exchange(method, target, body, repeat=repeat))

    def _exchange(
        self, method: str, target: str, body: bytes = b"", *, repeat: bool = True
    ) -> tuple[int, bytes]:
        """One request on the kept connection: the answer's status and body.

        The agent may have closed it meanwhile: what may be repeated then is, on a fresh one.
        """
        with self._explained():
            if kept := self._take_kept():
                kept.set_timeout(self._timeout_s)
                try:
                    return self._answer(kept, method, target, body)
                except Lost:
                    if not repeat:
                        raise
            return self._answer(self._connect(self._timeout_s), method, target, body)

    def _answer(
        self, connection: Connection, method: str, target: str, body: bytes
    ) -> tuple[int, bytes]:
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
        return answer.status, data

    def _stream(self, method: str, target: str, body: bytes = b"") -> Iterator[dict[str, Any]]:
        connection = self._take_kept() or self._connect(QUIET_S)
        connection.set_timeout(QUIET_S)
        self._streaming.append(connection)
        if self._closed:  # meanwhile, by another thread
            connection.shut_down()
        ended = False
        try:
            with self._explained():
                answer = connection.request(method, target, body)
                if answer.status != 200:
                    _checked(answer.status, answer.body())
                for line in answer.lines():
                    if line:  # an empty one only says that the agent is there
                        yield _unwrapped(json.loads(line))
            ended = not answer.closes
        finally:
            self._streaming.remove(connection)
            if ended and self._kept is None and not self._closed:
                self._kept = connection
            else:
                connection.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What goes wrong with a connection, as a sentence."""
        try:
            yield
        except Lost:
            raise Unreachable(self._route.explain()) from None
        except Silent:
            raise Unreachable(SILENT) from None

    def _take_kept(self) -> Connection | None:
        """The kept connection, unless the agent has closed it meanwhile."""
        kept, self._kept = self._kept, None
        if kept is not None and not kept.is_open():
            kept.close()
            return None
        return kept

    def _connect(self, timeout_s: float) -> Connection:
        return Connection(self._route.connect(timeout_s))


def log_bytes(line: dict[str, Any]) -> bytes:
    """The bytes of one log line."""
    if line.get("encoding") == "base64":
        return b64decode(line["data"])
    return cast("str", line["data"]).encode()


def _job(wanted: str) -> str:
    if not wanted:
        raise AgentError(404, "an empty word names no job; `shoal jobs` lists them")
    return f"/v1/jobs/{_quoted(wanted)}"


def _peer(wanted: str) -> str:
    if not wanted:
        raise AgentError(404, "an empty word names no peer; `shoal peers` lists them")
    return f"/v1/peers/{_quoted(wanted)}"


def _quoted(name: str) -> str:
    return quote(name, safe="", errors="replace")


def _fresh() -> str:
    """A key of this call alone."""
    return FRESH + os.urandom(16).hex()


def _submission(spec: dict[str, Any], key: str) -> bytes:
    return _encode({"spec": spec, "key": key or _fresh()})


def _encode(value: object) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise AgentError(400, "a name or argument is not UTF-8") from None


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
