"""Nothing that a peer does ends the agent: real hosts on loopback, some in their own process."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median

import pytest
import trio
from libp2p.pubsub.pb import rpc_pb2

from agent.identity import IdentityKeyring
from agent.transport import NotReachable, StreamFailed
from agent.transport.gossip import topic_of
from agent.transport.streams import Stream, framed
from protocol.events import FrameReceived, GossipReceived, PeerConnected, PeerDisconnected
from tests.agent import keys
from tests.agent.transport.peers import Peer, connect, member, running

ROOT = Path(__file__).parents[2]
TOPIC = topic_of(keys.root().shoal)


# ---- peers in processes of their own ----------------------------------------------------------


class Process:
    """tests/integration/echo_peer.py and the lines that it prints."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.told: list[dict[str, object]] = []
        self._buffer = b""

    async def tells(self, kind: str, **fields: object) -> dict[str, object]:
        """The next line of this kind, with these fields."""
        wanted = {"kind": kind, **fields}
        with trio.fail_after(60):
            while True:
                for line in self.told:
                    if wanted.items() <= line.items():
                        self.told.remove(line)
                        return line
                assert self.process.stdout is not None
                data = await self.process.stdout.receive_some()
                assert data, "the process ended"
                *lines, self._buffer = (self._buffer + data).split(b"\n")
                self.told += [json.loads(line) for line in lines]

    async def gossip(self, text: str) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(f"gossip {text}\n".encode())

    def kill(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)


@asynccontextmanager
async def process(name: str, port: int, *keep: str) -> AsyncIterator[Process]:
    command = [sys.executable, "-m", "tests.integration.echo_peer", name, str(port), *keep]
    async with trio.open_nursery() as nursery:
        started: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                check=False,
            )
        )
        one = Process(started)
        await one.tells("listening")
        try:
            yield one
        finally:
            for number in (signal.SIGCONT, signal.SIGKILL):
                if started.poll() is None:
                    one.kill(number)
            nursery.cancel_scope.cancel()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def at(port: int) -> tuple[str, ...]:
    return (f"/ip4/127.0.0.1/tcp/{port}",)


async def test_a_killed_peer_is_known_at_once_and_then_refused() -> None:
    a, port = member("a"), free_port()
    b = keys.member("b").peer
    async with running(a), process("b", port) as other:
        a.transport.keep(b, at(port))
        await a.event(PeerConnected, b)
        begun = trio.current_time()
        other.kill(signal.SIGKILL)
        await a.event(PeerDisconnected, b)
        known = trio.current_time() - begun
        assert (await a.event(PeerDisconnected, b, nth=2)).refused
        refused = trio.current_time() - begun
        print(f"known after {known:.3f} s, refused after {refused:.3f} s")
        assert known < 2 and 0.5 <= refused < 5  # 0.05 s and 0.6 s where nobody else computes


async def test_a_frozen_peer_can_be_hung_up_on_and_comes_back() -> None:
    """Upstream notices a frozen peer after 120 s or never, and its close waits for it."""
    a, port = member("a"), free_port()
    b = keys.member("b").peer
    async with running(a), process("b", port) as other:
        a.transport.keep(b, at(port))
        await a.event(PeerConnected, b)
        other.kill(signal.SIGSTOP)
        while a.transport.send(b, bytes(100_000)):  # until its window and our outbox are full
            await trio.lowlevel.checkpoint()
        begun = trio.current_time()
        a.transport.hangup(b)
        assert not (await a.event(PeerDisconnected, b)).refused
        assert trio.current_time() - begun < 0.5
        other.kill(signal.SIGCONT)
        await a.event(PeerConnected, b, nth=2)


async def test_a_new_boot_beside_a_frozen_old_one_is_no_clone() -> None:
    a, port = member("a"), free_port()
    b = keys.member("b").peer
    async with running(a), process("b", port, a.id, a.addresses[0]) as old:
        await a.event(PeerConnected, b)
        old.kill(signal.SIGSTOP)
        async with process("b", free_port(), a.id, a.addresses[0]):
            await a.event(PeerConnected, b, nth=2)
            assert a.clones == []


