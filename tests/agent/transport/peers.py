"""Real transports on loopback, in this process: what they report is kept, and can be waited for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import TypeVar

import trio

from agent.identity import IdentityKeyring
from agent.transport import Transport, TransportEvent, TransportSettings
from agent.transport.transport import system_clock
from protocol.clock import Now
from protocol.events import FrameReceived, GossipReceived, PeerConnected, PeerDisconnected
from protocol.ids import PeerId
from tests.agent import keys

E = TypeVar("E", PeerConnected, PeerDisconnected, FrameReceived, GossipReceived)
BOUND_S = 60.0
LOOPBACK = TransportSettings(listen=("/ip4/127.0.0.1/tcp/0",))


class Peer:
    """A transport, and the events that it delivered, in order."""

    def __init__(
        self,
        keyring: IdentityKeyring,
        settings: TransportSettings = LOOPBACK,
        clock: Callable[[], Now] = system_clock,
    ) -> None:
        send, self._receive = trio.open_memory_channel[TransportEvent](64)
        self.clones: list[PeerId] = []
        self.transport = Transport(
            keyring, settings, send, clock=clock, rng=Random(1), on_clone=self.clones.append
        )
        self.id = keyring.peer
        self.events: list[TransportEvent] = []
        self.reading = trio.Event()
        self.reading.set()
        self._came = trio.Event()

    @property
    def addresses(self) -> tuple[str, ...]:
        return self.transport.addresses()

    def count(self, reason: str) -> int:
        return self.transport.counters.events[reason]

    async def collect(self) -> None:
        async for event in self._receive:
            self.events.append(event)
            self._came.set()
            self._came = trio.Event()
            await self.reading.wait()

    async def until(self, condition: Callable[[], bool], bound_s: float = BOUND_S) -> None:
        """Wait for a condition on what came, or on the counters."""
        with trio.fail_after(bound_s):
            while not condition():
                with trio.move_on_after(0.02):
                    await self._came.wait()

    async def event(self, kind: type[E], peer: PeerId | None = None, nth: int = 1) -> E:
        """The nth event of a kind (and peer)."""

        def found() -> list[E]:
            return [
                event
                for event in self.events
                if isinstance(event, kind) and (peer is None or getattr(event, "peer", "") == peer)
            ]

        await self.until(lambda: len(found()) >= nth)
        return found()[nth - 1]

    def frames(self) -> list[bytes]:
        return [event.frame for event in self.events if isinstance(event, FrameReceived)]

    def rumours(self) -> list[bytes]:
        return [event.frame for event in self.events if isinstance(event, GossipReceived)]


@asynccontextmanager
async def running(*peers: Peer) -> AsyncIterator[None]:
    """The transports run within the block, and are closed in time at its end."""
    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(peer.collect)
            await nursery.start(peer.transport.run)
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()


def member(name: str, **changes: object) -> Peer:
    return Peer(keys.member(name), replace(LOOPBACK, **changes))  # type: ignore[arg-type]


async def connect(one: Peer, other: Peer) -> None:
    one.transport.keep(other.id, other.addresses)
    await one.event(PeerConnected, other.id)
    await other.event(PeerConnected, one.id)
