"""contacts: the coordinator first, then whoever may know more."""

from __future__ import annotations

from protocol.effects import Send
from tests.protocol.jobs import at
from tests.protocol.onedevice import FIRST, A, B, C, offered, running


def test_it_asks_the_coordinator_twice_and_then_the_holders_in_turn() -> None:
    it = running()
    peers = [offered(it.end(now=0.0))[0]]
    while len(peers) < 6:
        peers.append(offered(it.pass_(it.executor.deadline))[0])
    assert peers == [A, A, B, C, A, B]


def test_who_cannot_be_reached_is_passed_over() -> None:
    it = running()
    it.away = {A, C}
    assert offered(it.end(now=0.0))[0] == B
    it.away = {A, B, C}
    assert offered(it.pass_(it.executor.deadline))[0] == A  # it may come back: it is dialled


def test_a_lost_coordinator_hurries_what_it_was_to_hear() -> None:
    it = running()
    it.award(FIRST, 1)
    it.end(now=1.0)
    it.executor.contacts.on_peer_lost(B, at(1.0))
    assert it.executor.deadline == 2.0
    it.away = {A}
    assert it.executor.contacts.on_peer_lost(A, at(1.1)) == []
    assert it.executor.deadline == 1.6
    effects = it.pass_(1.6)
    assert [effect.peer for effect in effects if isinstance(effect, Send)] == [B, B]


def test_what_was_sent_before_its_connection_stood_is_said_again_when_it_does() -> None:
    it = running()
    it.award(FIRST, 1)
    it.end(now=1.0)
    it.pass_(2.0)
    it.pass_(4.0)
    pending = it.executor.deadline
    it.executor.contacts.on_peer_back(B, at(4.1))
    assert it.executor.deadline == pending > 4.6, "that is another"
    assert it.executor.contacts.on_peer_back(A, at(4.1)) == []
    effects = it.pass_(4.6)
    assert [effect.peer for effect in effects if isinstance(effect, Send)] == [A, A]
