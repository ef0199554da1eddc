"""A lab whose agents have networks of their own: cuts, loss, cables pulled, NATs.

    with NetLab(5) as lab:
        lab.partition([lab[0], lab[1]], [lab[2], lab[3], lab[4]])
        lab.heal()

Public hosts hang on one switch as 10.77.0.1, 10.77.0.2 and so on; private ones, 192.168.N.2 and
on, behind a router for each network, which lets nothing in that they did not ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations

from protocol.records import Role
from tests.lab import Device, Lab
from tests.namespaces import Namespaces

SWITCH = "br0"
PRIVATE = "lan0"  # a router's side of its private network
PUBLIC = "eth0"  # its other side, and every host's only interface


class NetLab(Lab):
    """`public` hosts on one switch, and for each number in `behind` so many behind one NAT."""

    def __init__(self, public: int, behind: Sequence[int] = ()) -> None:
        self.networks = Namespaces()
        self.namespaces: dict[str, str] = {}  # by device's name
        self._ports: dict[str, tuple[str, str]] = {}  # by device's name: switch and port there
        self._cuts: set[tuple[str, str]] = set()  # ports of the public switch
        self.private: list[list[Device]] = []
        super().__init__(0)
        try:
            self._switch = self.networks.add("switch")
            self.networks.bridge(self._switch, SWITCH)
            for _ in range(public):
                self.plug(self.add(f"d{len(self.devices):02d}"))
            for number, size in enumerate(behind, start=1):
                self.private.append(self._network(number, size))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        super().close()
        self.networks.close()

    # ---- building ----------------------------------------------------------------------------

    def add(self, name: str, roles: tuple[Role, ...] = tuple(Role)) -> Device:
        device = super().add(name, roles)
        self.namespaces[name] = namespace = self.networks.add(name)
        device.within = ("ip", "netns", "exec", namespace)
        device.listen = ("--listen", "/ip4/0.0.0.0/tcp/4001", "--no-mdns")
        return device

    def plug(self, device: Device) -> None:
        """Onto the public switch."""
        number = self.devices.index(device) + 1
        port = self._plug(self.namespaces[device.name], device.name, number)
        self._ports[device.name] = (self._switch, port)

    def host(self, name: str, number: int) -> str:
        """One that is no device, as 10.77.0.<number>; its namespace. No partition cuts it off."""
        namespace = self.networks.add(name)
        self._plug(namespace, name, number)
        return namespace

    def _plug(self, namespace: str, name: str, number: int) -> str:
        port = f"p-{name}"
        self.networks.cable(namespace, PUBLIC, self._switch, port, SWITCH)
        self.networks.address(namespace, PUBLIC, f"10.77.0.{number}/24")
        return port

    def _network(self, number: int, size: int) -> list[Device]:
        """A private network behind a router that lets nobody in."""
        router = self.networks.add(f"nat{number}")
        self.networks.cable(router, PUBLIC, self._switch, f"p-nat{number}", SWITCH)
        self.networks.address(router, PUBLIC, f"10.77.0.{200 + number}/24")
        self.networks.bridge(router, PRIVATE)
        self.networks.address(router, PRIVATE, f"192.168.{number}.1/24")
        self.networks.forwarding(router)
        self.networks.nft(router, MASQUERADE)
        hosts = []
        for place in range(size):
            device = self.add(f"n{number}{place:02d}")
            namespace, port = self.namespaces[device.name], f"p-{device.name}"
            self.networks.cable(namespace, PUBLIC, router, port, PRIVATE)
            self.networks.address(namespace, PUBLIC, f"192.168.{number}.{place + 2}/24")
            self.networks.default_route(namespace, f"192.168.{number}.1")
            self._ports[device.name] = (router, port)
            hosts.append(device)
        return hosts

    # ---- what goes wrong ---------------------------------------------------------------------

    def partition(self, *groups: Sequence[Device]) -> None:
        """Only hosts of one group hear each other; of public hosts."""
        pairs = [
            (one, other)
            for here, there in combinations(groups, 2)
            for one in here
            for other in there
        ]
        self._cut([*pairs, *((other, one) for one, other in pairs)])

    def cut(self, sender: Device, receiver: Device) -> None:
        """Nothing passes this way; the other way does. Of public hosts."""
        self._cut([(sender, receiver)])

    def heal(self) -> None:
        """Everything passes again; loss stays."""
        self._cuts.clear()
        self._apply()

    def lose(self, percent: int) -> None:
        """Each host loses so many of the packets that it receives, by chance; 0: none."""
        rule = f'iifname "{PUBLIC}" numgen random mod 100 < {percent} drop'
        for device in self.devices:
            namespace = self.namespaces[device.name]
            self._rules(namespace, "inet loss", "input", [rule] if percent else [])

    def link(self, device: Device, state: str) -> None:
        """Its cable is pulled ("down") or put back ("up")."""
        switch, port = self._ports[device.name]
        self.networks.link(switch, port, state)

    def _cut(self, pairs: Sequence[tuple[Device, Device]]) -> None:
        for sender, receiver in pairs:
            (switch, source), (other, target) = (
                self._ports[device.name] for device in (sender, receiver)
            )
            assert switch == other == self._switch, "only public hosts are cut apart"
            self._cuts.add((source, target))
        self._apply()

    def _apply(self) -> None:
        drops = [f'iifname "{one}" oifname "{other}" drop' for one, other in sorted(self._cuts)]
        self._rules(self._switch, "bridge cuts", "forward", drops)

    def _rules(self, namespace: str, table: str, hook: str, rules: Sequence[str]) -> None:
        """These, in place of those before."""
        chain = [f"type filter hook {hook} priority 0;", *rules]
        lines = [f"table {table}", f"delete table {table}", f"table {table} {{"]
        lines += ["chain here {", *chain, "}", "}", ""]
        self.networks.nft(namespace, "\n".join(lines))

    # ---- looking -----------------------------------------------------------------------------

    def carried(self, device: Device) -> tuple[int, int]:
        """Bytes that its interface has sent and received, with the heads of IP and TCP."""
        return self.networks.carried(self.namespaces[device.name], PUBLIC)

    def pairs(self) -> list[tuple[Device, Device]]:
        """Everybody with everybody else."""
        return list(permutations(self.devices, 2))


MASQUERADE = f"""
table ip nat {{
    chain out {{
        type nat hook postrouting priority 100;
        oifname "{PUBLIC}" masquerade
    }}
}}
table ip filter {{
    chain forward {{
        type filter hook forward priority 0; policy drop;
        iifname "{PRIVATE}" accept
        ct state established,related accept
    }}
}}
"""
