"""The dialer: which of several addresses counts, how often it tries, what it takes for absence."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from agent.transport import TransportSettings
from agent.transport.dialer import Outcome
from protocol.events import PeerConnected, PeerDisconnected
from tests.agent.transport.peers import Peer, member, running


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"/ip4/127.0.0.1/tcp/{probe.getsockname()[1]}"


@contextmanager
def mute() -> Iterator[str]:
    """An address where the connection is taken and nothing said."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"/ip4/127.0.0.1/tcp/{listener.getsockname()[1]}"


async def test_the_peer_is_found_among_addresses_that_lead_elsewhere() -> None:
    """Refused, silent, another peer's, our own: and then the right one."""
    a, b, c = member("a"), member("b"), member("c")
    with mute() as silent:
        async with running(a, b, c):
            places = (silent, closed_port(), c.addresses[0], a.addresses[0], b.addresses[0])
            a.transport.keep(b.id, places)
            with trio.fail_after(60):
                await a.event(PeerConnected, b.id)
            assert a.transport.connected() == [b.id]
            assert a.count("dial.wrong-peer") == 1


async def test_attempts_back_off_and_new_addresses_end_the_wait() -> None:
    a = member("a", backoff_first_s=0.05, backoff_max_s=60.0)
    b = member("b")
    async with running(a, b):
        a.transport.keep(b.id, (closed_port(),))
        with trio.move_on_after(1.5):
            await a.event(PeerConnected, b.id)
        # 0.05 doubling, with a quarter of jitter: at 0, 0.05, 0.15, 0.35, 0.75, 1.55 s
        assert 4 <= a.count("dial.failed") <= 7
        a.transport.keep(b.id, b.addresses)
        with trio.fail_after(60):
            await a.event(PeerConnected, b.id)


async def test_one_task_keeps_a_peer_that_is_let_go_and_taken_up_again() -> None:
    a, b = member("a", handshake_s=0.5), member("b")
    with mute() as silent:
        async with running(a):
            for _ in range(3):
                a.transport.keep(b.id, (silent,))
                await trio.sleep(0.05)  # the dial goes on
                a.transport.forget(b.id)
            a.transport.keep(b.id, (silent,))
            with trio.fail_after(20):
                await a.transport._dialer.keep(b.id)  # that task goes on, and this one has no part
            assert a.transport._dialer.keeps(b.id)


async def test_what_an_earlier_life_remembers_does_not_hide_where_a_peer_was_seen() -> None:
    """Its address has changed since: bootstrap or mDNS know it, the saved advert does not."""
    for seen_first in (True, False):
        a, b = member("a", backoff_first_s=0.05), member("b")
        async with running(a, b):
            if seen_first:
                a.transport.sighted(b.id, b.addresses)
            a.transport.keep(b.id, (closed_port(),))
            if not seen_first:
                a.transport.sighted(b.id, b.addresses)
            with trio.fail_after(60):
                await a.event(PeerConnected, b.id)


async def test_a_peer_is_absent_where_it_says_it_is_whatever_an_old_sighting_says() -> None:
    a, b = member("a", handshake_s=0.2), member("b")
    with mute() as silent:
        async with running(a):
            dialer = a.transport._dialer
            dialer.learn(b.id, (silent,), seen=True)
            assert await dialer.dial(b.id) is Outcome.FAILED
            dialer.learn(b.id, (closed_port(),))
            assert await dialer.dial(b.id) is Outcome.ABSENT


async def test_a_peer_that_is_not_kept_is_looked_for_but_not_dialled() -> None:
    a, b = member("a"), member("b")
    async with running(a):
        async with running(b):
            a.transport.learn(b.id, b.addresses)
            a.transport.send(b.id, b"hello")
            await a.event(PeerConnected, b.id)
        assert (await a.event(PeerDisconnected, b.id, nth=2)).refused
        assert a.count("dial.failed") == 0


async def test_absence_is_not_concluded_from_silence() -> None:
    a, b = member("a", handshake_s=0.2), member("b")
    with mute() as silent:
        async with running(a):
            await conclude(a, b, silent)


async def conclude(a: Peer, b: Peer, silent: str) -> None:
    dialer = a.transport._dialer
    dialer.learn(b.id, (closed_port(), silent))
    assert await dialer.dial(b.id) is Outcome.FAILED
    dialer.learn(b.id, (closed_port(), a.addresses[0]))
    assert await dialer.dial(b.id) is Outcome.ABSENT
    dialer.learn(b.id, a.addresses)
    assert await dialer.dial(b.id) is Outcome.FAILED


async def test_the_memory_for_addresses_is_bounded() -> None:
    a = member("a", peers_known_max=10)
    names = [member(f"p{n}").id for n in range(30)]
    async with running(a):
        for name in names:
            a.transport.learn(name, (closed_port(),))
        assert len(a.transport._dialer._contacts) == 10
        assert a.transport._dialer.may_try(names[-1])
    assert TransportSettings().peers_known_max == 4096
