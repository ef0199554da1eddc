"""Simulated keys behave as real ones do, as far as the protocol can tell."""

import pytest

from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId
from protocol.records import Departure, Role
from protocol.sim.keyring import SIGNATURE_BYTES, Root, peer_name
from protocol.wire import open_sealed, seal


def test_a_member_is_known_by_the_certificate_of_its_root() -> None:
    root = Root("lab")
    one, other = root.member(1), root.member(2, (Role.COMPUTE,))
    sealed = open_sealed(seal(Departure(peer=one.peer, incarnation=3), one), other)
    assert sealed.author == one.peer
    assert sealed.author_holds(Role.SUBMIT, "default")
    weak = open_sealed(seal(Departure(peer=other.peer, incarnation=1), other), one)
    assert not weak.author_holds(Role.SUBMIT)


def test_another_shoal_is_a_stranger() -> None:
    ours, theirs = Root("ours").member(1), Root("theirs").member(1)
    with pytest.raises(RemoteProtocolError):
        open_sealed(seal(Departure(peer=theirs.peer, incarnation=3), theirs), ours)


def test_a_changed_record_is_refused() -> None:
    keyring = Root("lab").member(1)
    data = keyring.sign(b"data")
    assert len(data) == SIGNATURE_BYTES
    assert keyring.verify(keyring.peer, b"data", data)
    assert not keyring.verify(keyring.peer, b"date", data)
    assert not keyring.verify(PeerId("somebody"), b"data", data)


def test_names_are_as_long_as_real_ones() -> None:
    assert len(peer_name("x")) == 52
    assert peer_name("x") != peer_name("y")
