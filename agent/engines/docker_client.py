"""Docker's API through its SDK, as far as it is used here. Everything blocks; run it in threads.

The SDK is loaded when the first container is: it takes 17 MB and half a second of a Pi.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final

from agent.engines.container import LOCAL
from agent.engines.docker_frames import frames
from agent.engines.processors import runs_here
from agent.engines.task_log import STREAMS, Stream

TIMEOUT_S: Final = 60.0  # a slow card takes seconds to make a container
# Between two words of a pull, for which the SDK waits for ever: nothing is said of a registry that
# stalls, nor for a minute or two while a slow card checks a large layer.
QUIET_S: Final = 300.0
PIECE_BYTES_MAX: Final = 64 << 10  # of what it sends
LABEL: Final = "shoal.execution"  # with its id; how a container is known to be ours
OWNER: Final = "shoal.peer"  # two agents may share one engine
JOB: Final = "shoal.job"  # of a volume, whose it is
ID: Final = "sha256:"  # an image's id begins so
KIND: Final = "shoal.kind"  # of that job: standing, or one-off
DIE: Final = "die"
DIED: Final = "died"  # as podman calls it in filters, and there alone
KILL: Final = "kill"
START: Final = "start"
PODMANS: Final = "BuildahVersion"  # what podman alone tells of itself
ENDING: Final = ("9", "15")  # signals; HUP and others may mean anything
_MOMENT: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


class EngineFailed(OSError):
    """Docker said no, or nothing; a sentence for a person."""


class NotThere(EngineFailed):
    """What was asked for is not there (any more)."""


class NotAsked(EngineFailed):
    """This device could not even ask."""


class NotAnswering(EngineFailed):
    """Docker cannot be reached, or hangs."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A container as docker knows it."""

    execution_id: str
    status: str  # created, running, exited, ...
    exit_code: int = 0
    out_of_memory: bool = False
    error: str = ""
    started: float = 0.0  # Unix time; zero where it has not
    finished: float = 0.0
    stop_signal: str = "SIGTERM"
    output_bytes: int = 0  # docker has as much in its files once it has dropped any; 0: not known


