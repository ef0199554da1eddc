"""Relay: letters that nobody can change, repeat or send astray; handing on those of others."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec
import pytest

from protocol import relay as module
from protocol.bounds import LETTER_BYTES_MAX
from protocol.clock import Now
from protocol.effects import Send
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId
from protocol.messages import Letter, Message, PathReport, Ping, Relayed, Rumours
from protocol.records import Certificate
from protocol.relay import (
    ALL_BYTES_MAX,
    ANSWERING_S,
    CONTEXT,
    PAIR_BYTES_MAX,
    PAIR_BYTES_S,
    WINDOW,
    Relay,
    Window,
)
from protocol.wire import decode_as, encode_message
from tests.protocol.fakes import YEAR_MS, FakeShoal

A, B, R, M = (PeerId(name) for name in ("a", "b", "r", "m"))
LIVES = (3, 7)
PING = Ping(1)
NOW = Now(100.0, 1_800_000_000.0)


@dataclass
class Net:
    """a writes to b through r; m is a member that means ill."""

    shoal: FakeShoal = field(default_factory=FakeShoal)

    def __post_init__(self) -> None:
        self.a, self.b, self.r, self.m = (Relay(self.shoal.keyring(name)) for name in (A, B, R, M))
        self.b.life = 7

    def written(self, message: Message = PING, lives: tuple[int, int] = LIVES) -> Relayed:
        relayed = self.a.seal(B, R, lives, message, NOW.mono)
        assert relayed is not None
        return relayed

    def read(
        self, relayed: Relayed, by: PeerId = R, known: Certificate | None = None, now: Now = NOW
    ) -> Certificate | None:
        return self.b.open(self.b.read(by, relayed), relayed, known, now)


@pytest.fixture
def net() -> Net:
    return Net()


def letter_of(relayed: Relayed) -> Letter:
    return decode_as(relayed.letter, Letter)


# ---- from end to end --------------------------------------------------------------------------


def test_a_letter_arrives_as_it_was_written(net: Net) -> None:
    relayed = net.written(Ping(9))
    handed_on = net.r.hand_on(net.r.read(A, relayed), relayed, True, 1.0)
    assert handed_on == [Send(B, relayed, overtakes=True)]
    letter = net.b.read(R, relayed)
    assert letter == Letter(A, B, R, 3, 7, 1, encode_message(Ping(9)))
    certificate = net.b.open(letter, relayed, None, NOW)
    assert certificate is not None and certificate.peer == A
    assert net.b.life_of(A) == 3 and net.b.highest(A) == 1


def test_a_letter_is_read_once(net: Net) -> None:
    first, second = net.written(), net.written()
    assert net.read(second) and net.read(first), "two relays may change the order"
    assert net.read(first) is None and net.read(second) is None


def test_a_letter_to_an_earlier_life_is_not_read(net: Net) -> None:
    assert net.read(net.written(lives=(3, 6))) is None
    assert net.read(net.written(lives=(3, 9))), "its incarnation rose within its life"


def test_letters_of_a_senders_earlier_life_are_not_read(net: Net) -> None:
    old = net.written(lives=(2, 7))
    assert net.read(net.written(lives=(3, 7)))
    assert net.read(old) is None
    net.a = Relay(net.shoal.keyring(A))  # it restarts, and counts from one again
    assert net.read(net.written(lives=(4, 7))) and net.b.life_of(A) == 4


def test_who_wrote_to_us_is_written_to_in_the_life_it_wrote_in(net: Net) -> None:
    """Else two that both restarted would tell each other for ever that they are outdated."""
    assert net.read(net.written(lives=(12, 1))) is None
    answer = net.b.seal(A, R, (7, 5), Ping(1), NOW.mono)
    assert answer is not None and letter_of(answer).receiver_life == 12


def test_the_certificate_goes_along_until_the_other_has_answered(net: Net) -> None:
    first = net.written()
    known = net.read(first)
    assert first.certificate == net.shoal.keyring(A).certificate
    answer = net.b.seal(A, R, (7, 3), Ping(1), NOW.mono)
    assert answer is not None and answer.certificate == b"", "a has written, so a knows b"
    assert net.read(net.written(), known=known)
    late = net.b.seal(A, R, (7, 3), Ping(1), NOW.mono + ANSWERING_S)
    assert late is not None and late.certificate


def test_who_writes_seldom_leaves_its_certificate_out_for_longer(net: Net) -> None:
    slow = Relay(net.shoal.keyring(B), 360.0)
    relayed = net.written()
    assert slow.open(letter_of(relayed), relayed, None, NOW) is not None
    for later, bare in ((120.0, True), (360.0, False)):
        answer = slow.seal(A, R, (7, 3), Ping(1), NOW.mono + later)
        assert answer is not None and (answer.certificate == b"") is bare


def test_what_is_too_long_for_a_letter_is_not_written(net: Net) -> None:
    long = Rumours((bytes(LETTER_BYTES_MAX),))
    assert net.a.seal(B, R, LIVES, long, NOW.mono) is None


# ---- who means ill ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"frame": encode_message(Ping(2))},
        {"number": 99},
        {"sender_life": 4},
        {"receiver_life": 8},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_relay_cannot_change_a_letter(net: Net, change: dict[str, object]) -> None:
    relayed = net.written()
    letter = msgspec.structs.replace(letter_of(relayed), **change)
    changed = msgspec.structs.replace(relayed, letter=encode_message(letter))
    with pytest.raises(RemoteProtocolError, match="has not signed"):
        net.read(changed)
    assert net.b.highest(A) == 0


def test_a_member_cannot_write_in_anothers_name(net: Net) -> None:
    body = encode_message(Letter(A, B, M, 3, 7, 1, encode_message(Ping(1))))
    for certificate in (net.shoal.keyring(A).certificate, net.shoal.keyring(M).certificate):
        forged = Relayed(body, net.shoal.keyring(M).sign(CONTEXT + body), certificate)
        with pytest.raises(RemoteProtocolError):
            net.read(forged, by=M)


def test_a_signed_record_is_no_letter(net: Net) -> None:
    body = encode_message(Letter(A, B, R, 3, 7, 1, b"\x01"))
    other = net.shoal.keyring(A).sign(b"shoal/record/1\0" + body)
    with pytest.raises(RemoteProtocolError, match="has not signed"):
        net.read(Relayed(body, other, net.shoal.keyring(A).certificate))


def test_a_stranger_is_not_read(net: Net) -> None:
    bare = msgspec.structs.replace(net.written(), certificate=b"")
    with pytest.raises(RemoteProtocolError, match="no certificate"):
        net.read(bare)
    late = Now(NOW.mono, 101 * YEAR_MS / 1000)
    with pytest.raises(RemoteProtocolError, match="expired"):
        net.read(net.written(), now=late)
    assert net.read(net.written(), now=replace(late, wall_trusted=False))


@pytest.mark.parametrize(("by", "at"), [(M, "r"), (R, "m"), (A, "b"), (M, "b")], ids=str)
def test_a_letter_on_another_way_than_its_own_is_refused(net: Net, by: PeerId, at: str) -> None:
    """One hop: from its sender to the relay that it names, and from there to its receiver."""
    with pytest.raises(RemoteProtocolError, match="not its own"):
        getattr(net, at).read(by, net.written())


def test_a_letter_to_its_own_sender_is_refused(net: Net) -> None:
    body = encode_message(Letter(A, A, R, 3, 3, 1, b"\x01"))
    with pytest.raises(RemoteProtocolError):
        net.r.read(A, Relayed(body, b"", b""))


def test_correspondents_are_bounded(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CORRESPONDENTS_MAX", 2)
    for name in ("x", "y", "z"):
        relay = Relay(net.shoal.keyring(name))
        relayed = relay.seal(B, R, LIVES, Ping(1), NOW.mono)
        assert relayed is not None and net.read(relayed)
    assert [net.b.highest(PeerId(name)) for name in ("x", "y", "z")] == [0, 1, 1]


# ---- the window -------------------------------------------------------------------------------


def test_a_number_is_fresh_once_within_the_window() -> None:
    window = Window()
    assert [window.fresh(number) for number in (5, 5, 3, 3, 4, 6)] == [
        True, False, True, False, True, True,
    ]  # fmt: skip
    assert window.fresh(6 + WINDOW) and not window.fresh(6) and window.fresh(7)
    assert window.fresh(2**63 - 1), "however far ahead"
    assert not window.fresh(6 + WINDOW) and window.seen.bit_length() == 1


# ---- handing on -------------------------------------------------------------------------------


def test_where_there_is_no_way_the_sender_is_told(net: Net) -> None:
    relayed = net.written()
    letter = net.r.read(A, relayed)
    assert net.r.hand_on(letter, relayed, False, 1.0) == [Send(A, PathReport((), (B,)))]


def hand_on(net: Net, size: int, now: float, receiver: PeerId = B) -> bool:
    letter = Letter(A, receiver, R, 3, 7, 1, b"")
    return bool(net.r.hand_on(letter, Relayed(bytes(size), b"", b""), True, now))


def test_each_pair_has_an_allowance_of_bytes_that_comes_back(net: Net) -> None:
    half = PAIR_BYTES_MAX // 2
    assert [hand_on(net, half, 1.0) for _ in range(3)] == [True, True, False]
    assert hand_on(net, half, 1.0, PeerId("c")), "another pair has its own"
    assert not hand_on(net, half, 1.0 + 0.9 * half / PAIR_BYTES_S)
    assert hand_on(net, half, 1.0 + half / PAIR_BYTES_S)
    assert net.r.dropped == 2


def test_all_pairs_together_have_an_allowance(net: Net) -> None:
    taken = [hand_on(net, PAIR_BYTES_MAX, 1.0, PeerId(f"p{number}")) for number in range(10)]
    assert sum(taken) == ALL_BYTES_MAX // PAIR_BYTES_MAX


def test_pairs_are_bounded(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAIRS_MAX", 1)
    assert hand_on(net, PAIR_BYTES_MAX, 1.0) and not hand_on(net, 1, 1.0)
    assert hand_on(net, 1, 1.0, PeerId("c"))
    assert hand_on(net, 1, 1.0), "the oldest was forgotten"
