"""Peer ids: libp2p's text form of an Ed25519 public key, both ways, without importing libp2p.

The text is base58btc of the identity multihash of the protobuf public key (libp2p specs, peer-ids):
00 (identity) 24 (36 bytes) 08 01 (key type Ed25519) 12 20 (32 bytes) and the key.
"""

from __future__ import annotations

from protocol.ids import PeerId

KEY_BYTES = 32
TEXT_LENGTH = 52  # of every such id: it starts with 12D3KooW

_PREFIX = bytes.fromhex("002408011220")
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUE = {character: value for value, character in enumerate(_ALPHABET)}


def encode(public_key: bytes) -> PeerId:
    """The peer id of a raw Ed25519 public key (32 bytes)."""
    if len(public_key) != KEY_BYTES:
        raise ValueError(f"an Ed25519 public key has {KEY_BYTES} bytes, not {len(public_key)}")
    number = int.from_bytes(_PREFIX + public_key, "big")
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_ALPHABET[digit])
    digits.append("1")  # base58 writes each leading zero byte as a 1, and the prefix has one
    return PeerId("".join(reversed(digits)))


def decode(peer: str) -> bytes:
    """The raw public key (32 bytes) that `peer` names. Raises ValueError; one key has one text."""
    if len(peer) != TEXT_LENGTH or peer[0] != "1" or peer[1] == "1":
        raise ValueError("not the id of an Ed25519 key")
    number = 0
    for character in peer:
        value = _VALUE.get(character)
        if value is None:
            raise ValueError(f"{character!r} is not a base58 character")
        number = number * 58 + value
    if number.bit_length() > 8 * (len(_PREFIX) + KEY_BYTES):
        raise ValueError("not the id of an Ed25519 key")
    raw = number.to_bytes(len(_PREFIX) + KEY_BYTES, "big")
    if not raw.startswith(_PREFIX):
        raise ValueError("not the id of an Ed25519 key")
    return raw[len(_PREFIX) :]
