"""auction: who is asked, whose answers count, and who gets a slot."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from protocol.auction import Auction
from protocol.config import AuctionConfig
from protocol.ids import PeerId
from protocol.messages import Bid, Facts, Refusal

CONFIG = AuctionConfig()
A, B, C, D = (PeerId(name) for name in "abcd")


def auction(*candidates: PeerId, wanted: int = 1, config: AuctionConfig = CONFIG) -> Auction:
    return Auction(7, config, wanted, list(candidates), closes_at=0.0, started_ms=0)


def bid(score: int = 500, slots: int = 1, hold_ms: int = 5000) -> Bid:
    return Bid(7, score, slots, hold_ms, Facts(cpu_free_m=score))


def free(peer: PeerId) -> int:
    return 0


def winner(round_: Auction, now: float = 0.0, seed: int = 0) -> PeerId | None:
    return round_.best(free, now, Random(seed))


# ---- asking -----------------------------------------------------------------------------------


def test_candidates_are_asked_in_order_and_the_window_begins_anew() -> None:
    round_ = auction(A, B, C)
    assert round_.ask(2, now=10.0) == [A, B]
    assert round_.closes_at == 10.0 + CONFIG.window_s
    assert round_.ask(2, now=10.2) == [C]
    assert round_.closes_at == 10.2 + CONFIG.window_s
    assert round_.ask(2, now=10.4) == []
    assert round_.closes_at == 10.2 + CONFIG.window_s  # nobody new to wait for


def test_whoever_was_not_asked_has_no_say() -> None:
    round_ = auction(A)
    round_.ask(1, 0.0)
    round_.on_bid(D, bid(), 0.0)
    round_.on_refusal(D, Refusal(7, "no"))
    round_.on_gone(D)
    assert list(round_.answers) == [A]


def test_an_answer_counts_once() -> None:
    round_ = auction(A, B)
    round_.ask(2, 0.0)
    round_.on_bid(A, bid(100), 0.0)
    round_.on_bid(A, bid(900), 0.0)
    round_.on_refusal(A, Refusal(7, "changed my mind"))
    assert round_.answers[A].score == 100
    round_.on_refusal(B, Refusal(7, "busy", final=False))
    round_.on_bid(B, bid(900), 0.0)
    assert round_.bidders() == [A]
    assert round_.answers[B].final is False


# ---- closing ----------------------------------------------------------------------------------


def test_it_is_decided_once_everybody_has_answered() -> None:
    round_ = auction(A, B)
    round_.ask(2, 0.0)
    round_.on_bid(A, bid(), 0.1)
    assert not round_.decided(0.1)
    round_.on_refusal(B, Refusal(7, "too small"))
    assert round_.decided(0.1)


def test_it_is_decided_at_the_end_of_the_window() -> None:
    round_ = auction(A)
    round_.ask(1, 1.0)
    assert not round_.decided(1.0 + CONFIG.window_s - 0.001)
    assert round_.decided(1.0 + CONFIG.window_s)


def test_it_is_decided_when_enough_have_bid_for_twice_the_slots() -> None:
    config = replace(CONFIG, enough_bids=2)
    round_ = auction(A, B, C, wanted=2, config=config)
    round_.ask(3, 0.0)
    round_.on_bid(A, bid(slots=1), 0.0)
    round_.on_bid(B, bid(slots=2), 0.0)
    assert not round_.decided(0.0)  # bids enough, slots too few to choose among
    wide = auction(A, B, C, wanted=1, config=config)
    wide.ask(3, 0.0)
    wide.on_bid(A, bid(), 0.0)
    assert not wide.decided(0.0)
    wide.on_bid(B, bid(), 0.0)
    assert wide.decided(0.0)


def test_the_dead_are_not_waited_for() -> None:
    round_ = auction(A, B)
    round_.ask(2, 0.0)
    round_.on_bid(A, bid(), 0.0)
    round_.on_gone(B)
    assert round_.decided(0.0)
    assert (round_.answers[B].kind, round_.answers[B].reason) == ("refused", "gone")
    round_.on_gone(A)
    assert winner(round_) is None
    assert round_.bidders() == [A]  # its hold is released all the same


def test_a_filtered_peer_is_told_of_but_not_waited_for() -> None:
    round_ = auction()
    round_.filtered(C, "engine process is not here")
    assert round_.decided(0.0)
    assert round_.reasons(5) == [(C, "engine process is not here")]


# ---- choosing ---------------------------------------------------------------------------------


def with_bids(config: AuctionConfig = CONFIG, **bids: Bid) -> Auction:
    peers = [PeerId(name) for name in bids]
    round_ = auction(*peers, config=config)
    round_.ask(len(peers), 0.0)
    for peer, each in zip(peers, bids.values(), strict=True):
        round_.on_bid(peer, each, 0.0)
    return round_


def test_the_best_score_wins() -> None:
    assert winner(with_bids(a=bid(300), b=bid(700), c=bid(500))) == B


def test_near_ties_are_drawn_and_clear_losers_are_not() -> None:
    round_ = with_bids(a=bid(700), b=bid(700 - CONFIG.near_tie + 1), c=bid(700 - CONFIG.near_tie))
    assert {winner(round_, seed=seed) for seed in range(30)} == {A, B}
    assert winner(round_, seed=3) == winner(round_, seed=3)


def test_without_near_ties_equals_are_still_found() -> None:
    round_ = with_bids(replace(CONFIG, near_tie=0), a=bid(700), b=bid(700), c=bid(699))
    assert {winner(round_, seed=seed) for seed in range(30)} == {A, B}


def test_a_peer_that_failed_before_comes_last() -> None:
    round_ = with_bids(a=bid(900), b=bid(600))
    assert round_.best({A: 400, B: 0}.__getitem__, 0.0, Random(0)) == B


def test_slots_given_in_the_round_are_spread() -> None:
    round_ = with_bids(a=bid(600, slots=3), b=bid(550, slots=1))
    for slot, expected in enumerate([A, B, A, A, None]):
        peer = winner(round_)
        assert peer == expected
        if peer is not None:
            round_.answers[peer].given.append(slot)
    assert round_.offered == 0


def test_a_bid_ends_with_its_hold() -> None:
    round_ = with_bids(a=bid(900, hold_ms=1000), b=bid(100, hold_ms=3_600_000))
    assert winner(round_, now=0.9) == A
    assert winner(round_, now=1.0) == B
    # Nobody's promise is believed for longer than we would hold ourselves.
    assert winner(round_, now=CONFIG.hold_ms / 1000) is None


def test_who_is_out_is_passed_over() -> None:
    round_ = with_bids(a=bid(900), b=bid(100))
    assert round_.offered == 2
    round_.answers[A].out = True
    assert (winner(round_), round_.offered) == (B, 1)


def test_who_gave_all_it_offered_holds_nothing_more() -> None:
    round_ = with_bids(a=bid(900, slots=2), b=bid(500), c=bid(100), d=bid(50))
    round_.answers[A].given = [0]
    round_.answers[B].given = [1]
    round_.answers[C].given, round_.answers[C].out = [1], True  # it declined: for what else?
    assert round_.holding() == [A, C, D]


@pytest.mark.parametrize("score", [-5, 5000])
def test_a_score_is_within_its_range(score: int) -> None:
    assert with_bids(a=bid(score)).answers[A].score in (0, 1000)


# ---- for people -------------------------------------------------------------------------------


def test_reasons_are_those_of_who_did_not_bid() -> None:
    round_ = auction(D, C, B, A)
    round_.ask(4, 0.0)
    round_.on_bid(A, bid(), 0.0)
    round_.on_refusal(B, Refusal(7, "busy"))
    assert round_.reasons(9) == [(B, "busy"), (C, "did not answer"), (D, "did not answer")]
    assert round_.reasons(1) == [(B, "busy")]