async def test_after_kill_and_quick_restart_gossip_flows_both_ways() -> None:
    a, port = member("a"), free_port()
    b = keys.member("b").peer
    async with running(a):
        a.transport.keep(b, at(port))
        for turn in range(2):
            async with process("b", port) as other:
                await a.event(PeerConnected, b, nth=turn + 1)
                with trio.fail_after(60):
                    while f"of {turn}".encode() not in a.rumours():
                        await other.gossip(f"of {turn}")
                        with trio.move_on_after(0.2):
                            await a.event(GossipReceived, nth=len(a.rumours()) + 1)
                    heard = False
                    while not heard:
                        a.transport.gossip(f"to {turn}".encode())
                        with trio.move_on_after(0.2):
                            await other.tells("gossip", text=f"to {turn}")
                            heard = True
            assert a.clones == []


async def test_a_frame_and_its_echo_take_milliseconds() -> None:
    a, port = member("a"), free_port()
    b = keys.member("b").peer
    async with running(a), process("b", port):
        a.transport.keep(b, at(port))
        await a.event(PeerConnected, b)
        taken = []
        for turn in range(200):
            begun = trio.current_time()
            a.transport.send(b, bytes(300))
            await a.event(FrameReceived, b, nth=turn + 1)
            taken.append(trio.current_time() - begun)
        print(f"300 bytes there and back: p50 {median(taken) * 1000:.2f} ms")
        assert median(taken) < 0.02  # 0.4 ms on an idle machine; this one may be busy


# ---- malformed gossip -------------------------------------------------------------------------


def rpc(**message: object) -> bytes:
    fields: dict[str, object] = {
        "from_id": keys.peer_bytes("b"),
        "data": b"x",
        "seqno": b"12345678",
        "topicIDs": [TOPIC],
        "signature": b"s" * 64,
        "key": b"",
    }
    return rpc_pb2.RPC(publish=[rpc_pb2.Message(**(fields | message))]).SerializeToString()


def control(**parts: object) -> bytes:
    return rpc_pb2.RPC(control=rpc_pb2.ControlMessage(**parts)).SerializeToString()


MALFORMED = {
    "no protobuf": b"\xff" * 40,
    "cut off": rpc()[:-5],
    "no author": rpc(from_id=b""),
    "author is no peer id": rpc(from_id=b"\x00\x01\x02"),
    "author of 10,000 bytes": rpc(from_id=b"\x12\x20" + bytes(10_000)),
    "malformed key": rpc(from_id=b"\x12\x20" + bytes(32), key=b"\xff\xff\xff"),
    "key of an unknown type": rpc(from_id=b"\x12\x20" + bytes(32), key=b"\x08\x09\x12\x01x"),
    "RSA key that is none": rpc(from_id=b"\x12\x20" + bytes(32), key=b"\x08\x00\x12\x03abc"),
    "Ed25519 key of 3 bytes": rpc(from_id=b"\x12\x20" + bytes(32), key=b"\x08\x01\x12\x03abc"),
    "no signature": rpc(signature=b""),
    "wrong signature": rpc(),
    "no number": rpc(seqno=b""),
    "number of 1,000 bytes": rpc(seqno=bytes(1000)),
    "no topic": rpc(topicIDs=[]),
    "another topic": rpc(topicIDs=[TOPIC, "other"]),
    "too long": rpc(data=bytes(60_000)),
    "record that is none": rpc_pb2.RPC(senderRecord=b"\xff" * 50).SerializeToString(),
    "10,000 subscriptions": rpc_pb2.RPC(
        subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=str(n)) for n in range(5000)]
    ).SerializeToString(),
    "graft of nothing": control(graft=[rpc_pb2.ControlGraft(topicID="nothing")]),
    "ids that are code": control(
        ihave=[rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=[b"__import__('os')", b"\xff("])],
        iwant=[rpc_pb2.ControlIWant(messageIDs=[b"__import__('os')", b"\xff(", b"b'"])],
    ),
    "do not want anything": control(
        idontwant=[rpc_pb2.ControlIDontWant(messageIDs=[bytes([n % 256]) * 8 for n in range(999)])]
    ),
    "peers to dial": control(
        prune=[
            rpc_pb2.ControlPrune(
                topicID=TOPIC,
                backoff=1,
                peers=[rpc_pb2.PeerInfo(peerID=b"\x00", signedPeerRecord=b"\xff")],
            )
        ]
    ),
    "nothing": b"",
}


def delimited(data: bytes) -> bytes:
    length, size = b"", len(data)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return length + bytes([size]) + data


