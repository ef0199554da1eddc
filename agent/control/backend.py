"""The backend: everything the control API asks of the agent behind it.

The agent implements it over its driver; the API knows nothing else of the agent. All values are
plain (dicts, lists, text, integers), ready for JSON, except that log lines may carry bytes.

A *job view* has id, name, namespace, type, state (pending, running, completed, failed, stopped or
deleted; stopping on the way), parts of a standing job (what each peer does for it),
reason, created_ms, coordinator, coordinator_name, term, revision, generation, count, desired,
author, author_name, slots, executions, why, and spec where details were asked for. A *peer view*
has id, name, state, self, connected, incarnation, addresses, labels, engines, cpu_m, memory_bytes,
disk_bytes, version, roles, since_s, reason, draining.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias

View: TypeAlias = dict[str, Any]

FINAL_STATES = ("completed", "failed", "stopped", "deleted")
FINAL_KINDS = ("job.completed", "job.failed", "job.stopped", "job.deleted")


class RequestError(Exception):
    """A request that is refused: `status` as in HTTP, `text` for a person.

    `path` is the field of a job spec that is meant; empty where none is.
    """

    def __init__(self, status: int, text: str, path: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.path = path


class Lines(Protocol):
    """A stream of views that its reader closes; an async generator is one."""

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> View: ...

    async def aclose(self) -> object: ...


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which output of a job somebody wants to read."""

    slot: int | None = None
    peer: str = ""  # of this device alone: its id, or its name
    stream: str = "both"  # stdout, stderr or both
    tail: int = -1  # last lines to begin with; -1: all
    since_ms: int = 0  # Unix time; where `tail` is not given
    follow: bool = False  # on to what starts later, until the job has ended and all was given


class Backend(Protocol):
    def status(self) -> View:
        """The agent in a few words: peer, name, shoal, version, peers, running, uptime_s, …"""

    def peers(self) -> list[View]: ...

    def peer(self, wanted: str) -> View:
        """One peer by name, id or either end of an id, or THIS_DEVICE; of this one also `policy`
        and `label_sources`. Raises RequestError: 404, or 409 with the candidates."""

    async def drain(self, wanted: str, draining: bool) -> View:
        """Take no new batch and service work on this device, durably, or take it again.

        Raises RequestError for any other device.
        """

    async def forget(self, wanted: str) -> View:
        """Remember a peer no longer; refused while it is there."""

    def labels(self) -> list[View]:
        """Of this device: {name, value, source}."""

    async def label(self, given: dict[str, str], taken: list[str]) -> list[View]:
        """Set and unset labels, all or none and durably; answers as `labels`.

        Raises RequestError 400 with the sentence, 507 where there is no room.
        """

    def config_view(self) -> View:
        """The running agent's settings, each as {value, source}."""

    async def metrics(self) -> bytes:
        """Figures in Prometheus' text format. Raises RequestError 503 where the disk hangs."""

    def doctor(self) -> list[View]:
        """Checks as {check, ok, text, fix}; `ok` is None where it could not be told."""

    async def submit(self, spec_plain: View, key: str) -> View:
        """Accept a job: {job, name, revision, unchanged, durable_on, warning}.

        Sending the same key twice makes one job. Raises RequestError: 400 with the path for a
        wrong spec, 403 without the role, 507 where there is no room.
        """

    async def run_template(
        self, name: str, namespace: str, params: dict[str, str], key: str
    ) -> View:
        """Run a template, as `submit` answers; of runs with one key there is one.

        Raises RequestError: 404 where there is no such template, 400 with the parameters that are
        missing or unknown.
        """

    async def jobs(self, prefix: str, limit: int, detail: bool) -> View:
        """Jobs whose id starts with `prefix`, newest first, as {jobs, silent}; `silent` names the
        peers that did not answer."""

    async def job(self, wanted: str) -> View:
        """One job by id, prefix of an id, or name, with all details.

        Raises RequestError: 404, or 409 with a text that lists the candidates.
        """

    async def versions(self, job: str) -> list[View]:
        """Of a standing job, as far as this device remembers them, the present one first:
        {generation, revision, author, author_name, since_ms, spec}.

        Raises RequestError: as `job`, and 409 for a job that ends by itself.
        """

    async def stop(self, job: str) -> View:
        """Ask for the job's end, durably; repeating it changes nothing."""

    async def delete(self, job: str) -> View:
        """End a standing job and forget its name; repeating it changes nothing."""

    def events(self, since_seq: int, job: str | None) -> Lines:
        """What happened after `since_seq` as far as it is remembered, then what happens.

        The subscription stands when this returns. Each is {seq, at_ms, kind, text, job, peer,
        fields}. A job's end is one of FINAL_KINDS, on the peer that accepted it in any case.
        """

    def recent(self, since_seq: int, job: str | None) -> list[View]:
        """The remembered part of `events`."""

    def logs(self, job: str, wanted: LogQuery) -> Lines:
        """Output of the executions of a job, wherever they ran, as {slot, peer, peer_name, stream,
        data, execution}; `data` is bytes or text. Where output cannot be had `data` is empty, and
        `note` says so in a sentence that goes on from "output on DEVICE", `cause` in a word (see
        shortfall.Cause), and `missing` whether what was asked for may be missing at the end.
        Raises RequestError 404, here or at any item.
        """

    async def results(
        self, job: str, slot: int, offset: int, write: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """Hand on the archive of a slot's result files from `offset`: a tar.gz, whose SHA-256 and
        size the view of the slot says. Raises RequestError 404, and 502 where it cannot be had."""

    async def missing(self, job: str) -> list[View]:
        """Of a job's slots that left result files, those whose files cannot be had just now:
        {slot, reason}. Asks the devices that ran them; takes seconds where one is away."""

    async def invite(
        self, expires_s: int, uses: int, roles: list[str], labels: dict[str, str]
    ) -> View:
        """A join token as {token, id, expires_ms}."""

    def invites(self) -> list[View]:
        """Those made here that still admit somebody, the newest first: {id, used, uses, roles,
        labels, expires_in_s}."""

    async def withdraw_invite(self, invite: str) -> View:
        """By its id or the beginning of that: {id}. Raises RequestError 404."""

    async def put_archive(self, chunks: AsyncIterator[bytes]) -> View:
        """Keep a shipped archive durably: {digest, size}. `chunks` raises where it is too long."""

    def shutdown(self) -> None:
        """End the agent soon, in an orderly way; returns at once."""
