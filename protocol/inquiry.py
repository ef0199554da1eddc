"""Questions that go round: finding jobs at the peers that may hold them, within bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from protocol.clock import NEVER, Now
from protocol.effects import Effect, Reply, Send
from protocol.errors import RemoteProtocolError
from protocol.ids import ID_CHARS, JobId, PeerId, rendezvous
from protocol.messages import ControlAnswer, ControlRequest, JobQuery, JobReport
from protocol.shape import checked_view
from protocol.standingviews import joined, own_part, settled
from protocol.tree import Plain
from protocol.wire import dumps, load_plain, scan

ANSWER_S = 1.0  # DESIGN 5: bounded, and says who did not answer
CONTROL_S = 4.0
VIEWS_BYTES_MAX = 96 * 1024
SLOTS_KEPT = 32  # of a view that is too large otherwise; 64 KiB may be the spec's
ASKED_MAX = 32
VIEW_BYTES = 2048  # of a small job: with less room than this left, an answer is full
VIEWS_MAX = 1000  # of jobs in one answer
OPEN_MAX = 256
RANKS = 3  # the id's first ranks: a coordinator's standbys are among them

View = dict[str, Plain]
# Goes on with the views found, and with who did not answer in time.
Then = Callable[[list[View], list[PeerId], Now], list[Effect]]
# Of those who have not answered in time: who is to be asked again, and waited for.
Patience = Callable[[list[PeerId], Now], list[PeerId]]


@dataclass(slots=True)
class Inquiry:
    """One question under way, and what to do with the answers."""

    waiting: dict[PeerId, None]
    due: float
    query: JobQuery
    then: Then
    patience: Patience | None = None
    silent: dict[PeerId, None] = field(default_factory=dict)  # who is waited for no more
    found: dict[str, View] = field(default_factory=dict)
    _weights: dict[str, tuple[int, bool, bool, int]] = field(default_factory=dict)

    def add(self, sender: PeerId, views: list[View]) -> None:
        """Of two views of one job one counts, see `_weight`; views of other jobs do not. Of a
        standing job each peer tells its own part, and all of them count."""
        for view in views:
            job, weight = str(view["id"]), _weight(view, sender)
            known = self.found.get(job)
            if not job.startswith(self.query.prefix):
                continue
            if "parts" in view:
                self._join(job, known, own_part(view, sender))
            elif "parts" not in (known or {}) and weight > self._weights.get(job, _NONE):
                self.found[job], self._weights[job] = view, weight

    def _join(self, job: str, known: View | None, part: View) -> None:
        if known is None:
            self.found[job] = part
        elif "parts" in known:
            self.found[job] = joined(known, part)


_NONE = (-(2**63), False, False, 0)


def _weight(view: View, sender: PeerId) -> tuple[int, bool, bool, int]:
    """The higher term, then the ended one, then the coordinator's own, then who tells more."""
    rounds = cast("list[Plain]", view.get("why", []))
    ended = view["state"] in ("completed", "failed", "stopped")
    return (cast(int, view["term"]), ended, view["coordinator"] == sender, len(rounds))


@dataclass(frozen=True, slots=True)
class ControlSent:
    """A control record under way to the peer that answers for its job."""

    request: int
    job: JobId
    holder: PeerId
    due: float