class DockerClient:
    """One connection pool to one engine."""

    def __init__(self, socket: Path, owner: str) -> None:
        """`owner`: the peer whose containers these are."""
        self._owner = owner
        with _told():
            import docker

            url = f"http+unix://{socket}"
            self._api: Any = docker.APIClient(url, version="auto", timeout=TIMEOUT_S)
            self._impatient: Any = _impatient(url, self._api.api_version)
            info = self._api.info()
            self.log_driver = LOCAL if LOCAL in info["Plugins"]["Log"] else "json-file"
            self._is_podman = PODMANS in info
            # Podman's containers have no daemon: what is restarted is the server of its API.
            self.live_restore = self._is_podman or bool(info.get("LiveRestoreEnabled"))
            self.root = str(info.get("DockerRootDir") or "/")

    def close(self) -> None:
        self._api.close()
        self._impatient.close()

    # ---- containers --------------------------------------------------------------------------

    def name_of(self, execution_id: str) -> str:
        return f"shoal-{self._owner[-8:]}-{execution_id}"

    def create(
        self, execution_id: str, options: Mapping[str, Any], host: Mapping[str, Any]
    ) -> None:
        """One that was made before by a start that broke off is made anew."""
        name = self.name_of(execution_id)
        with _told():
            from docker.errors import APIError

            config = self._api.create_host_config(**host)
            options = {
                **options,
                "name": name,
                "labels": {LABEL: execution_id, OWNER: self._owner},
                "host_config": config,
                # A proxy's password in the agent's own configuration is nothing for jobs.
                "use_config_proxy": False,
            }
            try:
                self._api.create_container(**options)
            except APIError as error:
                if error.status_code != 409 or self.inspect(execution_id).status != "created":
                    raise
                self._api.remove_container(name, v=True)
                self._api.create_container(**options)

    def start(self, execution_id: str) -> None:
        with _told():
            self._api.start(self.name_of(execution_id))

    def kill(self, execution_id: str, signal: str) -> None:
        with _told():
            self._api.kill(self.name_of(execution_id), signal)

    def remove(self, execution_id: str) -> None:
        """Missing is fine, and so is one that runs."""
        with _told():
            from docker.errors import APIError

            try:
                self._api.remove_container(self.name_of(execution_id), force=True, v=True)
            except APIError as error:
                # 409: somebody else removes it just now.
                if error.status_code not in (404, 409):
                    raise

    def remove_unstarted(self, execution_id: str) -> bool:
        """False for one that has come to its end meanwhile. Raises EngineFailed for one that was
        started meanwhile and runs on."""
        with _told():
            id = self._api.inspect_container(self.name_of(execution_id))["Id"]
            self._api.remove_container(id, v=True)
            filters = {"type": "container", "event": START, "container": id}
            until = time.time()  # what is remembered up to now, and no stream
            return not list(self._api.events(since=1, until=until, filters=filters, decode=True))

    def inspect(self, execution_id: str) -> Seen:
        with _told():
            found = self._api.inspect_container(self.name_of(execution_id))
        state, config = found["State"], found["Config"]
        return Seen(
            execution_id,
            state["Status"],
            int(state.get("ExitCode") or 0),
            bool(state.get("OOMKilled")),
            str(state.get("Error") or ""),
            moment_ns(state.get("StartedAt") or "") / 1e9,
            moment_ns(state.get("FinishedAt") or "") / 1e9,
            config.get("StopSignal") or "SIGTERM",
            _kept_bytes(found["HostConfig"].get("LogConfig") or {}),
        )

    def all(self) -> dict[str, str]:
        """Each container of this peer: execution id and status."""
        with _told():
            found = self._api.containers(all=True, filters={"label": f"{OWNER}={self._owner}"})
        return {each["Labels"][LABEL]: each["State"] for each in found if LABEL in each["Labels"]}

    def events(self) -> Events:
        """Opened when it returns: what ends after that is told."""
        with _told():
            filters = {
                "type": "container",
                "event": [DIE, DIED, KILL],
                "label": f"{OWNER}={self._owner}",
            }
            return Events(self._api.events(filters=filters, decode=True))

    def run_beside(self, execution_id: str, argv: list[str], bytes_max: int) -> tuple[int, bytes]:
        """Run a command in the container; its exit code, and the end of what it wrote."""
        with _told():
            made = self._api.exec_create(self.name_of(execution_id), argv)
            said = b""
            for data in self._api.exec_start(made, stream=True):
                said = (said + data)[-bytes_max:]
            code = self._api.exec_inspect(made)["ExitCode"]
            return (125 if code is None else int(code)), said

    # ---- volumes -----------------------------------------------------------------------------

    def volume_name(self, volume: str) -> str:
        return f"shoal-{self._owner[-8:]}-{volume}"

    def make_volume(self, volume: str, job: str, standing: bool) -> None:
        """One that is there stays as it is."""
        labels = {OWNER: self._owner, JOB: job, KIND: "standing" if standing else "one-off"}
        with _told():
            self._api.create_volume(self.volume_name(volume), labels=labels)

    def volumes(self) -> list[tuple[str, str, bool]]:
        """Each volume of this peer: its name, its job, and whether that is a standing one."""
        with _told():
            found = self._api.volumes(filters={"label": f"{OWNER}={self._owner}"})["Volumes"] or []
        return [
            (each["Name"], each["Labels"][JOB], each["Labels"].get(KIND) != "one-off")
            for each in found
            if JOB in (each["Labels"] or {})
        ]

    def remove_volume(self, name: str) -> None:
        """Missing is fine. Raises EngineFailed while a container has it."""
        with suppress(NotThere), _told():
            self._api.remove_volume(name)

    # ---- files -------------------------------------------------------------------------------

    def put(self, execution_id: str, tar: IO[bytes]) -> None:
        """Unpack a tar at the container's root."""
        with _told():
            if not self._api.put_archive(self.name_of(execution_id), "/", tar):
                raise EngineFailed("docker did not take the files")

    def get(self, execution_id: str, path: str) -> Generator[bytes, None, None]:
        """What is at `path`, as a tar in pieces. Raises NotThere."""
        with _told():
            chunks, _ = self._impatient.get_archive(self.name_of(execution_id), path)
            yield from chunks

    @property
    def dates_exactly(self) -> bool:
        """Whether what was read ends at a moment that tells it from what comes; podman's are whole
        seconds."""
        return not self._is_podman

    def log(
        self, execution_id: str, stream: Stream, since_s: int, tail: int, follow: bool
    ) -> tuple[Iterator[bytes], Any]:
        """Frames of one stream, each a moment and what was written then; and what ends them.

        A tail is docker's, which counts the lines of both streams."""
        found, source = self._log(execution_id, (stream,), since_s, tail, follow)
        return (frame for _, frame in found), source

    def last_lines(
        self, execution_id: str, streams: Sequence[Stream], tail: int, count: int
    ) -> tuple[dict[Stream, deque[bytes]], bool]:
        """At most `count` frames of each stream at its end, of the last `tail` of all of them
        (negative: of all that there is); and whether that is all of these streams."""
        if self._is_podman:  # see _log
            tail = -1
        last: dict[Stream, deque[bytes]] = {stream: deque(maxlen=count) for stream in streams}
        found, source = self._log(execution_id, streams, 0, tail, False)
        seen, whole = 0, True
        with closing(source):
            for stream, frame in found:
                if stream is None:
                    whole = False
                else:
                    last[stream].append(frame)
                    seen += 1
        return last, whole and seen < (count if tail < 0 else min(tail, count))

    def _log(
        self, execution_id: str, streams: Sequence[Stream], since_s: int, tail: int, follow: bool
    ) -> tuple[Iterator[tuple[Stream | None, bytes]], Any]:
        """Not by the SDK's own call: that does not tell of which stream a frame is, and asks each
        time whether the container has a terminal, which none of ours has.

        Podman (4.3) runs lines together in a tail where one has no end yet, and leaves the last one
        out: of it all is read."""
        if tail > 0 and self._is_podman:
            tail = -1
        wanted: dict[str, object] = {
            **{stream: int(stream in streams) for stream in STREAMS},
            "timestamps": 1,
            "follow": int(follow),
            "tail": tail if tail >= 0 else "all",
        }
        if since_s:
            wanted["since"] = since_s
        with _told():
            from docker.types import CancellableStream

            url = self._api._url("/containers/{0}/logs", self.name_of(execution_id))
            answer = self._api._get(url, params=wanted, stream=True, timeout=self._api.timeout)
            self._api._raise_for_status(answer)
            if follow:  # from here on it may be silent for as long as the container is
                self._api._disable_socket_timeout(self._api._get_raw_response_socket(answer))
        pieces = answer.raw.stream(PIECE_BYTES_MAX, decode_content=False)
        return _read(frames(pieces)), CancellableStream(pieces, answer)

    # ---- images ------------------------------------------------------------------------------

    def has_image(self, image: str) -> bool:
        return bool(self.image_id(image))

    def image_id(self, image: str) -> str:
        """Empty where it is not here."""
        try:
            with _told():
                return str(self._api.inspect_image(image)["Id"])
        except NotThere:
            return ""

    def foreign_kind(self, image: str) -> str:
        """Which kind of processor it was built for, where none of it runs here; else empty."""
        with _told():
            kind = str(self._api.inspect_image(image).get("Architecture") or "")
        return "" if runs_here(kind) else kind

    def remove_image(self, image: str) -> bool:
        """Whether it was here and is gone. Not so an id that has got a name: it is somebody's
        then. Raises EngineFailed while a container uses it."""
        with suppress(NotThere), _told():
            if image.startswith(ID) and self._api.inspect_image(image)["RepoTags"]:
                return False
            self._api.remove_image(image)
            return True
        return False

    def pull(self, image: str) -> Generator[Mapping[str, Any], None, None]:
        """Fetch it; what docker says about that, line by line. Closed, docker gives it up."""
        repository, tag = _split(image)
        with _told():
            self._impatient.reload_config()  # a person may have logged in meanwhile
            for line in self._impatient.pull(repository, tag=tag, stream=True, decode=True):
                if "error" in line:
                    raise EngineFailed(str(line["error"]))
                yield line


