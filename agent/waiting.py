"""Waiting: a service on a device that belongs to no shoal yet, until somebody has it init or join.

It serves the control socket, so that whoever may use that (the group `shoal`) needs neither root
nor the data directory. All other requests are told what is missing.
"""

from __future__ import annotations

import logging
import os
import signal
from base64 import b64encode
from pathlib import Path
from typing import Any, Final

import trio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent.clock import Clock
from agent.config import Loaded
from agent.control.backend import RequestError, View
from agent.control.bodies import Founding, Joining, checked, read_json
from agent.control.routes import guarded
from agent.control.server import Limits, serve_app
from agent.control.streams import JsonAnswer
from agent.devicechecks import check, device_checks
from agent.membership import MembershipDamaged, load_member, read_membership
from agent.notify import keep_patting, notify
from agent.shoalroot import create_shoal
from agent.threads import in_thread
from agent.version import VERSION
from protocol.errors import ShoalError

WAITING: Final = "waiting"  # its state in /v1/status
MISSING: Final = (
    "this device belongs to no shoal yet: `shoal init NAME` starts one, "
    "`shoal join TOKEN` joins one"
)
_log = logging.getLogger("shoal")


def wait_for_membership(loaded: Loaded) -> bool:
    """Serve until this device is a member; False where it was told to end before.

    Returns at once where it is one. Raises ShoalError.
    """
    try:
        if read_membership(loaded.config.data_dir) is not None:
            return True
    except MembershipDamaged as error:
        _log.warning("%s", error)
    return trio.run(Waiting(loaded).run)


class Waiting:
    def __init__(self, loaded: Loaded, root: Path = Path("/")) -> None:
        """`root`: where the device's own files are looked for."""
        self._config = loaded.config
        self._root = root
        self._clock = Clock(told_right=loaded.config.trust_clock)
        self._limits = Limits()
        self._turn = trio.CapacityLimiter(1)  # two at once would make two identities
        self._joined = False
        self._over = trio.Event()

    async def run(self) -> bool:
        """Whether it has become a member."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._on_signals)
            path = await nursery.start(
                serve_app, self._app(), self._config.socket_path, self._limits
            )
            nursery.start_soon(keep_patting, trio.lowlevel.checkpoint)
            _log.info("%s; control at %s", MISSING, path)
            notify(
                "READY=1\nSTATUS=belongs to no shoal yet; waits for `shoal init` or `shoal join`"
            )
            await self._over.wait()
            notify("STATUS=")
            nursery.cancel_scope.cancel()
        return self._joined

    def _app(self) -> Starlette:
        table = [
            ("GET", "/v1/status", self._status),
            ("GET", "/v1/doctor", self._doctor),
            ("POST", "/v1/init", self._init),
            ("POST", "/v1/join", self._join),
            ("POST", "/v1/shutdown", self._shutdown),
        ]
        routes = [Route(path, guarded(handler), methods=[how]) for how, path, handler in table]
        methods = ["GET", "POST"]
        return Starlette(
            routes=[*routes, Route("/{rest:path}", guarded(_missing), methods=methods)]
        )

    async def _status(self, request: Request) -> Response:
        return JsonAnswer({"state": WAITING, "version": VERSION, "pid": os.getpid()})

    async def _doctor(self, request: Request) -> Response:
        fix = "`shoal init NAME` or `shoal join TOKEN`"
        entry = check("shoal", None, MISSING.partition(":")[0], fix)
        config = self._config
        rest = device_checks(config.data_dir, self._clock, config.docker, self._root)
        return JsonAnswer({"checks": [entry, *rest]})

    async def _init(self, request: Request) -> Response:
        wanted = checked(await self._json(request), Founding)
        async with self._turn:
            return self._ended(request, await in_thread(self._found, wanted))

    def _found(self, wanted: Founding) -> View:
        """Make the shoal, and give the backup along: its reader may not enter our directory."""
        try:
            made = create_shoal(
                self._config.data_dir,
                wanted.name,
                wanted.passphrase,
                device=wanted.device,
                labels=wanted.labels,
            )
            backup = made.backup.read_bytes()
        except (ShoalError, OSError) as error:
            raise RequestError(422, str(error)) from None
        return {
            "shoal": made.shoal,
            "name": made.name,
            "peer": made.peer,
            "backup": str(made.backup),
            "passphrase": made.passphrase,
            "content": b64encode(backup).decode(),
        }

    async def _join(self, request: Request) -> Response:
        from agent.join_command import join_here  # it brings what only a join needs

        wanted = checked(await self._json(request), Joining)
        async with self._turn:
            try:
                answer = await join_here(
                    self._config.data_dir, wanted.token, wanted.name, wanted.new_identity
                )
            except ShoalError as error:
                raise RequestError(422, str(error)) from None
            return self._ended(request, answer)

    def _ended(self, request: Request, answer: View) -> Response:
        """The answer first, then its consequence."""
        _, uid, _ = request.state.credentials
        _log.info("a member by the word of uid %d", uid)
        return JsonAnswer(answer, background=BackgroundTask(self._end, True))

    async def _end(self, joined: bool) -> None:
        try:
            if joined:
                load_member(self._config.data_dir)
            self._joined = joined
        except ShoalError as error:
            _log.error("%s", error)
            return
        self._over.set()

    async def _shutdown(self, request: Request) -> Response:
        return JsonAnswer({"ending": True}, 202, background=BackgroundTask(self._end, False))

    async def _json(self, request: Request) -> object:
        return await read_json(request, self._limits.body_bytes_max, self._limits.body_s)

    async def _on_signals(self, *, task_status: Any) -> None:  # trio.TaskStatus
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for _ in signals:
                self._over.set()


async def _missing(request: Request) -> Response:
    raise RequestError(503, MISSING)
