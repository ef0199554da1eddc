"""The transport: connections to the other members of the shoal, and what goes over them."""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Final, Protocol

import trio
from libp2p.peer.id import ID

from agent.transport import tcp
from agent.transport.addresses import parse
from agent.transport.admission import BOOT_BYTES
from agent.transport.counters import Counters
from agent.transport.dialer import Contact, Dialer, Outcome, WrongPeer
from agent.transport.errors import AddressInvalid, CloneDetected, NotReachable
from agent.transport.gossip import Gossip
from agent.transport.link import Link
from agent.transport.links import CLOSING, FINAL, Links, close_all
from agent.transport.network import Network
from agent.transport.service import StreamHandler
from agent.transport.settings import (
    JOIN_PROTOCOL,
    MESSAGE_PROTOCOL,
    SPLICE_PROTOCOL,
    TransportSettings,
)
from agent.transport.splices import Splices
from agent.transport.streams import Stream
from agent.transport.tasks import Tasks
from protocol.clock import Now
from protocol.events import FrameReceived, GossipReceived, PeerConnected, PeerDisconnected
from protocol.ids import PeerId
from protocol.records import Keyring

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # libp2p brings stubs that hide trio's own

TransportEvent = PeerConnected | PeerDisconnected | FrameReceived | GossipReceived

SWEEP_S: Final = 5.0
SHUTDOWN_S: Final = 3.0
GOSSIP_RESTART_S: Final = 5.0
REFUSALS_MAX: Final = 64
HINTS_MAX: Final = 64  # of a leaf; where none of so many answers, more would not either
HINTS_DIALLED: Final = 4  # at a time, as each dial costs

logger = logging.getLogger(__name__)


class TransportKeyring(Keyring, Protocol):
    """A keyring that also gives libp2p its identity."""

    @property
    def private_key_bytes(self) -> bytes:
        """The 32-byte Ed25519 seed."""


def system_clock() -> Now:
    return Now(time.monotonic(), time.time())


