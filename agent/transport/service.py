"""Services: protocols that others may open streams for, each with its limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import trio
from libp2p.abc import INetStream

from agent.transport.connection import Connection
from agent.transport.counters import Counters
from agent.transport.doorkeeper import source_of
from agent.transport.settings import TransportSettings
from agent.transport.streams import Stream
from agent.transport.yamux import YamuxStream

StreamHandler = Callable[[Stream], Awaitable[None]]

# Of one protocol and peer: archives fetched, and logs followed, two for each slot that runs here.
# Each may have a window of 256 KiB on its way.
MEMBER_STREAMS_MAX: Final = 48
GUEST_STREAMS_PER_SOURCE: Final = 4
GUEST_STREAMS_MAX: Final = 16
GUEST_S: Final = 30.0  # a join is two frames, and one fsync on an SD card


def muxed_of(stream: INetStream) -> YamuxStream:
    """The Yamux stream itself: NetStream takes a lock, and a turn of the scheduler, per call."""
    muxed = getattr(stream, "muxed_stream", None)
    assert isinstance(muxed, YamuxStream)
    return muxed


@dataclass(eq=False, slots=True)
class Service:
    """One protocol. `members_only`: others are refused; else strangers come in, few and briefly."""

    protocol: str
    handler: StreamHandler
    members_only: bool
    settings: TransportSettings
    counters: Counters
    open: Counter[str] = field(default_factory=Counter)  # streams by peer, or by source

    async def accept(self, stream: INetStream, connection: Connection) -> None:
        """Serve one stream; whatever the handler raises ends the stream and nothing else."""
        muxed = muxed_of(stream)
        if self.members_only and not await connection.admitted(self.settings.hello_s):
            self._refuse(muxed, "not-a-member")
            return
        key = connection.peer if self.members_only else source_of(connection.source)
        most = MEMBER_STREAMS_MAX if self.members_only else GUEST_STREAMS_PER_SOURCE
        crowded = not self.members_only and self.open.total() >= GUEST_STREAMS_MAX
        if self.open[key] >= most or crowded:
            self._refuse(muxed, "streams-max")
            return
        self.open[key] += 1
        try:
            with trio.CancelScope() as scope:
                if not self.members_only:
                    scope.deadline = trio.current_time() + GUEST_S
                await self.handler(Stream(muxed, connection.peer))
            if scope.cancelled_caught:
                self._refuse(muxed, "too-slow")
            else:
                muxed.end()
        except BaseException:
            muxed.abort()
            raise
        finally:
            self.open[key] -= 1
            if not self.open[key]:
                del self.open[key]

    def _refuse(self, muxed: YamuxStream, reason: str) -> None:
        self.counters.count(f"refused.{reason}")
        muxed.abort()
