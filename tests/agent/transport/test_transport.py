"""The transport as the driver sees it: connections, frames, their loss, and their bounds."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import trio

from agent.identity import IdentityKeyring
from agent.transport import NotReachable, PortInUse, StreamFailed, TransportSettings
from agent.transport.admission import BOOT_BYTES
from agent.transport.link_table import REPLACED
from agent.transport.streams import Stream
from agent.transport.transport import HINTS_DIALLED
from protocol.clock import Now
from protocol.events import FrameReceived, PeerConnected, PeerDisconnected
from protocol.ids import ShoalId
from protocol.records import Role
from protocol.wire import FRAME_BYTES_MAX
from tests.agent import keys
from tests.agent.transport.peers import LOOPBACK, Peer, connect, member, running
from tests.agent.transport.test_dialer import closed_port


async def test_members_connect_and_exchange_frames_both_ways() -> None:
    a, b = member("a"), member("b")
    async with running(a, b):
        await connect(a, b)
        connected = await b.event(PeerConnected, a.id)
        assert connected.certificate.name == "a"
        assert a.transport.connected() == [b.id]
        assert a.transport.send(b.id, b"ping") and b.transport.send(a.id, b"pong")
        assert (await b.event(FrameReceived, a.id)).frame == b"ping"
        assert (await a.event(FrameReceived, b.id)).frame == b"pong"


async def test_frames_of_all_sizes_arrive_in_order() -> None:
    a, b = member("a"), member("b")
    async with running(a, b):
        await connect(a, b)
        frames = [bytes([n % 251]) * size for n, size in enumerate([1, 40_000, 7] * 40)]
        frames.append(b"z" * FRAME_BYTES_MAX)
        for frame in frames:
            assert a.transport.send(b.id, frame)
        await b.until(lambda: len(b.frames()) == len(frames))
        assert b.frames() == frames
        assert not a.transport.send(b.id, b"z" * (FRAME_BYTES_MAX + 1))
        assert a.count("drop.frame-too-long") == 1


async def test_port_in_use_is_named_with_the_way_out() -> None:
    a = member("a")
    async with running(a):
        b = member("b", listen=a.addresses)
        with pytest.raises(PortInUse, match=r"/ip4/127\.0\.0\.1/tcp/\d+ is taken.*another port"):
            await b.transport.run()


async def test_bytes_are_counted_at_the_socket() -> None:
    a, b = member("a"), member("b")
    async with running(a, b):
        await connect(a, b)
        before = a.transport.counters.bytes_out
        a.transport.send(b.id, bytes(50_000))
        await b.event(FrameReceived)
        # What the kernel took is counted once the call returns; the other may be quicker.
        ours, theirs = a.transport.counters, b.transport.counters
        await a.until(lambda: ours.bytes_out == theirs.bytes_in)
        assert 50_000 < ours.bytes_out - before < 52_000
        assert 50_000 < ours.frame_bytes_out < 50_100 and theirs.frame_bytes_in == 50_000


async def test_a_clean_end_is_told_to_the_other_side_and_then_refused() -> None:
    a, b = member("a"), member("b")
    async with running(a):
        async with running(b):
            await connect(a, b)
        begun = trio.current_time()
        assert not (await a.event(PeerDisconnected, b.id)).refused
        assert (await a.event(PeerDisconnected, b.id, nth=2)).refused
        assert 0.5 <= trio.current_time() - begun + 0.3 < 3


async def test_a_kept_peer_is_redialled_with_backoff_until_it_is_back() -> None:
    a, b = member("a"), member("b")
    async with running(a):
        async with running(b):
            await connect(a, b)
            port = b.addresses
        await a.event(PeerDisconnected, b.id, nth=2)
        failed = a.count("dial.failed")
        await a.until(lambda: a.count("dial.failed") > failed)
        again = member("b", listen=port)
        async with running(again):
            await a.event(PeerConnected, b.id, nth=2)


async def test_sending_to_a_peer_that_is_only_known_dials_it() -> None:
    a, b = member("a"), member("b")
    async with running(a, b):
        assert not a.transport.send(b.id, b"unknown")
        a.transport.learn(b.id, b.addresses)
        taken = [a.transport.send(b.id, bytes([n])) for n in range(20)]
        assert taken == [True] * 16 + [False] * 4
        await b.until(lambda: len(b.frames()) == 16)
        assert b.frames() == [bytes([n]) for n in range(16)]
        assert a.count("drop.pending-full") == 4


async def test_an_on_demand_connection_closes_when_idle_but_a_kept_one_stays() -> None:
    a, b, c = member("a", idle_s=0.5), member("b"), member("c")
    async with running(a, b, c):
        await connect(a, c)
        a.transport.learn(b.id, b.addresses)
        a.transport.send(b.id, b"once")
        await b.event(FrameReceived, a.id)
        await a.event(PeerDisconnected, b.id)
        assert a.transport.connected() == [c.id]


async def test_the_least_used_on_demand_connection_makes_room_for_another() -> None:
    a = member("a", connections_max=2)
    others = [member(name) for name in "bcde"]
    async with running(a, *others):
        for other in others[:3]:
            a.transport.learn(other.id, other.addresses)
            a.transport.send(other.id, b"hello")
            await other.event(FrameReceived, a.id)
        await a.until(lambda: len(a.transport.connected()) <= 2)
        await a.event(PeerDisconnected, others[0].id)
        for other in others[1:3]:
            a.transport.keep(other.id, other.addresses)
        a.transport.learn(others[3].id, others[3].addresses)
        a.transport.send(others[3].id, b"no room")
        await a.until(lambda: a.count("drop.not-reachable") == 1)
        assert sorted(a.transport.connected()) == sorted(other.id for other in others[1:3])


async def test_beyond_the_hard_limit_a_hello_is_answered_busy() -> None:
    a = member("a", connections_max=1, connections_spare=0)
    b, c = member("b"), member("c")
    async with running(a, b, c):
        await connect(b, a)
        c.transport.keep(a.id, a.addresses)
        await c.until(lambda: a.id in c.transport.refusals)
        assert c.transport.refusals[a.id][0] == "busy"
        assert a.transport.connected() == [b.id]


async def test_outbox_is_bounded_and_a_slow_reader_delays_only_itself() -> None:
    a, slow, quick = member("a", outbox_frames_max=50), member("b"), member("c")
    async with running(a, slow, quick):
        await connect(a, slow)
        await connect(a, quick)
        slow.reading = trio.Event()
        frame = bytes(20_000)
        with trio.fail_after(60):
            while a.transport.send(slow.id, frame):
                await trio.lowlevel.checkpoint()
        assert a.count("drop.outbox-full") == 1
        a.transport.send(quick.id, b"still here")
        assert (await quick.event(FrameReceived, a.id)).frame == b"still here"
        slow.reading.set()
        sent = a.transport.counters.frames_out + 50
        await slow.until(lambda: len(slow.frames()) >= sent - 60)
        assert a.transport.connected() == sorted([slow.id, quick.id])


async def test_reading_may_pause_for_longer_than_upstream_bears() -> None:
    """py-libp2p's Yamux resets a stream whose window stayed closed for 5 s."""
    a, b = member("a"), member("b")
    async with running(a, b):
        await connect(a, b)
        b.reading = trio.Event()
        count = 0
        while a.transport.send(b.id, bytes(20_000)):
            count += 1
            await trio.lowlevel.checkpoint()
        with trio.move_on_after(6):
            await a.event(PeerDisconnected, b.id)
        b.reading.set()
        await b.until(lambda: len(b.frames()) == count)


