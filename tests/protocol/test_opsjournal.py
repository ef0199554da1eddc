"""opsjournal: at most one start per revision, for as long as the database lasts."""

from __future__ import annotations

import pytest

from protocol import opsjournal
from protocol.ids import PeerId, Revision
from protocol.opsjournal import FORGOTTEN, OTHER_MEMORY, UNKNOWN, OpsJournal, Row
from protocol.records import Assignment, Result, Verdict
from protocol.unread import Unread
from tests.protocol.jobs import Book, fence, job_spec

ME = PeerId("executor")
MEMORY = b"12345678"


def awarded(book: Book, memory: bytes = MEMORY) -> Assignment:
    return Assignment(
        job=book.id,
        revision=book.revision,
        slot=1,
        fence=fence(1, "a", 1),
        executor=ME,
        lease_ms=15_000,
        memory=memory,
    )


def reread(*rows: list[Row]) -> OpsJournal:
    disk = {key: value for each in rows for _, key, value in each if value is not None}
    journal, unreadable = OpsJournal(MEMORY), list[Unread]()
    journal.restore(disk, unreadable)
    assert unreadable == []
    return journal


def ended(book: Book, verdict: Verdict = Verdict.SUCCESS) -> Result:
    return book.result(fence(1, "a", 1), verdict, slot=1)


@pytest.fixture
def book() -> Book:
    return Book(job_spec(Type="ops"))


def test_what_is_new_and_was_awarded_to_this_memory_may_start(book: Book) -> None:
    assert OpsJournal(MEMORY).answer(awarded(book), ME) is None


def test_what_was_started_never_starts_again_and_its_end_is_unknown(book: Book) -> None:
    journal = OpsJournal(MEMORY)
    rows = journal.start(book.revision)
    for each in (journal, reread(rows)):
        answer = each.answer(awarded(book), ME)
        assert answer is not None
        assert (answer.verdict, answer.exit_code, answer.unknown) == (Verdict.FAULT, -1, True)
        assert (answer.reason, answer.executor, answer.fence) == (UNKNOWN, ME, fence(1, "a", 1))
    with pytest.raises(AssertionError):
        journal.start(book.revision)


@pytest.mark.parametrize(
    ("verdict", "code", "reason"),
    [(Verdict.SUCCESS, 0, ""), (Verdict.FAILURE, 3, FORGOTTEN), (Verdict.FAULT, -1, FORGOTTEN)],
)
def test_how_it_ended_is_remembered(book: Book, verdict: Verdict, code: int, reason: str) -> None:
    journal = OpsJournal(MEMORY)
    rows = [journal.start(book.revision), journal.end(ended(book, verdict))]
    answer = reread(*rows).answer(awarded(book), ME)
    assert answer is not None
    assert (answer.verdict, answer.exit_code, answer.reason) == (verdict, code, reason)
    assert not answer.unknown


def test_what_was_stopped_is_so_for_good(book: Book) -> None:
    journal = OpsJournal(MEMORY)
    rows = [journal.start(book.revision), journal.stop(book.revision)]
    answer = reread(*rows).answer(awarded(book), ME)
    assert answer is not None and answer.verdict == Verdict.STOPPED


@pytest.mark.parametrize("memory", [b"", b"another!"])
def test_an_award_to_another_memory_starts_nothing_and_says_why(book: Book, memory: bytes) -> None:
    answer = OpsJournal(MEMORY).answer(awarded(book, memory), ME)
    assert answer is not None
    assert (answer.verdict, answer.unknown, answer.reason) == (Verdict.FAULT, True, OTHER_MEMORY)


def test_what_is_known_to_have_run_is_told_whatever_memory_is_meant(book: Book) -> None:
    journal = OpsJournal(MEMORY)
    journal.start(book.revision)
    journal.end(ended(book))
    answer = journal.answer(awarded(book, b""), ME)
    assert answer is not None and answer.verdict == Verdict.SUCCESS


@pytest.mark.parametrize("row", [b"", b"\xff", b"\x01"])
def test_of_a_row_that_cannot_be_read_the_start_counts(book: Book, row: bytes) -> None:
    journal, unreadable = OpsJournal(MEMORY), list[Unread]()
    journal.restore({book.revision: row}, unreadable)
    assert [(each.bucket, each.key) for each in unreadable] == [("ops", book.revision)]
    answer = journal.answer(awarded(book), ME)
    assert answer is not None and answer.unknown


def test_the_oldest_starts_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opsjournal, "ENTRIES_MAX", 2)
    journal = OpsJournal(MEMORY)
    first, second, third = (Revision(letter * 32) for letter in "abc")
    journal.start(first)
    journal.start(second)
    assert ("ops", first, None) in journal.start(third)
    assert list(journal.entries) == [second, third]
