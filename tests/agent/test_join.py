"""Joining, both sides over a real stream: what goes wrong ends in a sentence, never in a crash."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from agent.datalock import DataLock, DataLocked
from agent.identity import IdentityKeyring, create_identity, load_identity
from agent.invites import Invites
from agent.join import (
    JoinError,
    JoinStream,
    check_may_join,
    join,
    save_joined,
    serve_join,
)
from agent.jointoken import JoinToken, parse_token
from agent.membership import MembershipError, load_member, read_membership, write_membership
from agent.shoalroot import create_shoal
from agent.store import Store
from protocol.clock import Now
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId, ShoalId
from protocol.messages import JoinAnswer, JoinRequest, Ping
from protocol.wire import encode_message

NOW = Now(1000.0, 1_790_000_000.0)
PASSPHRASE = "correct horse"
JOINER = IdentityKeyring(b"\3" * 32)


class Frames:
    """Frames of a length and that many bytes over any trio stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""

    async def read_frame(self, bytes_max: int = 1 << 17, timeout_s: float = 30.0) -> bytes:
        with trio.fail_after(timeout_s):
            length = int.from_bytes(await self._exactly(4), "big")
            if length > bytes_max:
                raise RemoteProtocolError(f"a frame of {length} bytes")
            return await self._exactly(length)

    async def write_frame(self, frame: bytes, timeout_s: float = 30.0) -> None:
        with trio.fail_after(timeout_s):
            await self.stream.send_all(len(frame).to_bytes(4, "big") + frame)

    async def aclose(self) -> None:
        await self.stream.aclose()

    async def _exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            part = await self.stream.receive_some(65536)
            if not part:
                raise EOFError
            self.buffer += part
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data


Serve = Callable[[JoinStream], Awaitable[None]]


class House:
    """A first member with its invites, listening on real sockets."""

    def __init__(self, data_dir: Path) -> None:
        create_shoal(data_dir, "home", PASSPHRASE, device="first")
        self.member = load_member(data_dir)
        self.store = Store.open(data_dir)
        self.port = 0
        self.invites = Invites(self.store, self.member, lambda: [self.address], NOW)

    @property
    def address(self) -> str:
        return f"/ip4/127.0.0.1/tcp/{self.port}/p2p/{self.member.keyring.peer}"

    async def token(self, **options: object) -> JoinToken:
        invited = await self.invites.create(NOW, **options)  # type: ignore[arg-type]
        return parse_token(invited.token, NOW)

    async def serve(self, stream: JoinStream, peer: PeerId = JOINER.peer) -> None:
        await serve_join(stream, peer, self.invites, lambda: NOW)


async def _serve_frames(serve: Serve, stream: trio.SocketStream) -> None:
    await serve(Frames(stream))


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[int]:
    """Serve frames on a port of loopback, which is given."""
    async with trio.open_nursery() as nursery:
        handler = partial(_serve_frames, serve)
        listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def dial(address: str) -> AsyncIterator[JoinStream]:
    _, _, host, _, port, *_ = address.split("/")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        yield Frames(stream)


async def ask(token: JoinToken, keyring: IdentityKeyring = JOINER, name: str = "second") -> object:
    return await join(token, keyring, name, dial, random.Random(1))


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "first")


async def test_a_device_joins_and_starts_as_a_member(house: House, tmp_path: Path) -> None:
    data = tmp_path / "second"
    identity = create_identity(data)
    async with listening(lambda s: house.serve(s, identity.peer)) as house.port:
        token = await house.token(labels={"room": "shed"})
        check_may_join(data, token)
        joined = await join(token, identity, "second", dial, random.Random(1))
        again = await join(token, identity, "second", dial, random.Random(1))
    assert joined.certificate == again.certificate, "asking twice is harmless"
    save_joined(data, joined)
    member = load_member(data)
    assert member.keyring.peer == identity.peer and member.certificate.name == "second"
    assert member.membership.labels == {"room": "shed"}
    assert member.membership.addresses == (house.address,)
    assert member.membership.shoal_name == "home"
    check_may_join(data, token)
    await house.store.aclose()