async def test_hangup_closes_and_the_peer_is_redialled() -> None:
    a, b = member("a"), member("b")
    async with running(a, b):
        await connect(a, b)
        a.transport.hangup(b.id)
        await a.event(PeerDisconnected, b.id)
        await a.event(PeerConnected, b.id, nth=2)


async def test_streams_carry_frames_and_raw_bytes_and_end() -> None:
    a, b = member("a"), member("b")

    async def archive(stream: Stream) -> None:
        assert stream.peer == a.id and stream.source == "127.0.0.1"
        request = await stream.read_frame()
        await stream.write_frame(request[::-1])
        await stream.send_all(bytes(3_000_000))

    b.transport.serve("/shoal/archive/1", archive, members_only=True)
    async with running(a, b):
        a.transport.learn(b.id, b.addresses)
        stream = await a.transport.open_stream(b.id, "/shoal/archive/1")
        await stream.write_frame(b"abc")
        assert await stream.read_frame() == b"cba"
        size = 0
        while data := await stream.receive_some():
            size += len(data)
        assert size == 3_000_000
        await stream.aclose()
        with pytest.raises(StreamFailed, match="does not speak"):
            await a.transport.open_stream(b.id, "/shoal/other/1")
        with pytest.raises(NotReachable):
            await a.transport.open_stream(member("c").id, "/shoal/archive/1")


