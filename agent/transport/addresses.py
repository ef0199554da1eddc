"""Addresses: multiaddrs as text, and which of this device's own can be told to others."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import psutil

from agent.transport.errors import AddressInvalid
from protocol.ids import PeerId

_NAMES: Final = ("dns", "dns4", "dns6")
# Bridges of container engines: the same address exists on every host, so it leads others astray.
_VIRTUAL: Final = re.compile(r"^(docker|br-|veth|virbr|podman|cni|flannel|cali|lxc)")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One TCP address: `host` is an IP address or, if `named`, a DNS name."""

    host: str
    port: int
    named: bool = False

    def __str__(self) -> str:
        kind = "dns" if self.named else "ip6" if ":" in self.host else "ip4"
        return f"/{kind}/{self.host}/tcp/{self.port}"

    @property
    def unspecified(self) -> bool:
        return not self.named and ipaddress.ip_address(self.host).is_unspecified


def parse(text: str) -> tuple[Endpoint, PeerId | None]:
    """Read `/ip4/…/tcp/…[/p2p/…]`, ip6 and dns alike. Raises AddressInvalid, which says why."""
    parts = text.split("/")
    if len(parts) not in (5, 7) or parts[0] or parts[3] != "tcp":
        raise AddressInvalid(f"{text!r} is not of the form /ip4/ADDRESS/tcp/PORT[/p2p/PEER]")
    kind, host, port = parts[1], parts[2], parts[4]
    if len(parts) == 7 and (parts[5] != "p2p" or not parts[6]):
        raise AddressInvalid(f"{text!r}: only /p2p/PEER can follow the port")
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise AddressInvalid(f"{text!r}: {port!r} is not a port")
    if kind in ("ip4", "ip6"):
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            raise AddressInvalid(f"{text!r}: {host!r} is not an IP address") from None
        if address.version != int(kind[2]):
            raise AddressInvalid(f"{text!r}: {host!r} is not an {kind} address")
    elif kind not in _NAMES or not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", host):
        raise AddressInvalid(f"{text!r}: {kind!r} is none of ip4, ip6, dns, dns4, dns6")
    peer = PeerId(parts[6]) if len(parts) == 7 else None
    return Endpoint(host, int(port), kind in _NAMES), peer


def dialable(texts: Iterable[str], most: int) -> tuple[Endpoint, ...]:
    """The usable ones among what a peer says of itself, in its order, without doubles."""
    found: dict[Endpoint, None] = {}
    for text in texts:
        if len(found) >= most:
            break
        try:
            endpoint, _ = parse(text)
        except AddressInvalid:
            continue  # newer peers may have transports that we lack
        if endpoint.port and not endpoint.unspecified:
            found[endpoint] = None
    return tuple(found)


def concrete(bound: Iterable[Endpoint]) -> tuple[str, ...]:
    """What others can dial of what we are bound to.

    py-libp2p publishes 0.0.0.0 verbatim, in identify and in mDNS; here an unspecified address
    becomes one for each interface that is up. Loopback only if there is nothing else.
    """
    found: dict[str, None] = {}
    spare: dict[str, None] = {}
    for endpoint in bound:
        if not endpoint.unspecified:
            found[str(endpoint)] = None
            continue
        for host, good in _interface_addresses(":" in endpoint.host):
            (found if good else spare)[str(Endpoint(host, endpoint.port))] = None
    return tuple(found or spare)


def _interface_addresses(version6: bool) -> list[tuple[str, bool]]:
    """IP addresses of the interfaces that are up, and whether they mean anything to others."""
    family = socket.AF_INET6 if version6 else socket.AF_INET
    addresses = psutil.net_if_addrs()
    try:
        up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    except OSError:  # a kernel that does not tell, as qemu's for another processor
        up = set(addresses)
    found: list[tuple[str, bool]] = []
    for name, entries in sorted(addresses.items()):
        for entry in entries:
            if name not in up or entry.family != family or "%" in entry.address:
                continue  # a link-local IPv6 address needs the zone of the one who dials
            address = ipaddress.ip_address(entry.address)
            if not address.is_link_local or not version6:
                good = not address.is_loopback and not _VIRTUAL.match(name)
                found.append((entry.address, good))
    return found
