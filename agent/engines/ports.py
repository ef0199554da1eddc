"""Ports of this device that are chosen for a task as it starts."""

from __future__ import annotations

import errno
import re
import secrets
import socket
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import msgspec

from protocol.network import Port

# As Bacalhau's; below what Linux gives to outgoing connections, which could take one meanwhile.
FIRST: Final = 20_000
LAST: Final = 32_000
TRIES_MAX: Final = 200
LATELY: Final = 256  # ports that were given are not given again so soon: their tasks may be slow
NOTE: Final = "ports"  # beside an execution, for another life of the agent
_OTHER: Final = re.compile(r"[^A-Za-z0-9_]")


class Ports:
    """Used by threads, too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lately: OrderedDict[int, None] = OrderedDict()

    def choose(self, ports: Sequence[Port]) -> tuple[Port, ...]:
        """The same with a number of the device for each; within a bridge it is the target's too,
        where that has none. Raises OSError where none is free."""
        return tuple(self._chosen(port) for port in ports)

    def _chosen(self, port: Port) -> Port:
        static = port.static or self._free()
        return Port(port.name, static, port.target or static)

    def _free(self) -> int:
        with self._lock:
            for _ in range(TRIES_MAX):
                number = FIRST + secrets.randbelow(LAST - FIRST + 1)
                if number not in self._lately and _is_free(number):
                    self._lately[number] = None
                    if len(self._lately) > LATELY:
                        self._lately.popitem(last=False)
                    return number
        raise OSError(f"no port between {FIRST} and {LAST} is free")


def _is_free(number: int) -> bool:
    for family, anywhere in ((socket.AF_INET, ""), (socket.AF_INET6, "::")):
        try:
            probe = socket.socket(family, socket.SOCK_STREAM)
        except OSError:  # a kernel without it
            continue
        with probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((anywhere, number))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:  # IPv6 is switched off
                    return False
    return True


def variables(ports: Sequence[Port], within: bool) -> dict[str, str]:
    """What a task is told of its ports, which all have a number, under the names that Bacalhau's
    job files expect. `within` a bridge it listens at the target, elsewhere at the device's."""
    found = {}
    for port in ports:
        name = _OTHER.sub("_", port.name)
        inner = port.target if within else port.static
        for prefix in ("SHOAL", "BACALHAU"):
            found[f"{prefix}_PORT_{name}"] = str(inner)
            found[f"{prefix}_HOST_PORT_{name}"] = str(port.static)
    return found


def note_of(ports: Sequence[Port]) -> bytes:
    return msgspec.json.encode([(port.name, port.static) for port in ports])


def read_note(data: bytes | None) -> tuple[tuple[str, int], ...]:
    """Name and number of each; none where nothing, or nothing that can be read, was kept."""
    try:
        return msgspec.json.decode(data or b"[]", type=tuple[tuple[str, int], ...])
    except msgspec.MsgspecError:
        return ()
