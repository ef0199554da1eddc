"""The network of a task: what it may reach, and at which ports of its device it is reached."""

from __future__ import annotations

from typing import Final

import msgspec

from protocol.tree import NAME, NAME_ALLOWED, Node, Plain

NETWORKS: Final = ("default", "none", "host", "bridge")
PORTS_MAX: Final = 16
PORT_MAX: Final = 65_535

FIELDS: Final = ("Type", "Ports")
HINTS: Final = {"Domains": "filtering by domain is not something this version has"}
PORT_FIELDS: Final = ("Name", "Static", "Target")
PORT_HINTS: Final = {"HostNetwork": "is not a key here; a port is published on every address"}


class Port(msgspec.Struct, frozen=True):
    """A port of the device, and the one it leads to within a bridge."""

    name: str
    static: int  # the same wherever the task runs; 0: each device chooses one at each start
    target: int  # without a bridge the same as the device's; 0: the one that is chosen

    @classmethod
    def read(cls, node: Node) -> Port:
        fields = node.fields(*PORT_FIELDS, later=PORT_HINTS)
        static = fields.read("Static", lambda at: at.integer(0, PORT_MAX), 0)
        return cls(
            name=fields.need("Name").matching(NAME, NAME_ALLOWED),
            static=static,
            target=fields.read("Target", lambda at: at.integer(1, PORT_MAX), static),
        )

    def to_plain(self) -> dict[str, Plain]:
        tree: dict[str, Plain] = {"Name": self.name}
        numbers = {"Static": self.static, "Target": self.target}
        return {**tree, **{key: number for key, number in numbers.items() if number}}


class NetworkSpec(msgspec.Struct, frozen=True):
    """What the task may reach. `default` leaves it to the engine and the device's policy."""

    type: str = "default"
    ports: tuple[Port, ...] = ()

    @classmethod
    def read(cls, node: Node) -> NetworkSpec:
        fields = node.fields(*FIELDS, later=HINTS)
        kind = fields.optional("Type", _read_type, "default")
        no_ports: tuple[Port, ...] = ()
        ports = fields.read("Ports", _read_ports, no_ports)
        if ports and kind == "none":
            fields.need("Ports").fail("a task without a network is reached at none; leave them out")
        return cls(kind, ports)

    def to_plain(self) -> dict[str, Plain]:
        tree: dict[str, Plain] = {"Type": self.type}
        ports: list[Plain] = [port.to_plain() for port in self.ports]
        return {**tree, "Ports": ports} if ports else tree


def _read_type(node: Node) -> str:
    if isinstance(node.value, str) and node.value.strip().lower() == "full":
        return "host"  # Bacalhau's deprecated name for it
    return node.choice(NETWORKS, "a network")


def _read_ports(node: Node) -> tuple[Port, ...]:
    found: list[Port] = []
    for item in node.items(PORTS_MAX):
        port = Port.read(item)
        if any(port.name == earlier.name for earlier in found):
            item.fail(f"the name '{port.name}' is taken by an earlier port")
        if port.static and any(port.static == earlier.static for earlier in found):
            item.fail(f"port {port.static} is taken by an earlier one")
        found.append(port)
    return tuple(found)