async def test_a_stream_has_deadlines_and_a_failing_handler_ends_only_its_stream() -> None:
    a, b = member("a"), member("b")

    async def silent(stream: Stream) -> None:
        await stream.read_frame(timeout_s=60)

    async def failing(stream: Stream) -> None:
        raise RuntimeError("a handler's bug")

    b.transport.serve("/shoal/log/1", silent, members_only=True)
    b.transport.serve("/shoal/archive/1", failing, members_only=True)
    async with running(a, b):
        await connect(a, b)
        stream = await a.transport.open_stream(b.id, "/shoal/log/1")
        with pytest.raises(StreamFailed, match=r"0\.1 s"):
            await stream.read_frame(timeout_s=0.1)
        failed = await a.transport.open_stream(b.id, "/shoal/archive/1")
        with pytest.raises(StreamFailed, match="reset"):
            await failed.read_frame()
        assert b.count("malformed.stream") == 1
        a.transport.send(b.id, b"alive")
        await b.event(FrameReceived, a.id)


async def test_a_stranger_reaches_the_join_stream_and_nothing_else() -> None:
    b = member("b")
    stranger = Peer(IdentityKeyring(keys.seed("stranger")), replace(LOOPBACK, listen=()))

    async def join(stream: Stream) -> None:
        await stream.write_frame(b"welcome " + await stream.read_frame())

    async def archive(stream: Stream) -> None:
        await stream.write_frame(b"secret")

    b.transport.serve("/shoal/join/1", join, members_only=False)
    b.transport.serve("/shoal/archive/1", archive, members_only=True)
    async with running(b, stranger):
        async with stranger.transport.dial_for_join(f"{b.addresses[0]}/p2p/{b.id}") as stream:
            await stream.write_frame(b"me")
            assert await stream.read_frame() == b"welcome me"
        wrong = member("c").id
        with pytest.raises(NotReachable, match="another peer"):
            async with stranger.transport.dial_for_join(f"{b.addresses[0]}/p2p/{wrong}"):
                raise AssertionError
        stranger.transport.keep(b.id, b.addresses)
        await stranger.until(lambda: b.id in stranger.transport.refusals)
        assert stranger.transport.refusals[b.id][0] == "not-a-member"
        assert b.transport.connected() == [] and b.events == []


@pytest.mark.parametrize(
    ("code", "keyring"),
    [
        ("other-shoal", keys.member("x", keys.root("another"))),
        (
            "expired",
            IdentityKeyring(keys.seed("x")).member_of(
                keys.root().shoal, keys.certificate("x", keys.root(), expires_ms=1)
            ),
        ),
        (
            "not-a-member",  # another peer's certificate
            IdentityKeyring(keys.seed("x")).member_of(
                keys.root().shoal, keys.certificate("y", keys.root())
            ),
        ),
        (
            "not-a-member",  # signed by a member that may not admit
            IdentityKeyring(keys.seed("x")).member_of(
                keys.root().shoal, keys.certificate("x", keys.member("b"))
            ),
        ),
        (
            "not-a-member",  # our shoal's name, another root's signature
            IdentityKeyring(keys.seed("x")).member_of(
                keys.root().shoal,
                keys.certificate(
                    "x", IdentityKeyring(keys.seed("evil")).member_of(keys.root().shoal, b"")
                ),
            ),
        ),
        ("not-a-member", IdentityKeyring(keys.seed("x")).member_of(ShoalId(""), b"")),
    ],
)
async def test_who_is_not_a_member_here_hears_why(code: str, keyring: IdentityKeyring) -> None:
    a, outsider = member("a"), Peer(keyring)
    async with running(a, outsider):
        outsider.transport.keep(a.id, a.addresses)
        await outsider.until(lambda: a.id in outsider.transport.refusals)
        assert outsider.transport.refusals[a.id][0] == code
        assert a.count(f"refused.{code}") >= 1
        assert a.events == [] and outsider.events == []


