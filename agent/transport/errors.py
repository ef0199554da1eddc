"""What the transport raises: each one either a sentence for a person or a stream that ended."""

from __future__ import annotations

from protocol.errors import ShoalError
from protocol.ids import PeerId


class PortInUse(ShoalError):
    """Another program listens at `address`; the text names it and the way out."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"{address} is taken by another program. If a second agent runs on this device, "
            "stop it; otherwise choose another port with --listen or `listen` in config.toml"
        )
        self.address = address


class AddressInvalid(ShoalError, ValueError):
    """Not a multiaddr that this transport can listen on or dial."""


class CloneDetected(ShoalError):
    """Others say that an agent with our key, but not of our boot, is connected to them."""

    def __init__(self, reporters: tuple[PeerId, ...]) -> None:
        super().__init__(
            f"{len(reporters)} other(s) are connected to another agent with this device's key: it "
            "was cloned. To give this one an identity of its own: `shoal join --new-identity TOKEN`"
        )
        self.reporters = reporters


class StreamFailed(ShoalError):
    """The stream, or the connection under it, is gone, or a deadline on it passed."""


class NotReachable(ShoalError):
    """No connection to the peer could be made."""


class Refused(ShoalError):
    """The other side answered with a Goodbye instead of a Hello."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"refused ({code}): {text}")
        self.code = code
        self.text = text
