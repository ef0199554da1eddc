"""Cron: slots by the calendar, where the clocks change, and errors that name the field."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from agent.cron import LAST_S, Calendar
from protocol.errors import JobSpecError
from protocol.schedule import Schedule
from protocol.slots import slots_between

BERLIN = ZoneInfo("Europe/Berlin")
CRON = Calendar()


def at(text: str, fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp())


def slots(cron: str, start: str, end: str) -> list[str]:
    """Slots in Berlin between two local times, as local times with their offset."""
    schedule = Schedule(cron=cron, zone="Europe/Berlin")
    found = slots_between(CRON, schedule, at(start), at(end), 50)
    return [datetime.fromtimestamp(slot, BERLIN).strftime("%d. %H:%M:%S %z") for slot in found]


def test_what_is_due_in_a_skipped_hour_is_due_right_after_it() -> None:
    # 2026-03-29: at 02:00 it becomes 03:00
    assert slots("30 2 * * *", "2026-03-28T12:00", "2026-03-30T12:00") == [
        "29. 03:00:00 +0200",
        "30. 02:30:00 +0200",
    ]


def test_what_is_due_every_so_often_goes_on_through_a_skipped_hour() -> None:
    assert slots("*/30 * * * *", "2026-03-29T01:00", "2026-03-29T04:00") == [
        "29. 01:30:00 +0100",
        "29. 03:00:00 +0200",
        "29. 03:30:00 +0200",
        "29. 04:00:00 +0200",
    ]


def test_what_is_due_at_a_time_that_comes_twice_is_due_once() -> None:
    # 2026-10-25: at 03:00 it becomes 02:00 again
    assert slots("30 2 * * *", "2026-10-24T12:00", "2026-10-26T12:00") == [
        "25. 02:30:00 +0200",
        "26. 02:30:00 +0100",
    ]


def test_what_is_due_every_so_often_is_due_in_both_of_two_hours() -> None:
    found = slots("*/30 * * * *", "2026-10-25T01:30", "2026-10-25T03:00")
    assert found == [
        "25. 02:00:00 +0200",
        "25. 02:30:00 +0200",
        "25. 02:00:00 +0100",
        "25. 02:30:00 +0100",
        "25. 03:00:00 +0100",
    ]


@pytest.mark.parametrize("cron", ["30 2 * * *", "*/30 * * * *", "*/15 * * * * *"])
def test_the_latest_slot_is_one_of_those_that_came(cron: str) -> None:
    schedule = Schedule(cron=cron, zone="Europe/Berlin")
    for day in ("2026-03-29T00:00", "2026-10-25T00:00"):
        came = slots_between(CRON, schedule, at(day) - 86_400, at(day) + 6 * 3600, 10_000)
        for now in range(came[0], came[-1] + 1, 3607):
            assert CRON.last(schedule, now) == max(slot for slot in came if slot <= now)


def test_a_slot_is_its_own_latest_and_not_its_own_next() -> None:
    schedule = Schedule(cron="*/5 * * * * *")
    assert CRON.last(schedule, 1_800_000_000) == 1_800_000_000
    assert CRON.last(schedule, 1_800_000_004) == 1_800_000_000
    assert CRON.next(schedule, 1_800_000_000) == 1_800_000_005


@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("60 * * * *", "wrong minute '60'"),
        ("* 24 * * *", "wrong hour '24'"),
        ("* * 0 * *", "wrong day-of-month '0'"),
        ("* * * 13 *", "wrong month '13'"),
        ("* * * * MOO", "wrong day-of-week 'MOO'"),
        ("61 * * * * *", "wrong second '61'"),
        ("* * 30 2 *", "wrong day-of-month '30'"),
    ],
)
def test_a_wrong_field_is_named(cron: str, says: str) -> None:
    with pytest.raises(JobSpecError, match=f"Schedule.Cron: {says}"):
        CRON.next(Schedule(cron=cron), 0)


@pytest.mark.parametrize("zone", ["Mars/Base", "posix", "Europe", "x" * 300])
def test_an_unknown_time_zone_is_named(zone: str) -> None:
    with pytest.raises(JobSpecError, match=r"Schedule\.TimeZone: unknown time zone"):
        CRON.next(Schedule(cron="* * * * *", zone=zone), 0)


def test_there_is_an_end_of_the_calendar() -> None:
    assert CRON.next(Schedule(cron="* * * * *"), LAST_S) is None
    assert CRON.next(Schedule(cron="0 0 29 2 *"), LAST_S - 1) is None
    assert CRON.last(Schedule(cron="* * * * *"), -10) is None
