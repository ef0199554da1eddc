"""Routes: each request of the API, checked and bounded, and handed to the backend."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec
import trio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from agent.control.backend import Backend, RequestError, View
from agent.control.follow import follow_job
from agent.control.streams import Emit, JsonAnswer, LineStream, plain_log

if TYPE_CHECKING:
    from agent.control.server import Limits

log = logging.getLogger(__name__)

T = TypeVar("T")
Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

JOBS_MAX = 1000  # of one answer
KEY_MAX = 128  # characters of an idempotency key
TAIL_MAX = 100_000  # lines
INVITE_S_MAX = 30 * 86_400
USES_MAX = 1000


def build_app(backend: Backend, limits: Limits) -> Starlette:
    """The ASGI application."""
    api = Routes(backend, limits)
    table: list[tuple[str, str, Handler]] = [
        ("GET", "/v1/status", api.status),
        ("GET", "/v1/peers", api.peers),
        ("GET", "/v1/config", api.config),
        ("GET", "/v1/doctor", api.doctor),
        ("GET", "/v1/jobs", api.jobs),
        ("POST", "/v1/jobs", api.submit),
        ("GET", "/v1/jobs/{job}", api.job),
        ("POST", "/v1/jobs/{job}/stop", api.stop),
        ("GET", "/v1/jobs/{job}/logs", api.logs),
        ("GET", "/v1/jobs/{job}/follow", api.follow),
        ("GET", "/v1/events", api.events),
        ("POST", "/v1/run", api.run),
        ("POST", "/v1/invites", api.invite),
        ("POST", "/v1/archives", api.archive),
        ("POST", "/v1/shutdown", api.shutdown),
    ]
    routes = [Route(path, _guarded(handler), methods=[method]) for method, path, handler in table]
    return Starlette(routes=routes, exception_handlers={HTTPException: _unrouted})


class Routes:
    def __init__(self, backend: Backend, limits: Limits) -> None:
        self._backend = backend
        self._limits = limits
        self._followers = 0

    async def status(self, request: Request) -> Response:
        return JsonAnswer(self._backend.status())

    async def peers(self, request: Request) -> Response:
        return JsonAnswer({"peers": self._backend.peers()})

    async def config(self, request: Request) -> Response:
        return JsonAnswer(self._backend.config_view())

    async def doctor(self, request: Request) -> Response:
        return JsonAnswer({"checks": self._backend.doctor()})

    async def jobs(self, request: Request) -> Response:
        """Filtered here by `state`, `type`, `namespace` and `name`, each a comma list."""
        limit = _integer(request, "limit", 100, 1, JOBS_MAX)
        filters = {
            field: request.query_params[field].split(",")
            for field in ("state", "type", "namespace", "name")
            if request.query_params.get(field)
        }
        found = await self._backend.jobs(
            request.query_params.get("prefix", ""),
            JOBS_MAX if filters else limit,
            _flag(request, "detail"),
        )
        jobs = [
            view
            for view in found["jobs"]
            if all(view.get(field) in allowed for field, allowed in filters.items())
        ]
        return JsonAnswer({**found, "jobs": jobs[:limit]})

    async def job(self, request: Request) -> Response:
        return JsonAnswer(await self._backend.job(request.path_params["job"]))

    async def submit(self, request: Request) -> Response:
        spec, key = _submission(await self._json(request))
        return JsonAnswer(await self._backend.submit(spec, key))

    async def run(self, request: Request) -> Response:
        """Submit, and stream what becomes of it (see follow.follow_job).

        A wrong job is refused with a status of its own, before the stream begins.
        """
        spec, key = _submission(await self._json(request))
        if not _flag(request, "follow"):
            return JsonAnswer(await self._backend.submit(spec, key))
        want_events, want_logs = _flag(request, "events", True), _flag(request, "logs")
        self._check_room()
        accepted = await self._backend.submit(spec, key)

        async def produce(emit: Emit) -> None:
            with self._place():
                await emit({"submitted": accepted})
                await follow_job(
                    self._backend,
                    accepted["job"],
                    emit,
                    events=want_events,
                    logs=want_logs,
                    look_first=bool(accepted.get("unchanged")),
                    look_s=self._limits.heartbeat_s,
                )

        return self._stream(produce)

    async def follow(self, request: Request) -> Response:
        """Stream what becomes of a job that was submitted before, down to its end."""
        view = await self._backend.job(request.path_params["job"])
        want_events, want_logs = _flag(request, "events", True), _flag(request, "logs")
        self._check_room()

        async def produce(emit: Emit) -> None:
            with self._place():
                await follow_job(
                    self._backend,
                    view["id"],
                    emit,
                    events=want_events,
                    logs=want_logs,
                    look_first=True,
                    look_s=self._limits.heartbeat_s,
                )

        return self._stream(produce)

    async def stop(self, request: Request) -> Response:
        answer = await self._backend.stop(request.path_params["job"])
        _told(request, "stop of job %s", request.path_params["job"])
        return JsonAnswer(answer)

    async def logs(self, request: Request) -> Response:
        slot = _integer(request, "slot", -1, -1, 1_000_000)
        stream = request.query_params.get("stream", "both")
        if stream not in ("stdout", "stderr", "both"):
            raise RequestError(400, "stream: allowed: stdout, stderr, both")
        tail = _integer(request, "tail", -1, -1, TAIL_MAX)
        view = await self._backend.job(request.path_params["job"])
        follow = _flag(request, "follow")
        self._check_room()

        async def produce(emit: Emit) -> None:
            lines = self._backend.logs(view["id"], None if slot < 0 else slot, stream, tail, follow)
            with self._place():
                try:
                    async for line in lines:
                        await emit(plain_log(line))
                finally:
                    await lines.aclose()

        return self._stream(produce)

    async def events(self, request: Request) -> Response:
        since = _integer(request, "since", 0, 0, 2**53)
        job = request.query_params.get("job")
        if job:
            job = (await self._backend.job(job))["id"]
        if not _flag(request, "follow"):
            return JsonAnswer({"events": self._backend.recent(since, job)})
        self._check_room()

        async def produce(emit: Emit) -> None:
            events = self._backend.events(since, job)
            with self._place():
                try:
                    async for event in events:
                        await emit(event)
                finally:
                    await events.aclose()

        return self._stream(produce)

    async def invite(self, request: Request) -> Response:
        wanted = _checked(await self._json(request), Invitation)
        answer = await self._backend.invite(
            wanted.expires_s, wanted.uses, wanted.roles, wanted.labels
        )
        _told(request, "invitation for %d uses", wanted.uses)
        return JsonAnswer(answer)

    async def archive(self, request: Request) -> Response:
        limit = self._limits.archive_bytes_max
        async with aclosing(self._body(request, limit)) as chunks:
            return JsonAnswer(await self._backend.put_archive(chunks))

    async def shutdown(self, request: Request) -> Response:
        _told(request, "shutdown")

        async def end() -> None:
            self._backend.shutdown()

        return JsonAnswer({"ending": True}, 202, background=BackgroundTask(end))

    def _stream(self, produce: Callable[[Emit], Awaitable[None]]) -> Response:
        return LineStream(produce, self._limits.heartbeat_s)

    def _check_room(self) -> None:
        if self._followers >= self._limits.followers_max:
            raise RequestError(
                503, f"{self._followers} programs follow this agent already; close some of them"
            )

    @contextmanager
    def _place(self) -> Iterator[None]:
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1

    async def _json(self, request: Request) -> object:
        body = bytearray()
        async for chunk in self._body(request, self._limits.body_bytes_max):
            body += chunk
        try:
            return msgspec.json.decode(body or b"{}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError(400, f"the body is not JSON: {error}") from None

    async def _body(self, request: Request, limit: int) -> AsyncGenerator[bytes, None]:
        """The body as it comes, refused where it is too long or too slow."""
        declared = request.headers.get("content-length", "0")
        if not declared.isdigit() or int(declared) > limit:
            raise RequestError(413, f"the body has {declared} bytes; allowed: {limit}")
        deadline = trio.current_time() + self._limits.body_s
        size = 0
        async with aclosing(request.stream()) as chunks:
            while True:
                chunk: bytes | None = None
                with trio.move_on_at(deadline) as scope:
                    chunk = await anext(chunks, None)
                if scope.cancelled_caught:
                    raise RequestError(408, f"the body took longer than {self._limits.body_s:g} s")
                if chunk is None:
                    return
                size += len(chunk)
                if size > limit:
                    raise RequestError(413, f"the body has more than {limit} bytes")
                if chunk:
                    yield chunk


class Submission(msgspec.Struct, forbid_unknown_fields=True):
    spec: dict[str, Any]
    key: str


class Invitation(msgspec.Struct, forbid_unknown_fields=True):
    expires_s: int = 900
    uses: int = 1
    roles: list[str] = []
    labels: dict[str, str] = {}

    def __post_init__(self) -> None:
        if not 1 <= self.expires_s <= INVITE_S_MAX:
            raise ValueError(f"expires_s: allowed: 1 to {INVITE_S_MAX}")
        if not 1 <= self.uses <= USES_MAX:
            raise ValueError(f"uses: allowed: 1 to {USES_MAX}")


def _submission(body: object) -> tuple[View, str]:
    wanted = _checked(body, Submission)
    if not 1 <= len(wanted.key) <= KEY_MAX or not wanted.key.isprintable():
        raise RequestError(400, f"key: allowed: 1 to {KEY_MAX} printable characters")
    return wanted.spec, wanted.key


def _checked(body: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise RequestError(400, str(error)) from None


def _guarded(handler: Handler) -> Handler:
    """Turn every failure into an answer; the agent lives on."""

    async def guarded(request: Request) -> Response:
        try:
            return await handler(request)
        except RequestError as error:
            path = {"path": error.path} if error.path else {}
            return JsonAnswer({"error": error.text, **path}, error.status)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody will read it
        except Exception:
            log.exception("%s %s failed", request.method, request.url.path)
            return JsonAnswer({"error": "the agent failed at this; its log says how"}, 500)

    return guarded


async def _unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = {404: "no such thing in this API", 405: "not with this method"}
    return JsonAnswer(
        {"error": f"{request.url.path}: {text.get(error.status_code, error.detail)}"},
        error.status_code,
    )


def _integer(request: Request, name: str, default: int, low: int, high: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise RequestError(400, f"{name}: allowed: {low} to {high}")
    return value


def _flag(request: Request, name: str, default: bool = False) -> bool:
    """`?follow`, `?follow=1` and `?follow=true` are all yes."""
    text = request.query_params.get(name)
    if text is None:
        return default
    return text.lower() not in ("0", "false", "no")


def _told(request: Request, text: str, *values: object) -> None:
    """Who asked, as the kernel knows it: these requests change what others see."""
    pid, uid, _gid = request.state.credentials
    log.info(text + " asked for by uid %d, pid %d", *values, uid, pid)
