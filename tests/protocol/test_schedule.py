"""Schedule: what a job file says of it, and one form of it."""

from __future__ import annotations

import pytest

from protocol.errors import JobSpecError
from protocol.job import JobSpec
from protocol.schedule import Overlap, Schedule, Scope
from tests.protocol.schedulenet import ops_schedule, schedule


def refusal(**fields: object) -> str:
    with pytest.raises(JobSpecError) as caught:
        schedule(**fields)
    return str(caught.value)


def test_a_schedule_is_read_in_any_spelling_and_written_in_one() -> None:
    read = schedule(cron=" */5  *  * * mon-fri ", TimeZone="Europe/Berlin", Overlap="REPLACE")
    assert read.schedule == Schedule(
        cron="*/5 * * * MON-FRI", zone="Europe/Berlin", overlap=Overlap.REPLACE
    )
    assert JobSpec.from_plain(read.to_plain()) == read


def test_what_is_left_out_is_written_down() -> None:
    assert schedule().to_plain()["Schedule"] == {
        "Cron": "* * * * *",
        "TimeZone": "UTC",
        "Overlap": "skip",
        "CatchUp": 0,
        "Scope": "once",
    }
    assert schedule(Scope="each").schedule.scope is Scope.EACH


def test_a_scheduled_job_is_a_standing_record_and_what_it_fires_is_none() -> None:
    spec = schedule()
    assert spec.standing and not spec.type.standing
    assert not spec.one_off.standing
    assert "Schedule" not in spec.one_off.to_plain()


def test_an_ops_job_has_one_too_and_its_not_after_is_the_schedules() -> None:
    spec = ops_schedule(NotAfter="2031-01-01T00:00:00Z", Scope="each")
    assert spec.standing and JobSpec.from_plain(spec.to_plain()) == spec
    assert spec.one_off.not_after_s is None and not spec.one_off.standing
    with pytest.raises(JobSpecError, match="Name: missing"):
        JobSpec.from_plain({**spec.to_plain(), "Name": None})
    with pytest.raises(JobSpecError, match="Count: an ops job runs on every peer"):
        ops_schedule(Count=3)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"cron": "* * * *"}, "Schedule.Cron: 4 fields"),
        ({"cron": "@daily"}, "Schedule.Cron"),
        ({"cron": ""}, "Schedule.Cron"),
        ({"cron": "x" * 200}, "Schedule.Cron: 200 bytes"),
        ({"TimeZone": "../etc/passwd"}, "Schedule.TimeZone"),
        ({"Overlap": "queue"}, "Schedule.Overlap"),
        ({"CatchUp": 2}, "Schedule.CatchUp"),
        ({"Scope": "all"}, "Schedule.Scope"),
        ({"Type": "daemon", "Count": None}, "Schedule: only a batch or ops job"),
        ({"Parameters": []}, "Schedule: a template has none"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, object], says: str) -> None:
    assert says in refusal(**fields)


def test_a_schedule_needs_a_name_and_may_expire() -> None:
    tree = {**schedule().to_plain(), "NotAfter": "2031-01-01T00:00:00Z"}
    assert JobSpec.from_plain(tree).one_off.not_after_s is None
    del tree["Name"]
    with pytest.raises(JobSpecError, match="Name: missing"):
        JobSpec.from_plain(tree)
