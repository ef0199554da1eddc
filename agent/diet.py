"""The diet: parts of libraries that they load at their top and an agent never uses stay out of
memory.

Of libp2p TCP, Noise, Yamux and gossip are all that is used here, of hypercorn HTTP/1.1. The rest
comes along unasked, and was 24 MB resident of 98 (measured, with the versions that are pinned). An
empty package stands in for each. Names imported from one are types that are no use to anybody.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

LIBP2P: Final = (
    # QUIC, WebTransport, WebSocket, TLS with certificates that it fetches by itself
    "aioquic",
    "httpx",
    "requests",
    "trio_websocket",
    "libp2p.security.tls",
    "libp2p.transport.quic",
    "libp2p.transport.websocket",
    "libp2p.transport.webtransport",
    # keys of other kinds than Ed25519: transport/security.py takes their readers away as well
    "Crypto",
    "coincurve",
    "fastecdsa",
    "libp2p.security.secio",
    # names, routers, relays, a hash table, blocks: ours are in discovery.py, dialer.py, relay.py
    "dns",
    "miniupnpc",
    "multiaddr.resolvers",
    "libp2p.bitswap",
    "libp2p.discovery",
    "libp2p.kad_dht",
    "libp2p.relay",
    # its own figures; ours are in metrics.py, and load it when somebody asks
    "prometheus_client",
)
HYPERCORN: Final = (
    "hpack",
    "hyperframe",
    "h2",
    "wsproto",
    "hypercorn.protocol.h2",
    "hypercorn.protocol.ws_stream",
)


class _Empty(ModuleType):
    """Gives a new type for every name, so that `from … import Name` and `isinstance` work."""

    def __getattr__(self, name: str) -> type[Exception]:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Exception,), {"__module__": self.__name__})


class _Diet(MetaPathFinder, Loader):
    def __init__(self, unused: Sequence[str]) -> None:
        self.unused = frozenset(unused)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parts = fullname.split(".")
        if any(".".join(parts[:n]) in self.unused for n in range(1, len(parts) + 1)):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Empty(spec.name, "left out, see agent/diet.py")

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing in it."""


@contextmanager
def without(unused: Sequence[str]) -> Iterator[None]:
    """Around imports; what was imported already, for real, stays.

    Who imports one of them from here on gets the real one: docker's SDK needs requests, and the
    first scrape of the metrics prometheus_client. Only libp2p's own parts stay away, since it
    loads more of them while it runs.
    """
    finder = _Diet(unused)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.unused = frozenset(name for name in unused if name.startswith("libp2p."))
        if not finder.unused:
            sys.meta_path.remove(finder)
        for name, module in list(sys.modules.items()):
            if isinstance(module, _Empty) and not name.startswith("libp2p."):
                del sys.modules[name]
