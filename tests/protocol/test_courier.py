"""courier: news goes out once, and again with growing pauses until it is answered."""

from __future__ import annotations

from random import Random

from protocol.clock import NEVER
from protocol.config import StandingConfig
from protocol.courier import ITEMS_MAX, Courier
from protocol.ids import JobId

CONFIG = StandingConfig()
A, B = JobId("a" * 32), JobId("b" * 32)


def take(courier: Courier, now: float) -> list[JobId]:
    return courier.take(now, CONFIG, Random(1))


def test_nothing_is_due_where_there_is_no_news() -> None:
    assert Courier().deadline == NEVER
    assert take(Courier(), 5.0) == []


def test_news_goes_out_once_and_is_not_repeated_for_other_news() -> None:
    courier = Courier()
    courier.add(A)
    assert courier.deadline <= 0.0
    assert take(courier, 10.0) == [A]
    assert 10.5 < courier.deadline < 11.5
    courier.add(B)
    assert take(courier, 10.1) == [B]
    assert take(courier, 10.2) == []


def test_what_is_not_answered_goes_out_again_later_each_time() -> None:
    courier = Courier()
    courier.add(A)
    now, pauses = 0.0, []
    for _ in range(10):
        assert take(courier, now) == [A]
        pauses.append(courier.deadline - now)
        now = courier.deadline
    assert pauses[0] < pauses[1] < pauses[2] < pauses[3]
    assert max(pauses) <= CONFIG.resend_max_s * 1.25


def test_an_answer_ends_it() -> None:
    courier = Courier()
    for job in (A, B):
        courier.add(job)
    take(courier, 1.0)
    courier.settle(A)
    assert courier.deadline < NEVER
    courier.settle(B)
    assert (courier.deadline, courier.tries) == (NEVER, 0)
    courier.settle(B)  # a second one changes nothing
    courier.add(A)
    courier.settle(A)
    assert take(courier, 2.0) == []


def test_newer_news_of_the_same_job_goes_out_at_once() -> None:
    courier = Courier()
    courier.add(A)
    take(courier, 1.0)
    courier.add(A)
    assert take(courier, 1.1) == [A]


def test_one_offer_has_a_bound() -> None:
    courier = Courier()
    for number in range(ITEMS_MAX + 5):
        courier.add(JobId(f"{number:032}"))
    assert len(take(courier, 1.0)) == ITEMS_MAX
    assert len(take(courier, 1.0)) == 5
    courier.clear()
    assert (courier.deadline, take(courier, 99.0)) == (NEVER, [])
