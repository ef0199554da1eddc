"""Routes: transcripts of what is wanted, asked, told and lost."""

from __future__ import annotations

from itertools import pairwise
from math import inf

from protocol.effects import Send
from protocol.ids import PeerId
from protocol.messages import PathQuery, PathReport
from protocol.routes import (
    ANSWER_S,
    ASK_FIRST_S,
    ASK_MAX_S,
    ASKS_MAX,
    DIAL_S,
    GATHER_S,
    PATHS_MAX,
    RELAYS_MAX,
    Routes,
)

T, U, R, S, N = (PeerId(name) for name in ("t", "u", "r", "s", "n"))


def asked(routes: Routes, now: float) -> list[tuple[PeerId, ...]]:
    """What each neighbour is asked for."""
    found = []
    for send in routes.ask([R, S], lambda peer: peer == U, now):
        assert isinstance(send.message, PathQuery)
        found.append(send.message.peers)
    return found


def reached(*relays: PeerId) -> Routes:
    routes = Routes()
    for relay in relays:
        routes.learn(T, relay, 0.0)
    return routes


def test_neighbours_are_asked_when_a_dial_had_its_chance() -> None:
    routes = Routes()
    assert routes.deadline == inf and asked(routes, 0.0) == []
    routes.want(T, 10.0)
    assert routes.deadline == 10.0 + DIAL_S
    assert asked(routes, 10.0) == []
    assert asked(routes, 10.0 + DIAL_S) == [(T,), (T,)]


def test_what_is_wanted_at_about_one_time_is_asked_at_once() -> None:
    routes = Routes()
    routes.want(T, 0.0)
    routes.want(U, GATHER_S / 2)
    assert asked(routes, DIAL_S) == [(T, U), (T, U)]


def test_more_than_fit_into_one_message_are_asked_in_turn() -> None:
    routes = Routes()
    for number in range(70):
        routes.want(PeerId(f"p{number}"), 0.0)
    assert [len(peers) for peers in asked(routes, DIAL_S)] == [64, 64]
    assert [len(peers) for peers in asked(routes, routes.deadline)] == [6, 6]


def test_what_is_not_wanted_any_more_is_not_asked_for_unless_it_is_to_be_kept() -> None:
    routes = reached(R)
    routes.learn(U, R, 0.0)
    routes.want(N, 0.0)
    assert asked(routes, ASK_MAX_S + 1.0) == [(U,), (U,)]
    assert routes.wanted() == [U]
    gone = reached(R)
    assert asked(gone, ASK_MAX_S + 1.0) == [] and gone.deadline == inf


def test_a_peer_that_connects_meanwhile_is_not_asked_for() -> None:
    routes = Routes()
    routes.want(T, 0.0)
    routes.met(T, 0.1)
    assert routes.deadline == inf and routes.wanted() == []


def test_asking_in_vain_is_repeated_less_and_less() -> None:
    routes = Routes()
    routes.want(T, 0.0)
    times = []
    for _ in range(9):
        times.append(routes.deadline)
        routes.want(T, routes.deadline)
        asked(routes, routes.deadline)
    pauses = [after - before for before, after in pairwise(times)]
    assert pauses[:3] == [ASK_FIRST_S, 2 * ASK_FIRST_S, 4 * ASK_FIRST_S]
    assert pauses[-1] == ASK_MAX_S


def test_it_is_too_early_to_give_up_until_all_neighbours_have_answered() -> None:
    routes = Routes()
    assert not routes.searching(T)
    routes.want(T, 0.0)
    assert routes.searching(T)
    asked(routes, routes.deadline)
    routes.report(R, PathReport((), (T,)), 1.0)
    routes.report(R, PathReport((), (T,)), 1.0)
    assert routes.searching(T), "the other may be the one that is connected to it"
    routes.report(S, PathReport((), (T,)), 1.0)
    assert not routes.searching(T)
    asked(routes, routes.deadline)
    assert not routes.searching(T), "once is enough"
    routes.learn(T, R, 2.0)
    routes.lost(R, 3.0)
    assert routes.searching(T), "somebody was connected to it"


def test_where_there_are_no_neighbours_nobody_knows_a_way() -> None:
    routes = Routes()
    routes.want(T, 0.0)
    assert routes.ask([], lambda peer: False, routes.deadline) == []
    assert not routes.searching(T)


