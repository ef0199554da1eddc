"""Retry and disconnect: what each job type may say, and what it means when it says nothing."""

from __future__ import annotations

import pytest

from protocol.errors import JobSpecError
from protocol.jobtype import JobType
from protocol.retry import Disconnect, RetryOn, RetrySpec
from protocol.tree import Node, Plain

EVERY = tuple(RetryOn)


def retry(kind: JobType, **fields: Plain) -> RetrySpec:
    return RetrySpec.read(Node({**fields}, "Retry"), kind)


def test_defaults_follow_the_job_type() -> None:
    batch = RetrySpec(attempts=3, backoff_s=1, on=(RetryOn.LOST, RetryOn.SYSTEM))
    assert RetrySpec.read(None, JobType.BATCH) == batch == RetrySpec()
    assert RetrySpec.read(None, JobType.OPS) == RetrySpec(attempts=1, backoff_s=0, on=())
    for kind in (JobType.DAEMON, JobType.SERVICE):
        assert RetrySpec.read(None, kind) == RetrySpec(attempts=0, backoff_s=1, on=EVERY)


def test_a_batch_job_says_how_often_and_for_what() -> None:
    read = retry(JobType.BATCH, attempts=5, backoff="1m", on=["Failure", "lost", "lost"])
    assert read == RetrySpec(attempts=5, backoff_s=60, on=(RetryOn.LOST, RetryOn.FAILURE))


def test_one_attempt_means_no_retry_whatever_else_is_said() -> None:
    assert retry(JobType.BATCH, Attempts=1, Backoff=9) == retry(JobType.BATCH, Attempts=1)
    assert retry(JobType.BATCH, Attempts=1).on == ()


@pytest.mark.parametrize("kind", JobType)
def test_the_canonical_form_reads_back(kind: JobType) -> None:
    specs = [RetrySpec.read(None, kind)]
    if kind.standing:
        specs.append(retry(kind, Backoff=9))
    elif kind is JobType.BATCH:
        specs += [retry(kind, Attempts=1), retry(kind, Attempts=9, On=["failure"], Backoff=0)]
    for spec in specs:
        tree = spec.to_plain(kind)
        assert RetrySpec.read(Node({**tree}) if tree else None, kind) == spec


@pytest.mark.parametrize(
    ("kind", "fields", "path", "message"),
    [
        (JobType.OPS, {}, "Retry", "starts at most once on a peer"),
        (JobType.DAEMON, {"Attempts": 3}, "Retry.Attempts", "a daemon is restarted for ever"),
        (JobType.SERVICE, {"On": ["lost"]}, "Retry.On", "a service is restarted for ever"),
        (JobType.BATCH, {"Attempts": 0}, "Retry.Attempts", "allowed: 1 to 100"),
        (JobType.BATCH, {"Attempts": True}, "Retry.Attempts", "true is not an integer"),
        (JobType.BATCH, {"On": []}, "Retry.On", "for no retry: Attempts: 1"),
        (JobType.BATCH, {"On": ["error"]}, "Retry.On[0]", "allowed: lost, system, failure"),
        (JobType.BATCH, {"Backoff": "2h"}, "Retry.Backoff", "allowed: 0s to 1h"),
        (JobType.BATCH, {"Tries": 1}, "Retry.Tries", "unknown key"),
    ],
)
def test_errors_name_the_place(
    kind: JobType, fields: dict[str, Plain], path: str, message: str
) -> None:
    with pytest.raises(JobSpecError) as caught:
        retry(kind, **fields)
    assert (caught.value.path, message in caught.value.message) == (path, True), caught.value


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        ({}, Disconnect()),
        ({"StopAfter": "10m"}, Disconnect(stop_after_s=600)),
        ({"Replace": False}, Disconnect(replace=False)),
        ({"Replace": True}, Disconnect()),
    ],
)
def test_disconnect_reads_back(fields: dict[str, Plain], read: Disconnect) -> None:
    assert Disconnect.read(Node({**fields}), JobType.BATCH) == read
    assert Disconnect.read(Node(read.to_plain()), JobType.BATCH) == read


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (JobType.BATCH, {"StopAfter": 0}, "StopAfter: 0 is out of range; allowed: 1s to 366d"),
        (JobType.BATCH, {"Replace": "no"}, "Replace: 'no' is not a boolean; allowed: true, false"),
        (JobType.DAEMON, {"Replace": False}, "Replace: every peer runs its own part of a daemon"),
        (JobType.OPS, {"Replace": True}, "Replace: every peer runs its own part of an ops job"),
    ],
)
def test_disconnect_refuses(kind: JobType, fields: dict[str, Plain], message: str) -> None:
    with pytest.raises(JobSpecError, match=message):
        Disconnect.read(Node({**fields}), kind)
