"""The agent as the control API sees it: requests to the node, views of it, logs, invites."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, cast

import trio

from agent.archives import ArchiveError, Archives
from agent.client import FRESH
from agent.clock import Clock
from agent.control.backend import Lines, LogQuery, RequestError, View
from agent.control.feed import Feed
from agent.driver import Driver, RequestFailed
from agent.grant import ROLES, InviteError
from agent.invites import Invites
from agent.logs import JobLogs, Logs
from agent.metrics import Metrics
from agent.peers import Peers
from agent.results import Results
from agent.storesql import StoreFailed
from protocol.errors import JobSpecError, ShoalError
from protocol.events import (
    ControlRequested,
    QueryRequested,
    ResultRequested,
    RunRequested,
    SubmitRequested,
)
from protocol.heldjob import HeldJob
from protocol.ids import JobId, PeerId
from protocol.job import OURS, JobSpec
from protocol.records import Desired
from protocol.slots import why_wrong
from protocol.slotviews import views_in
from protocol.standingjob import TEMPLATE, standing_id
from protocol.tree import Plain

ANSWER_S: Final = 10.0
KEY_LENGTH_MAX: Final = 128
IDS_SHOWN: Final = 8
LOOKED_MAX: Final = 64  # slots whose result files are looked for,
LOOKS_MAX: Final = 8  # on so many devices at a time


class AgentBackend:
    """Implements control.backend.Backend over a running agent."""

    def __init__(
        self,
        driver: Driver,
        peers: Peers,
        feed: Feed,
        archives: Archives,
        invites: Invites,
        logs: Logs,
        results: Results,
        clock: Clock,
        about: Callable[[], View],
        settings: View,
        checks: Callable[[], list[View]],
        metrics: Metrics,
        stop: Callable[[], None],
    ) -> None:
        self._driver = driver
        self._peers = peers
        self._feed = feed
        self._archives = archives
        self._invites = invites
        self._logs = logs
        self._results = results
        self._clock = clock
        self._about = about
        self._settings = settings
        self._checks = checks
        self._metrics = metrics
        self._stop = stop
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Keeps what readers of logs need in the background; until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await trio.sleep_forever()

    # ---- views -------------------------------------------------------------------------------

    def status(self) -> View:
        node = self._driver.node
        open_here = [e for e in node.executor.executions.open]
        daemons = [d for d in node.steward.daemons.daemons.values() if d.active]
        return {
            **self._about(),
            "peers": len(node.membership.alive()) + 1,
            "jobs": len(node.jobs) + len(node.steward.standing.jobs),
            "running": len(open_here) + len(daemons),
        }

    def peers(self) -> list[View]:
        return self._peers.all()

    def peer(self, wanted: str) -> View:
        return self._peers.one(wanted)

    async def drain(self, wanted: str, draining: bool) -> View:
        return await self._peers.drain(wanted, draining)

    async def forget(self, wanted: str) -> View:
        return await self._peers.forget(wanted)

    def labels(self) -> list[View]:
        return self._peers.labels()

    async def label(self, given: dict[str, str], taken: list[str]) -> list[View]:
        return await self._peers.label(given, taken)

    def config_view(self) -> View:
        return self._settings

    async def metrics(self) -> bytes:
        try:
            return await self._metrics.text()
        except trio.TooSlowError:
            raise RequestError(503, "the disk of this device does not answer") from None

    def doctor(self) -> list[View]:
        return self._checks()

    def recent(self, since_seq: int, job: str | None) -> list[View]:
        return self._feed.recent(since_seq, job)

    def events(self, since_seq: int, job: str | None) -> Lines:
        return self._feed.follow(since_seq, job)

    # ---- jobs --------------------------------------------------------------------------------

    async def submit(self, spec_plain: View, key: str) -> View:
        try:
            spec = JobSpec.from_plain(cast(Plain, spec_plain))
            if spec.fired is not None:
                raise JobSpecError("Fired", OURS)
            if spec.trigger is not None:
                from agent.mqtt.expressions import check_trigger  # for these alone

                check_trigger(spec)
        except JobSpecError as error:
            raise RequestError(400, error.message, error.path) from None
        key = key or FRESH + secrets.token_hex(16)
        given = not key.startswith(FRESH)  # then another peer may have accepted it before
        if len(key) > KEY_LENGTH_MAX:
            raise RequestError(400, f"a key has at most {KEY_LENGTH_MAX} characters")
        cron = self._driver.node.cron
        wrong = why_wrong(cron, spec.schedule) if spec.schedule is not None else ""
        if wrong:
            raise RequestError(400, wrong)
        self._refuse_where_full()
        return await self._ask(lambda number: SubmitRequested(number, spec, key, given), 403)

    async def run_template(
        self, name: str, namespace: str, params: dict[str, str], key: str
    ) -> View:
        node = self._driver.node
        job = standing_id(node.keyring, namespace, TEMPLATE + name)
        held = node.steward.standing.jobs.get(job)
        if held is None or held.desired is Desired.DELETED:
            raise RequestError(404, f"no template {name!r} in namespace {namespace} is known here")
        self._refuse_where_full()
        given = not key.startswith(FRESH)
        return await self._ask(lambda number: RunRequested(number, job, key, params, given), 400)

    def _refuse_where_full(self) -> None:
        if self._driver.store.disk_full:
            raise RequestError(
                507, "the disk of this device is full: free some space, or submit at another peer"
            )

    async def jobs(self, prefix: str, limit: int, detail: bool) -> View:
        return await self._ask(lambda number: QueryRequested(number, prefix, limit, detail), 504)

    async def job(self, wanted: str) -> View:
        """By whole id, by what an id starts with, or by name."""
        known = self._held(wanted)
        mine = known is not None and known.coordinator == self._driver.node.keyring.peer
        if known is not None and mine and not known.service:  # whose slots others know more of
            return cast(View, self._driver.node.views.job(known))
        prefix = wanted if _id_like(wanted) else ""
        answer = await self.jobs(prefix, 1000, True)
        found: list[View] = answer["jobs"]
        if not prefix or not found:
            answer = answer if not prefix else await self.jobs("", 1000, True)
            found = _named(answer["jobs"], wanted)
        if not found:
            silent = ", ".join(answer["silent"])
            hint = f" (no answer from {silent})" if silent else ""
            raise RequestError(404, f"no job {wanted!r} is known here or at the others{hint}")
        if len(found) > 1:
            shown = ", ".join(f"{view['id'][:IDS_SHOWN]} ({view['state']})" for view in found[:10])
            raise RequestError(409, f"{wanted!r} could be any of {shown}: give more of the id")
        return found[0]

    async def versions(self, job: str) -> list[View]:
        view = await self.job(job)
        if "parts" not in view:
            raise RequestError(
                409, f"a {view['type']} job has one version all its life; `shoal job describe`"
            )
        return cast(list[View], self._driver.node.steward.versions(JobId(str(view["id"]))))

    def _held(self, wanted: str) -> HeldJob | None:
        return self._driver.node.jobs.get(JobId(wanted))

    async def stop(self, job: str) -> View:
        return await self._control(job, Desired.STOPPED)

    async def delete(self, job: str) -> View:
        return await self._control(job, Desired.DELETED)

    async def _control(self, job: str, desired: Desired) -> View:
        view = await self.job(job)
        whole = JobId(str(view["id"]))
        return await self._ask(lambda number: ControlRequested(number, whole, desired), 409)

    async def _ask(self, make: Callable[[int], Any], status: int) -> View:
        try:
            return await self._driver.ask(make, ANSWER_S)
        except RequestFailed as error:
            raise RequestError(status, str(error)) from None

    # ---- logs, invites, archives -------------------------------------------------------------

    def logs(self, job: str, wanted: LogQuery) -> Lines:
        assert self._nursery is not None
        events = self._feed.follow(self._feed.seq, job)

        async def look() -> View:
            return await self.job(job)

        return JobLogs(self._logs, look, events, wanted, self._nursery)

    async def results(
        self, job: str, slot: int, offset: int, write: Callable[[bytes], Awaitable[None]]
    ) -> None:
        view = await self.job(job)
        one = next((each for each in views_in(view["slots"]) if each["slot"] == slot), None)
        if one is None:
            raise RequestError(404, f"{view['name']} has no slot {slot}")
        if not one.get("archive"):
            raise RequestError(404, f"slot {slot} of {view['name']} has left no result files")
        # The view is a peer's word; whom to ask for what is in records that are signed.
        whole = JobId(str(view["id"]))
        signed = await self._ask(lambda number: ResultRequested(number, whole, slot), 504)
        if signed["archive"] != one["archive"]:
            text = (
                f"two results of slot {slot} are about, as in a shoal that was parted until lately"
            )
            raise RequestError(502, f"{text}; try again")
        executor = PeerId(str(signed["executor"]))
        try:
            await self._results.read(str(signed["archive"]), offset, executor, write)
        except ShoalError as error:
            raise RequestError(502, str(error)) from None

    async def missing(self, job: str) -> list[View]:
        view = await self.job(job)
        kept = [each for each in views_in(view["slots"]) if each.get("archive")][:LOOKED_MAX]
        found: dict[int, str] = {}
        limiter = trio.CapacityLimiter(LOOKS_MAX)

        async def look(peer: PeerId) -> None:
            async with limiter:
                for slot in kept:
                    if slot["executor"] == peer:
                        why = await self._missing(str(slot["archive"]), peer)
                        if why:
                            found[cast(int, slot["slot"])] = why

        with trio.move_on_after(ANSWER_S):  # of many that are away the rest is not told
            async with trio.open_nursery() as nursery:
                for peer in dict.fromkeys(str(slot["executor"]) for slot in kept):
                    nursery.start_soon(look, PeerId(peer))
        return [{"slot": slot, "reason": found[slot]} for slot in sorted(found)]

    async def _missing(self, digest: str, peer: PeerId) -> str:
        node = self._driver.node
        if peer != node.keyring.peer and node.membership.peer(peer) is None:
            # A view is a peer's word: no neighbour is asked the way to what may be no id at all.
            return "the device that ran it is not known here"
        return await self._results.missing(digest, peer)

    async def invite(
        self, expires_s: int, uses: int, roles: list[str], labels: dict[str, str]
    ) -> View:
        try:
            invited = await self._invites.create(
                self._clock.now(),
                expires_s=expires_s,
                uses=uses,
                roles=roles or ROLES,
                labels=labels,
            )
        except InviteError as error:
            raise RequestError(400, str(error)) from None
        except StoreFailed as error:
            raise RequestError(503, f"it could not be saved: {error}") from None
        return {"token": invited.token, "id": invited.id, "expires_ms": invited.expires_ms}

    def invites(self) -> list[View]:
        return self._invites.open_invites(self._clock.now())

    async def withdraw_invite(self, invite: str) -> View:
        try:
            return {"id": await self._invites.withdraw(invite)}
        except InviteError as error:
            raise RequestError(404, str(error)) from None
        except StoreFailed as error:
            raise RequestError(503, f"it could not be saved: {error}") from None

    async def put_archive(self, chunks: AsyncIterator[bytes]) -> View:
        self._refuse_where_full()
        try:
            digest, size = await self._archives.put(chunks)
        except ArchiveError as error:
            raise RequestError(413, str(error)) from None
        except OSError as error:
            raise RequestError(507, f"it could not be kept: {error.strerror}") from None
        return {"digest": digest, "size": size}

    def shutdown(self) -> None:
        self._stop()


def _id_like(text: str) -> bool:
    """Whether it could begin an id: ids are lower-case base32, at least four characters asked."""
    return 4 <= len(text) <= 32 and all(sign in "abcdefghijklmnopqrstuvwxyz234567" for sign in text)


def _named(views: list[View], name: str) -> list[View]:
    """Those of this name. A standing job is known by its own, and so comes before its runs and
    before what else only carries the name as a label; a template comes last."""
    found = [view for view in views if view["name"] == name]
    jobs = [view for view in found if view["type"] != "template"]
    return [view for view in jobs if "parts" in view] or jobs or found
