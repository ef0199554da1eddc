"""update: how a standing job's revisions follow one another, read and written back."""

from __future__ import annotations

import pytest

from protocol.errors import JobSpecError
from protocol.job import OnFailure, UpdateSpec
from protocol.jobtype import JobType
from protocol.tree import Node, Plain


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        ({}, UpdateSpec()),
        ({"MaxParallel": 1, "HealthyAfter": "10s", "OnFailure": "Rollback"}, UpdateSpec()),
        ({"MaxParallel": 5}, UpdateSpec(max_parallel=5)),
        (
            {"HealthyAfter": "1m", "OnFailure": "pause"},
            UpdateSpec(healthy_after_s=60, on_failure=OnFailure.PAUSE),
        ),
    ],
)
def test_it_reads_back(fields: dict[str, Plain], read: UpdateSpec) -> None:
    assert UpdateSpec.read(Node({**fields}), JobType.DAEMON) == read
    assert UpdateSpec.read(Node(read.to_plain()), JobType.SERVICE) == read


def test_what_is_default_is_left_out() -> None:
    """The field came later than the job spec: the hash of a job signed before must not change."""
    assert UpdateSpec().to_plain() == {}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"MaxParallel": 0}, "MaxParallel: 0 is out of range"),
        ({"HealthyAfter": "0s"}, "HealthyAfter: '0s' is out of range; allowed: 1s to 1d"),
        ({"OnFailure": "retry"}, "allowed: pause, rollback"),
        ({"Parallel": 1}, "unknown key"),
    ],
)
def test_it_refuses(fields: dict[str, Plain], message: str) -> None:
    with pytest.raises(JobSpecError, match=message):
        UpdateSpec.read(Node({**fields}), JobType.DAEMON)


def test_a_job_that_ends_by_itself_is_not_updated() -> None:
    with pytest.raises(JobSpecError, match="leave Update out"):
        UpdateSpec.read(Node({}), JobType.OPS)
