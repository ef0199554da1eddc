"""The doorkeeper: how many strangers may stand in the door, and who stays outside for a while.

Upstream, 2,000 silent sockets kept real peers out for ten seconds. Here a socket that has not
finished its handshake makes room for a newer one, the oldest of the busiest source first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from typing import Final

import trio

from agent.transport.counters import Counters
from agent.transport.settings import TransportSettings
from protocol.ids import PeerId

OFFENCES_MAX: Final = 32  # within FORGET_S; a correct peer commits none
FORGET_S: Final = 60.0
OFFENDERS_MAX: Final = 256


def source_of(host: str) -> str:
    """What counts as one source: an IPv4 address, or an IPv6 network of one subscriber (/64)."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return host if address.version == 4 else str(ip_network((int(address) >> 64 << 64, 64)))


class Doorkeeper:
    def __init__(self, settings: TransportSettings, counters: Counters) -> None:
        self._settings = settings
        self._counters = counters
        self._waiting: OrderedDict[trio.CancelScope, str] = OrderedDict()
        self._offences: OrderedDict[PeerId, tuple[int, float]] = OrderedDict()

    @contextmanager
    def handshake(self, host: str) -> Iterator[trio.CancelScope]:
        """The time in which an inbound socket may prove itself; cancelled to make room."""
        source = source_of(host)
        with trio.move_on_after(self._settings.handshake_s) as scope:
            self._waiting[scope] = source
            try:
                self._make_room(source)
                yield scope
            finally:
                self._waiting.pop(scope, None)

    def _make_room(self, source: str) -> None:
        same = [scope for scope, one in self._waiting.items() if one == source]
        if len(same) > self._settings.handshakes_per_source:
            self._turn_away(same[0])
        elif len(self._waiting) > self._settings.handshakes_max:
            self._turn_away(next(iter(self._waiting)))

    def _turn_away(self, scope: trio.CancelScope) -> None:
        del self._waiting[scope]
        self._counters.count("refused.handshake-flood")
        scope.cancel()

    def offended(self, peer: PeerId) -> None:
        """`peer` sent what no correct peer sends."""
        count, since = self._offences.pop(peer, (0, trio.current_time()))
        if trio.current_time() - since > FORGET_S:
            count, since = 0, trio.current_time()
        self._offences[peer] = (count + 1, since)
        if len(self._offences) > OFFENDERS_MAX:
            self._offences.popitem(last=False)

    def is_barred(self, peer: PeerId) -> bool:
        count, since = self._offences.get(peer, (0, 0.0))
        return count > OFFENCES_MAX and trio.current_time() - since <= FORGET_S
