"""The identity is never replaced silently, never used on another board, and verifies for all."""

from __future__ import annotations

import random
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent import peerid
from agent.board import Board
from agent.identity import (
    BOARD_FILE,
    KEY_FILE,
    IdentityError,
    IdentityKeyring,
    adopt_board,
    create_identity,
    load_identity,
    load_or_create_identity,
    set_aside_identity,
)
from protocol.ids import ShoalId
from protocol.records import Departure, Keyring, Role
from protocol.wire import open_sealed, seal

ONE = Board((("devicetree", "1" * 32),))
TWO = Board((("devicetree", "2" * 32),))


def test_created_once_and_found_again(tmp_path: Path) -> None:
    data = tmp_path / "deep" / "data"
    made = load_or_create_identity(data, ONE)
    assert load_or_create_identity(data, ONE).peer == made.peer == load_identity(data, ONE).peer
    assert stat.S_IMODE((data / KEY_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(data.stat().st_mode) == 0o700


def test_it_is_a_keyring_of_the_protocol(tmp_path: Path) -> None:
    identity = create_identity(tmp_path, ONE)
    root = IdentityKeyring.generate()
    keyring: Keyring = identity.member_of(ShoalId(root.peer), b"chain")
    assert (keyring.shoal, keyring.certificate) == (root.peer, b"chain")
    assert keyring.verify(keyring.peer, b"data", keyring.sign(b"data"))
    assert len(identity.private_key_bytes) == 32
    assert identity.shoal == "" and identity.certificate == b""


def test_libp2p_gets_the_same_peer_from_the_seed(tmp_path: Path) -> None:
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.id import ID

    identity = create_identity(tmp_path, ONE)
    pair = create_new_key_pair(identity.private_key_bytes)
    assert ID.from_pubkey(pair.public_key).to_base58() == identity.peer
    assert pair.private_key.sign(b"data") == identity.sign(b"data")


def test_an_identity_is_not_made_over_another(tmp_path: Path) -> None:
    peer = create_identity(tmp_path, ONE).peer
    with pytest.raises(IdentityError, match="is there already"):
        create_identity(tmp_path, TWO)
    assert load_identity(tmp_path, ONE).peer == peer, "nor is its board changed"


def test_two_at_once_make_one(tmp_path: Path) -> None:
    made: list[str] = []

    def attempt() -> None:
        try:
            made.append(create_identity(tmp_path, ONE).peer)
        except IdentityError:
            made.append("")

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made)[:-1] == [""] * 7
    assert load_identity(tmp_path, ONE).peer == max(made)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "garbage", "other"])
def test_a_damaged_key_is_an_error_with_a_way_out_and_stays(tmp_path: Path, damage: str) -> None:
    create_identity(tmp_path, ONE)
    path = tmp_path / KEY_FILE
    text = path.read_text()
    flipped = text[:-2] + ("0" if text[-2] != "0" else "1") + "\n"
    damaged = {
        "empty": "",
        "cut": text[: len(text) // 2],
        "flipped": flipped,
        "garbage": "\x00\xff" * 40,
        "other": text.replace("shoal identity 1", "shoal identity 9"),
    }[damage]
    path.write_text(damaged, "latin-1")
    for attempt in (load_identity, load_or_create_identity):
        with pytest.raises(IdentityError, match=r"damaged.*shoal join --new-identity TOKEN"):
            attempt(tmp_path, ONE)
    assert path.read_text("latin-1") == damaged


def test_a_key_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).mkdir()
    with pytest.raises(IdentityError, match="cannot be read"):
        load_identity(tmp_path, ONE)


def test_no_identity_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=r"shoal init.*shoal join TOKEN"):
        load_identity(tmp_path, ONE)


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IdentityError, match="cannot be written"):
        create_identity(tmp_path / "file" / "data", ONE)


def test_loose_rights_are_tightened(tmp_path: Path) -> None:
    create_identity(tmp_path, ONE)
    (tmp_path / KEY_FILE).chmod(0o644)
    load_identity(tmp_path, ONE)
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600


def test_a_copied_card_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    create_identity(tmp_path, ONE)
    with pytest.raises(IdentityError) as caught:
        load_identity(tmp_path, TWO)
    for words in ("copied card", "shoal join --new-identity TOKEN", "shoal up --adopt-board"):
        assert words in str(caught.value)
    adopt_board(tmp_path, TWO)
    load_identity(tmp_path, TWO)
    with pytest.raises(IdentityError):
        load_identity(tmp_path, ONE)