@dataclass(slots=True)
class Inquiries:
    """Our questions to others, and our answers to theirs."""

    me: PeerId
    views: Callable[[str, int, bool, Now], list[View]]  # what is held here: prefix, limit, detail
    connected: Callable[[], list[PeerId]]
    alive: Callable[[], list[PeerId]]
    _open: dict[int, Inquiry] = field(default_factory=dict)
    _controls: dict[int, ControlSent] = field(default_factory=dict)
    _seq: int = 0

    def ask(
        self,
        prefix: str,
        limit: int,
        detail: bool,
        then: Then,
        now: Now,
        of: list[PeerId] | None = None,
        patience: Patience | None = None,
    ) -> list[Effect]:
        """Collect views from here and from the peers that may hold such jobs, or from those that
        are named, then go on."""
        limit = min(max(limit, 0), VIEWS_MAX)
        whom = self.whom(prefix) if of is None else of
        self._seq += 1
        query = JobQuery(self._seq, prefix, limit, detail)
        waiting = dict.fromkeys(whom)
        inquiry = Inquiry(waiting, now.mono + ANSWER_S, query, then, patience)
        inquiry.add(self.me, self.views(prefix, limit, detail, now))
        full = len(self._open) >= OPEN_MAX
        self._open[self._seq] = inquiry
        if not whom or full:
            return self._finish(self._seq, now)
        return [Send(peer, query) for peer in whom]

    def whom(self, prefix: str) -> list[PeerId]:
        """The first ranks of a whole id, then neighbours; for a part of one, neighbours."""
        ranked: list[PeerId] = []
        if len(prefix) == ID_CHARS:
            ranked = rendezvous(JobId(prefix), self.alive())[:RANKS]
        return list(dict.fromkeys([*ranked, *self.connected()]))[:ASKED_MAX]

    def waits_for(self, peer: PeerId, prefix: str) -> bool:
        """Whether it was asked for these, and has not answered."""
        return any(
            peer in each.waiting for each in self._open.values() if each.query.prefix == prefix
        )

    def on_query(self, sender: PeerId, query: JobQuery, now: Now) -> list[Effect]:
        views: list[bytes] = []
        size = 0
        for view in self.views(query.prefix, min(query.limit, VIEWS_MAX), query.detail, now):
            data = packed(view, VIEWS_BYTES_MAX - size)
            if data:
                views.append(data)
                size += len(data) + 8
            if size > VIEWS_BYTES_MAX - VIEW_BYTES:
                break
        # Who hears that a job is here may forget what it had for it: that has to be durable.
        return [Send(sender, JobReport(query.seq, tuple(views)), overtakes=not views)]

    def on_report(self, sender: PeerId, report: JobReport, now: Now) -> list[Effect]:
        """Raises RemoteProtocolError for a report that is none."""
        inquiry = self._open.get(report.seq)
        if inquiry is None or sender not in inquiry.waiting:
            return []
        views = [load_plain(data) for data in report.views[:VIEWS_MAX]]
        checked = [checked_view(dict(view)) for view in views]  # type: ignore[arg-type]
        del inquiry.waiting[sender]
        inquiry.add(sender, checked)
        return self._finish(report.seq, now) if not inquiry.waiting else []

    def _finish(self, seq: int, now: Now) -> list[Effect]:
        inquiry = self._open.pop(seq)
        found = [settled(view) if "parts" in view else view for view in inquiry.found.values()]
        found.sort(key=lambda view: (-cast(int, view["created_ms"]), str(view["id"])))
        silent = [*inquiry.silent, *inquiry.waiting]
        return inquiry.then(found[: inquiry.query.limit], silent, now)

    def _wait_on(self, seq: int, now: Now) -> list[Effect]:
        """Its time is over: those alone are waited for on whom it depends."""
        inquiry = self._open[seq]
        waiting = list(inquiry.waiting)
        needed = inquiry.patience(waiting, now) if inquiry.patience is not None else []
        if not needed:
            return self._finish(seq, now)
        inquiry.silent |= dict.fromkeys(peer for peer in waiting if peer not in needed)
        inquiry.waiting = dict.fromkeys(needed)
        inquiry.due = now.mono + ANSWER_S
        # Once more, for what a broken connection has lost; of two answers the first counts.
        return [Send(peer, inquiry.query) for peer in needed]

    # ---- control of a job that is held elsewhere ---------------------------------------------

    def control(
        self, request: int, job: JobId, holder: PeerId, sealed: bytes, now: Now
    ) -> list[Effect]:
        """Bring a control record to the peer that is said to coordinate its job, and wait."""
        if holder not in (self.me, *self.alive()):
            return [Reply(request, error="the peer that coordinates this job is gone; try again")]
        self._seq += 1
        self._controls[self._seq] = ControlSent(request, job, holder, now.mono + CONTROL_S)
        return [Send(holder, ControlRequest(self._seq, sealed))]

    def on_control_answer(self, sender: PeerId, answer: ControlAnswer) -> list[Effect]:
        sent = self._controls.get(answer.seq)
        if sent is None or sent.holder != sender:
            return []
        del self._controls[answer.seq]
        return [Reply(sent.request, {} if answer.error else {"job": sent.job}, answer.error)]

    # ---- time --------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        times = [inquiry.due for inquiry in self._open.values()]
        times += [sent.due for sent in self._controls.values()]
        return min(times, default=NEVER)

    def on_deadline(self, now: Now) -> list[Effect]:
        effects: list[Effect] = []
        for seq in [seq for seq, inquiry in self._open.items() if inquiry.due <= now.mono]:
            effects += self._wait_on(seq, now)
        for seq in [seq for seq, sent in self._controls.items() if sent.due <= now.mono]:
            error = "the peer that coordinates this job did not answer; try again"
            effects.append(Reply(self._controls.pop(seq).request, error=error))
        return effects


def packed(view: View, bytes_max: int) -> bytes:
    """A view in so many bytes, empty where it does not fit; what people miss least goes first.

    A job of thousands of slots, each with the end of its output, is larger than any frame.
    """
    for cut in (_whole, _last_round, _no_output, _some_slots):
        view = cut(view)
        data = dumps(view)
        if _readable(data, bytes_max):
            return data
    return b""


def _readable(data: bytes, bytes_max: int) -> bool:
    """Whether the peer that asked would take it: it bounds bytes, items and depth."""
    try:
        scan(data, bytes_max)
    except RemoteProtocolError:
        return False
    return True


def _whole(view: View) -> View:
    return view


def _last_round(view: View) -> View:
    last: list[Plain] = [*_dicts(view.get("why", []))[-1:]]
    return {**view, "why": last} if "why" in view else view


def _no_output(view: View) -> View:
    tails = {"stdout_tail": "", "stderr_tail": ""}
    slots: list[Plain] = [{**slot, **tails} for slot in _dicts(view["slots"])]
    return {**view, "slots": slots}


def _some_slots(view: View) -> View:
    """Those that tell most: what is not completed."""
    slots = sorted(_dicts(view["slots"]), key=lambda slot: slot["state"] == "completed")
    kept: list[Plain] = [*slots[:SLOTS_KEPT]]
    short: View = {key: [] for key in ("executions", "why") if key in view}
    return {**view, **short, "slots": kept, "slots_left_out": max(0, len(slots) - SLOTS_KEPT)}


def _dicts(value: Plain) -> list[View]:
    return cast("list[View]", value)
