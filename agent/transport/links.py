"""The life of links: hellos and goodbyes on new connections, which one counts, and their end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

import trio
from libp2p.abc import INetStream

from agent.transport.admission import (
    HELLO_BYTES_MAX,
    Member,
    examine,
    greeting,
    parting,
    read_parting,
)
from agent.transport.connection import Connection
from agent.transport.counters import Counters
from agent.transport.errors import NotReachable, Refused, StreamFailed
from agent.transport.link import Link
from agent.transport.link_table import REPLACED, LinkTable, Verdict
from agent.transport.network import Network
from agent.transport.service import muxed_of
from agent.transport.settings import MESSAGE_PROTOCOL, TransportSettings
from agent.transport.streams import Stream, framed, negotiate
from agent.transport.tasks import Tasks
from protocol.clock import Now
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId
from protocol.messages import Goodbye
from protocol.records import Keyring

# Goodbyes after which dialling again at once makes no sense.
CLOSING: Final = "closing"  # the code of a goodbye that holds nothing against who hears it
FINAL: Final = ("not-a-member", "expired", "clone", "other-shoal", "busy")

logger = logging.getLogger(__name__)


class LinkObserver(Protocol):
    """Who hears of links. The peer's lock is held during the awaits: events keep their order."""

    async def link_up(self, link: Link, replaced: bool) -> None:
        """`replaced`: another connection of the same boot, of which nobody needs to hear."""

    async def link_down(self, link: Link) -> None:
        """The peer has no link any more."""

    def peer_lost(self, peer: PeerId) -> None:
        """Its link ended, and neither end said that it should."""

    async def frame_came(self, peer: PeerId, frame: bytes) -> None: ...

    def refused_by(self, peer: PeerId, code: str, text: str) -> None: ...

    def cloned(self, peer: PeerId) -> None:
        """The peer runs twice."""


