"""inquiry: questions that go round, what counts of the answers, and how long they are awaited."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from protocol.clock import Now
from protocol.effects import Effect, Reply, Send
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId
from protocol.inquiry import (
    ANSWER_S,
    ASKED_MAX,
    OPEN_MAX,
    RANKS,
    SLOTS_KEPT,
    VIEWS_BYTES_MAX,
    VIEWS_MAX,
    Inquiries,
    Patience,
    View,
    packed,
)
from protocol.messages import OVERTAKING, JobQuery, JobReport
from protocol.tree import Plain
from protocol.wire import FRAME_BYTES_MAX, dumps, encode_message, load_plain
from tests.protocol.jobs import at
from tests.protocol.nodenet import reported as view
from tests.protocol.nodenet import reported_slot

ID = "a" * 32


@dataclass
class Asker:
    """`me` and what it is told in the end."""

    connected: list[str] = field(default_factory=list)
    alive: list[str] = field(default_factory=list)
    here: list[View] = field(default_factory=list)
    found: list[View] | None = None
    silent: list[PeerId] = field(default_factory=list)
    patience: Patience | None = None

    def __post_init__(self) -> None:
        self.inquiries = Inquiries(
            PeerId("me"),
            lambda prefix, limit, detail, now: self.here,
            lambda: [PeerId(peer) for peer in self.connected],
            lambda: [PeerId(peer) for peer in self.alive],
        )

    def ask(self, prefix: str = "", limit: int = 10, detail: bool = False) -> list[Effect]:
        def then(views: list[View], silent: list[PeerId], now: Now) -> list[Effect]:
            self.found, self.silent = views, silent
            return [Reply(1)]

        return self.inquiries.ask(prefix, limit, detail, then, at(0.0), None, self.patience)

    def report(self, sender: str, *views: View, seq: int = 1) -> list[Effect]:
        report = JobReport(seq, tuple(dumps(view) for view in views))
        return self.inquiries.on_report(PeerId(sender), report, at(0.1))


def rounds(number: int, note: str = "") -> list[Plain]:
    return [{"round": n, "at_ms": 0, "slots": 1, "asked": [], "note": note} for n in range(number)]


def test_alone_it_answers_at_once_with_what_is_here() -> None:
    asker = Asker(here=[view()])
    assert asker.ask() == [Reply(1)]
    assert asker.found == [view()]
    assert asker.inquiries.deadline == float("inf")


def test_all_that_were_asked_have_to_answer() -> None:
    asker = Asker(["b", "c"])
    effects = asker.ask(ID[:4], 5, True)
    query = JobQuery(1, ID[:4], 5, True)
    assert effects == [Send(PeerId("b"), query), Send(PeerId("c"), query)]
    assert asker.report("b") == []
    assert asker.report("b") == []  # again
    assert asker.report("x") == []  # was not asked
    assert asker.report("c", seq=2) == []  # to another question
    assert asker.report("c", view()) == [Reply(1)]
    assert asker.found == [view()]
    assert asker.report("c", view()) == []


def test_the_silent_are_waited_for_up_to_a_bound() -> None:
    asker = Asker(["b", "c"])
    asker.ask()
    asker.report("c")
    assert asker.inquiries.deadline == ANSWER_S
    assert asker.inquiries.on_deadline(at(ANSWER_S - 0.01)) == []
    assert asker.inquiries.on_deadline(at(ANSWER_S)) == [Reply(1)]
    assert (asker.found, asker.silent) == ([], ["b"])


def test_on_whom_it_depends_is_asked_again_and_an_answer_that_comes_late_counts() -> None:
    asker = Asker(["b", "c", "d"], patience=lambda silent, now: [PeerId("b")])
    asker.ask(ID)
    asker.report("c")
    assert asker.inquiries.on_deadline(at(ANSWER_S)) == [Send(PeerId("b"), JobQuery(1, ID, 10))]
    assert asker.found is None and asker.inquiries.deadline == 2 * ANSWER_S
    assert asker.report("d") == []  # nobody waits for it any more
    assert asker.report("b", view()) == [Reply(1)]
    assert (asker.found, asker.silent) == ([view()], ["d"])
    assert asker.report("b", view()) == []


def test_patience_ends_when_nobody_is_worth_it() -> None:
    asker = Asker(["b"], patience=lambda silent, now: silent if now.mono < 3 else [])
    asker.ask()
    for second in (1, 2):
        assert len(asker.inquiries.on_deadline(at(second * ANSWER_S))) == 1
    assert asker.inquiries.on_deadline(at(3 * ANSWER_S)) == [Reply(1)]
    assert asker.silent == ["b"]


def test_the_first_ranks_of_an_id_are_asked_though_not_connected() -> None:
    peers = [f"p{n}" for n in range(20)]
    asker = Asker(["near"], peers)
    asked = [effect.peer for effect in asker.ask(ID) if isinstance(effect, Send)]
    assert len(asked) == RANKS + 1
    assert asked[-1] == "near"
    crowd = Asker([f"n{n}" for n in range(100)], peers)
    assert len(crowd.ask(ID)) == ASKED_MAX
    assert len(Asker([], peers).ask(ID[:31])) == 1  # nobody to ask: answered


def test_too_many_open_questions_are_answered_from_here() -> None:
    asker = Asker(["b"], here=[view()])
    for _ in range(OPEN_MAX):
        asker.ask()
    assert asker.found is None
    assert asker.ask() == [Reply(1)]
    assert asker.found == [view()] and asker.silent == ["b"]


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (view(term=2), view(term=1, state="completed")),
        (view(state="failed"), view(why=rounds(2))),
        (view(coordinator="c"), view(why=rounds(2))),  # c speaks of its own job
        (view(why=rounds(2)), view(why=rounds(1))),
        (view(term=0), view(term=-5, state="failed")),
    ],
)
def test_of_two_views_of_one_job_the_better_counts(better: View, worse: View) -> None:
    for first, second in ((better, worse), (worse, better)):
        asker = Asker(["b1", "c"])
        asker.ask()
        asker.report("c" if first is better else "b1", first)
        asker.report("c" if second is better else "b1", second)
        assert asker.found == [better]


def test_views_are_sorted_and_cut() -> None:
    asker = Asker(["b"])
    asker.ask(limit=2)
    new, old = view("n" * 32, created_ms=9), view("o" * 32, created_ms=1)
    asker.report("b", view("x" * 32, created_ms=0), old, new)
    assert asker.found == [new, old]
    assert Asker().ask(limit=-5) == [Reply(1)]


def test_views_of_what_was_not_asked_for_are_left_out() -> None:
    asker = Asker(["b"])
    asker.ask("aaa")
    asker.report("b", view("b" * 32), view())
    assert asker.found == [view()]


@pytest.mark.parametrize("data", [b"garbage", dumps([1]), dumps({"id": ID})])
def test_a_report_that_is_none_is_refused_and_the_question_stays_open(data: bytes) -> None:
    asker = Asker(["b"])
    asker.ask()
    with pytest.raises(RemoteProtocolError):
        asker.inquiries.on_report(PeerId("b"), JobReport(1, (data,)), at(0.1))
    assert asker.report("b") == [Reply(1)]


# ---- answering


def answer(asker: Asker, limit: int = 10) -> tuple[bytes, ...]:
    (send,) = asker.inquiries.on_query(PeerId("b"), JobQuery(7, "", limit), at(0.0))
    assert isinstance(send, Send) and isinstance(send.message, JobReport)
    assert (send.peer, send.message.seq) == ("b", 7)
    assert len(encode_message(send.message)) <= FRAME_BYTES_MAX
    return send.message.views


def test_what_is_here_is_reported() -> None:
    assert [load_plain(data) for data in answer(Asker(here=[view()]))] == [view()]


@pytest.mark.parametrize("here", [[], [view()]])
def test_that_a_job_is_here_is_said_once_it_is_on_disk(here: list[View]) -> None:
    """Who hears of it may forget a message that was to become it."""
    (send,) = Asker(here=here).inquiries.on_query(PeerId("b"), JobQuery(7, "", 10), at(0.0))
    assert isinstance(send, Send) and not isinstance(send.message, OVERTAKING)
    assert send.overtakes is (not here)


def test_no_more_is_looked_up_than_an_answer_may_have() -> None:
    asked: list[int] = []
    inquiries = Inquiries(
        PeerId("me"), lambda prefix, limit, detail, now: asked.append(limit) or [], list, list
    )
    inquiries.on_query(PeerId("b"), JobQuery(1, "", 10**9), at(0.0))
    assert asked == [VIEWS_MAX]


def large(slots: int, tail: int = 4000, spec: str = "") -> View:
    states = ("failed", "completed")
    each: list[Plain] = [
        reported_slot(n, state=states[n % 2], stdout_tail="x" * tail) for n in range(slots)
    ]
    return view(slots=each, spec={"x": spec}, executions=list(each), why=rounds(8))


def test_the_answer_stays_within_a_frame() -> None:
    views = answer(Asker(here=[view(f"{n:032d}", pad="x" * 5000) for n in range(100)]))
    assert 10 < len(views) < 100


def test_a_view_that_fits_is_sent_whole() -> None:
    whole = large(2)
    assert load_plain(packed(whole, VIEWS_BYTES_MAX)) == whole


def test_a_large_view_loses_its_older_rounds_first() -> None:
    cut = load_plain(packed(view(why=rounds(8, "x" * 9000)), 20_000))
    assert cut["why"] == rounds(8, "x" * 9000)[-1:]
    assert load_plain(packed(view(slots=[reported_slot(stdout_tail="x" * 900)]), 900))["slots"]


def test_then_the_output_then_what_is_completed() -> None:
    cut = load_plain(packed({**large(60), "executions": []}, VIEWS_BYTES_MAX))
    slots = cut["slots"]
    assert isinstance(slots, list) and len(slots) == 60
    assert all(isinstance(slot, dict) and slot["stdout_tail"] == "" for slot in slots)
    cut = load_plain(packed(large(5000), VIEWS_BYTES_MAX))
    slots = cut["slots"]
    assert isinstance(slots, list) and len(slots) == SLOTS_KEPT
    assert all(isinstance(slot, dict) and slot["state"] == "failed" for slot in slots)
    assert (cut["slots_left_out"], cut["executions"], cut["why"]) == (5000 - SLOTS_KEPT, [], [])


def test_what_does_not_fit_at_all_is_left_out() -> None:
    assert packed(large(60, spec="x" * VIEWS_BYTES_MAX), VIEWS_BYTES_MAX) == b""
    assert packed(view(), 3) == b""
    views = answer(Asker(here=[large(2, spec="x" * VIEWS_BYTES_MAX), view()]))
    assert [load_plain(data) for data in views] == [view()]


def test_no_view_has_more_items_than_a_peer_reads() -> None:
    many = view(slots=[reported_slot(n) for n in range(300)])
    assert len(dumps(many)) < VIEWS_BYTES_MAX
    assert load_plain(packed(many, VIEWS_BYTES_MAX))["slots_left_out"] == 300 - SLOTS_KEPT


def test_nothing_more_is_packed_once_an_answer_is_full() -> None:
    views = answer(Asker(here=[view(f"{n:032d}") for n in range(1000)]), 1000)
    assert 100 < len(views) < 1000