def test_the_override_tells_boards_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_BOARD_ID", "one")
    create_identity(tmp_path)
    load_identity(tmp_path)
    monkeypatch.setenv("SHOAL_BOARD_ID", "two")
    with pytest.raises(IdentityError, match="another board"):
        load_identity(tmp_path)


def test_an_unknown_board_never_blocks_and_is_bound_once_known(tmp_path: Path) -> None:
    create_identity(tmp_path, Board())
    load_identity(tmp_path, Board())
    load_identity(tmp_path, ONE)
    load_identity(tmp_path, Board())
    with pytest.raises(IdentityError):
        load_identity(tmp_path, TWO)


def test_a_lost_board_file_is_bound_anew(tmp_path: Path) -> None:
    create_identity(tmp_path, ONE)
    (tmp_path / BOARD_FILE).write_text("junk")
    load_identity(tmp_path, TWO)
    with pytest.raises(IdentityError):
        load_identity(tmp_path, ONE)


def test_set_aside_keeps_the_old_key(tmp_path: Path) -> None:
    old = create_identity(tmp_path, ONE)
    set_aside_identity(tmp_path)
    new = create_identity(tmp_path, TWO)
    assert new.peer != old.peer
    assert old.peer in (tmp_path / f"{KEY_FILE}.old-1").read_text()
    assert load_identity(tmp_path, TWO).peer == new.peer


def test_verify_says_no_and_never_raises() -> None:
    keyring, other = IdentityKeyring(b"\1" * 32), IdentityKeyring(b"\2" * 32)
    data, rng = b"some data", random.Random(3)
    good = keyring.sign(data)
    assert keyring.verify(keyring.peer, data, good) and other.verify(keyring.peer, data, good)
    wrong = [
        (other.peer, data, good),
        (keyring.peer, data + b"!", good),
        (keyring.peer, data, good[:-1] + bytes([good[-1] ^ 1])),
        (keyring.peer, data, b""),
        (keyring.peer, data, good + b"\0"),
        (keyring.peer[:-1], keyring.peer[-1:].encode() + data, good),
        ("", data, good),
        ("é" * 52, data, good),
        ("\ud800" * 52, data, good),
        (peerid.encode(bytes(32)), data, good),
        (peerid.encode(b"\xff" * 32), data, good),
        *((keyring.peer, data, rng.randbytes(64)) for _ in range(20)),
        *(("1" + "".join(rng.choices("23zZ", k=51)), data, good) for _ in range(20)),
    ]
    for signer, bytes_, signature in wrong:
        for _ in range(2):
            assert keyring.verify(signer, bytes_, signature) is False


def test_parts_cannot_shift_into_each_other_in_the_cache() -> None:
    keyring = IdentityKeyring(b"\1" * 32)
    data = b"data"
    signature = keyring.sign(data)
    assert keyring.verify(keyring.peer, data, signature)
    shifted = keyring.peer[-1:].encode() + signature
    assert not keyring.verify(keyring.peer[:-1], data, shifted)
    assert not keyring.verify(keyring.peer, signature[-1:] + data, signature[:-1])


def test_a_good_signature_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import agent.identity as module

    parsed: list[str] = []
    real = module._public_key
    monkeypatch.setattr(module, "_public_key", lambda peer: (parsed.append(peer), real(peer))[1])
    root = IdentityKeyring(b"\7" * 32)
    root = root.member_of(ShoalId(root.peer), b"")
    from agent.membership import issue_certificate

    member = IdentityKeyring(b"\3" * 32)
    chain = issue_certificate(member.peer, "m", [Role.SUBMIT], root, 0)
    member = member.member_of(root.shoal, chain)
    reader = IdentityKeyring(b"\4" * 32).member_of(root.shoal, b"")
    for number in range(100):
        open_sealed(seal(Departure(peer=member.peer, incarnation=number), member), reader)
    assert parsed.count(root.peer) == 1, "the certificate comes with each record"
    assert parsed.count(member.peer) == 100


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.identity._VERIFIED_MAX", 10)
    keyring = IdentityKeyring(b"\1" * 32)
    for number in range(30):
        data = b"%d" % number
        assert keyring.verify(keyring.peer, data, keyring.sign(data))
    assert len(keyring._verified) == 10


def test_what_the_command_line_imports_is_light() -> None:
    code = (
        "import sys, agent.identity, agent.shoalroot, agent.jointoken, agent.membership\n"
        "heavy = {'trio', 'libp2p', 'sqlite3', 'multiaddr', 'base58'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
