"""Sightings: what an mDNS answer on the LAN says of a member, once it is found to be whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent import peerid
from agent.transport.addresses import dialable
from protocol.ids import PeerId, ShoalId, derive

ADDRESSES_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Sighting:
    peer: PeerId
    addresses: tuple[str, ...]  # multiaddrs without /p2p


def hint_of(shoal: ShoalId) -> str:
    """Tells shoals on one LAN apart without naming them."""
    return derive("shoal/mdns/1", shoal)[:8]


def read_properties(properties: Mapping[bytes, bytes | None], hint: str) -> Sighting | None:
    """A text record from anybody on the LAN; None unless it is whole and of our shoal."""
    try:
        text = {
            key.decode("ascii"): value.decode("ascii")
            for key, value in properties.items()
            if value is not None
        }
        peer = PeerId(text["id"])
        peerid.decode(peer)
    except (KeyError, ValueError):
        return None
    places = dialable((text.get(f"a{n}", "") for n in range(ADDRESSES_MAX)), ADDRESSES_MAX)
    if text.get("hint") != hint or not places:
        return None
    return Sighting(peer, tuple(str(place) for place in places))