async def gossip_stream(one: Peer, other: Peer) -> Stream:
    link = one.transport._table.get(other.id)
    assert link is not None
    return await one.transport._network.open(link.connection, "/meshsub/1.1.0")


async def assert_gossip_flows(one: Peer, other: Peer) -> None:
    text = os.urandom(8)
    with trio.fail_after(60):
        while text not in other.rumours():
            one.transport.gossip(text)
            with trio.move_on_after(0.1):
                await other.event(GossipReceived, nth=len(other.rumours()) + 1)


async def test_malformed_gossip_of_a_member_costs_its_stream_and_nothing_else() -> None:
    a, bad, good = member("a"), member("b"), member("c")
    async with running(a, bad, good):
        await connect(bad, a)
        await connect(good, a)
        cases = [delimited(data) for data in MALFORMED.values()]
        cases += [b"\xff" * 11, delimited(bytes(70_000))[:3], b"\x05ab"]
        for data in cases:
            stream = await gossip_stream(bad, a)
            await stream.send_all(data)
            await stream.aclose()
            with trio.move_on_after(0.2), suppress(StreamFailed):
                while await stream.receive_some():
                    pass
        await assert_gossip_flows(good, a)
        assert a.count("malformed.gossip") >= 6
        assert a.count("failed.gossip") == 0 and a.count("failed.task") == 0
        assert a.transport.connected() == sorted([bad.id, good.id])


def counted_more(peer: Peer, before: int) -> bool:
    return peer.count("malformed.gossip") > before


async def test_who_goes_on_sending_garbage_is_kept_out_for_a_while() -> None:
    a, bad = member("a"), member("b")
    async with running(a, bad):
        await connect(bad, a)
        while (before := a.count("malformed.gossip")) <= 32:
            stream = await gossip_stream(bad, a)
            await stream.send_all(delimited(MALFORMED["no protobuf"]))
            await stream.aclose()
            await a.until(partial(counted_more, a, before))
        bad.transport.hangup(a.id)
        await a.until(lambda: a.count("refused.gate") >= 1)
        assert a.transport.connected() == []


async def test_a_member_that_floods_gossip_is_slowed_and_replays_are_dropped() -> None:
    a, loud = member("a", gossip_rate=1.0, gossip_burst=10), member("b")
    async with running(a, loud):
        await connect(loud, a)
        await assert_gossip_flows(loud, a)
        for n in range(200):
            loud.transport.gossip(f"flood {n}".encode())
        await a.until(lambda: a.count("drop.gossip-rate") > 50)
        assert len(a.rumours()) <= 20


# ---- strangers --------------------------------------------------------------------------------


def port_of(peer: Peer) -> int:
    return int(peer.addresses[0].rsplit("/", 1)[1])


async def test_300_garbage_connections_are_survived() -> None:
    a, b = member("a"), member("b")
    rng = random.Random(7)
    openings = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x20" + bytes(32),
        b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff" + bytes(70_000),
        b"\x13/multistream/1.0.0\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x13/multistream/1.0.0\n\x04\xff\xfe\xfd\n",
        b"",
    ]
    async with running(a, b):
        for n in range(300):
            stream = await trio.open_tcp_stream("127.0.0.1", port_of(a))
            data = openings[n % 8] if n % 8 < 7 else rng.randbytes(rng.randrange(1, 500))
            try:
                await stream.send_all(data)
                if n % 3:
                    await stream.send_eof()
            except trio.BrokenResourceError:
                pass
            await stream.aclose()
        await connect(b, a)
        await a.until(lambda: a.count("refused.handshake") == 300)
        assert a.count("failed.task") == 0


async def test_silent_sockets_do_not_keep_members_out() -> None:
    """2,000 of them kept real peers out for 10 s upstream."""
    a, b = member("a"), member("b")
    async with running(a, b):
        silent = [await trio.open_tcp_stream("127.0.0.1", port_of(a)) for _ in range(400)]
        begun = trio.current_time()
        await connect(b, a)
        assert trio.current_time() - begun < 5
        assert a.count("refused.handshake-flood") >= 300
        for stream in silent:
            await stream.aclose()


