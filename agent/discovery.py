"""Discovery: where peers of this shoal may be, from mDNS, bootstrap addresses and memory.

py-libp2p's own mDNS is not used: it blocks the trio loop for 1.6 s at the start, publishes 0.0.0.0,
and loses live peers after 200 s. Here zeroconf has its own thread, and what it sees is only a hint:
the transport proves who answers at an address.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from agent.sighting import Sighting, hint_of
from agent.threads import NoThread, abandonable, in_thread
from agent.transport.addresses import parse
from agent.transport.errors import AddressInvalid
from protocol.ids import PeerId, ShoalId

CHECK_S: Final = 30.0  # interfaces come and go: a psutil call, 0.3 ms
RETRY_S: Final = 5.0  # while there is no network at all
BROWSE_AGAIN_S: Final = 600.0  # live services drop out of zeroconf's cache
CLOSE_S: Final = 3.0  # goodbye packets take it 0.4 s
PEERS_MAX: Final = 1024  # of a LAN; a flood of made-up ones must not fill the memory
QUEUE: Final = 256

if TYPE_CHECKING:
    from agent.mdns import Announcement

Found = Callable[[PeerId, tuple[str, ...]], None]

logger = logging.getLogger(__name__)


class Discovery:
    """`addresses` says where we are now, concretely; `remembered` is from an earlier life.

    Raises AddressInvalid for a bootstrap address that lacks /p2p or is none.
    """

    def __init__(
        self,
        me: PeerId,
        shoal: ShoalId,
        addresses: Callable[[], tuple[str, ...]],
        *,
        bootstrap: Sequence[str] = (),
        remembered: Mapping[PeerId, tuple[str, ...]] | None = None,
        mdns: bool = True,
    ) -> None:
        self._me = me
        self._hint = hint_of(shoal)
        self._addresses = addresses
        self._known = _by_peer(bootstrap)
        for peer, places in (remembered or {}).items():
            self._known[peer] = self._known.get(peer, ()) + tuple(places)
        self._mdns = mdns
        self._seen: OrderedDict[PeerId, tuple[str, ...]] = OrderedDict()
        self.trouble = ""  # why this device is not announced just now

    @property
    def heard(self) -> int:
        """How many others were heard on the LAN since the start."""
        return len(self._seen)

    async def run(self, found: Found) -> None:
        """Call `found` on the trio thread for each peer, again when its addresses change."""
        for peer, addresses in self._known.items():
            if peer != self._me:
                found(peer, addresses)
        if not self._mdns:
            await trio.sleep_forever()
        send, receive = trio.open_memory_channel[Sighting](QUEUE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_announced, send)
            async for sighting in receive:
                if self._is_news(sighting):
                    found(sighting.peer, sighting.addresses)

    def _is_news(self, sighting: Sighting) -> bool:
        if sighting.peer == self._me or self._seen.get(sighting.peer) == sighting.addresses:
            return False
        self._seen[sighting.peer] = sighting.addresses
        self._seen.move_to_end(sighting.peer)
        if len(self._seen) > PEERS_MAX:
            self._seen.popitem(last=False)
        return True

    async def _keep_announced(self, send: trio.MemorySendChannel[Sighting]) -> None:
        """Announce and browse on whatever network there is; anew when our addresses change."""
        token = trio.lowlevel.current_trio_token()
        announcement: Announcement | None = None
        announced: tuple[str, ...] = ()
        opened = 0.0
        try:
            while True:
                addresses = self._addresses()
                stale = trio.current_time() - opened > BROWSE_AGAIN_S
                if announcement is None or addresses != announced or stale:
                    if announcement is not None:
                        with suppress(NoThread):  # it stays, beside the next one
                            await in_thread(announcement.close)
                    announcement = await self._announce(addresses, token, send)
                    announced, opened = addresses, trio.current_time()
                await trio.sleep(RETRY_S if announcement is None else CHECK_S)
        finally:
            if announcement is not None:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
                    await abandonable(announcement.close)

    async def _announce(
        self,
        addresses: tuple[str, ...],
        token: trio.lowlevel.TrioToken,
        send: trio.MemorySendChannel[Sighting],
    ) -> Announcement | None:
        def saw(sighting: Sighting) -> None:
            """On zeroconf's thread."""
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(_offer, send, sighting)

        if not addresses:
            self.trouble = "it has no address"
            return None
        try:
            made = await in_thread(_open_announcement, self._me, self._hint, addresses, saw)
            self.trouble = ""
            return made
        except Exception as error:  # no multicast here, port 5353 held by another: try again later
            logger.info("mDNS is not available now: %r", error)
            self.trouble = str(error) or type(error).__name__
            return None


def _open_announcement(
    me: PeerId, hint: str, addresses: tuple[str, ...], saw: Callable[[Sighting], None]
) -> Announcement:
    """In a thread: zeroconf takes 50 ms to load, and 5 MB that a device without mDNS keeps."""
    from agent.mdns import Announcement

    return Announcement(me, hint, addresses, saw)


def _by_peer(bootstrap: Sequence[str]) -> dict[PeerId, tuple[str, ...]]:
    found: dict[PeerId, tuple[str, ...]] = {}
    for text in bootstrap:
        endpoint, peer = parse(text)
        if peer is None:
            raise AddressInvalid(f"{text!r} lacks /p2p and the peer id that must answer there")
        found[peer] = (*found.get(peer, ()), str(endpoint))
    return found


def _offer(send: trio.MemorySendChannel[Sighting], sighting: Sighting) -> None:
    """On the trio thread: a flood of sightings is dropped, not queued; mDNS repeats itself."""
    with suppress(trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
        send.send_nowait(sighting)
