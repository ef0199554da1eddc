"""errors: a peer's fault, a person's fault, and where in the file."""

from __future__ import annotations

import pytest

from protocol.errors import JobSpecError, RemoteProtocolError, ShoalError


def test_a_job_error_says_where() -> None:
    error = JobSpecError("Tasks[0].Engine.Type", "is not an engine")
    assert str(error) == "Tasks[0].Engine.Type: is not an engine"
    assert (error.path, error.message) == ("Tasks[0].Engine.Type", "is not an engine")


def test_a_job_error_of_the_whole_file_has_no_place() -> None:
    assert str(JobSpecError("", "is too large")) == "is too large"


@pytest.mark.parametrize("kind", [RemoteProtocolError, JobSpecError])
def test_all_are_ours(kind: type[Exception]) -> None:
    assert issubclass(kind, ShoalError)


def test_a_job_that_cannot_be_read_is_a_value_error_and_a_peers_fault_is_not() -> None:
    """Whoever reads a peer's job record may catch ValueError alone."""
    assert issubclass(JobSpecError, ValueError)
    assert not issubclass(RemoteProtocolError, ValueError)