async def test_a_member_that_may_admit_admits() -> None:
    admitter = IdentityKeyring(keys.seed("admitter")).member_of(
        keys.root().shoal, keys.certificate("admitter", keys.root(), (Role.ADMIT,))
    )
    a, b = member("a"), Peer(keys.member("b", admitter))
    async with running(a, b):
        await connect(a, b)


async def test_while_the_clock_is_not_trusted_nothing_expires() -> None:
    old = IdentityKeyring(keys.seed("old")).member_of(
        keys.root().shoal, keys.certificate("old", keys.root(), expires_ms=1)
    )
    a = Peer(keys.member("a"), clock=lambda: Now(time.monotonic(), time.time(), False))
    b = Peer(old, clock=lambda: Now(time.monotonic(), time.time(), False))
    async with running(a, b):
        await connect(b, a)


async def test_two_that_dial_each_other_settle_on_one_connection() -> None:
    """50 times: afterwards one link each, and frames flow both ways, at once and without a flap."""
    a, b = member("a"), member("b")
    async with running(a, b):
        for turn in range(50):
            a.transport.keep(b.id, b.addresses)
            b.transport.keep(a.id, a.addresses)
            await a.event(PeerConnected, b.id, nth=turn + 1)
            await b.event(PeerConnected, a.id, nth=turn + 1)
            before = len(a.frames()), len(b.frames())
            with trio.fail_after(60):
                while len(a.frames()) == before[0] or len(b.frames()) == before[1]:
                    a.transport.send(b.id, b"ab")
                    b.transport.send(a.id, b"ba")
                    await trio.sleep(0.005)
            await a.until(lambda: len(a.transport._network.connections.all()) == 1)
            lost = [e for e in a.events + b.events if isinstance(e, PeerDisconnected)]
            assert len([e for e in lost if not e.refused]) == 2 * turn
            a.transport.forget(b.id)
            b.transport.forget(a.id)
            a.transport.hangup(b.id)
            await a.event(PeerDisconnected, b.id, nth=turn + 1)
            await b.event(PeerDisconnected, a.id, nth=turn + 1)


async def test_a_connection_that_is_one_too_many_is_no_refusal() -> None:
    """It may be the last word of a peer for long: the other connection stands by then."""
    a, b = member("a"), member("b")
    async with running(a, b):
        await connect(a, b)
        a.transport.refused_by(b.id, "closing", REPLACED)
        assert not a.transport.refusals and a.count("refused-by-peer.other") == 1
        a.transport.refused_by(b.id, "expired", "its certificate is over")
        assert a.transport.refusals[b.id][0] == "expired"


async def test_a_clone_is_told_so_and_stops_and_the_others_are_alarmed() -> None:
    from agent.transport import CloneDetected

    a, first, second = member("a"), member("x"), member("x")
    async with running(a, first):
        await connect(a, first)
        stopped: list[BaseException] = []

        async def run_second() -> None:
            try:
                await second.transport.run()
            except CloneDetected as error:
                stopped.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_second)
            await second.until(lambda: bool(second.transport._network._host))
            second.transport.keep(a.id, a.addresses)
            await a.until(lambda: bool(stopped))
        assert "--new-identity" in str(stopped[0])
        assert a.clones == [first.id]
        a.transport.send(first.id, b"you stay")
        await first.event(FrameReceived, a.id)


async def test_a_restart_with_a_new_boot_is_no_clone() -> None:
    a, first = member("a"), member("x")
    async with running(a):
        async with running(first):
            await connect(first, a)
        second = member("x")
        async with running(second):
            second.transport.keep(a.id, a.addresses)
            await a.event(PeerConnected, first.id, nth=2)
            assert a.clones == []
            assert [type(e) for e in a.events[:3]] == [
                PeerConnected,
                PeerDisconnected,
                PeerConnected,
            ]
            boots = [event.boot for event in a.events if isinstance(event, PeerConnected)]
            assert boots[0] != boots[1] and [len(boot) for boot in boots] == [BOOT_BYTES] * 2


