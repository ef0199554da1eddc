"""Questions that go round: finding jobs at the peers that may hold them, within bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from protocol.clock import NEVER, Now
from protocol.effects import Effect, Reply, Send
from protocol.errors import RemoteProtocolError
from protocol.ids import JobId, PeerId, rendezvous
from protocol.messages import ControlAnswer, ControlRequest, JobQuery, JobReport
from protocol.tree import Plain
from protocol.wire import dumps, load_plain

ANSWER_S = 1.0  # DESIGN 5: bounded, and says who did not answer
CONTROL_S = 4.0
VIEWS_BYTES_MAX = 96 * 1024
ASKED_MAX = 32
OPEN_MAX = 256
RANKS = 3  # the id's first ranks: a coordinator's standbys are among them

View = dict[str, Plain]
Then = Callable[[list[View], Now], list[Effect]]


@dataclass(slots=True)
class Inquiry:
    """One question under way, and what to do with the answers."""

    waiting: dict[PeerId, None]
    due: float
    limit: int
    then: Callable[[list[View], list[PeerId], Now], list[Effect]]
    found: dict[str, View] = field(default_factory=dict)

    def add(self, views: list[View]) -> None:
        """Of two views of one job the later counts: higher term, then the ended one."""
        for view in views:
            job = str(view["id"])
            before = self.found.get(job)
            if before is None or _weight(view) > _weight(before):
                self.found[job] = view


def _weight(view: View) -> tuple[int, bool, int]:
    term, why = view.get("term"), view.get("why")
    ended = view.get("state") in ("completed", "failed", "stopped")
    rounds = len(why) if isinstance(why, list) else 0
    return (term if isinstance(term, int) else 0, ended, rounds)


@dataclass(slots=True)
class Inquiries:
    """Our questions to others, and our answers to theirs."""

    me: PeerId
    views: Callable[[str, int, bool], list[View]]  # what is held here: prefix, limit, detail
    connected: Callable[[], list[PeerId]]
    alive: Callable[[], list[PeerId]]
    _open: dict[int, Inquiry] = field(default_factory=dict)
    _controls: dict[int, tuple[int, float]] = field(default_factory=dict)  # seq -> request, due
    _seq: int = 0

    def ask(
        self,
        prefix: str,
        limit: int,
        detail: bool,
        then: Callable[[list[View], list[PeerId], Now], list[Effect]],
        now: Now,
    ) -> list[Effect]:
        """Collect views from here and from the peers that may hold such jobs, then go on."""
        asked = self._whom(prefix)
        inquiry = Inquiry(dict.fromkeys(asked), now.mono + ANSWER_S, limit, then)
        inquiry.add(self.views(prefix, limit, detail))
        if not asked or len(self._open) >= OPEN_MAX:
            return then(list(inquiry.found.values())[:limit], [], now)
        self._seq += 1
        self._open[self._seq] = inquiry
        query = JobQuery(self._seq, prefix, limit, detail)
        return [Send(peer, query) for peer in asked]

    def _whom(self, prefix: str) -> list[PeerId]:
        """The first ranks of a whole id, then neighbours; for a part of one, neighbours."""
        ranked: list[PeerId] = []
        if len(prefix) == 32:
            ranked = rendezvous(JobId(prefix), self.alive())[:RANKS]
        return list(dict.fromkeys([*ranked, *self.connected()]))[:ASKED_MAX]

    def on_query(self, sender: PeerId, query: JobQuery) -> list[Effect]:
        views: list[bytes] = []
        size = 0
        for view in self.views(query.prefix, min(query.limit, 1000), query.detail):
            data = dumps(view)
            size += len(data)
            if size > VIEWS_BYTES_MAX:
                break
            views.append(data)
        return [Send(sender, JobReport(query.seq, tuple(views)))]

    def on_report(self, sender: PeerId, report: JobReport, now: Now) -> list[Effect]:
        """Raises RemoteProtocolError for a report that is none."""
        inquiry = self._open.get(report.seq)
        if inquiry is None or sender not in inquiry.waiting:
            return []
        views = [load_plain(data) for data in report.views[:1000]]
        if any(not isinstance(view.get("id"), str) for view in views):
            raise RemoteProtocolError("a view without an id")
        del inquiry.waiting[sender]
        inquiry.add([dict(view) for view in views])  # type: ignore[arg-type]
        return self._finish(report.seq, now) if not inquiry.waiting else []

    def _finish(self, seq: int, now: Now) -> list[Effect]:
        inquiry = self._open.pop(seq)
        found = list(inquiry.found.values())
        found.sort(key=lambda view: (-_created(view), str(view["id"])))
        return inquiry.then(found[: inquiry.limit], list(inquiry.waiting), now)

    # ---- control of a job that is held elsewhere ---------------------------------------------

    def control(self, request: int, holder: PeerId, sealed: bytes, now: Now) -> list[Effect]:
        """Bring a control record to a peer that holds its job; the request waits for the answer."""
        self._seq += 1
        self._controls[self._seq] = (request, now.mono + CONTROL_S)
        return [Send(holder, ControlRequest(self._seq, sealed))]

    def on_control_answer(self, answer: ControlAnswer) -> list[Effect]:
        known = self._controls.pop(answer.seq, None)
        return [] if known is None else [Reply(known[0], error=answer.error)]

    # ---- time --------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        times = [inquiry.due for inquiry in self._open.values()]
        times += [due for _, due in self._controls.values()]
        return min(times, default=NEVER)

    def on_deadline(self, now: Now) -> list[Effect]:
        effects: list[Effect] = []
        for seq in [seq for seq, inquiry in self._open.items() if inquiry.due <= now.mono]:
            effects += self._finish(seq, now)
        for seq in [seq for seq, (_, due) in self._controls.items() if due <= now.mono]:
            request, _ = self._controls.pop(seq)
            error = "the peer that coordinates this job did not answer; try again"
            effects.append(Reply(request, error=error))
        return effects


def _created(view: View) -> int:
    created = view.get("created_ms")
    return created if isinstance(created, int) else 0
