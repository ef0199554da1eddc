"""mDNS: one registration and one browser on this device's interfaces, in zeroconf's own thread."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

from zeroconf import (
    InterfaceChoice,
    IPVersion,
    ServiceBrowser,
    ServiceInfo,
    ServiceStateChange,
    Zeroconf,
)

from agent.sighting import ADDRESSES_MAX, Sighting, read_properties
from agent.transport.addresses import parse
from protocol.ids import PeerId

SERVICE_TYPE: Final = "_shoal._udp.local."

logger = logging.getLogger(__name__)


class Announcement:
    """One registration and one browser, on one set of interfaces. Its calls block for up to 2 s."""

    def __init__(
        self,
        me: PeerId,
        hint: str,
        addresses: tuple[str, ...],
        saw: Callable[[Sighting], None],
    ) -> None:
        self._hint = hint
        self._saw = saw
        hosts = _hosts(addresses)
        v4 = [host for host in hosts if ip_address(host).version == 4]
        interfaces: list[str] | InterfaceChoice = list(v4) if v4 else InterfaceChoice.All
        version = IPVersion.V4Only if v4 else IPVersion.V6Only
        self._zeroconf = Zeroconf(interfaces=interfaces, ip_version=version)
        try:
            self._zeroconf.register_service(_service_info(me, hint, addresses, hosts))
            self._browser = ServiceBrowser(self._zeroconf, SERVICE_TYPE, handlers=[self._on_change])
        except BaseException:
            self._zeroconf.close()
            raise

    def close(self) -> None:
        """Say goodbye and stop the thread."""
        try:
            self._browser.cancel()
            self._zeroconf.unregister_all_services()
        except Exception as error:
            logger.info("closing mDNS: %r", error)
        finally:
            self._zeroconf.close()

    def _on_change(
        self,
        zeroconf: Zeroconf,
        service_type: str,
        name: str,
        state_change: ServiceStateChange,
    ) -> None:
        """On zeroconf's thread, which must not wait: the text record comes with the answer, or
        is an Updated soon after."""
        if state_change is ServiceStateChange.Removed:
            return
        info = ServiceInfo(service_type, name)
        info.load_from_cache(zeroconf)
        sighting = read_properties(info.properties, self._hint)
        if sighting is not None:
            self._saw(sighting)


def _service_info(
    me: PeerId, hint: str, addresses: tuple[str, ...], hosts: list[str]
) -> ServiceInfo:
    properties = {"id": str(me), "hint": hint}
    for n, address in enumerate(addresses[:ADDRESSES_MAX]):
        properties[f"a{n}"] = address
    return ServiceInfo(
        SERVICE_TYPE,
        f"{me}.{SERVICE_TYPE}",
        addresses=[_packed(host) for host in hosts],
        port=parse(addresses[0])[0].port,
        properties=properties,
        server=f"{me}.local.",
    )


def _hosts(addresses: tuple[str, ...]) -> list[str]:
    """The IP addresses of this device among our multiaddrs: those are the interfaces to be on.

    Raises OSError if there is none. Tried here, since zeroconf leaks a socket where it fails.
    """
    endpoints = [parse(address)[0] for address in addresses]
    named = list(dict.fromkeys(one.host for one in endpoints if not one.named))
    hosts = [host for host in named if _is_local(host)]
    if not hosts:
        raise OSError(f"none of {', '.join(named) or 'our names'} is an address of this device")
    return hosts


def _is_local(host: str) -> bool:
    """Announced addresses may be a router's, forwarded to us."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
        try:
            trial.bind((host, 0))
        except OSError:
            return False
    return True


def _packed(host: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