async def test_every_address_is_tried_until_one_answers(house: House) -> None:
    async with listening(house.serve) as house.port:
        token = await house.token()
        dead = house.address.replace(f"/{house.port}/", "/1/")
        joined = await ask(replace(token, addresses=(dead, "nonsense", house.address)))
    assert joined is not None
    await house.store.aclose()


async def test_nobody_there_is_a_sentence_with_every_address(
    house: House, autojump_clock: trio.testing.MockClock
) -> None:
    house.port = 1
    token = await house.token()
    with pytest.raises(JoinError, match=r"could not be reached \(/ip4/127.0.0.1/tcp/1: .*same net"):
        await ask(token)
    with pytest.raises(JoinError, match="names no address"):
        await ask(replace(token, addresses=()))
    await house.store.aclose()


async def test_an_inviter_that_never_answers_is_left(
    house: House, autojump_clock: trio.testing.MockClock
) -> None:
    token = await house.token()

    @asynccontextmanager
    async def silent(address: str) -> AsyncIterator[JoinStream]:
        ours, _theirs = trio.testing.memory_stream_pair()
        yield Frames(ours)

    @asynccontextmanager
    async def hanging(address: str) -> AsyncIterator[JoinStream]:
        await trio.sleep_forever()
        yield Frames(trio.testing.memory_stream_pair()[0])

    for dialler in (silent, hanging):
        with pytest.raises(JoinError, match="no answer within 15 s"):
            await join(token, JOINER, "second", dialler, random.Random(1))
    await house.store.aclose()


async def test_what_the_inviter_refuses_is_passed_on_and_not_tried_again(house: House) -> None:
    async with listening(house.serve) as house.port:
        token = await house.token()
        with pytest.raises(JoinError, match="says: this invite is not known here"):
            await ask(replace(token, secret=bytes(16)))
        with pytest.raises(JoinError, match="says: the device's name"):
            await ask(token, name="a b")
        await ask(token)
        with pytest.raises(JoinError, match="not good for this one"):
            await ask(token, IdentityKeyring(b"\4" * 32), "other")  # the stream says it is JOINER
    assert house.invites.wrong_secrets == 1
    await house.store.aclose()


def answering(answer: bytes) -> Serve:
    async def serve(stream: JoinStream) -> None:
        await stream.read_frame()
        await stream.write_frame(answer)
        await stream.aclose()

    return serve


async def test_only_a_certificate_of_the_tokens_shoal_for_this_device_counts(
    house: House, tmp_path: Path
) -> None:
    other = House(tmp_path / "other")
    foreign = await other.token()
    token = await house.token(uses=9)
    good = await house.invites.redeem(token.secret, JOINER.peer, "second", NOW)
    bad = [
        await other.invites.redeem(foreign.secret, JOINER.peer, "second", NOW),
        await house.invites.redeem(token.secret, peer_of(7), "second", NOW),
        replace_certificate(good, house.member.keyring.certificate),
        replace_certificate(good, b""),
        replace_certificate(good, good.certificate[:-1]),
        replace_certificate(good, b"\xff" * 100),
    ]
    for answer in bad:
        async with listening(answering(encode_message(answer))) as port:
            here = replace(token, addresses=(f"/ip4/127.0.0.1/tcp/{port}/p2p/x",))
            with pytest.raises(JoinError, match="certificate that is not good"):
                await ask(here)
    await other.store.aclose()
    await house.store.aclose()


def peer_of(number: int) -> PeerId:
    return IdentityKeyring(bytes([number]) * 32).peer


def replace_certificate(answer: JoinAnswer, certificate: bytes) -> JoinAnswer:
    return JoinAnswer(certificate, answer.shoal_name, answer.addresses, answer.labels)