class Transport:
    """One per process (an upstream constraint). All methods belong to the trio thread.

    `deliver` is bounded and taken from promptly: while it is full, reading from peers waits.
    `clock` decides about expired certificates only. `on_clone` hears of a peer that runs twice.
    `relays` picks those among neighbours that may be asked to join streams.
    """

    def __init__(
        self,
        keyring: TransportKeyring,
        settings: TransportSettings,
        deliver: trio.MemorySendChannel[TransportEvent],
        *,
        clock: Callable[[], Now] = system_clock,
        rng: Random | None = None,
        on_clone: Callable[[PeerId], None] | None = None,
        relays: Callable[[Sequence[PeerId]], list[PeerId]] = list,
    ) -> None:
        self.counters = Counters()
        self.refusals: OrderedDict[PeerId, tuple[str, str]] = OrderedDict()  # code, text; of us
        self._keyring = keyring
        self._settings = settings
        self._deliver = deliver
        self._on_clone = on_clone
        self._relays = relays
        self._tasks = Tasks(self.counters)
        self._network = Network(
            keyring.peer, keyring.private_key_bytes, settings, self.counters, self._tasks
        )
        self._links = Links(
            keyring,
            os.urandom(BOOT_BYTES),
            settings,
            self.counters,
            self._network,
            self._tasks,
            clock,
            self,
        )
        self._table = self._links.table
        self._dialer = Dialer(
            settings,
            self.counters,
            Random() if rng is None else rng,
            self._establish,
            lambda peer: self._table.get(peer) is not None,
            self._network.is_own,
        )
        self._splices = Splices(self._table, self._network, settings, self.counters)
        self.serve(SPLICE_PROTOCOL, self._splices.serve, members_only=True)
        self._pending: dict[PeerId, deque[bytes]] = {}  # frames for peers that are being dialled
        self._clone_reporters: set[PeerId] = set()
        self._clone_known = trio.Event()
        self._gossip: Gossip | None = None
        self._hints: OrderedDict[PeerId, None] = OrderedDict()  # a leaf's, from discovery
        self._chosen: set[PeerId] = set()  # whom the protocol wants to be connected to

    # ---- what the driver calls ---------------------------------------------------------------

    def send(self, peer: PeerId, frame: bytes) -> bool:
        """Queue one frame to a member; never waits. False where it was dropped, and counted.

        Without a connection it is dialled, if an address is known, and a few frames wait for that.
        """
        link = self._table.get(peer)
        if link is not None:
            return link.send(frame)
        waiting = self._pending.get(peer)
        if waiting is None:
            if not self._dialer.may_try(peer):
                self.counters.count("drop.not-reachable")
                return False
            if len(self._pending) >= self._settings.pending_peers_max:
                self.counters.count("drop.too-many-dials")
                return False
            waiting = self._pending[peer] = deque()
            self._tasks.start(self._dial_for_pending, peer)
        if len(waiting) >= self._settings.pending_frames_max:
            self.counters.count("drop.pending-full")
            return False
        waiting.append(frame)
        return True

    def gossip(self, frame: bytes) -> bool:
        """Spread a rumour; never waits. False where it was dropped, and counted."""
        if self._gossip is None:
            self.counters.count("drop.no-gossip")
            return False
        return self._gossip.publish(frame)

    def learn(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Remember where a peer is, for `send` and `open_stream` to dial it on demand."""
        if peer != self._keyring.peer:
            self._dialer.learn(peer, addresses)

    def keep(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Hold a connection to `peer` from now on, where it says that it is."""
        if peer != self._keyring.peer:
            self._chosen.add(peer)
            self._keep(peer, self._dialer.learn(peer, addresses))

    def sighted(self, peer: PeerId, addresses: tuple[str, ...], keep: bool = True) -> None:
        """Like `keep`, where discovery says that it is: both are tried, either may be old.

        Unless it is to be kept, it is only remembered; by a leaf until it is connected to nobody.
        """
        if peer == self._keyring.peer:
            return
        contact = self._dialer.learn(peer, addresses, seen=True)
        if self._settings.leaf:
            self._hint(peer)
        elif keep:
            self._keep(peer, contact)

    def _hint(self, peer: PeerId) -> None:
        self._hints[peer] = None
        self._hints.move_to_end(peer)
        if len(self._hints) > HINTS_MAX:
            self._hints.popitem(last=False)
        self._follow_hints()

    def _follow_hints(self) -> None:
        """Dial what discovery found, a few at a time, as long as nobody is connected."""
        dialled = [] if len(self._table) else list(self._hints)[-HINTS_DIALLED:]
        for peer in self._hints:
            if peer in dialled:
                self._keep(peer, self._dialer.learn(peer, ()))
            elif peer not in self._chosen:
                self._dialer.release(peer)

    async def _turn_hints(self) -> None:
        """Where those that are dialled do not answer, others may: each has its turn."""
        while True:
            await trio.sleep(self._settings.dial_s)
            if len(self._hints) > HINTS_DIALLED and not len(self._table):
                for peer in list(self._hints)[-HINTS_DIALLED:]:
                    self._hints.move_to_end(peer, last=False)
                self._follow_hints()

    def _keep(self, peer: PeerId, contact: Contact) -> None:
        if not contact.kept:
            contact.kept = True
            self._tasks.start(self._dialer.keep, peer)

    def forget(self, peer: PeerId) -> None:
        """Keep it no longer; its connection, if any, closes when idle."""
        self._chosen.discard(peer)
        self._dialer.release(peer)

    def hangup(self, peer: PeerId) -> None:
        """Close its connections now, without a word: it is frozen, or gone."""
        self._network.hangup(peer)

    def connected(self) -> list[PeerId]:
        return self._table.peers()

    def addresses(self) -> tuple[str, ...]:
        """Where others can dial us: concrete, without /p2p."""
        return self._network.addresses()

    def serve(self, protocol_id: str, handler: StreamHandler, members_only: bool) -> None:
        """Let others open streams of `protocol_id`; for strangers few, and 30 s each."""
        self._network.serve(protocol_id, handler, members_only)

    async def open_stream(
        self, peer: PeerId, protocol_id: str, through: Sequence[PeerId] = ()
    ) -> Stream:
        """Open a stream to a member; `through` are neighbours that said to be connected to it.

        Without a connection or any such neighbour it is dialled; where that fails, whoever is
        connected is asked to join the streams. Raises NotReachable, StreamFailed.
        """
        link = self._table.get(peer)
        if link is None and through:
            stream = await self._splices.ask(peer, protocol_id, through)
            if stream is not None:
                return stream
        if link is None:
            with trio.move_on_after(self._settings.dial_s + self._settings.hello_s):
                await self._dialer.dial(peer)
            link = self._table.get(peer)
        if link is not None:
            return await self._network.open(link.connection, protocol_id)
        stream = await self._splices.ask(peer, protocol_id, self._relays(self._table.peers()))
        if stream is None:
            raise NotReachable(f"no connection to {peer}, nor has anybody who is connected here")
        return stream

    @asynccontextmanager
    async def dial_for_join(self, address: str) -> AsyncIterator[Stream]:
        """A join stream to the peer at `address` (with /p2p), member or not; closed with the block.

        Raises AddressInvalid, NotReachable, StreamFailed.
        """
        endpoint, peer = parse(address)
        if peer is None:
            raise AddressInvalid(f"{address!r} lacks /p2p and the peer id that must answer there")
        try:
            stream = await tcp.connect(endpoint, self.counters, self._settings.dial_s)
            connection = await self._network.connect(peer, stream)
        except tcp.ConnectFailed as error:
            raise NotReachable(str(error)) from None
        except WrongPeer:
            raise NotReachable(f"{endpoint} is another peer than {peer}") from None
        try:
            yield await self._network.open(connection, JOIN_PROTOCOL)
        finally:
            with trio.CancelScope(shield=True):
                await connection.muxed.close()

    # ---- life --------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled, then say goodbye to all and close. Started when it listens.

        Raises PortInUse and AddressInvalid for the addresses to listen on, and CloneDetected.
        """
        stop = trio.Event()
        try:
            await self._network.listen()
            async with trio.open_nursery() as supervisor:
                await supervisor.start(self._network.run, stop)
                try:
                    await self._run_tasks(task_status)
                finally:
                    stop.set()
        finally:
            with trio.CancelScope(shield=True):
                await self._network.close_listeners()
        raise CloneDetected(tuple(sorted(self._clone_reporters)))

    async def _run_tasks(self, task_status: TaskStatus[None]) -> None:
        async with self._tasks.running() as nursery:
            try:
                self._network.handle(MESSAGE_PROTOCOL, self._links.on_message_stream)
                if self._settings.gossip and self._keyring.certificate:
                    await nursery.start(self._run_gossip)
                nursery.start_soon(self._network.accept)
                nursery.start_soon(self._sweep)
                nursery.start_soon(self._turn_hints)
                task_status.started()
                await self._clone_known.wait()
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + SHUTDOWN_S):
                    await close_all(self._table.all(), self._network)

    async def _run_gossip(self, *, task_status: TaskStatus[None]) -> None:
        """Keep gossip going: should some message yet end it, it is built anew."""
        while True:
            gossip = self._gossip = Gossip(
                self._network.host,
                self._keyring.shoal,
                self._settings,
                self.counters,
                self._network.is_admitted,
                self._is_member,
                lambda peer: self._network.doorkeeper.offended(PeerId(str(peer))),
            )
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(gossip.run)
                    for link in self._table.all():
                        nursery.start_soon(gossip.admit, link.connection.muxed.peer_id)
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    async for frame in gossip.received:
                        await self._emit(GossipReceived(frame))
            except* Exception as group:
                self.counters.count("failed.gossip")
                logger.error("gossip ended: %r", group.exceptions)
            await trio.sleep(GOSSIP_RESTART_S)

    def _is_member(self, peer: ID) -> bool:
        return self._table.get(PeerId(str(peer))) is not None

    async def _sweep(self) -> None:
        """Close on-demand connections that nobody used for a while.

        Only the end that dialled does: the other may keep the connection, and would dial again.
        """
        while True:
            await trio.sleep(min(SWEEP_S, self._settings.idle_s))
            horizon = trio.current_time() - self._settings.idle_s
            for link in self._table.all():
                connection = link.connection
                idle = connection.outbound and connection.muxed.last_data < horizon
                if idle and not self._dialer.keeps(link.peer):
                    self._links.part(link, "idle")

    # ---- dialling ----------------------------------------------------------------------------

    async def _establish(self, peer: PeerId, stream: tcp.TcpStream, turn: trio.Lock) -> None:
        """Make a link of a socket that we dialled. Raises WrongPeer, NotReachable, Refused."""
        if not self._make_room():
            raise NotReachable("too many connections are open")
        connection = await self._network.connect(peer, stream)
        try:
            async with turn:
                await self._links.greet(connection)
        except BaseException:
            connection.muxed.abort()
            raise

    def _make_room(self) -> bool:
        """Whether one more may be dialled; the least used of those that nobody keeps gives way."""
        if len(self._table) < self._settings.connections_max:
            return True
        link = self._table.least_used(self._dialer.keeps)
        if link is None:
            self.counters.count("drop.connections-max")
            return False
        self._links.part(link, "room for another")
        return True

    async def _dial_for_pending(self, peer: PeerId) -> None:
        outcome = await self._dialer.dial(peer)
        if outcome is not Outcome.CONNECTED or self._table.get(peer) is None:
            for _ in self._pending.pop(peer, ()):
                self.counters.count("drop.not-reachable")

    async def _confirm_absence(self, peer: PeerId) -> None:
        if await self._dialer.confirm_absence(peer):
            await self._emit(PeerDisconnected(peer, refused=True))

    # ---- what the links tell -----------------------------------------------------------------

    async def link_up(self, link: Link, replaced: bool) -> None:
        self.refusals.pop(link.peer, None)
        if not replaced:
            await self._emit(PeerConnected(link.peer, link.member.certificate, link.member.boot))
        for frame in self._pending.pop(link.peer, ()):
            link.send(frame)
        self._dialer.encourage(link.peer)
        self._follow_hints()
        if self._gossip is not None:
            self._tasks.start(self._join_mesh, self._gossip, link, replaced)

    async def _join_mesh(self, gossip: Gossip, link: Link, replaced: bool) -> None:
        peer = link.connection.muxed.peer_id
        if replaced:
            await gossip.drop(peer)
        await gossip.admit(peer)

    async def link_down(self, link: Link) -> None:
        await self._emit(PeerDisconnected(link.peer))
        if self._gossip is not None:
            await self._gossip.drop(link.connection.muxed.peer_id)
        self._dialer.lost(link.peer)
        self._follow_hints()

    def peer_lost(self, peer: PeerId) -> None:
        self._tasks.start(self._confirm_absence, peer)

    async def frame_came(self, peer: PeerId, frame: bytes) -> None:
        await self._emit(FrameReceived(peer, frame))

    def refused_by(self, peer: PeerId, code: str, text: str) -> None:
        self.counters.count(f"refused-by-peer.{code if code in FINAL else 'other'}")
        if code == CLOSING:  # nothing against us: another connection serves, or it shuts down
            return
        self.refusals[peer] = (code, text)
        if len(self.refusals) > REFUSALS_MAX:
            self.refusals.popitem(last=False)
        if code == "clone":
            self._clone_reporters.add(peer)
            # One member alone shall not be able to stop another, unless it is the only other.
            if len(self._clone_reporters) >= min(2, max(1, len(self._dialer.kept()))):
                self._clone_known.set()

    def cloned(self, peer: PeerId) -> None:
        if self._on_clone is not None:
            self._on_clone(peer)

    async def _emit(self, event: TransportEvent) -> None:
        try:
            await self._deliver.send(event)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.counters.count("drop.nobody-listens")