async def test_gossip_reaches_members_across_others() -> None:
    a, b, c = member("a"), member("b"), member("c")
    async with running(a, b, c):
        await connect(a, b)
        await connect(b, c)
        with trio.fail_after(60):
            while not (c.rumours() and b.rumours()):
                a.transport.gossip(b"rumour")
                await trio.sleep(0.1)
        assert set(c.rumours()) == {b"rumour"}
        sent, heard = a.transport.counters, c.transport.counters
        assert sent.gossip_out >= 1 and sent.gossip_bytes_out == 6 * sent.gossip_out
        assert heard.gossip_in >= 1 and heard.gossip_bytes_in == 6 * heard.gossip_in
        assert a.rumours() == []
        assert not a.transport.gossip(bytes(5000))


async def test_after_a_quick_restart_gossip_is_heard_again() -> None:
    """py-libp2p numbers messages from the whole second of its start: all were dropped as seen."""
    a, first = member("a"), member("x")
    async with running(a):
        async with running(first):
            await connect(first, a)
            with trio.fail_after(60):
                while len(a.rumours()) < 5:
                    first.transport.gossip(b"before")
                    await trio.sleep(0.05)
        second = member("x")
        async with running(second):
            second.transport.keep(a.id, a.addresses)
            await second.event(PeerConnected, a.id)
            with trio.fail_after(60):
                while b"after" not in a.rumours():
                    second.transport.gossip(b"after")
                    await trio.sleep(0.05)


# ---- on a metered link


def leaf(**settings: float) -> Peer:
    return member("a", gossip=False, leaf=True, backoff_first_s=0.05, **settings)


def test_a_metered_link_is_no_place_for_gossip_and_dials_in_vain() -> None:
    settings = TransportSettings().on_metered_link()
    assert settings.leaf and not settings.gossip
    assert settings.backoff_max_s > TransportSettings().backoff_max_s


async def test_a_leaf_dials_what_discovery_finds_only_while_it_is_alone() -> None:
    a, b, c = leaf(idle_s=0.3), member("b"), member("c")
    async with running(a, b, c):
        a.transport.sighted(b.id, b.addresses)
        await a.event(PeerConnected, b.id)
        a.transport.keep(b.id, b.addresses)
        a.transport.sighted(c.id, c.addresses)
        await trio.sleep(0.5)
        assert a.transport.connected() == [b.id], "the protocol says whom it needs"
        a.transport.forget(b.id)
        await a.event(PeerDisconnected, b.id)
        await a.event(PeerConnected, c.id)


async def test_what_a_leaf_found_in_vain_is_let_go_once_somebody_answers() -> None:
    a, b = leaf(), member("b")
    async with running(a, b):
        a.transport.sighted(member("c").id, (closed_port(),))
        await a.until(lambda: a.count("dial.failed") >= 2)
        a.transport.sighted(b.id, b.addresses)
        await a.event(PeerConnected, b.id)
        failed = a.count("dial.failed") + 1  # one may be under way
        await trio.sleep(1.0)
        assert a.count("dial.failed") <= failed


async def test_of_many_that_were_found_a_leaf_dials_few_at_a_time() -> None:
    """Each SYN is paid for."""
    a = leaf()
    found = [member(f"f{n}").id for n in range(3 * HINTS_DIALLED)]
    async with running(a):
        dialer = a.transport._dialer
        for _ in range(3):
            for peer in found:
                a.transport.sighted(peer, (closed_port(),))
                await trio.sleep(0.01)
                assert len(dialer.kept()) <= HINTS_DIALLED
        assert len(dialer.kept()) == HINTS_DIALLED


async def test_each_that_was_found_has_its_turn() -> None:
    a, b = leaf(dial_s=0.2), member("b")
    async with running(a, b):
        a.transport.sighted(b.id, b.addresses)
        for n in range(3 * HINTS_DIALLED):
            a.transport.sighted(member(f"f{n}").id, (closed_port(),))
        with trio.fail_after(60):
            await a.event(PeerConnected, b.id)


async def test_who_is_not_to_be_kept_is_only_remembered() -> None:
    a, b = member("a"), member("b")
    async with running(a, b):
        a.transport.sighted(b.id, b.addresses, keep=False)
        await trio.sleep(0.3)
        assert a.transport.connected() == []
        a.transport.send(b.id, b"once")
        await b.event(FrameReceived, a.id)
