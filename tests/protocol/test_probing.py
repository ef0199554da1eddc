"""Probing: directly, again and through others, and only then without an answer."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from random import Random

import pytest

from protocol.config import MembershipConfig
from protocol.effects import Send
from protocol.ids import PeerId
from protocol.messages import Ping, PingReport, PingRequest
from protocol.probing import (
    DETOURS_MAX,
    FAR_TIMEOUTS,
    GRACE_TIMEOUTS,
    RELAYS_MAX,
    Prober,
)
from protocol.suspicion import Health

CONFIG = MembershipConfig()
TIMEOUT, PERIOD = CONFIG.probe_timeout_s, CONFIG.probe_period_s
A, B, C = PeerId("a"), PeerId("b"), PeerId("c")


def ask_others(target: PeerId) -> Sequence[PeerId]:
    return [B, C]


@pytest.fixture
def prober() -> Prober:
    return Prober(CONFIG, Random(1), Health(CONFIG.health_max, PERIOD))


def begin(prober: Prober) -> float:
    """Aim at A and start its first round; when that was."""
    prober.aim([A], 100.0)
    start = prober.deadline
    assert 100.0 <= start <= 100.0 + PERIOD
    assert prober.step(start, ask_others) == ([Send(A, Ping(1))], [])
    return start


def test_an_answer_ends_the_round(prober: Prober) -> None:
    start = begin(prober)
    assert prober.deadline == start + TIMEOUT
    assert prober.heard(A, start + 0.01) == []
    assert start + 0.9 * PERIOD <= prober.deadline <= start + 1.1 * PERIOD


def test_silence_is_asked_about_before_it_counts(prober: Prober) -> None:
    start = begin(prober)
    sends, failed = prober.step(start + TIMEOUT, ask_others)
    assert sends == [
        Send(A, Ping(1)),
        Send(B, PingRequest(1, A)),
        Send(C, PingRequest(1, A)),
    ]
    assert failed == []
    sends, failed = prober.step(start + 2 * TIMEOUT, ask_others)
    assert sends == [] and [probe.target for probe in failed] == [A]
    assert prober.deadline >= start + 0.9 * PERIOD, "and it is probed again"


def test_another_that_reached_it_ends_the_round(prober: Prober) -> None:
    start = begin(prober)
    prober.step(start + TIMEOUT, ask_others)
    for sender, report in (
        (B, PingReport(1, A, False)),  # could not either
        (B, PingReport(2, A, True)),  # of another round
        (B, PingReport(1, B, True)),  # of somebody we do not probe
        (PeerId("stranger"), PingReport(1, A, True)),  # was not asked
    ):
        prober.report(sender, report, start + 1.0)
        assert prober.deadline == start + 2 * TIMEOUT
    prober.report(C, PingReport(1, A, True), start + 1.0)
    assert prober.deadline > start + 2 * TIMEOUT - 1e-9
    assert prober.step(start + 2 * TIMEOUT, ask_others)[1] == []
    prober.report(C, PingReport(1, A, True), start + 1.0)  # once more: nothing


def test_own_trouble_gives_more_time() -> None:
    health = Health(3, PERIOD, level=3)
    prober = Prober(CONFIG, Random(1), health)
    start = begin(prober)
    assert prober.deadline == start + 3 * TIMEOUT


def test_aiming_anew_keeps_the_rounds_of_those_who_stay(prober: Prober) -> None:
    start = begin(prober)
    prober.aim([B, A], start)
    assert prober.targets == [B, A]
    assert prober.step(start + TIMEOUT, lambda target: ())[0][-1] == Send(A, Ping(1))
    prober.aim([], start)
    assert prober.deadline == inf


def test_a_broken_stream_is_probed_at_once(prober: Prober) -> None:
    prober.aim([A], 100.0)
    prober.soon(B, 100.0)
    prober.soon(A, 100.0)
    assert prober.deadline == 100.0
    prober.step(100.0, ask_others)
    prober.soon(A, 100.1)
    assert prober.deadline == 100.0 + TIMEOUT, "a round that runs is not hurried"


def test_a_probe_for_another_is_reported_either_way(prober: Prober) -> None:
    assert prober.relay(B, PingRequest(7, A), 10.0) == [Send(A, Ping(1))]
    assert prober.relay(C, PingRequest(9, A), 10.0) == [Send(A, Ping(2))]
    assert prober.relay(C, PingRequest(10, B), 10.1) == [Send(B, Ping(3))]
    assert prober.deadline == 10.0 + TIMEOUT
    assert prober.heard(A, 10.2) == [
        Send(B, PingReport(7, A, True)),
        Send(C, PingReport(9, A, True)),
    ]
    sends, _ = prober.step(10.1 + TIMEOUT, ask_others)
    assert sends == [Send(C, PingReport(10, B, False))]
    assert prober.deadline == inf


def test_probes_for_others_are_bounded(prober: Prober) -> None:
    assert prober.relay(A, PingRequest(1, A), 10.0) == [], "of the asker itself"
    sent = [prober.relay(B, PingRequest(seq, A), 10.0) for seq in range(RELAYS_MAX + 9)]
    assert len([sends for sends in sent if sends]) == RELAYS_MAX


def test_a_little_lag_gives_answers_time_to_be_read(prober: Prober) -> None:
    start = begin(prober)
    prober.spare(0.3, start + TIMEOUT + 0.3)
    assert prober.deadline == start + TIMEOUT + 0.6
    assert prober.step(start + TIMEOUT + 0.3, ask_others) == ([], [])


def test_lag_without_end_does_not_excuse_for_ever(prober: Prober) -> None:
    start = begin(prober)
    now = start + TIMEOUT
    while prober.deadline > now and now < start + 60:
        now += 0.3
        prober.spare(0.3, now)
    assert now < start + (GRACE_TIMEOUTS + 1) * TIMEOUT


def test_a_frozen_process_begins_all_rounds_anew(prober: Prober) -> None:
    start = begin(prober)
    prober.aim([A, B], start)
    prober.spare(30.0, start + 30.0)
    assert prober.deadline >= start + 30.0
    sends, failed = prober.step(start + 30.0 + TIMEOUT, ask_others)
    assert failed == [] and [send.message for send in sends] == [Ping(2), Ping(3)]


# ---- behind a relay ---------------------------------------------------------------------------


def far(target: PeerId) -> tuple[PeerId, ...]:
    return (C,)


def test_a_target_behind_a_relay_has_more_time_to_answer(prober: Prober) -> None:
    prober.aim([A], 100.0)
    start = prober.deadline
    prober.step(start, ask_others, far)
    assert prober.deadline == pytest.approx(start + FAR_TIMEOUTS * TIMEOUT)
    prober.step(prober.deadline, ask_others, far)
    assert prober.deadline == pytest.approx(start + 2 * FAR_TIMEOUTS * TIMEOUT)


def test_a_far_one_that_pays_for_each_byte_is_asked_for_by_its_relay(prober: Prober) -> None:
    prober.aim([A], 100.0, slowed)
    start = prober.deadline
    assert prober.step(start, ask_others, far)[0] == [Send(C, PingRequest(1, A))]
    prober.report(C, PingReport(1, A, True), start + 1.0)
    again = prober.deadline
    assert again > start + 100.0
    assert prober.step(again, ask_others, far)[0] == [Send(C, PingRequest(2, A))]
    late = prober.deadline
    assert late == pytest.approx(again + FAR_TIMEOUTS * SLOW.probe_timeout_s)
    assert Send(A, Ping(2)) in prober.step(late, ask_others, far)[0], "then it is asked itself"


@pytest.mark.parametrize(
    ("sender", "seq", "denied"), [(B, 1, True), (B, 2, False), (PeerId("stranger"), 1, False)]
)
def test_whether_one_that_was_asked_denied_it_is_remembered_for_the_round(
    prober: Prober, sender: PeerId, seq: int, denied: bool
) -> None:
    start = begin(prober)
    prober.step(start + TIMEOUT, ask_others)
    prober.report(sender, PingReport(seq, A, False), start + TIMEOUT)
    (probe,) = prober.step(start + 2 * TIMEOUT, ask_others)[1]
    assert probe.denied is denied
    prober.step(prober.deadline, ask_others)
    assert not probe.denied, "another round"


def test_own_lag_stretches_what_is_asked_for_others_within_bounds(prober: Prober) -> None:
    prober.relay(B, PingRequest(7, A), 100.0)
    assert prober.deadline == 100.0 + TIMEOUT
    prober.spare(0.5, 100.0)
    assert prober.deadline == 100.5 + TIMEOUT
    for _ in range(20):
        prober.spare(0.5, 100.0)
    assert prober.deadline == 100.0 + GRACE_TIMEOUTS * TIMEOUT
    sends, _ = prober.step(prober.deadline, ask_others)
    assert sends == [Send(B, PingReport(7, A, False))]


def test_rounds_that_only_others_answered_add_up_until_it_is_heard(prober: Prober) -> None:
    start, broken = begin(prober), []
    for number in range(2 * DETOURS_MAX - 1):
        prober.step(start + TIMEOUT, ask_others)
        broken.append(prober.report(B, PingReport(number + 1, A, True), start + TIMEOUT))
        start = prober.deadline
        prober.step(start, ask_others)
        if number == DETOURS_MAX:
            prober.heard(A, start)
            start = prober.deadline
            prober.step(start, ask_others)
            break
    assert broken == [*[False] * (DETOURS_MAX - 1), True, False]


# ---- leaves ----------------------------------------------------------------------------------

METERED = MembershipConfig.preset("metered")
SLOW = CONFIG.towards(METERED.keepalive_s)


def slowed(target: PeerId) -> MembershipConfig:
    return SLOW if target == A else CONFIG


def test_each_target_is_probed_at_its_own_pace(prober: Prober) -> None:
    prober.aim([A, B], 100.0, slowed)
    sent: dict[PeerId, list[float]] = {A: [], B: []}
    while prober.deadline < 1300.0:
        now = prober.deadline
        for send in prober.step(now, ask_others)[0]:
            sent[send.peer].append(now)
            prober.heard(send.peer, now + 0.1)
    assert 9 <= len(sent[A]) <= 12
    assert len(sent[B]) > 500


def test_who_is_slow_to_answer_has_the_time_for_it(prober: Prober) -> None:
    prober.aim([A], 100.0, slowed)
    start = prober.deadline
    prober.step(start, ask_others)
    assert prober.deadline == start + SLOW.probe_timeout_s
    prober.step(prober.deadline, ask_others)
    assert [probe.target for probe in prober.step(prober.deadline, ask_others)[1]] == [A]


def test_who_turns_out_to_be_a_leaf_is_probed_anew(prober: Prober) -> None:
    start = begin(prober)
    prober.aim([A], start, slowed)
    assert prober.deadline > start + TIMEOUT, "the round at the old pace is over"
    due = prober.deadline
    prober.aim([A], start, slowed)
    assert prober.deadline == due


@pytest.mark.parametrize("own", [CONFIG, METERED])
def test_what_a_leaf_says_by_itself_saves_a_probe(own: MembershipConfig) -> None:
    prober = Prober(own, Random(1), Health(own.health_max, own.probe_period_s))
    prober.aim([A], 100.0, lambda target: own.towards(120))
    start = prober.deadline
    prober.step(start, ask_others)
    prober.heard(A, start + 0.1)
    due = prober.deadline
    prober.heard(A, due - 50.0)
    assert prober.step(due, ask_others) == ([], [])
    again = prober.deadline
    assert 0.9 * 120.0 <= again - (due - 50.0) <= 1.1 * 120.0
    assert prober.step(again, ask_others)[0] == [Send(A, Ping(2))], "since then it said nothing"


def test_between_others_a_probe_is_never_saved(prober: Prober) -> None:
    """It would double the time in which a death is known."""
    start = begin(prober)
    prober.heard(A, start + 0.01)
    due = prober.deadline
    prober.heard(A, due - 0.01)
    assert prober.step(due, ask_others)[0] == [Send(A, Ping(2))]


def test_a_relayed_probe_of_a_leaf_is_told_of_before_whoever_asked_gives_up(prober: Prober) -> None:
    prober.relay(B, PingRequest(1, A), 100.0, SLOW)
    prober.relay(B, PingRequest(2, C), 100.0)
    assert prober.deadline == 100.0 + TIMEOUT, "each at its own pace"
    prober.step(prober.deadline, ask_others)
    assert prober.deadline == 100.0 + SLOW.probe_timeout_s / 2
    sends, _ = prober.step(prober.deadline, ask_others)
    assert sends == [Send(B, PingReport(1, A, False))]


def test_who_was_frozen_for_a_while_goes_on_with_the_slow_rounds_only(prober: Prober) -> None:
    prober.aim([A, B], 100.0, slowed)
    for _ in range(200):
        now = prober.deadline
        prober.step(now, ask_others)
        prober.heard(B, now)
        if any(probe.target == A and probe.asked for probe in prober._probes.values()):
            break
    due = prober._probes[A].due
    prober.spare(5.0, due)
    assert prober._probes[A].due == due + 5.0
    assert prober._probes[B].due <= due + TIMEOUT
