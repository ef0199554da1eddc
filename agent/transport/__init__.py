"""The transport: a hardened libp2p host and the message streams between members.

Only the agent imports this: libp2p costs 0.7 s and 40 MB.
"""

from agent import diet

with diet.without(diet.LIBP2P):
    from agent.transport.errors import (
        AddressInvalid,
        CloneDetected,
        NotReachable,
        PortInUse,
        Refused,
        StreamFailed,
    )
    from agent.transport.settings import (
        ARCHIVE_PROTOCOL,
        JOIN_PROTOCOL,
        LOG_PROTOCOL,
        MESSAGE_PROTOCOL,
        TransportSettings,
    )
    from agent.transport.streams import Stream
    from agent.transport.transport import Transport, TransportEvent, TransportKeyring

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
