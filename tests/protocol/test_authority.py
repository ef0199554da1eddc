"""authority: forged, misplaced and unauthorised records are refused before they are acted on."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from protocol.authority import (
    signed_assignment,
    verified_acceptance,
    verified_assignment,
    verified_result,
    verified_spec,
)
from protocol.errors import RemoteProtocolError
from protocol.ids import JobId, Revision, ShoalId
from protocol.records import Role, Verdict
from protocol.wire import seal
from tests.protocol.fakes import FakeShoal
from tests.protocol.jobs import Book, fence, job_spec

BOOK = Book()
ME = BOOK.keyring("me")
FIRST = fence(1, "a", 1)
OTHER_JOB = JobId("b" * 32)


def refused(read: Callable[[], object]) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        read()
    return str(caught.value)


# ---- specs ------------------------------------------------------------------------------------


def test_a_submitters_spec_is_good() -> None:
    sealed = verified_spec(BOOK.spec_data, ME)
    assert (sealed.record, sealed.author) == (BOOK.spec, "author")


def test_who_may_not_submit_specifies_nothing() -> None:
    BOOK.keyring("worker", Role.COMPUTE)
    assert "may not submit" in refused(lambda: verified_spec(BOOK.specified("worker"), ME))


def test_who_submits_in_one_namespace_does_not_in_another() -> None:
    BOOK.keyring("guest", Role.SUBMIT, namespaces=("lab",))
    assert "may not submit" in refused(lambda: verified_spec(BOOK.specified("guest"), ME))
    lab = Book(job_spec(Namespace="lab"), author="guest", namespace="lab", shoal=BOOK.shoal)
    assert verified_spec(lab.spec_data, ME).author == "guest"


def test_the_root_itself_submits_nothing() -> None:
    data = seal(BOOK.spec, BOOK.shoal.root, b"")
    assert "may not submit" in refused(lambda: verified_spec(data, ME))


def test_a_job_id_follows_from_its_key() -> None:
    forged = msgspec.structs.replace(BOOK.spec, key="another")
    assert "key" in refused(lambda: verified_spec(BOOK.sign(forged, "author"), ME))


def test_a_spec_of_another_shoal_is_refused() -> None:
    elsewhere = msgspec.structs.replace(BOOK.spec, shoal=ShoalId("elsewhere"))
    assert "shoal" in refused(lambda: verified_spec(BOOK.sign(elsewhere, "author"), ME))
    stranger = Book(shoal=FakeShoal(ShoalId("elsewhere")))
    refused(lambda: verified_spec(stranger.spec_data, ME))


def test_another_record_is_no_spec() -> None:
    assert "spec" in refused(lambda: verified_spec(BOOK.awarded(FIRST), ME))


# ---- awards -----------------------------------------------------------------------------------


def test_an_award_of_the_specs_coordinator_is_good() -> None:
    data = BOOK.awarded(FIRST)
    assert verified_assignment(data, BOOK.sealed, ME) == BOOK.assignment(FIRST)


def test_only_the_coordinator_of_the_fence_signs_an_award() -> None:
    data = BOOK.sign(BOOK.assignment(FIRST), "b")
    assert "coordinator" in refused(lambda: verified_assignment(data, BOOK.sealed, ME))
    assert "coordinator" in refused(lambda: signed_assignment(data, ME))


def test_an_award_belongs_to_its_job_and_revision() -> None:
    other = msgspec.structs.replace(BOOK.assignment(FIRST), job=OTHER_JOB)
    assert "job" in refused(lambda: verified_assignment(BOOK.sign(other, "a"), BOOK.sealed, ME))
    older = msgspec.structs.replace(BOOK.assignment(FIRST), revision=Revision("c" * 32))
    assert "revision" in refused(
        lambda: verified_assignment(BOOK.sign(older, "a"), BOOK.sealed, ME)
    )


def test_another_record_is_no_award() -> None:
    refused(lambda: verified_assignment(BOOK.spec_data, BOOK.sealed, ME))


# ---- results ----------------------------------------------------------------------------------


def test_a_result_is_signed_by_its_executor() -> None:
    assert verified_result(BOOK.resulted(FIRST), ME) == BOOK.result(FIRST)
    forged = BOOK.sign(BOOK.result(FIRST), "b")
    assert "executor" in refused(lambda: verified_result(forged, ME))
    assert "result" in refused(lambda: verified_result(BOOK.spec_data, ME))


@pytest.mark.parametrize("verdict", list(Verdict))
def test_an_acceptance_of_an_honest_coordinator_is_good(verdict: Verdict) -> None:
    acceptance = verified_acceptance(BOOK.accepted(FIRST, verdict), ME)
    assert (acceptance.verdict, acceptance.fence) == (verdict, FIRST)


def test_a_success_needs_its_result() -> None:
    bare = BOOK.sign(BOOK.acceptance(FIRST, Verdict.SUCCESS), "a")
    assert "without its result" in refused(lambda: verified_acceptance(bare, ME))


@pytest.mark.parametrize("result", [b"no record at all", BOOK.spec_data, BOOK.awarded(FIRST)])
def test_what_is_accepted_must_be_a_result(result: bytes) -> None:
    """Every view of the job reads it again: it may not raise there."""
    data = BOOK.sign(BOOK.acceptance(FIRST, Verdict.FAILURE, result=result), "a")
    refused(lambda: verified_acceptance(data, ME))


def test_an_acceptance_and_its_result_agree() -> None:
    success, failure = (BOOK.resulted(FIRST, v) for v in (Verdict.SUCCESS, Verdict.FAILURE))
    for verdict, result in ((Verdict.SUCCESS, failure), (Verdict.FAILURE, success)):
        data = BOOK.sign(BOOK.acceptance(FIRST, verdict, result=result), "a")
        assert "otherwise" in refused(lambda data=data: verified_acceptance(data, ME))
    # A lower fence would win every merge with the result of another execution.
    lower = BOOK.sign(BOOK.acceptance(fence(0, "a", 0), result=success), "a")
    assert "another execution" in refused(lambda: verified_acceptance(lower, ME))


def test_another_record_is_no_acceptance() -> None:
    assert "acceptance" in refused(lambda: verified_acceptance(BOOK.spec_data, ME))


def test_a_signature_is_over_every_byte() -> None:
    for data in (BOOK.spec_data, BOOK.awarded(FIRST), BOOK.resulted(FIRST), BOOK.accepted(FIRST)):
        at = data.index(BOOK.revision.encode()) if BOOK.revision.encode() in data else 40
        forged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        for read in (verified_spec, signed_assignment, verified_result, verified_acceptance):
            refused(lambda forged=forged, read=read: read(forged, ME))
