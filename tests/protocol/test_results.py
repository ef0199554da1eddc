"""results: what is said of how a task ended, and whose fault that was."""

from __future__ import annotations

from protocol.execution import State
from protocol.records import Verdict
from tests.protocol.jobs import Book
from tests.protocol.onedevice import device, offered, publishing


def test_what_could_not_start_is_a_fault_not_a_failure() -> None:
    it = device(Book())
    it.award()
    _, result = offered(it.end(None, reason="no such program"))
    assert (result.verdict, result.exit_code) == (Verdict.FAULT, -1)
    assert result.reason == "no such program"
    assert result.started_ms == result.ended_ms
    assert it.state() is State.FAILED


def test_where_results_are_stands_in_what_is_told_of_them() -> None:
    _, result = offered(publishing().end(0, published="s3://results/a.tar.gz"))
    assert (result.verdict, result.exit_code) == (Verdict.SUCCESS, 0)
    assert result.published == "s3://results/a.tar.gz"


def test_what_was_not_published_is_no_success_and_no_failure_of_the_task() -> None:
    it = publishing()
    _, result = offered(it.end(0, unpublished="no bucket", archive="ab" * 32, archive_bytes=9))
    assert (result.verdict, result.exit_code, result.reason) == (Verdict.FAULT, -1, "no bucket")
    assert it.state() is State.FAILED
    assert (result.archive, result.archive_bytes) == ("ab" * 32, 9), "its files are still here"


def test_a_task_that_failed_has_failed_whether_or_not_that_was_published() -> None:
    _, result = offered(publishing().end(3, unpublished="no bucket", archive_note="b: a link"))
    assert (result.verdict, result.exit_code) == (Verdict.FAILURE, 3)
    assert result.archive_note == "b: a link; no bucket"


def test_what_of_its_output_is_not_kept_is_told_with_its_result() -> None:
    _, result = offered(publishing().end(3, output_note="5 bytes of it found no room"))
    assert result.output_note == "5 bytes of it found no room"