@pytest.mark.parametrize(
    "answer",
    [b"", b"\xff", encode_message(Ping(1)), bytes(70_000)],
    ids=["empty", "junk", "ping", "big"],
)
async def test_nonsense_for_an_answer_is_a_sentence(
    house: House, answer: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    token = await house.token()

    @asynccontextmanager
    async def dial_nonsense(address: str) -> AsyncIterator[JoinStream]:
        ours, theirs = trio.testing.memory_stream_pair()
        await Frames(theirs).write_frame(answer)
        await theirs.send_eof()
        yield Frames(ours)

    with pytest.raises(JoinError, match="could not be reached"):
        await join(token, JOINER, "second", dial_nonsense, random.Random(1))
    await house.store.aclose()


async def test_an_error_that_plays_with_the_terminal_is_cleaned(house: House) -> None:
    answer = encode_message(JoinAnswer(b"", "", (), {}, "\x1b[2Jno\r\n" + "x" * 9000))
    async with listening(answering(answer)) as house.port:
        with pytest.raises(JoinError) as caught:
            await ask(await house.token())
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600
    await house.store.aclose()


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xff" * 50,
        bytes(5000),
        encode_message(Ping(1)),
        encode_message(JoinRequest(b"", "")),
        encode_message(JoinRequest(b"x" * 900, "y" * 50)),
    ],
)
async def test_nothing_a_stranger_sends_ends_the_server(house: House, frame: bytes) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await Frames(ours).write_frame(frame)
    await ours.send_eof()
    await house.serve(Frames(theirs))
    async with listening(house.serve) as house.port:
        await ask(await house.token())
    await house.store.aclose()


async def test_a_stranger_that_says_nothing_is_hung_up_on(
    house: House, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    before = trio.current_time()
    await house.serve(Frames(theirs))
    assert trio.current_time() - before <= 20
    assert await ours.receive_some(1) == b""
    await house.store.aclose()


async def test_a_disk_that_fails_is_told_to_the_joiner(house: House) -> None:
    async with listening(house.serve) as house.port:
        token = await house.token()
        house.store._file._connection.execute("PRAGMA query_only = 1")
        with pytest.raises(JoinError, match="cannot save it"):
            await ask(token)
        await house.store.reload()
        await ask(token)
    await house.store.aclose()


async def test_a_member_of_another_shoal_does_not_join(house: House, tmp_path: Path) -> None:
    create_shoal(tmp_path / "b", "other", PASSPHRASE)
    house.port = 1
    token = await house.token()
    with pytest.raises(MembershipError, match=r"'other' already, the token is for 'home'"):
        check_may_join(tmp_path / "b", token)
    (tmp_path / "b" / "membership").write_bytes(b"junk")
    check_may_join(tmp_path / "b", token)
    check_may_join(tmp_path / "nothing", token)
    await house.store.aclose()


async def test_a_new_identity_takes_nothing_of_the_old_with_it(
    house: House, tmp_path: Path
) -> None:
    data = tmp_path / "copied"
    create_shoal(data, "old", PASSPHRASE)
    old = load_identity(data)
    store = Store.open(data)
    await store.save([("meta", "incarnation", b"7")])
    fresh = IdentityKeyring.generate()
    async with listening(lambda s: house.serve(s, fresh.peer)) as house.port:
        joined = await join(await house.token(), fresh, "second", dial, random.Random(1))
    with pytest.raises(DataLocked):
        save_joined(data, joined, new_identity=True)
    assert load_identity(data).peer == old.peer, "not under a running agent"
    await store.aclose()
    save_joined(data, joined, new_identity=True)
    assert load_member(data).keyring.peer == fresh.peer
    for kept in ("identity.key.old-1", "membership.old-1", "shoal.db.old-1", "board.old-1"):
        assert (data / kept).exists()
    store = Store.open(data)
    assert store.load()["meta"] == {}, "nothing was lost: it is another device now"
    await store.aclose()
    await house.store.aclose()


async def test_joining_again_replaces_a_damaged_membership(house: House, tmp_path: Path) -> None:
    data = tmp_path / "second"
    identity = create_identity(data)
    async with listening(lambda s: house.serve(s, identity.peer)) as house.port:
        joined = await join(await house.token(), identity, "second", dial, random.Random(1))
    save_joined(data, joined)
    (data / "membership").write_bytes(b"junk")
    save_joined(data, joined)
    assert read_membership(data) == joined.membership
    write_membership(data, joined.membership)
    DataLock(data).release()
    assert joined.keyring.shoal == ShoalId(house.member.keyring.shoal)
    await house.store.aclose()
