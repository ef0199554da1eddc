"""standingnews: people hear of changes, and of an edit of theirs that did not count."""

from __future__ import annotations

import pytest

from protocol.effects import Tell
from protocol.ids import PeerId
from protocol.records import Control, Desired, Spec
from protocol.standing import News
from protocol.standingnews import tells_of
from tests.protocol.standingbook import StandingBook

BOOK = StandingBook()


def news(data: bytes, before: bytes = b"", lost: bool = False) -> News:
    known = BOOK.opened(before) if before else None
    record = known.record if known is not None else None
    assert record is None or isinstance(record, Spec | Control)
    return News(BOOK.id, BOOK.opened(data), record, known.author if known else None, lost)


def tells(of: News, me: str = "z") -> list[Tell]:
    return tells_of(of, PeerId(me), lambda peer: peer.upper())


def test_a_job_met_for_the_first_time_is_no_news() -> None:
    assert tells(news(BOOK.spec())) == []


def test_a_later_generation_is_told_with_who_made_it() -> None:
    (tell,) = tells(news(BOOK.spec("b", 2), BOOK.spec("a", 1)))
    assert (tell.kind, tell.text) == ("job.updated", "B changed collect (generation 2)")
    assert tell.fields == {"name": "collect", "author": "b", "generation": 2}


@pytest.mark.parametrize(
    ("desired", "word"),
    [(Desired.STOPPED, "stopped"), (Desired.DELETED, "deleted"), (Desired.RUNNING, "started")],
)
def test_a_persons_wish_is_told(desired: Desired, word: str) -> None:
    (tell,) = tells(news(BOOK.control(desired, 2), BOOK.control(number=1)))
    assert (tell.kind, tell.text) == (f"job.{word}", f"A {word} collect")


def test_a_record_that_comes_late_is_no_news() -> None:
    assert tells(news(BOOK.spec("a", 1), BOOK.spec("b", 2), lost=True)) == []
    assert tells(news(BOOK.control(number=1), BOOK.control(number=2), lost=True), "a") == []


EDITS = (BOOK.spec("a", 2, Priority=1), BOOK.spec("b", 2, Priority=2))
WISHES = (BOOK.control(Desired.STOPPED, 1, "a"), BOOK.control(Desired.DELETED, 1, "b"))


def test_the_loser_of_two_edits_is_told_and_nobody_else() -> None:
    for of in (news(EDITS[1], EDITS[0]), news(EDITS[0], EDITS[1], lost=True)):
        (tell,) = tells(of, "a")
        assert tell.kind == "job.edit-superseded"
        assert "(generation 2) does not count: B made another" in tell.text
        assert "superseded" not in "".join(each.kind for each in tells(of, "b"))


def test_the_loser_of_two_wishes_is_told() -> None:
    for of in (news(WISHES[1], WISHES[0]), news(WISHES[0], WISHES[1], lost=True)):
        (tell,) = tells(of, "a")
        assert tell.kind == "job.edit-superseded"
        assert "was stopped here, which does not count: B deleted it" in tell.text


@pytest.mark.parametrize(
    ("came", "before"),
    [
        (BOOK.spec("b", 3), BOOK.spec("a", 2)),  # made after ours, or so it may be
        (BOOK.spec("b", 2), BOOK.spec("a", 2)),  # the very same
        (BOOK.spec("a", 2, Priority=2), BOOK.spec("a", 2, Priority=1)),  # both ours
        (BOOK.control(number=2, by="b"), BOOK.control(number=1)),
        (BOOK.control(number=1, by="b"), BOOK.control(number=1)),
    ],
)
def test_what_did_not_clash_is_told_as_any_change(came: bytes, before: bytes) -> None:
    assert [tell.kind for tell in tells(news(came, before), "a")] != ["job.edit-superseded"]