@pytest.mark.parametrize("protocol", ["/plaintext/2.0.0", "/secio/1.0.0", "/tls/1.0.0"])
async def test_nothing_but_noise_is_spoken(protocol: str) -> None:
    """Upstream offers plaintext by default, and another peer id was impersonated through it."""
    a = member("a")
    async with running(a):
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(a))
        async with stream:
            for text in ("/multistream/1.0.0\n", f"{protocol}\n"):
                await stream.send_all(bytes([len(text)]) + text.encode())
            answer = b""
            with trio.fail_after(60):
                while not answer.endswith(b"\n\x03na\n"):
                    answer += await stream.receive_some(100)


async def test_a_stranger_may_ping_but_gets_no_message_gossip_or_archive_stream() -> None:
    a = member("a", hello_s=1.0)

    async def archive(stream: Stream) -> None:
        await stream.write_frame(b"secret")

    a.transport.serve("/shoal/archive/1", archive, members_only=True)
    a.transport.serve("/shoal/join/1", archive, members_only=False)
    stranger = Peer(IdentityKeyring(keys.seed("stranger")))
    async with running(a, stranger):
        async with stranger.transport.dial_for_join(f"{a.addresses[0]}/p2p/{a.id}"):
            network = stranger.transport._network
            (connection,) = network.connections.all()
            ping = await network.open(connection, "/ipfs/ping/1.0.0")
            await ping.send_all(bytes(range(32)))
            assert await ping.receive_some(32) == bytes(range(32))
            assert await network.open(connection, "/ipfs/id/1.0.0")
            for protocol in ("/shoal/archive/1", "/meshsub/1.1.0"):
                stream = await network.open(connection, protocol)
                with pytest.raises((StreamFailed, EOFError)):
                    await stream.read_frame(timeout_s=5)
            stream = await network.open(connection, "/shoal/msg/1")
            await stream.send_all(framed(b"\x80"))
            assert b"not-a-member" in await stream.read_frame()
        assert a.events == [] and a.count("refused.gossip-stream") == 1


async def test_a_stranger_cannot_hold_many_streams_or_connections() -> None:
    a = member("a", guests_max=3)

    async def join(stream: Stream) -> None:
        await stream.read_frame(timeout_s=60)

    a.transport.serve("/shoal/join/1", join, members_only=False)
    strangers = [Peer(IdentityKeyring(keys.seed(f"stranger {n}"))) for n in range(5)]
    async with running(a, *strangers):
        address = f"{a.addresses[0]}/p2p/{a.id}"
        async with strangers[0].transport.dial_for_join(address):
            network = strangers[0].transport._network
            (connection,) = network.connections.all()
            streams = [connection.muxed.open() for _ in range(20)]
            await a.until(lambda: sum(stream._reset for stream in streams) >= 12)
        async with trio.open_nursery() as nursery:

            async def stay(stranger: Peer) -> None:
                with pytest.raises((StreamFailed, NotReachable, EOFError)):
                    async with stranger.transport.dial_for_join(address) as stream:
                        await stream.read_frame(timeout_s=2)

            for stranger in strangers:
                nursery.start_soon(stay, stranger)
        assert a.count("refused.guests-max") >= 2


async def test_a_member_that_sends_an_oversized_frame_loses_its_connection() -> None:
    a, bad = member("a"), member("b")
    async with running(a, bad):
        await connect(bad, a)
        link = bad.transport._table.get(a.id)
        assert link is not None
        link._stream.muxed.try_write(b"\x7f\xff\xff\xff" + bytes(100))
        await a.event(PeerDisconnected, bad.id)
        assert a.count("malformed.frame") == 1


async def test_reconnecting_does_not_use_up_anything() -> None:
    """Upstream keeps a slot and a task for every inbound connection until the host ends: after 250
    it was deaf."""
    a, b = member("a"), member("b")
    async with running(a, b):
        for turn in range(300):
            b.transport.learn(a.id, a.addresses)
            b.transport.send(a.id, b"hello")
            await a.event(FrameReceived, b.id, nth=turn + 1)
            b.transport.hangup(a.id)
            await a.event(PeerDisconnected, b.id, nth=turn + 1)
            await b.event(PeerDisconnected, a.id, nth=turn + 1)
            b.transport._dialer.encourage(a.id)
        assert len(a.transport._network.connections.all()) <= 1
        # Those of the last connections may still be ending; what leaks would stay.
        await a.until(lambda: trio.lowlevel.current_statistics().tasks_living < 200)
