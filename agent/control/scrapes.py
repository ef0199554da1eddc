"""Scrapes over TCP: the metrics for a Prometheus elsewhere, on a port of their own.

Nothing of the control API is there: the socket's rights are what guards that. A stranger who
connects is bounded in number, size and time, and may read figures.
"""

from __future__ import annotations

import logging
import socket
from typing import Final

import trio

from agent.control.backend import Backend
from agent.control.routes import build_metrics_app
from agent.control.server import Limits, Server
from agent.settings import host_and_port

# A scrape is one request; some Prometheus, a person's browser and a stranger who holds on to his.
LIMITS: Final = Limits(connections_max=16, write_s=10.0, idle_s=10.0, body_s=5.0)
BACKLOG: Final = 16
RETRY_S: Final = 5.0  # first, doubling: an address may come with the network
RETRY_MAX_S: Final = 60.0

log = logging.getLogger(__name__)


class Scrapes:
    """Listens where the configuration says, or tries to; the agent is well without."""

    def __init__(self, backend: Backend, listen: str, limits: Limits = LIMITS) -> None:
        """`listen` is empty where there is to be no port."""
        self._backend = backend
        self._listen = listen
        self._limits = limits
        self.address = ""  # host:port where it listens
        self.trouble = ""  # why it does not, for a person

    async def run(self) -> None:
        """Until cancelled. Returns at once where it is off."""
        if not self._listen:
            return
        pause_s = RETRY_S
        while True:
            try:
                bound = _bind(*host_and_port(self._listen))
            except OSError as error:
                trouble = (
                    f"metrics.listen: {self._listen}: {(error.strerror or str(error)).lower()}"
                )
                if trouble != self.trouble:
                    log.warning("%s; it is tried again", trouble)
                self.trouble = trouble
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_MAX_S)
                continue
            await self._serve(bound)

    async def _serve(self, bound: socket.socket) -> None:
        host, port = bound.getsockname()[:2]
        self.address, self.trouble = f"[{host}]:{port}" if ":" in host else f"{host}:{port}", ""
        log.info("metrics at http://%s/metrics", self.address)
        server = Server(build_metrics_app(self._backend), self._limits)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound))
        try:
            await server.run(listener, lambda: None)
        finally:
            self.address = ""
            bound.close()


def _bind(host: str, port: int) -> socket.socket:
    """Raises OSError."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        # A restart finds the port although connections of before still linger.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made