def test_who_is_lost_is_not_waited_for() -> None:
    routes = Routes()
    routes.want(T, 0.0)
    asked(routes, routes.deadline)
    routes.report(R, PathReport((), (T,)), 1.0)
    routes.lost(S, 2.0)
    assert not routes.searching(T)


def test_a_neighbour_that_never_answers_is_not_waited_for_for_ever() -> None:
    routes = Routes()
    routes.want(T, 0.0)
    for _ in range(ASKS_MAX):
        assert routes.searching(T)
        asked(routes, routes.deadline)
    assert routes.searching(T)
    asked(routes, routes.deadline)
    assert not routes.searching(T)


def test_a_neighbour_that_is_connected_becomes_a_way() -> None:
    routes = Routes()
    routes.want(T, 0.0)
    assert routes.report(R, PathReport((T,), ()), 1.0) == [T]
    assert routes.report(S, PathReport((T,), ()), 1.0) == [], "it was reached already"
    assert routes.through(T) == [R, S] and not routes.searching(T)
    assert routes.report(R, PathReport((T,), ()), 1.0) == [] and routes.through(T) == [R, S]


def test_what_nobody_asked_is_not_read() -> None:
    routes = Routes()
    assert routes.report(R, PathReport((T,), (U,)), 0.0) == []
    assert routes.through(T) == [] and routes.wanted() == []


def test_the_next_way_is_taken_where_one_fails() -> None:
    routes = reached(R, S, N)
    routes.fails(T, 1.0)
    assert routes.through(T) == [S, N, R]
    assert routes.deadline == ASK_MAX_S, "there are others to try first"
    routes.fails(U, 1.0)
    assert routes.wanted() == [T]


def test_where_the_only_way_fails_neighbours_are_asked_again() -> None:
    routes = reached(R)
    routes.fails(T, 5.0)
    assert routes.through(T) == [R] and routes.deadline == 5.0 + GATHER_S
    empty = Routes()
    empty.want(T, 0.0)
    empty.fails(T, 0.0)
    assert empty.deadline == GATHER_S


def test_a_neighbour_that_is_lost_is_no_way_any_more() -> None:
    routes = reached(R, S)
    routes.lost(R, 1.0)
    assert routes.through(T) == [S] and routes.deadline == ASK_MAX_S
    routes.lost(S, 2.0)
    assert routes.through(T) == [] and routes.deadline == 2.0 + GATHER_S
    routes.lost(N, 2.0)


def test_a_neighbour_that_says_so_is_no_way_any_more() -> None:
    routes = reached(R, S)
    routes.report(R, PathReport((), (T, U)), 1.0)
    assert routes.through(T) == [S]


def test_a_new_neighbour_may_be_a_way() -> None:
    routes = Routes()
    routes.want(T, 0.0)
    for _ in range(6):
        asked(routes, routes.deadline)
    routes.met(N, 40.0)
    assert routes.deadline == 40.0 + DIAL_S
    found = reached(R)
    found.met(N, 1.0)
    assert found.deadline == ASK_MAX_S


def test_what_is_wanted_and_who_relays_are_bounded() -> None:
    routes = Routes()
    for number in range(PATHS_MAX + 5):
        routes.want(PeerId(f"p{number}"), 0.0)
    assert len(routes.wanted()) == PATHS_MAX
    assert not routes.learn(T, R, 0.0) and routes.through(T) == []
    known = reached(*(PeerId(f"r{number}") for number in range(RELAYS_MAX + 5)))
    assert len(known.through(T)) == RELAYS_MAX
    known.drop(T)
    assert known.through(T) == []


def test_an_answer_names_who_is_there_and_who_is_not_at_a_bounded_rate() -> None:
    routes = Routes()
    query = PathQuery((T, U, T, N))
    answer = [Send(N, PathReport((T,), (U,)))]
    assert routes.answer(N, query, lambda peer: peer == T, 1.0) == answer, "itself left out"
    assert routes.answer(N, query, lambda peer: peer == T, 1.0 + ANSWER_S / 2) == []
    assert routes.answer(N, query, lambda peer: peer == T, 1.0 + 2 * ANSWER_S) == answer
    routes.lost(N, 1.45)
    assert routes.answer(N, query, lambda peer: peer == T, 1.45) == answer
