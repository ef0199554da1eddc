"""Routes: each request of the API, checked and bounded, and handed to the backend."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeAlias

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from agent.control.backend import Backend, LogQuery, RequestError
from agent.control.bodies import (
    Draining,
    Founding,
    Invitation,
    Joining,
    Labelling,
    TemplateRun,
    check_key,
    checked,
    flag,
    integer,
    read_body,
    read_json,
    read_submission,
)
from agent.control.follow import follow_job
from agent.control.streams import Emit, JsonAnswer, LineStream, plain_log
from agent.jointoken import TokenError, parse_token

if TYPE_CHECKING:
    from agent.control.server import Limits

log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

JOBS_MAX = 1000  # of one answer
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TAIL_MAX = 100_000  # lines
SINCE_MS_MAX = 253_402_300_799_000  # the end of the year 9999


def build_metrics_app(backend: Backend) -> Starlette:
    """What may be asked over TCP: the figures, and nothing of the API."""

    async def metrics(request: Request) -> Response:
        return Response(await backend.metrics(), media_type=METRICS_TYPE)

    routes = [Route("/metrics", guarded(metrics), methods=["GET"])]
    return Starlette(routes=routes, exception_handlers={HTTPException: _unrouted})


def build_app(backend: Backend, limits: Limits) -> Starlette:
    """The ASGI application."""
    api = Routes(backend, limits)
    table: list[tuple[str, str, Handler]] = [
        ("GET", "/v1/status", api.status),
        ("GET", "/v1/peers", api.peers),
        ("GET", "/v1/peers/{peer}", api.peer),
        ("POST", "/v1/peers/{peer}/drain", api.drain),
        ("POST", "/v1/peers/{peer}/forget", api.forget),
        ("GET", "/v1/labels", api.labels),
        ("POST", "/v1/labels", api.label),
        ("GET", "/v1/config", api.config),
        ("GET", "/metrics", api.metrics),
        ("GET", "/v1/doctor", api.doctor),
        ("GET", "/v1/jobs", api.jobs),
        ("POST", "/v1/jobs", api.submit),
        ("GET", "/v1/jobs/{job}", api.job),
        ("GET", "/v1/jobs/{job}/versions", api.versions),
        ("POST", "/v1/jobs/{job}/stop", api.stop),
        ("POST", "/v1/jobs/{job}/delete", api.delete),
        ("GET", "/v1/jobs/{job}/logs", api.logs),
        ("GET", "/v1/jobs/{job}/results", api.results),
        ("GET", "/v1/jobs/{job}/missing", api.missing),
        ("GET", "/v1/jobs/{job}/follow", api.follow),
        ("POST", "/v1/templates/{name}/run", api.run_template),
        ("GET", "/v1/events", api.events),
        ("POST", "/v1/run", api.run),
        ("POST", "/v1/invites", api.invite),
        ("GET", "/v1/invites", api.invites),
        ("POST", "/v1/invites/{invite}/withdraw", api.withdraw_invite),
        ("POST", "/v1/archives", api.archive),
        ("POST", "/v1/init", api.init),
        ("POST", "/v1/join", api.join),
        ("POST", "/v1/shutdown", api.shutdown),
    ]
    routes = [Route(path, guarded(handler), methods=[method]) for method, path, handler in table]
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

    async def peer(self, request: Request) -> Response:
        return JsonAnswer(self._backend.peer(request.path_params["peer"]))

    async def drain(self, request: Request) -> Response:
        wanted = checked(await self._json(request), Draining)
        answer = await self._backend.drain(request.path_params["peer"], wanted.draining)
        _told(request, "draining %s", "on" if wanted.draining else "off")
        return JsonAnswer(answer)

    async def forget(self, request: Request) -> Response:
        answer = await self._backend.forget(request.path_params["peer"])
        _told(request, "forgetting %s", request.path_params["peer"])
        return JsonAnswer(answer)

    async def labels(self, request: Request) -> Response:
        return JsonAnswer({"labels": self._backend.labels()})

    async def label(self, request: Request) -> Response:
        wanted = checked(await self._json(request), Labelling)
        labels = await self._backend.label(wanted.given, wanted.unset)
        _told(request, "change of %d labels", len(wanted.given) + len(wanted.unset))
        return JsonAnswer({"labels": labels})

    async def config(self, request: Request) -> Response:
        return JsonAnswer(self._backend.config_view())

    async def doctor(self, request: Request) -> Response:
        return JsonAnswer({"checks": self._backend.doctor()})

    async def metrics(self, request: Request) -> Response:
        """Prometheus' text format, at the path where it looks by itself."""
        return Response(await self._backend.metrics(), media_type=METRICS_TYPE)

    async def jobs(self, request: Request) -> Response:
        """Filtered here by `state`, `type`, `namespace` and `name`, each a comma list."""
        limit = integer(request, "limit", 100, 1, JOBS_MAX)
        filters = {
            field: request.query_params[field].split(",")
            for field in ("state", "type", "namespace", "name")
            if request.query_params.get(field)
        }
        found = await self._backend.jobs(
            request.query_params.get("prefix", ""),
            JOBS_MAX if filters else limit,
            flag(request, "detail"),
        )
        jobs = [
            view
            for view in found["jobs"]
            if all(view.get(field) in allowed for field, allowed in filters.items())
        ]
        return JsonAnswer({**found, "jobs": jobs[:limit]})

    async def job(self, request: Request) -> Response:
        return JsonAnswer(await self._backend.job(request.path_params["job"]))

    async def versions(self, request: Request) -> Response:
        found = await self._backend.versions(request.path_params["job"])
        return JsonAnswer({"versions": found})

    async def submit(self, request: Request) -> Response:
        spec, key = read_submission(await self._json(request))
        return JsonAnswer(await self._backend.submit(spec, key))

    async def run(self, request: Request) -> Response:
        """Submit, and stream what becomes of it (see follow.follow_job).

        A wrong job is refused with a status of its own, before the stream begins.
        """
        spec, key = read_submission(await self._json(request))
        if not flag(request, "follow"):
            return JsonAnswer(await self._backend.submit(spec, key))
        want_events, want_logs = flag(request, "events", True), flag(request, "logs")
        self._enter()
        try:
            accepted = await self._backend.submit(spec, key)
        except BaseException:
            self._leave()
            raise

        async def produce(emit: Emit) -> None:
            await emit({"submitted": accepted})
            await follow_job(
                self._backend,
                accepted["job"],
                emit,
                events=want_events,
                logs=want_logs,
                look_first=bool(accepted.get("unchanged")),
                look_s=self._limits.look_s,
                look_max_s=self._limits.heartbeat_s,
            )

        return self._stream(produce)

    async def follow(self, request: Request) -> Response:
        """Stream what becomes of a job that was submitted before, down to its end."""
        view = await self._backend.job(request.path_params["job"])
        want_events, want_logs = flag(request, "events", True), flag(request, "logs")
        self._enter()

        async def produce(emit: Emit) -> None:
            await follow_job(
                self._backend,
                view["id"],
                emit,
                events=want_events,
                logs=want_logs,
                look_first=True,
                look_s=self._limits.look_s,
                look_max_s=self._limits.heartbeat_s,
            )

        return self._stream(produce)

    async def run_template(self, request: Request) -> Response:
        wanted = checked(await self._json(request), TemplateRun)
        check_key(wanted.key)
        name = request.path_params["name"]
        return JsonAnswer(
            await self._backend.run_template(name, wanted.namespace, wanted.params, wanted.key)
        )

    async def stop(self, request: Request) -> Response:
        answer = await self._backend.stop(request.path_params["job"])
        _told(request, "stop of job %s", request.path_params["job"])
        return JsonAnswer(answer)

    async def delete(self, request: Request) -> Response:
        answer = await self._backend.delete(request.path_params["job"])
        _told(request, "deletion of job %s", request.path_params["job"])
        return JsonAnswer(answer)

    async def logs(self, request: Request) -> Response:
        slot = integer(request, "slot", -1, -1, 1_000_000)
        stream = request.query_params.get("stream", "both")
        if stream not in ("stdout", "stderr", "both"):
            raise RequestError(400, "stream: allowed: stdout, stderr, both")
        tail = integer(request, "tail", -1, -1, TAIL_MAX)
        wanted = LogQuery(
            None if slot < 0 else slot,
            request.query_params.get("peer", ""),
            stream,
            tail,
            integer(request, "since_ms", 0, 0, SINCE_MS_MAX),
            flag(request, "follow"),
        )
        view = await self._backend.job(request.path_params["job"])
        self._enter()

        async def produce(emit: Emit) -> None:
            lines = self._backend.logs(view["id"], wanted)
            try:
                async for line in lines:
                    await emit(plain_log(line))
            finally:
                await lines.aclose()

        return self._stream(produce)

    async def results(self, request: Request) -> Response:
        slot = integer(request, "slot", 0, 0, 2**53)
        offset = integer(request, "offset", 0, 0, 2**53)
        view = await self._backend.job(request.path_params["job"])
        self._enter()

        async def produce(emit: Emit) -> None:
            async def write(chunk: bytes) -> None:
                await emit({"data": chunk})  # in base64

            await self._backend.results(view["id"], slot, offset, write)

        return self._stream(produce)

    async def missing(self, request: Request) -> Response:
        found = await self._backend.missing(request.path_params["job"])
        return JsonAnswer({"missing": found})

    async def events(self, request: Request) -> Response:
        since = integer(request, "since", 0, 0, 2**53)
        job = request.query_params.get("job")
        if job:
            job = (await self._backend.job(job))["id"]
        if not flag(request, "follow"):
            return JsonAnswer({"events": self._backend.recent(since, job)})
        self._enter()

        async def produce(emit: Emit) -> None:
            events = self._backend.events(since, job)
            try:
                async for event in events:
                    await emit(event)
            finally:
                await events.aclose()

        return self._stream(produce)

    async def invite(self, request: Request) -> Response:
        wanted = checked(await self._json(request), Invitation)
        answer = await self._backend.invite(
            wanted.expires_s, wanted.uses, wanted.roles, wanted.labels
        )
        _told(request, "invitation for %d uses", wanted.uses)
        return JsonAnswer(answer)

    async def invites(self, request: Request) -> Response:
        return JsonAnswer({"invites": self._backend.invites()})

    async def withdraw_invite(self, request: Request) -> Response:
        answer = await self._backend.withdraw_invite(request.path_params["invite"])
        _told(request, "withdrawal of invite %s", answer["id"])
        return JsonAnswer(answer)

    async def archive(self, request: Request) -> Response:
        limit = self._limits.archive_bytes_max
        async with aclosing(read_body(request, limit, self._limits.body_s)) as chunks:
            return JsonAnswer(await self._backend.put_archive(chunks))

    async def init(self, request: Request) -> Response:
        """Of a member: it is one already (see agent.waiting for a device that is none)."""
        checked(await self._json(request), Founding)
        mine = self._backend.status()
        raise RequestError(
            422,
            f"this device belongs to the shoal {mine['shoal_name']!r} already; a second shoal "
            "needs a data directory and an agent of its own",
        )

    async def join(self, request: Request) -> Response:
        """Of a member: fine where it is the same shoal, so that a device may be told twice."""
        wanted = checked(await self._json(request), Joining)
        mine = self._backend.status()
        try:
            token = parse_token(wanted.token)
        except TokenError as error:
            raise RequestError(422, str(error)) from None
        if token.shoal != mine["shoal"] or wanted.new_identity:
            raise RequestError(
                422,
                f"this device belongs to the shoal {mine['shoal_name']!r} already. To leave it for "
                "good: stop the agent (sudo systemctl stop shoal), `sudo shoal join "
                "--new-identity TOKEN`, and start it again",
            )
        told = {key: mine[key] for key in ("shoal", "shoal_name", "peer", "name")}
        return JsonAnswer({**told, "already": True})

    async def shutdown(self, request: Request) -> Response:
        _told(request, "shutdown")

        async def end() -> None:
            self._backend.shutdown()

        return JsonAnswer({"ending": True}, 202, background=BackgroundTask(end))

    def _stream(self, produce: Callable[[Emit], Awaitable[None]]) -> Response:
        return LineStream(produce, self._limits.heartbeat_s, self._leave)

    def _enter(self) -> None:
        """Take one of the places for followers, which `_stream` gives back at its end."""
        if self._followers >= self._limits.followers_max:
            raise RequestError(
                503, f"{self._followers} programs follow this agent already; close some of them"
            )
        self._followers += 1

    def _leave(self) -> None:
        self._followers -= 1

    async def _json(self, request: Request) -> object:
        return await read_json(request, self._limits.body_bytes_max, self._limits.body_s)


def guarded(handler: Handler) -> Handler:
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


def _told(request: Request, text: str, *values: object) -> None:
    """Who asked, as the kernel knows it: these requests change what others see."""
    pid, uid, _gid = request.state.credentials
    log.info(text + " asked for by uid %d, pid %d", *values, uid, pid)
