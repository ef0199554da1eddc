"""The simulator's cron: multiples of some seconds, and nothing else."""

from __future__ import annotations

import pytest

from protocol.errors import JobSpecError
from protocol.schedule import Schedule
from protocol.sim.cron import EverySeconds


def test_slots_are_multiples() -> None:
    tens = Schedule(cron="*/10 * * * * *")
    cron = EverySeconds()
    assert [cron.next(tens, at) for at in (0, 9, 10)] == [10, 10, 20]
    assert [cron.last(tens, at) for at in (9, 10, 11)] == [0, 10, 10]
    assert cron.next(Schedule(cron="* * * * *"), 61) == 120


@pytest.mark.parametrize("cron", ["5 4 * * *", "5 * * * * *"])
def test_what_it_cannot_tell_it_refuses(cron: str) -> None:
    with pytest.raises(JobSpecError, match=r"Schedule\.Cron"):
        EverySeconds().next(Schedule(cron=cron), 0)


def test_no_slot_comes_once_it_is_over() -> None:
    minutes = Schedule(cron="* * * * *")
    cron = EverySeconds(over=True)
    assert cron.next(minutes, 0) is cron.last(minutes, 60) is None
