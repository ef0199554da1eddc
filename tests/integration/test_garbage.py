"""Garbage at every port, stream and socket of a real agent: counted, dropped, and it lives."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import trio

from agent.archives import ARCHIVE_BYTES_MAX
from agent.client import AgentError
from agent.membership import load_member
from agent.transport import ARCHIVE_PROTOCOL, JOIN_PROTOCOL, LOG_PROTOCOL
from agent.transport.addresses import parse
from agent.transport.errors import NotReachable, StreamFailed
from protocol.events import PeerConnected
from protocol.ids import ExecutionId, PeerId
from protocol.messages import ArchiveAnswer, ArchiveRequest, LogChunk, LogRequest
from protocol.wire import decode_as, encode_message
from tests.agent import keys
from tests.agent.transport.peers import LOOPBACK, Peer, running
from tests.lab import Device, Lab

WITHIN_S = 60.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """d00 is bombarded; the rogue is a member whose agent is not ours."""
    lab = Lab(1)
    lab.add("rogue")
    try:
        lab.start(lab[0])
        yield lab
    finally:
        lab.close()


@pytest.fixture(autouse=True)
def lives(lab: Lab) -> Iterator[None]:
    """Whatever a test throws at it: the same process goes on and still does its work."""
    pid = lab[0].pid
    yield
    assert lab[0].process is not None and lab[0].process.poll() is None, lab[0].log()
    with lab[0].client() as client:
        assert client.status()["pid"] == pid
    assert lab.shoal(lab[0], "run", "-q", "--", "echo", "alive").out == "alive\n"
    assert "Traceback" not in lab[0].log()


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def counters(device: Device) -> dict[str, int]:
    with device.client() as client:
        return dict(client.status()["counters"])


def rogue(lab: Lab) -> Peer:
    return Peer(load_member(lab[1].data_dir).keyring, LOOPBACK)


async def meet(one: Peer, lab: Lab) -> PeerId:
    """Connect it to d00."""
    peer = PeerId(lab[0].peer)
    address = await trio.to_thread.run_sync(lab.address, lab[0])
    one.transport.keep(peer, (address.partition("/p2p/")[0],))
    await one.event(PeerConnected, peer)
    return peer


async def until(condition: Any) -> None:
    with trio.fail_after(WITHIN_S):
        while not await trio.to_thread.run_sync(condition):
            await trio.lowlevel.checkpoint()


# ---- the control socket -----------------------------------------------------------------------


def test_garbage_on_the_control_socket(lab: Lab) -> None:
    pieces = [
        noise(1, 10_000),
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0" * 70_000,
        b"POST /v1/jobs HTTP/1.1\r\n",
    ]
    pieces += [b"GET /v1/" + b"a" * 50_000, b"GET /v1/jobs/%00%ff/logs HTTP/1.1\r\nhost: x\r\n\r\n"]
    pieces += [b"POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n[[[[[[[[["]
    for piece in pieces:
        with socket.socket(socket.AF_UNIX) as sock, suppress(BrokenPipeError, ConnectionResetError):
            sock.settimeout(WITHIN_S)
            sock.connect(str(lab[0].socket))
            sock.sendall(piece)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass


def test_a_job_that_is_no_job_is_a_400(lab: Lab) -> None:
    deep: Any = []
    for _ in range(60):
        deep = [deep]
    with lab[0].client() as client:
        for spec in ({}, {"Name": 7}, {"Tasks": deep}, {"Type": "batch", "Name": "\0"}):
            with pytest.raises(AgentError) as caught:
                client.submit(spec)
            assert caught.value.status == 400


def test_an_archive_that_is_too_large_is_refused_with_the_bound(lab: Lab) -> None:
    with lab[0].client() as client, pytest.raises(AgentError, match="allowed: 16777216") as caught:
        client.put_archive(bytes(ARCHIVE_BYTES_MAX + 1))
    assert caught.value.status == 413
    big = lab.directory / "big"
    big.write_bytes(bytes(ARCHIVE_BYTES_MAX + 1))
    done = lab.shoal(lab[0], "run", "-f", str(big), "--", "true")
    assert done.code == 2 and "allowed: 16777216" in done.err, done
    assert not list((lab[0].data_dir / "archives").glob("*.part"))


def test_an_archive_that_is_none_fails_the_job_that_needs_it(lab: Lab) -> None:
    with lab[0].client() as client:
        kept = client.put_archive(noise(2, 5000))
        source = {"Type": "archive", "Params": {"Digest": kept["digest"], "Size": kept["size"]}}
        task = {
            "Name": "main",
            "Engine": {"Type": "process", "Params": {"Command": ["true"]}},
            "InputSources": [{"Source": source, "Target": "."}],
        }
        spec = {"Name": "bad", "Type": "batch", "Tasks": [task], "Retry": {"Attempts": 1}}
        *_, last = client.run(spec)
    assert last["final"]["state"] == "failed"
    assert "cannot be unpacked" in last["final"]["slots"][0]["reason"]


# ---- the libp2p port --------------------------------------------------------------------------


def test_garbage_on_the_port(lab: Lab) -> None:
    endpoint, _ = parse(lab.address(lab[0]))
    before = counters(lab[0])
    for number in range(20):
        with (
            socket.create_connection((endpoint.host, endpoint.port), WITHIN_S) as sock,
            suppress(BrokenPipeError, ConnectionResetError),
        ):
            sock.sendall(noise(number, 3000) if number % 2 else b"\x13/multistream/1.0.0\n" * 99)
    silent = [socket.create_connection((endpoint.host, endpoint.port), WITHIN_S) for _ in range(50)]

    def counted() -> bool:
        after = counters(lab[0])
        return sum(after.values()) - after["bytes_in"] > sum(before.values()) - before["bytes_in"]

    lab.until(counted, "it was counted", WITHIN_S)
    for sock in silent:
        sock.close()


async def test_a_stranger_gets_no_further_than_the_join_stream(lab: Lab) -> None:
    stranger = Peer(keys.member("stranger"), LOOPBACK)
    async with running(stranger):
        peer = PeerId(lab[0].peer)
        address = await trio.to_thread.run_sync(lab.address, lab[0])
        stranger.transport.keep(peer, (address.partition("/p2p/")[0],))
        await stranger.until(lambda: peer in stranger.transport.refusals)
        for protocol in (ARCHIVE_PROTOCOL, LOG_PROTOCOL):
            with pytest.raises((NotReachable, StreamFailed)):
                await stranger.transport.open_stream(peer, protocol)
        assert stranger.transport.connected() == []
        async with stranger.transport.dial_for_join(address) as stream:
            await stream.write_frame(noise(3, 800))
            with pytest.raises((StreamFailed, EOFError)):
                while await stream.read_frame():
                    pass


async def test_malformed_frames_of_a_member_are_counted_and_told_by_the_doctor(lab: Lab) -> None:
    one = rogue(lab)
    async with running(one):
        peer = await meet(one, lab)
        frames = [noise(seed, size) for seed, size in enumerate((1, 7, 300, 60_000, 0))]
        frames += [b"\xa0", b"\x9f\xff", b"\xd9\xd9\xf7\x80", b"\x82\x18\x63\x80", b"\x81" * 90]
        for frame in frames * 3:
            one.transport.send(peer, frame)

        def told() -> bool:
            with lab[0].client() as client:
                found = {entry["check"]: entry for entry in client.doctor()}
            return "malformed messages" in found["messages"]["text"]

        await until(told)
        await until(lambda: counters(lab[0])["frames_in"] >= len(frames))
    done = await trio.to_thread.run_sync(lab.shoal, lab[0], "doctor")
    assert "of them from rogue" in done.out, done
    events = await trio.to_thread.run_sync(lab.shoal, lab[0], "events")
    assert 1 <= events.out.count("rogue sent something malformed") <= 3, "told of, not flooded"


async def test_garbage_gossip_is_dropped(lab: Lab) -> None:
    one = rogue(lab)
    async with running(one):
        peer = await meet(one, lab)
        for seed in range(20):
            one.transport.gossip(noise(seed, 500))
        assert one.transport.send(peer, b"")


async def test_requests_for_what_is_nobodys_business_get_nothing(lab: Lab) -> None:
    """A member asks for files by their paths, where digests and execution ids are meant."""
    one = rogue(lab)
    async with running(one):
        peer = await meet(one, lab)
        for digest in ("../identity.key", "/etc/shadow", "0" * 64, "", "\0"):
            stream = await one.transport.open_stream(peer, ARCHIVE_PROTOCOL)
            await stream.write_frame(encode_message(ArchiveRequest(digest, 0)))
            with suppress(StreamFailed, EOFError):
                answer = decode_as(await stream.read_frame(), ArchiveAnswer)
                assert answer.error and answer.size == 0
            await stream.aclose()
        for wanted in ("../archives", "..", "/etc/passwd", "nope", "a" * 500, "\0"):
            stream = await one.transport.open_stream(peer, LOG_PROTOCOL)
            request = LogRequest(ExecutionId(wanted), "stdout", 0, -1, True)
            await stream.write_frame(encode_message(request))
            with suppress(StreamFailed, EOFError):
                chunk = decode_as(await stream.read_frame(), LogChunk)
                assert chunk.error and not chunk.data
            await stream.aclose()


@pytest.mark.parametrize("protocol", [ARCHIVE_PROTOCOL, LOG_PROTOCOL, JOIN_PROTOCOL])
async def test_garbage_on_every_stream_of_a_member(lab: Lab, protocol: str) -> None:
    one = rogue(lab)
    async with running(one):
        peer = await meet(one, lab)
        for seed in range(6):
            stream = await one.transport.open_stream(peer, protocol)
            with suppress(StreamFailed, EOFError):
                if seed % 2:
                    await stream.send_all(noise(seed, 2000))
                else:
                    await stream.write_frame(noise(seed, 2000))
                while await stream.read_frame():
                    pass
            await stream.aclose()
        assert peer in one.transport.connected()