class Events:
    """What befalls containers: each execution and DIE, or KILL for a signal that is to end it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[tuple[str, str]]:
        with _told():
            for event in self._stream:
                attributes, action = event.get("Actor", {}).get("Attributes", {}), event["Action"]
                ends = action == DIE or attributes.get("signal") in ENDING
                if LABEL in attributes and ends:
                    yield str(attributes[LABEL]), str(action)

    def close(self) -> None:
        with suppress(Exception):  # it looks for the socket where there may be none any more
            self._stream.close()


def moment_ns(text: str) -> int:
    """Nanoseconds of Unix time of what docker writes; zero for `not yet` (0001-01-01)."""
    match = _MOMENT.match(text)
    if match is None:
        return 0
    zone = "+00:00" if match[3] == "Z" else match[3]
    try:
        seconds = int(datetime.fromisoformat(match[1] + zone).timestamp())
    except (ValueError, OverflowError):  # no such day, as in a damaged file
        return 0
    return max(0, seconds * 1_000_000_000 + int((match[2] or "0").ljust(9, "0")))


def _kept_bytes(log: Mapping[str, Any]) -> int:
    """Of the driver `local`, as a container of ours asks for it: it goes on to the next file when
    one is full, and drops the oldest. Podman's drops all that there is."""
    options = log.get("Config") or {}
    files, size = options.get("max-file", ""), options.get("max-size", "")
    if log.get("Type") != LOCAL or not (files.isdecimal() and size.isdecimal()):
        return 0
    return max(0, int(files) - 1) * int(size)


