"""jobtype: which types end, and which have slots."""

from __future__ import annotations

import pytest

from protocol.jobtype import JobType


@pytest.mark.parametrize(
    ("kind", "standing", "counted", "noun"),
    [
        (JobType.BATCH, False, True, "a batch"),
        (JobType.OPS, False, False, "an ops job"),
        (JobType.DAEMON, True, False, "a daemon"),
        (JobType.SERVICE, True, True, "a service"),
    ],
)
def test_each_type_has_its_promises(
    kind: JobType, standing: bool, counted: bool, noun: str
) -> None:
    assert (kind.standing, kind.counted, kind.noun) == (standing, counted, noun)


def test_there_are_four() -> None:
    assert [kind.value for kind in JobType] == ["batch", "ops", "daemon", "service"]
