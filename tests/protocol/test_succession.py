"""succession: since when a job has no coordinator alive, and whose turn it is."""

from __future__ import annotations

from math import inf

from protocol.config import CoordinationConfig
from protocol.heldjob import HeldJob
from protocol.ids import PeerId
from protocol.succession import Succession
from tests.protocol.jobs import Book, at, fence

CONFIG = CoordinationConfig(rank_delay_s=2.0, orphan_grace_s=10.0)


class Shoal:
    """`me`, and whoever is alive beside it."""

    def __init__(self, me: str, *alive: str) -> None:
        self.alive = dict.fromkeys(alive)
        self.succession = Succession(PeerId(me), CONFIG, lambda peer: peer in self.alive)


def job(*holders: str) -> HeldJob:
    return Book().held(*holders)


def test_a_job_is_orphaned_from_when_its_coordinator_is_missed() -> None:
    shoal, held = Shoal("b", "a"), job("a", "b")
    shoal.succession.watch(held, at(100.0))
    assert shoal.succession.deadline == inf
    shoal.alive.clear()
    shoal.succession.watch(held, at(101.0))
    shoal.succession.watch(held, at(105.0))
    assert shoal.succession.deadline == 101.0
    assert shoal.succession.due(at(100.9)) == []
    assert shoal.succession.due(at(101.0)) == [held]
    assert shoal.succession.due(at(200.0)) == []


def test_a_coordinator_that_is_back_is_not_succeeded() -> None:
    shoal, held = Shoal("b"), job("a", "b")
    shoal.succession.watch(held, at(100.0))
    shoal.alive["a"] = None
    shoal.succession.watch(held, at(101.0))
    assert shoal.succession.deadline == inf


def test_the_rank_among_the_living_holders_says_how_long_to_wait() -> None:
    held = job("a", "b", "c", "d")
    shoal = Shoal("d", "b", "c")
    shoal.succession.watch(held, at(100.0))
    assert shoal.succession.deadline == 104.0
    del shoal.alive["b"]
    assert shoal.succession.deadline == 102.0


def test_after_a_start_the_others_get_time_to_be_heard_of() -> None:
    shoal, held = Shoal("b"), job("a", "b")
    shoal.succession.booted_at = 99.0
    shoal.succession.watch(held, at(100.0))
    assert shoal.succession.deadline == 109.0


def test_who_is_no_holder_does_not_succeed() -> None:
    shoal, held = Shoal("x"), job("a", "b")
    shoal.succession.watch(held, at(100.0))
    assert shoal.succession.deadline == inf
    assert shoal.succession.due(at(1000.0)) == []


def test_neither_an_ended_job_nor_an_own_one_is_an_orphan() -> None:
    shoal = Shoal("b")
    held = job("b", "a")
    shoal.succession.watch(held, at(100.0))
    assert shoal.succession.deadline == inf
    book = Book()
    ended = book.held("a", "b")
    shoal.succession.watch(ended, at(100.0))
    assert shoal.succession.deadline == 100.0
    acceptance = book.acceptance(fence(1, "a", 1))
    ended.slots[0].offer_acceptance(acceptance, b"data")
    shoal.succession.watch(ended, at(101.0))
    assert shoal.succession.deadline == inf


def test_the_first_is_the_first_holder_that_is_alive() -> None:
    held = job("a", "b", "c")
    assert Shoal("c", "b").succession.first(held) == "b"
    assert Shoal("c").succession.first(held) == "c"
    assert Shoal("x").succession.first(held) == "x"
