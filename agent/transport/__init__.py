"""The transport: a hardened libp2p host and the message streams between members.

Only the agent imports this: libp2p costs 0.7 s and 50 MB.
"""

from agent.transport import diet

diet.apply()

from agent.transport.errors import (  # noqa: E402
    AddressInvalid,
    CloneDetected,
    NotReachable,
    PortInUse,
    Refused,
    StreamFailed,
)
from agent.transport.settings import (  # noqa: E402
    ARCHIVE_PROTOCOL,
    JOIN_PROTOCOL,
    LOG_PROTOCOL,
    MESSAGE_PROTOCOL,
    TransportSettings,
)
from agent.transport.streams import Stream  # noqa: E402
from agent.transport.transport import Transport, TransportEvent, TransportKeyring  # noqa: E402

diet.end()

__all__ = [
    "ARCHIVE_PROTOCOL",
    "JOIN_PROTOCOL",
    "LOG_PROTOCOL",
    "MESSAGE_PROTOCOL",
    "AddressInvalid",
    "CloneDetected",
    "NotReachable",
    "PortInUse",
    "Refused",
    "Stream",
    "StreamFailed",
    "Transport",
    "TransportEvent",
    "TransportKeyring",
    "TransportSettings",
]
