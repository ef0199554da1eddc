"""Connections: what is known of each one, and the guests among them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import trio

from agent.transport.admission import Member
from agent.transport.yamux import Yamux
from protocol.ids import PeerId

STREAMS_IN_MEMBER = 128  # gossip, messages, and a few dozen logs and archives
STREAMS_IN_GUEST = 8


@dataclass(eq=False, slots=True)
class Connection:
    """One connection from Noise to its end. `settled`: its Hello was judged, or none will come."""

    muxed: Yamux
    peer: PeerId
    source: str
    opened: float  # trio time
    member: Member | None = None
    settled: trio.Event = field(default_factory=trio.Event)
    greeted: bool = False  # a message stream was opened on it already

    @property
    def outbound(self) -> bool:
        return self.muxed.is_initiator

    def admit(self, member: Member) -> None:
        self.member = member
        self.muxed.streams_in_max = STREAMS_IN_MEMBER
        self.settled.set()

    async def admitted(self, timeout_s: float) -> bool:
        """Whether the remote is a member, once that is known. Peers open their streams right after
        connecting, before their Hello can have been judged."""
        with trio.move_on_after(timeout_s):
            await self.settled.wait()
        return self.member is not None


class ConnectionTable:
    """All open connections. Those without a verified Hello are guests: few, and for a minute."""

    def __init__(self) -> None:
        self._by_muxed: dict[Yamux, Connection] = {}

    def add(self, muxed: Yamux) -> Connection:
        remote = muxed.get_remote_address()
        muxed.streams_in_max = STREAMS_IN_GUEST
        connection = Connection(
            muxed, PeerId(str(muxed.peer_id)), remote[0] if remote else "", trio.current_time()
        )
        self._by_muxed[muxed] = connection
        muxed.when_ended = partial(self._remove, connection)
        return connection

    def of(self, muxed: object) -> Connection | None:
        return self._by_muxed.get(muxed)  # type: ignore[call-overload, no-any-return]

    def _remove(self, connection: Connection) -> None:
        self._by_muxed.pop(connection.muxed, None)
        connection.settled.set()

    def all(self) -> list[Connection]:
        return list(self._by_muxed.values())

    def to_one(self, peer: PeerId) -> Connection | None:
        """Any open connection to `peer`, member or not."""
        for connection in self._by_muxed.values():
            if connection.peer == peer and connection.muxed.is_established:
                return connection
        return None

    def guests(self) -> list[Connection]:
        """Inbound ones without a verified Hello, the oldest first."""
        return [one for one in self._by_muxed.values() if one.member is None and not one.outbound]
