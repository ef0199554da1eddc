"""The diet: parts of libp2p that it loads at its top and an agent never uses stay out of memory.

TCP, Noise, Yamux and gossip are all that is used here; QUIC, WebTransport and automatic TLS
certificates come along unasked with `import libp2p`, and bring aioquic,
requests and httpx: 11 MB resident of 97 (measured, libp2p 0.8.1, which is pinned). An empty package
stands in for each. Names imported from one are types that are no use to anybody.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

UNUSED: Final = (
    "aioquic",
    "httpx",
    "libp2p.transport.quic",
    "libp2p.transport.webtransport",
    "requests",
)


class _Empty(ModuleType):
    """Gives a new type for every name, so that `from … import Name` and `isinstance` work."""

    def __getattr__(self, name: str) -> type[Exception]:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Exception,), {"__module__": self.__name__})


class _Diet(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if any(fullname == name or fullname.startswith(f"{name}.") for name in UNUSED):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Empty(spec.name, "left out, see agent/transport/diet.py")

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing in it."""


def apply() -> None:
    """Before libp2p is imported; what was imported already, for real, stays.

    The finder is taken away again with `end`, so that nobody else is surprised by it.
    """
    if not any(isinstance(finder, _Diet) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Diet())


def end() -> None:
    """Who imports one of them from here on gets the real one: docker's SDK needs requests."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Diet)]
    for name, module in list(sys.modules.items()):
        if isinstance(module, _Empty) and not name.startswith("libp2p."):
            del sys.modules[name]
