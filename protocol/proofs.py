"""Proofs: what became of a slot, by the records that say so, from whoever holds them.

A view of a job is a peer's word. Whoever fetches files checks them against a digest, which has to
come from the executor's signed result inside the signed choice of a member that may coordinate: so
nobody else can make one up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from protocol.authority import verified_acceptance, verified_result
from protocol.clock import NEVER, Now
from protocol.effects import Effect, Reply, Send
from protocol.errors import RemoteProtocolError
from protocol.heldjob import HeldJob, precedence
from protocol.ids import JobId, PeerId
from protocol.inquiry import ANSWER_S, OPEN_MAX
from protocol.messages import ResultQuery, ResultReport
from protocol.records import Acceptance, Keyring

BUSY: Final = "too many questions of that kind are open on this device; try again"
UNPROVEN: Final = "no peer that can be reached has a record of this slot's result; try again"


@dataclass(slots=True)
class _Search:
    """One question under way; of several records the one counts that a holder would keep."""

    request: int
    job: JobId
    slot: int
    waiting: dict[PeerId, None]
    due: float
    best: tuple[Acceptance, bytes] | None = None

    def add(self, acceptance: Acceptance, data: bytes) -> None:
        order = (precedence(acceptance), data)
        if self.best is None or order < (precedence(self.best[0]), self.best[1]):
            self.best = acceptance, data


@dataclass(slots=True)
class Proofs:
    """Our questions for results, and our answers to others'. Each request gets one Reply."""

    keyring: Keyring
    jobs: dict[JobId, HeldJob]
    whom: Callable[[JobId], list[PeerId]]  # who may hold a job
    _open: dict[int, _Search] = field(default_factory=dict)
    _seq: int = 0

    def ask(self, request: int, job: JobId, slot: int, now: Now) -> list[Effect]:
        """Reply with {executor, archive, archive_bytes} of the result that counts."""
        held = self._held(job, slot)
        search = _Search(request, job, slot, {}, now.mono + ANSWER_S)
        if held:
            search.add(verified_acceptance(held, self.keyring), held)
        elif len(self._open) >= OPEN_MAX:
            return [Reply(request, error=BUSY)]
        else:
            search.waiting = dict.fromkeys(self.whom(job))
        if not search.waiting:
            return [self._answer(search)]
        self._seq += 1
        self._open[self._seq] = search
        query = ResultQuery(self._seq, job, slot)
        return [Send(peer, query) for peer in search.waiting]

    def on_query(self, sender: PeerId, query: ResultQuery) -> list[Effect]:
        return [Send(sender, ResultReport(query.seq, self._held(query.job, query.slot)))]

    def on_report(self, sender: PeerId, report: ResultReport) -> list[Effect]:
        """Raises RemoteProtocolError for a record that proves nothing."""
        search = self._open.get(report.seq)
        if search is None or sender not in search.waiting:
            return []
        del search.waiting[sender]
        try:
            if report.acceptance:
                acceptance = verified_acceptance(report.acceptance, self.keyring)
                if (acceptance.job, acceptance.slot) == (search.job, search.slot):
                    search.add(acceptance, report.acceptance)
        except RemoteProtocolError:
            if not search.waiting:  # the next deadline, at once, answers by what the others said
                search.due = 0.0
            raise
        return [] if search.waiting else self._finish(report.seq)

    @property
    def deadline(self) -> float:
        return min((search.due for search in self._open.values()), default=NEVER)

    def on_deadline(self, now: Now) -> list[Effect]:
        due = [seq for seq, search in self._open.items() if search.due <= now.mono]
        return [effect for seq in due for effect in self._finish(seq)]

    def _finish(self, seq: int) -> list[Effect]:
        return [self._answer(self._open.pop(seq))]

    def _held(self, job: JobId, slot: int) -> bytes:
        held = self.jobs.get(job)
        if held is None or slot not in held.slots:
            return b""
        return held.slots[slot].acceptance_data

    def _answer(self, search: _Search) -> Reply:
        if search.best is None or not search.best[0].result:
            return Reply(search.request, error=UNPROVEN)
        result = verified_result(search.best[0].result, self.keyring)
        return Reply(
            search.request,
            {
                "executor": result.executor,
                "archive": result.archive,
                "archive_bytes": result.archive_bytes,
            },
        )
