"""Slots: what is due between two moments, and why a schedule is none."""

from __future__ import annotations

from protocol.errors import JobSpecError
from protocol.schedule import Schedule
from protocol.sim.cron import EverySeconds
from protocol.slots import slots_between, why_wrong

MINUTES = Schedule(cron="* * * * *")


class Never:
    def next(self, schedule: Schedule, after_s: int) -> int | None:
        return None

    last = next


class Wrong:
    def next(self, schedule: Schedule, after_s: int) -> int | None:
        raise JobSpecError("Schedule.Cron", "wrong minute")

    last = next


def test_slots_after_one_moment_and_up_to_another() -> None:
    assert slots_between(EverySeconds(), MINUTES, 60, 240, 10) == [120, 180, 240]
    assert slots_between(EverySeconds(), MINUTES, 60, 239, 10) == [120, 180]
    assert slots_between(EverySeconds(), MINUTES, 60, 600, 2) == [120, 180]
    assert slots_between(Never(), MINUTES, 0, 600, 2) == []


def test_why_it_is_no_schedule() -> None:
    assert why_wrong(EverySeconds(), MINUTES) == ""
    assert why_wrong(Wrong(), MINUTES) == "Schedule.Cron: wrong minute"
    assert "no such day" in why_wrong(Never(), MINUTES)
