"""The network: listening sockets, connections from the socket to their end, and their streams."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from multiaddr import Multiaddr

from agent.transport import tcp
from agent.transport.addresses import Endpoint, concrete, parse
from agent.transport.connection import Connection, ConnectionTable
from agent.transport.counters import Counters
from agent.transport.dialer import WrongPeer
from agent.transport.doorkeeper import Doorkeeper
from agent.transport.errors import NotReachable, StreamFailed
from agent.transport.host import build_host, key_pair_of
from agent.transport.security import Upgrader
from agent.transport.service import Service, StreamHandler, muxed_of
from agent.transport.settings import TransportSettings
from agent.transport.streams import Stream, negotiate
from agent.transport.tasks import Tasks
from agent.transport.yamux import Yamux
from protocol.ids import PeerId

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # libp2p brings stubs that hide trio's own

CLOSE_S = 3.0
_LOCAL = Multiaddr("/ip4/127.0.0.1/tcp/0")  # libp2p wants one with each connection, to log it

logger = logging.getLogger(__name__)


class Network:
    """Owns the libp2p host. One per process (an upstream constraint)."""

    def __init__(
        self, me: PeerId, seed: bytes, settings: TransportSettings, counters: Counters, tasks: Tasks
    ) -> None:
        self.connections = ConnectionTable()
        self.doorkeeper = Doorkeeper(settings, counters)
        self._me = me
        self._seed = seed
        self._settings = settings
        self._counters = counters
        self._tasks = tasks
        self._listeners: list[trio.SocketListener] = []
        self._bound: list[Endpoint] = []
        self._services: dict[str, Service] = {}
        self._host: BasicHost | None = None

    # ---- addresses -----------------------------------------------------------------------------

    def addresses(self) -> tuple[str, ...]:
        """Where others can dial us: concrete, without /p2p."""
        return self._settings.announce or concrete(self._bound)

    def is_own(self, endpoint: Endpoint) -> bool:
        """Whether we would reach ourselves there."""
        for bound in self._bound:
            if bound.port == endpoint.port:
                if bound.host == endpoint.host:
                    return True
                if bound.unspecified and str(endpoint) in concrete([bound]):
                    return True
        return False

    # ---- life ------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Raises PortInUse and AddressInvalid."""
        for address in self._settings.listen:
            listeners = await tcp.listen(parse(address)[0])
            self._listeners += listeners
            self._bound += [tcp.bound_endpoint(listener) for listener in listeners]

    async def close_listeners(self) -> None:
        for listener in self._listeners:
            await listener.aclose()

    async def run(self, stop: trio.Event, *, task_status: TaskStatus[None]) -> None:
        """Run the host until `stop`; started when streams and connections can come.

        Shielded: cancelled in its middle, a host leaves sockets and a thread behind.
        """
        key_pair = key_pair_of(self._seed)
        upgrader = Upgrader(key_pair, self._gate, self._on_born)
        self._host = build_host(key_pair, upgrader, self.addresses, self._counters)
        for protocol_id in self._services:
            self.handle(protocol_id, partial(self._on_stream, protocol_id))
        with trio.CancelScope(shield=True) as scope:
            async with self._host.run([]):
                task_status.started()
                await stop.wait()
                scope.deadline = trio.current_time() + CLOSE_S

    async def accept(self) -> None:
        """Take inbound connections for as long as there are listeners."""
        if self._listeners:
            await trio.serve_listeners(partial(self._tasks.guard, self._accept), self._listeners)

    async def close_connections(self) -> None:
        async with trio.open_nursery() as nursery:
            for connection in self.connections.all():
                nursery.start_soon(connection.muxed.close)

    def hangup(self, peer: PeerId) -> None:
        for connection in self.connections.all():
            if connection.peer == peer:
                connection.muxed.abort()

    @property
    def host(self) -> BasicHost:
        assert self._host is not None, "the network runs"
        return self._host

    @property
    def _swarm(self) -> Swarm:
        network = self.host.get_network()
        assert isinstance(network, Swarm)
        return network

    # ---- connections -----------------------------------------------------------------------------

    async def connect(self, peer: PeerId, stream: tcp.TcpStream) -> Connection:
        """Secure a socket that we dialled. Raises WrongPeer, NotReachable; the socket is closed."""
        raw, muxed = RawConnection(stream, True), None
        with trio.move_on_after(self._settings.handshake_s):
            try:
                conn = await self._swarm.upgrade_outbound_raw_conn(raw, ID.from_base58(peer))
                muxed = conn.muxed_conn
            except Exception as error:
                if _is_wrong_peer(error):
                    raise WrongPeer from None
                raise NotReachable(f"handshake with {peer}: {error}") from None
            finally:
                if muxed is None:
                    with trio.CancelScope(shield=True):
                        await stream.close()
        connection = self.connections.of(muxed)
        if connection is None:
            raise NotReachable(f"handshake with {peer} took too long")
        self._tasks.start(self._watch, connection)
        return connection

    async def _accept(self, socket: trio.SocketStream) -> None:
        """One inbound connection, from its socket to its end."""
        connection: Connection | None = None
        try:
            stream = tcp.TcpStream(socket, self._counters)
            with self.doorkeeper.handshake(stream.remote[0]):
                raw = RawConnection(stream, False)
                muxed = await self._swarm.upgrade_inbound_raw_conn(raw, _LOCAL)
                connection = self.connections.of(muxed)
        except Exception as error:
            self._counters.count("refused.handshake")
            logger.debug("inbound handshake: %r", error)
        finally:
            if connection is None:
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(socket)
        if connection is not None:
            await self._watch(connection)

    def _gate(self, peer: ID) -> bool:
        """Right after Noise, in and out: ourselves by a detour, and who misbehaves."""
        text = PeerId(str(peer))
        if text == self._me or self.doorkeeper.is_barred(text):
            self._counters.count("refused.gate")
            return False
        return True

    def _on_born(self, muxed: Yamux) -> None:
        self.connections.add(muxed)
        guests = self.connections.guests()
        if len(guests) > self._settings.guests_max:
            self._counters.count("refused.guests-max")
            guests[0].muxed.abort()

    async def _watch(self, connection: Connection) -> None:
        """See a guest out in time, and tidy up after the connection."""
        muxed = connection.muxed
        try:
            with trio.move_on_after(self._settings.guest_s):
                await connection.settled.wait()
            if connection.member is None and not muxed.is_closed:
                await muxed.close()
            await muxed.event_closed.wait()
        finally:
            muxed.abort()
        if muxed.violation:
            self._counters.count("malformed.muxer")
            self.doorkeeper.offended(connection.peer)
            logger.info("connection to %s: %s", connection.peer, muxed.violation)
        if self.connections.to_one(connection.peer) is None:
            # What identify and gossip told of it: upstream keeps that for ever.
            peerstore = self.host.get_peerstore()
            if peerstore.has_peer(muxed.peer_id):
                peerstore.clear_peerdata(muxed.peer_id)

    # ---- streams ---------------------------------------------------------------------------------

    def handle(self, protocol_id: str, handler: StreamHandlerFn) -> None:
        self.host.set_stream_handler(TProtocol(protocol_id), handler)

    def serve(self, protocol_id: str, handler: StreamHandler, members_only: bool) -> None:
        self._services[protocol_id] = Service(
            protocol_id, handler, members_only, self._settings, self._counters
        )
        if self._host is not None:
            self.handle(protocol_id, partial(self._on_stream, protocol_id))

    async def open(self, connection: Connection, protocol_id: str) -> Stream:
        """Open a stream and agree on its protocol. Raises StreamFailed."""
        if not connection.muxed.is_established:
            raise StreamFailed("the connection is closing")
        muxed = connection.muxed.open()
        try:
            with trio.fail_after(self._settings.hello_s):
                await negotiate(muxed, protocol_id)
        except trio.TooSlowError:
            muxed.abort()
            raise StreamFailed(f"no answer about {protocol_id}") from None
        except BaseException:
            muxed.abort()
            raise
        return Stream(muxed, connection.peer)

    async def is_admitted(self, stream: INetStream) -> bool:
        """Whether the stream comes from a member; waits a while for its Hello."""
        connection = self.connections.of(stream.muxed_conn)
        return connection is not None and await connection.admitted(self._settings.hello_s)

    async def _on_stream(self, protocol_id: str, stream: INetStream) -> None:
        connection = self.connections.of(stream.muxed_conn)
        if connection is None:
            muxed_of(stream).abort()
        else:
            await self._services[protocol_id].accept(stream, connection)


def _is_wrong_peer(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, PeerIDMismatchesPubkey):
            return True
        error = error.__cause__ or error.__context__
    return False
