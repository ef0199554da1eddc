"""Peer ids are libp2p's, both ways, and one key has one text."""

from __future__ import annotations

import random

import pytest

from agent import peerid
from protocol.ids import PeerId


def test_libp2p_makes_the_same_text() -> None:
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.id import ID

    rng = random.Random(1)
    for _ in range(50):
        public = create_new_key_pair(rng.randbytes(32)).public_key
        assert ID.from_pubkey(public).to_base58() == peerid.encode(public.to_bytes())


def test_decode_undoes_encode() -> None:
    rng = random.Random(2)
    for key in (bytes(32), b"\xff" * 32, *(rng.randbytes(32) for _ in range(200))):
        text = peerid.encode(key)
        assert text.startswith("12D3KooW") and len(text) == peerid.TEXT_LENGTH
        assert peerid.decode(text) == key


def test_nothing_else_is_a_peer_id() -> None:
    good = peerid.encode(bytes(range(32)))
    wrong = [
        "",
        "1" * 52,
        "z" * 52,
        "1" + "z" * 51,
        good[:-1],
        good + "1",
        "1" + good[:-1],
        good.replace(good[10], "0"),
        good[:-1] + "l",
        good[:-1] + "é",
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        PeerId(" " + good[1:]),
    ]
    for text in wrong:
        with pytest.raises(ValueError):
            peerid.decode(text)


def test_a_key_of_another_length_has_no_id() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        peerid.encode(bytes(31))
