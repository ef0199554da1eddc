"""The link table: one link per member, and which one counts when a second comes up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable
from enum import Enum

import trio

from agent.transport.connection import Connection
from agent.transport.link import Link
from agent.transport.settings import TransportSettings
from protocol.ids import PeerId

REPLACED = "another connection serves"


class Verdict(Enum):
    """About a second connection to a member, its Hello verified."""

    FIRST = "first"  # there is no other
    REPLACE = "replace"  # it takes the former's place, silently
    RESTARTED = "restarted"  # the member's former boot is gone: disconnected, then connected
    SURPLUS = "surplus"  # the former stays
    CLONE = "clone"  # the former is another boot, and alive


class LinkTable:
    """Changes are made under the lock of the peer, so that its events keep their order."""

    def __init__(self, me: PeerId, settings: TransportSettings) -> None:
        self._me = me
        self._settings = settings
        self._links: dict[PeerId, Link] = {}
        self._locks: defaultdict[PeerId, trio.Lock] = defaultdict(trio.Lock)
        self._changed = trio.Event()

    def __len__(self) -> int:
        return len(self._links)

    def get(self, peer: PeerId) -> Link | None:
        return self._links.get(peer)

    def all(self) -> list[Link]:
        return list(self._links.values())

    def peers(self) -> list[PeerId]:
        return sorted(self._links)

    async def locked(self, peer: PeerId, action: Callable[[], Awaitable[None]]) -> None:
        """Run `action` while nobody else changes what counts for `peer`."""
        lock = self._locks[peer]
        try:
            async with lock:
                await action()
        finally:
            if not (lock.locked() or lock.statistics().tasks_waiting):
                self._locks.pop(peer, None)

    def put(self, link: Link) -> None:
        self._links[link.peer] = link
        self._notify()

    def remove(self, link: Link) -> bool:
        """Whether it was the one that counted."""
        if self._links.get(link.peer) is not link:
            return False
        del self._links[link.peer]
        self._notify()
        return True

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def replaced(self, link: Link, timeout_s: float) -> bool:
        """Wait a while for another link to take this one's place."""
        with trio.move_on_after(timeout_s):
            while self._links.get(link.peer) is link:
                await self._changed.wait()
        return self._links.get(link.peer) is not link

    async def judge(self, connection: Connection, boot: bytes) -> Verdict:
        """What the connection of a member with `boot` is beside the link that there is.

        A former boot that still answers a ping on its own connection, within probe_s, is alive:
        then one key runs twice. After a restart, however quick, its socket is closed; a frozen
        process does not answer.
        """
        former = self._links.get(connection.peer)
        if former is None:
            return Verdict.FIRST
        if former.member.boot != boot:
            alive = await former.connection.muxed.ping(self._settings.probe_s)
            return Verdict.RESTARTED if alive is None else Verdict.CLONE
        return Verdict.REPLACE if self._newer_counts(connection, former) else Verdict.SURPLUS

    def _newer_counts(self, newer: Connection, former: Link) -> bool:
        """Both ends come to the same answer. Dialled from both ends at once, the one that the
        smaller peer id dialled counts; otherwise the remote comes again because its old one died.
        """
        if not former.connection.muxed.is_established:
            return True
        together = trio.current_time() - former.since < self._settings.together_s
        if not together or newer.outbound == former.connection.outbound:
            return True
        dialler = self._me if newer.outbound else newer.peer
        return dialler == min(self._me, newer.peer)

    def least_used(self, keeps: Callable[[PeerId], bool]) -> Link | None:
        """The link that was idle the longest of those that nobody keeps."""
        spare = [link for link in self._links.values() if not keeps(link.peer)]
        return min(spare, key=lambda link: link.connection.muxed.last_data, default=None)
