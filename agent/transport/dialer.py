"""Dialling: which addresses a peer has, who is kept connected, and when to try again.

py-libp2p 0.8.1 never reconnects; its dial tries one address, and bars a peer for 60 s that failed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from random import Random

import trio

from agent.transport.addresses import Endpoint, dialable
from agent.transport.counters import Counters
from agent.transport.errors import NotReachable, Refused
from agent.transport.settings import TransportSettings
from agent.transport.tcp import Absence, ConnectFailed, TcpStream, connect
from protocol.ids import PeerId

LOOKS_MAX = 4  # after a loss; a host that does not answer takes dial_s for each


class WrongPeer(Exception):
    """Somebody else answers at this address."""


class Outcome(Enum):
    """Of one attempt at all addresses of a peer, or of one address."""

    CONNECTED = "connected"
    ABSENT = "absent"  # refused: the device is there and nobody listens
    ELSEWHERE = "elsewhere"  # of one address: it leads to ourselves or to another peer
    FAILED = "failed"  # anything else: nothing is known


@dataclass(slots=True)
class Contact:
    """What is known of how to reach one peer."""

    told: tuple[Endpoint, ...] = ()  # by itself; of an earlier life, they may all be wrong by now
    seen: tuple[Endpoint, ...] = ()  # where discovery says that it is
    kept: bool = False
    keeping: bool = False  # whether a task does
    backoff_s: float = 0.0  # before the next attempt; zero is at once
    not_before: float = 0.0  # trio time
    changed: trio.Event = field(default_factory=trio.Event)
    dialing: trio.Event | None = None  # set when the attempt under way ends
    latest: Outcome = Outcome.FAILED  # of the last attempt

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(dict.fromkeys((*self.seen, *self.told)))

    def wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


# Turns a TCP stream to `peer` into a running link, or raises; hellos one at a time.
Establish = Callable[[PeerId, TcpStream, trio.Lock], Awaitable[None]]


class Dialer:
    """One task per kept peer, one attempt at a time per peer, and few at a time in all."""

    def __init__(
        self,
        settings: TransportSettings,
        counters: Counters,
        rng: Random,
        establish: Establish,
        connected: Callable[[PeerId], bool],
        is_own: Callable[[Endpoint], bool],
    ) -> None:
        self._settings = settings
        self._counters = counters
        self._rng = rng
        self._establish = establish
        self._connected = connected
        self._is_own = is_own
        self._contacts: OrderedDict[PeerId, Contact] = OrderedDict()
        self._limiter = trio.CapacityLimiter(settings.dials_max)

    # ---- what is known -----------------------------------------------------------------------

    def learn(self, peer: PeerId, addresses: tuple[str, ...], *, seen: bool = False) -> Contact:
        """Remember where a peer says it is, or is `seen`, in place of what was said or seen before.

        What is new ends the wait for the next attempt.
        """
        contact = self._contacts.setdefault(peer, Contact())
        self._contacts.move_to_end(peer)
        endpoints, before = dialable(addresses, self._settings.addresses_max), contact.endpoints
        if endpoints and seen:
            contact.seen = endpoints
        elif endpoints:
            contact.told = endpoints
        if contact.endpoints != before:
            self.encourage(peer)
        if len(self._contacts) > self._settings.peers_known_max:
            for other, one in self._contacts.items():
                if not one.kept and one.dialing is None:
                    del self._contacts[other]
                    break
        return contact

    def keeps(self, peer: PeerId) -> bool:
        return bool((contact := self._contacts.get(peer)) and contact.kept)

    def kept(self) -> list[PeerId]:
        return [peer for peer, contact in self._contacts.items() if contact.kept]

    def release(self, peer: PeerId) -> None:
        """Keep it no longer; its addresses stay known."""
        if contact := self._contacts.get(peer):
            contact.kept = False
            contact.wake()

    def encourage(self, peer: PeerId) -> None:
        """It gave a sign of life: forget earlier failures."""
        if contact := self._contacts.get(peer):
            contact.backoff_s = contact.not_before = 0.0
            contact.wake()

    def lost(self, peer: PeerId) -> None:
        """Its connection ended: the keeper may go on."""
        if contact := self._contacts.get(peer):
            contact.wake()

    def may_try(self, peer: PeerId) -> bool:
        """Whether an attempt is under way, or due."""
        contact = self._contacts.get(peer)
        if contact is None or not contact.endpoints:
            return False
        return contact.dialing is not None or trio.current_time() >= contact.not_before

    # ---- keeping -----------------------------------------------------------------------------

    async def keep(self, peer: PeerId) -> None:
        """Hold a connection to `peer` until it is released; one such task per kept peer.

        Where one that was released meanwhile is still about it, that one goes on instead.
        """
        contact = self._contacts.get(peer)
        if contact is None or contact.keeping:
            return
        contact.keeping = True
        try:
            while contact.kept:
                changed = contact.changed
                if self._connected(peer) or not contact.endpoints:
                    await changed.wait()
                    continue
                wait_s = contact.not_before - trio.current_time()
                if wait_s > 0:
                    with trio.move_on_after(wait_s):
                        await changed.wait()
                    continue
                await self.dial(peer)
        finally:
            contact.keeping = False

    async def dial(self, peer: PeerId) -> Outcome:
        """One attempt at all its addresses, or the end of the one that is under way."""
        contact = self._contacts.get(peer)
        if self._connected(peer):
            return Outcome.CONNECTED
        if contact is None or not contact.endpoints:
            return Outcome.FAILED
        if contact.dialing is not None:
            await contact.dialing.wait()
            return Outcome.CONNECTED if self._connected(peer) else contact.latest
        contact.dialing = trio.Event()
        contact.latest = Outcome.FAILED
        try:
            async with self._limiter:
                contact.latest = await self._attempt(peer, contact)
        finally:
            self._after(contact, contact.latest)
            contact.dialing.set()
            contact.dialing = None
        return contact.latest

    def _after(self, contact: Contact, outcome: Outcome) -> None:
        if outcome is Outcome.CONNECTED:
            contact.backoff_s = contact.not_before = 0.0
            return
        settings = self._settings
        doubled = min(contact.backoff_s * 2, settings.backoff_max_s)
        contact.backoff_s = max(doubled, settings.backoff_first_s)
        # A whole site that comes back from a power cut must not dial in step.
        jittered = contact.backoff_s * self._rng.uniform(0.75, 1.25)
        contact.not_before = trio.current_time() + jittered

    async def _attempt(self, peer: PeerId, contact: Contact) -> Outcome:
        """Dial all addresses, a little apart; the first that turns out to be `peer` counts."""
        outcomes: dict[Endpoint, Outcome] = {}
        turn = trio.Lock()  # two hellos at once would be two links

        async def one(endpoint: Endpoint, done: trio.Event) -> None:
            outcome = await self._try(peer, endpoint, turn)
            outcomes[endpoint] = outcome
            done.set()
            if outcome is Outcome.CONNECTED:
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for endpoint in contact.endpoints:
                done = trio.Event()
                nursery.start_soon(one, endpoint, done)
                with trio.move_on_after(self._settings.dial_stagger_s):
                    await done.wait()
        if Outcome.CONNECTED in outcomes.values() or self._connected(peer):
            return Outcome.CONNECTED
        self._counters.count("dial.failed")
        # It listens where it says: an old bootstrap address that is silent says nothing of it.
        return _taken_together([outcomes[e] for e in contact.told or contact.seen if e in outcomes])

    async def _try(self, peer: PeerId, endpoint: Endpoint, turn: trio.Lock) -> Outcome:
        if self._is_own(endpoint):
            return Outcome.ELSEWHERE  # a bridge's address, the same on every host
        try:
            stream = await connect(endpoint, self._counters, self._settings.dial_s)
        except ConnectFailed as error:
            return Outcome.ABSENT if error.absence is Absence.REFUSED else Outcome.FAILED
        established = False
        try:
            await self._establish(peer, stream, turn)
            established = True
            return Outcome.CONNECTED
        except WrongPeer:
            self._counters.count("dial.wrong-peer")
            return Outcome.ELSEWHERE
        except (NotReachable, Refused):
            return Outcome.FAILED
        finally:
            if not established:
                with trio.CancelScope(shield=True):
                    await stream.close()

    # ---- after a loss --------------------------------------------------------------------------

    async def confirm_absence(self, peer: PeerId) -> bool:
        """Whether a peer that was just lost is refused everywhere, twice running (DESIGN 5).

        A kept peer is really dialled; of others only the port is tried. A dying process may close
        its connections before the port: so the first looks may find a socket that then breaks.
        """
        refused = 0
        for attempt in range(LOOKS_MAX):
            if attempt:
                await trio.sleep(self._settings.refused_again_s)
            refused = refused + 1 if await self._look(peer) is Outcome.ABSENT else 0
            if self._connected(peer):
                return False
            if refused == 2:
                return True
        return False

    async def _look(self, peer: PeerId) -> Outcome:
        contact = self._contacts.get(peer)
        if self._connected(peer) or contact is None or not contact.endpoints:
            return Outcome.FAILED
        if contact.kept:
            return await self.dial(peer)
        outcomes: list[Outcome] = []

        async def one(endpoint: Endpoint) -> None:
            outcomes.append(await self._knock(endpoint))

        async with trio.open_nursery() as nursery:
            for endpoint in contact.told or contact.seen:
                nursery.start_soon(one, endpoint)
        return _taken_together(outcomes)

    async def _knock(self, endpoint: Endpoint) -> Outcome:
        if self._is_own(endpoint):
            return Outcome.ELSEWHERE
        try:
            stream = await connect(endpoint, self._counters, self._settings.dial_s)
        except ConnectFailed as error:
            return Outcome.ABSENT if error.absence is Absence.REFUSED else Outcome.FAILED
        await stream.close()
        return Outcome.FAILED  # somebody is there; who, is not known


def _taken_together(outcomes: list[Outcome]) -> Outcome:
    """Absent if refused somewhere and, wherever not refused, led astray."""
    if Outcome.ABSENT in outcomes and Outcome.FAILED not in outcomes:
        return Outcome.ABSENT
    return Outcome.FAILED