def _read(found: Iterator[tuple[Stream | None, bytes]]) -> Iterator[tuple[Stream | None, bytes]]:
    with _told():
        yield from found


def _impatient(url: str, version: str) -> Any:
    """A client whose calls end when docker is silent for long, whatever the SDK asks for: it waits
    for ever for the next word of a pull or of an archive."""
    import docker

    class Impatient(docker.APIClient):  # type: ignore[misc]  # it has no types
        def post(self, url: Any, *arguments: Any, **options: Any) -> Any:
            return super().post(url, *arguments, **{**options, "timeout": QUIET_S})

        def _disable_socket_timeout(self, socket: Any) -> None: ...

    return Impatient(url, version=version, timeout=TIMEOUT_S)


def _split(image: str) -> tuple[str, str | None]:
    """The SDK takes name and tag apart, a digest being a tag."""
    name, at, digest = image.partition("@")
    if at:
        return name, digest
    base, colon, tag = name.rpartition(":")
    return (base, tag) if colon and "/" not in tag else (name, "latest")


@contextmanager
def _told() -> Iterator[None]:
    """What the SDK raises, as a sentence."""
    import docker.errors
    import requests.exceptions
    import urllib3.exceptions

    try:
        yield
    except docker.errors.NotFound as error:
        raise NotThere(_said(error)) from None
    except docker.errors.APIError as error:
        raise EngineFailed(_said(error)) from None
    except requests.exceptions.Timeout:
        raise NotAnswering(f"docker did not answer within {TIMEOUT_S:.0f} s") from None
    except (
        docker.errors.DockerException,
        requests.exceptions.RequestException,
        urllib3.exceptions.HTTPError,
    ) as error:
        if isinstance(error.__cause__, requests.exceptions.Timeout):  # as it asks for the version
            raise NotAnswering(f"docker did not answer within {TIMEOUT_S:.0f} s") from None
        raise NotAnswering(f"docker cannot be reached: {error!s:.200}") from None
    except (docker.errors.StreamParseError, EOFError) as error:  # an answer broke off
        raise NotAnswering(f"what docker says cannot be read: {error!s:.200}") from None


def _said(error: Any) -> str:
    return str(error.explanation or error)[:400]