class Links:
    def __init__(
        self,
        keyring: Keyring,
        boot: bytes,
        settings: TransportSettings,
        counters: Counters,
        network: Network,
        tasks: Tasks,
        clock: Callable[[], Now],
        observer: LinkObserver,
    ) -> None:
        self.table = LinkTable(keyring.peer, settings)
        self._keyring = keyring
        self._hello = greeting(keyring, boot, settings.version)
        self._settings = settings
        self._counters = counters
        self._network = network
        self._tasks = tasks
        self._clock = clock
        self._observer = observer

    # ---- hellos ------------------------------------------------------------------------------

    async def greet(self, connection: Connection) -> None:
        """As the one who dialled: our Hello first, then theirs or their Goodbye.

        Raises NotReachable, Refused.
        """
        connection.greeted = True
        try:
            with trio.fail_after(self._settings.hello_s):
                stream = await self._network_stream(connection)
                frame = await stream.read_frame(HELLO_BYTES_MAX, self._settings.hello_s)
            goodbye = read_parting(frame)
            if goodbye is not None:
                self._observer.refused_by(connection.peer, goodbye.code, goodbye.text)
                raise Refused(goodbye.code, goodbye.text)
            member = self._examine(frame, connection)
        except (trio.TooSlowError, StreamFailed, EOFError, RemoteProtocolError) as error:
            raise NotReachable(f"no Hello from {connection.peer}: {error!r}") from None
        link = await self._settle(connection, stream, member)
        if link is not None:
            self._tasks.start(self._run, link)

    async def _network_stream(self, connection: Connection) -> Stream:
        """The message stream, our Hello on its way with the protocol's name."""
        if not connection.muxed.is_established:
            raise StreamFailed("the connection is closing")
        muxed = connection.muxed.open()
        await negotiate(muxed, MESSAGE_PROTOCOL, framed(self._hello))
        return Stream(muxed, connection.peer)

    async def on_message_stream(self, net_stream: INetStream) -> None:
        """As the one who was dialled: their Hello first, then ours or our Goodbye."""
        connection = self._network.connections.of(net_stream.muxed_conn)
        if connection is None or connection.outbound or connection.greeted:
            self._counters.count("refused.second-message-stream")
            muxed_of(net_stream).abort()
            return
        connection.greeted = True
        stream = Stream(muxed_of(net_stream), connection.peer)
        try:
            frame = await stream.read_frame(HELLO_BYTES_MAX, self._settings.hello_s)
            member = self._examine(frame, connection)
            self._raise_if_full(connection.peer)
        except Refused as refusal:
            await self._turn_away(connection, stream, refusal.code, refusal.text)
            return
        except (StreamFailed, EOFError, RemoteProtocolError) as error:
            await self._turn_away(connection, stream, "not-a-member", f"no Hello: {error}")
            return
        link = await self._settle(connection, stream, member)
        if link is not None:
            await self._run(link)

    def _raise_if_full(self, peer: PeerId) -> None:
        peers_max = self._settings.connections_max + self._settings.connections_spare
        if len(self.table) >= peers_max and self.table.get(peer) is None:
            raise Refused("busy", f"{len(self.table)} peers are connected; try another")

    def _examine(self, frame: bytes, connection: Connection) -> Member:
        try:
            return examine(frame, connection.peer, self._keyring, self._clock())
        except RemoteProtocolError:
            self._counters.count("malformed.hello")
            self._network.doorkeeper.offended(connection.peer)
            raise

    async def _turn_away(
        self, connection: Connection, stream: Stream, code: str, text: str
    ) -> None:
        self._counters.count(f"refused.{code}")
        try:
            await stream.write_frame(parting(code, text), timeout_s=1)
            await stream.aclose()
        except StreamFailed:
            pass  # it does not listen
        await connection.muxed.close()

    # ---- which one counts --------------------------------------------------------------------

    async def _settle(self, connection: Connection, stream: Stream, member: Member) -> Link | None:
        """Decide what a connection with a verified Hello is; its link, if it counts."""
        settled: Link | None = None

        async def decide() -> None:
            nonlocal settled
            settled = await self._decide(connection, stream, member)

        await self.table.locked(connection.peer, decide)
        if settled is None:
            connection.muxed.abort()
        return settled

    async def _decide(self, connection: Connection, stream: Stream, member: Member) -> Link | None:
        verdict = await self.table.judge(connection, member.boot)
        former = self.table.get(connection.peer)
        if verdict is Verdict.CLONE:
            text = "another agent with this identity key is connected and answers"
            await self._turn_away(connection, stream, "clone", text)
            self._observer.cloned(connection.peer)
            return None
        if verdict is Verdict.SURPLUS:
            await self._turn_away(connection, stream, CLOSING, REPLACED)
            return None
        if not connection.outbound:
            try:
                await stream.write_frame(self._hello, self._settings.hello_s)
            except StreamFailed:
                return None
        link = Link(connection, stream, member, self._settings, self._counters)
        if former is not None and verdict is Verdict.RESTARTED:
            await self._end(former)
            former = None
        connection.admit(member)
        self.table.put(link)
        await self._observer.link_up(link, replaced=former is not None)
        if former is not None:
            link.take_over(former)
            self.part(former, REPLACED)
        return link

    # ---- running and ending --------------------------------------------------------------------

    async def _run(self, link: Link) -> None:
        peer = link.peer

        async def came(frame: bytes) -> None:
            await self._observer.frame_came(peer, frame)

        await link.run(came)
        if link.violation:
            self._counters.count("malformed.frame")
            self._network.doorkeeper.offended(peer)
            logger.info("message stream of %s: %s", peer, link.violation)
        final = await self._heard(link, link.goodbye)

        async def end() -> None:
            if self.table.get(peer) is link:
                await self._end(link)
                if not (final or link.closed_by_us):
                    self._observer.peer_lost(peer)

        await self.table.locked(peer, end)
        await link.connection.muxed.close()

    async def _heard(self, link: Link, goodbye: Goodbye | None) -> bool:
        """Take in the remote's last words; whether they say not to come again soon."""
        if goodbye is None:
            return False
        if goodbye.code in FINAL:
            self._observer.refused_by(link.peer, goodbye.code, goodbye.text)
            return True
        if goodbye.text == REPLACED:
            # The other connection's Hello may still be on its way to us.
            await self.table.replaced(link, self._settings.probe_s)
        return False

    async def _end(self, link: Link) -> None:
        """The peer's lock is held."""
        self.table.remove(link)
        link.connection.muxed.abort()
        await self._observer.link_down(link)

    def part(self, link: Link, why: str) -> None:
        """Close a link that is not needed, politely."""
        link.say_goodbye(CLOSING, why)
        self._tasks.start(link.connection.muxed.close)


async def close_all(links: list[Link], network: Network) -> None:
    """Say goodbye to everybody and close."""
    for link in links:
        link.say_goodbye(CLOSING, "this peer shuts down")
    await network.close_connections()
