"""Suspicion: how many must accuse, how long it takes then, and when our own word counts less."""

from __future__ import annotations

from math import inf

from protocol.config import MembershipConfig
from protocol.ids import PeerId
from protocol.suspicion import ACCUSERS_MAX, UNANSWERED_LONES, Case, Health

CONFIG = MembershipConfig()
A, B = PeerId("a"), PeerId("b")


def test_one_accuser_of_two_does_not_start_the_timer() -> None:
    case = Case(1, opened=10.0)
    assert case.accuse(A, b"")
    case.weigh(2, CONFIG, 1, 10.0)
    assert not case.confirmed
    assert case.deadline == 10.0 + CONFIG.probe_period_s  # count again then


def test_two_accusers_start_it() -> None:
    case = Case(1, opened=10.0)
    case.accuse(A, b"")
    assert not case.accuse(A, b""), "the same one again is no other"
    case.accuse(B, b"")
    case.weigh(2, CONFIG, 1, 11.0)
    assert case.confirmed
    assert case.deadline == 11.0 + CONFIG.suspicion_s


def test_a_lone_accuser_takes_three_times_as_long_until_a_second_joins() -> None:
    case = Case(1, opened=10.0)
    case.accuse(A, b"")
    case.weigh(1, CONFIG, 1, 10.0)
    assert case.deadline == 10.0 + 3 * CONFIG.suspicion_s
    case.accuse(B, b"")
    case.weigh(2, CONFIG, 1, 11.0)
    assert case.deadline == 11.0 + CONFIG.suspicion_s
    case.accuse(PeerId("c"), b"")
    case.weigh(2, CONFIG, 3, 12.0)
    assert case.deadline == 11.0 + CONFIG.suspicion_s, "more accusers never lengthen it"


def test_own_trouble_stretches_it_at_most_threefold() -> None:
    health = Health(CONFIG.health_max, CONFIG.probe_period_s)
    for second in range(9):
        health.trouble(float(second))
    assert health.worst and health.level == 3
    case = Case(1, opened=10.0)
    case.accuse(A, b"")
    case.weigh(1, CONFIG, health.level, 10.0)
    assert case.deadline == 10.0 + 3 * CONFIG.suspicion_s, "alone and in trouble is one doubt"


def test_what_is_never_answered_needs_no_second_word() -> None:
    case = Case(1, opened=10.0)
    case.accuse(A, b"")
    lone_s = CONFIG.lone_factor * CONFIG.suspicion_s
    case.weigh(2, CONFIG, 1, 10.0)
    assert not case.confirmed
    late = 10.0 + UNANSWERED_LONES * lone_s
    assert not case.enough(2, CONFIG, late - 0.1) and case.enough(2, CONFIG, late)
    case.weigh(2, CONFIG, 1, late)
    assert case.confirmed and case.deadline == late + lone_s, "and it has a lone accuser's time yet"
    case.reopen(late)
    assert not case.enough(2, CONFIG, late + 1.0)


def test_health_comes_back_with_answers_one_level_a_period() -> None:
    health = Health(3, 2.0)
    health.trouble(10.0)
    health.trouble(10.0)
    health.answered(11.0)
    assert health.level == 3
    health.answered(12.0)
    health.answered(13.0)
    assert health.level == 2
    health.answered(14.0)
    health.answered(99.0)
    assert health.level == 1 and not health.worst


def test_accusers_are_bounded() -> None:
    case = Case(1, opened=0.0)
    taken = [case.accuse(PeerId(str(index)), b"") for index in range(20)]
    assert taken.count(True) == len(case.accusers) == ACCUSERS_MAX


def test_a_refused_port_leaves_time_for_one_probe() -> None:
    case = Case(1, opened=10.0)
    case.accuse(A, b"")
    case.doubt(CONFIG, 2, 10.0)
    assert case.confirmed and case.deadline == 10.0 + 2 * CONFIG.probe_timeout_s
    case.reopen(10.5)
    assert not case.confirmed and not case.refused and case.opened == 10.5


def test_lag_puts_the_end_off_within_bounds() -> None:
    case = Case(1, opened=10.0)
    assert case.limit == inf
    case.accuse(A, b"")
    case.accuse(B, b"")
    case.weigh(2, CONFIG, 1, 10.0)
    end = case.deadline
    case.spare(end - 1)
    assert case.deadline == end
    case.spare(end + 1)
    assert case.deadline == end + 1
    for later in range(99):
        case.spare(end + later)
    assert case.deadline == end + CONFIG.suspicion_s
