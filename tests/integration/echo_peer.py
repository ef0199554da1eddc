"""A transport in a process of its own: echoes frames, gossips what it is told, tells its events.

Usage: python -m tests.integration.echo_peer NAME PORT [PEER MULTIADDR]
Lines in: `gossip TEXT`. Lines out: JSON objects.
"""

from __future__ import annotations

import json
import sys

import trio

from agent.transport import Transport, TransportEvent, TransportSettings
from protocol.events import FrameReceived, GossipReceived, PeerConnected, PeerDisconnected
from protocol.ids import PeerId
from tests.agent import keys


def tell(kind: str, **fields: object) -> None:
    print(json.dumps({"kind": kind, **fields}), flush=True)


async def serve(name: str, port: int, keep: list[str]) -> None:
    send, receive = trio.open_memory_channel[TransportEvent](64)
    settings = TransportSettings(listen=(f"/ip4/127.0.0.1/tcp/{port}",))
    transport = Transport(keys.member(name), settings, send)
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        nursery.start_soon(obey, transport)
        if keep:
            transport.keep(PeerId(keep[0]), (keep[1],))
        tell("listening", addresses=transport.addresses())
        async for event in receive:
            match event:
                case FrameReceived(peer, frame):
                    transport.send(peer, frame)
                case GossipReceived(frame):
                    tell("gossip", text=frame.decode())
                case PeerConnected(peer):
                    tell("connected", peer=peer)
                case PeerDisconnected(peer, refused):
                    tell("disconnected", peer=peer, refused=refused)


async def obey(transport: Transport) -> None:
    stdin = trio.lowlevel.FdStream(0)
    buffer = b""
    while data := await stdin.receive_some():
        buffer += data
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            transport.gossip(line.removeprefix(b"gossip "))


if __name__ == "__main__":
    trio.run(serve, sys.argv[1], int(sys.argv[2]), sys.argv[3:])
