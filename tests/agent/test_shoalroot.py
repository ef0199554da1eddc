"""The shoal root: made once, never left in clear, and back from its backup."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from agent.identity import load_identity
from agent.membership import (
    EARLIEST_MS,
    MembershipError,
    check_certificate,
    load_member,
    read_membership,
)
from agent.shoalroot import (
    ShoalRootError,
    create_shoal,
    recover_member,
    recover_root,
)
from protocol.records import Departure, Role
from protocol.wire import open_sealed, seal

PASSPHRASE = "correct horse"


def test_the_first_device_is_a_member_with_every_role(tmp_path: Path) -> None:
    created = create_shoal(tmp_path, "home", PASSPHRASE, device="first pi", labels={"a": "b"})
    member = load_member(tmp_path)
    assert member.certificate.roles == ("compute", "submit", "operate", "admit")
    assert member.certificate.name == "first-pi" and member.membership.labels == {"a": "b"}
    assert (member.certificate.shoal, member.certificate.peer) == (created.shoal, created.peer)
    assert created.passphrase is None and created.name == member.membership.shoal_name == "home"
    sealed = open_sealed(
        seal(Departure(peer=created.peer, incarnation=1), member.keyring), member.keyring
    )
    assert sealed.author_holds(Role.OPERATE, "any")


def test_the_root_key_is_on_the_device_only_encrypted(tmp_path: Path) -> None:
    created = create_shoal(tmp_path, "home", PASSPHRASE)
    assert created.backup == tmp_path / "shoal-root-home.backup"
    assert stat.S_IMODE(created.backup.stat().st_mode) == 0o600
    clear = json.loads(created.backup.read_text())
    assert (clear["shoal"], clear["name"], clear["version"]) == (created.shoal, "home", 1)
    seed = recover_root(created.backup, PASSPHRASE).keyring.private_key_bytes
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        assert seed not in data and seed.hex().encode() not in data, path
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "board", "identity.key", "membership", "shoal-root-home.backup",
    ]  # fmt: skip


def test_a_generated_passphrase_is_strong_and_read_as_people_type(tmp_path: Path) -> None:
    created = create_shoal(tmp_path, "home")
    text = created.passphrase
    assert text is not None and len(text.replace("-", "")) == 20
    assert create_shoal(tmp_path / "other", "home").passphrase != text
    for typed in (text, text.upper(), text.replace("-", " "), f" {text.replace('-', '')}\n"):
        assert recover_root(created.backup, typed).shoal == created.shoal
    misread = text.replace("1", "l").replace("0", "O")
    assert recover_root(created.backup, misread).shoal == created.shoal


def test_the_root_from_the_backup_admits(tmp_path: Path) -> None:
    created = create_shoal(tmp_path, "home", PASSPHRASE)
    root = recover_root(created.backup, PASSPHRASE)
    assert root.name == "home" and root.shoal == created.shoal
    identity = load_identity(tmp_path)
    data = root.admit(identity.peer, "again", (Role.ADMIT,), EARLIEST_MS)
    certificate = check_certificate(data, identity.member_of(root.shoal, b""))
    assert certificate.roles == ("admit",)


def test_another_device_takes_over_with_the_backup(tmp_path: Path) -> None:
    created = create_shoal(tmp_path / "lost", "home", PASSPHRASE)
    membership = recover_member(tmp_path / "new", created.backup, PASSPHRASE, device="heir")
    member = load_member(tmp_path / "new")
    assert member.membership == membership and member.certificate.holds(Role.ADMIT)
    assert member.certificate.shoal == created.shoal and member.certificate.peer != created.peer
    create_shoal(tmp_path / "other", "other", PASSPHRASE)
    with pytest.raises(ShoalRootError, match=r"'other'.*'home'"):
        recover_member(tmp_path / "other", created.backup, PASSPHRASE)


def test_the_backup_mends_a_damaged_membership_and_leaves_a_name_alone(tmp_path: Path) -> None:
    created = create_shoal(tmp_path, "home", PASSPHRASE, device="kitchen")
    recover_member(tmp_path, created.backup, PASSPHRASE)
    assert load_member(tmp_path).certificate.name == "kitchen"
    (tmp_path / "membership").write_bytes(b"\0" * 100)
    with pytest.raises(MembershipError, match="shoal recover BACKUP"):
        load_member(tmp_path)
    recover_member(tmp_path, created.backup, PASSPHRASE, device="kitchen")
    member = load_member(tmp_path)
    assert (member.certificate.name, member.keyring.peer) == ("kitchen", created.peer)


def test_a_wrong_passphrase_is_told(tmp_path: Path) -> None:
    created = create_shoal(tmp_path, "home", PASSPHRASE)
    with pytest.raises(ShoalRootError, match=r"passphrase is wrong.*'home'"):
        recover_root(created.backup, PASSPHRASE + "!")


def test_nothing_in_the_backup_can_be_changed_unnoticed(tmp_path: Path) -> None:
    created = create_shoal(tmp_path, "home", PASSPHRASE)
    other = create_shoal(tmp_path / "other", "other", PASSPHRASE)
    backup = json.loads(created.backup.read_text())
    foreign = json.loads(other.backup.read_text())
    path = tmp_path / "changed"
    for changed in (
        {**backup, "name": "else"},
        {**backup, "shoal": foreign["shoal"]},
        {**backup, "sealed": foreign["sealed"]},
        {**backup, "kdf": {**backup["kdf"], "salt": foreign["kdf"]["salt"]}},
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(ShoalRootError, match="passphrase is wrong"):
            recover_root(path, PASSPHRASE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version 2"),
        ({"format": "x"}, "not a backup"),
        ({"kdf": {"name": "scrypt", "n": 1 << 40, "r": 8, "p": 1, "salt": ""}}, "damaged"),
        ({"kdf": {"name": "scrypt", "n": 3, "r": 8, "p": 1, "salt": ""}}, "damaged"),
        ({"kdf": {"name": "md5", "salt": ""}}, "damaged"),
        ({"kdf": []}, "damaged"),
        ({"cipher": {"name": "chacha20-poly1305", "nonce": ""}}, "damaged"),
        ({"sealed": 5}, "damaged"),
        ({"sealed": "%"}, "damaged"),
    ],
)
def test_a_damaged_backup_is_told(tmp_path: Path, change: dict[str, object], words: str) -> None:
    created = create_shoal(tmp_path, "home", PASSPHRASE)
    created.backup.write_text(json.dumps({**json.loads(created.backup.read_text()), **change}))
    with pytest.raises(ShoalRootError, match=words):
        recover_root(created.backup, PASSPHRASE)


@pytest.mark.parametrize("content", [b"", b"junk", b"\xff\xfe", b"[]", b"{}", bytes(20_000)])
def test_what_is_no_backup_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ShoalRootError):
        recover_root(tmp_path / "file", PASSPHRASE)
    with pytest.raises(ShoalRootError, match="cannot be read"):
        recover_root(tmp_path / "none", PASSPHRASE)


def test_a_device_of_one_shoal_makes_no_other(tmp_path: Path) -> None:
    created = create_shoal(tmp_path, "home", PASSPHRASE)
    with pytest.raises(ShoalRootError, match="belongs to the shoal 'home' already"):
        create_shoal(tmp_path, "other", PASSPHRASE)
    membership = read_membership(tmp_path)
    assert membership is not None and membership.shoal == created.shoal
    assert not (tmp_path / "shoal-root-other.backup").exists()


@pytest.mark.parametrize("name", ["", "a b", "../home", "x" * 64])
def test_a_bad_name_is_refused_before_anything_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(ShoalRootError, match="the shoal's name"):
        create_shoal(tmp_path / "data", name, PASSPHRASE)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("passphrase", ["", "short", "       x  "])
def test_a_short_passphrase_is_refused_before_anything_is_made(
    tmp_path: Path, passphrase: str
) -> None:
    with pytest.raises(ShoalRootError, match="too short"):
        create_shoal(tmp_path / "data", "home", passphrase)
    assert not (tmp_path / "data").exists()


def test_a_backup_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "shoal-root-home.backup").write_text("of an init that was cut short")
    created = create_shoal(tmp_path, "home", PASSPHRASE)
    assert created.backup == tmp_path / "shoal-root-home-2.backup"
    with pytest.raises(ShoalRootError, match="is there already"):
        create_shoal(tmp_path / "b", "home", PASSPHRASE, backup=created.backup)
    assert read_membership(tmp_path / "b") is None


def test_a_backup_elsewhere_and_one_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "stick").mkdir()
    path = tmp_path / "stick" / "root"
    assert create_shoal(tmp_path / "a", "home", PASSPHRASE, backup=path).backup == path
    with pytest.raises(ShoalRootError, match="cannot be written"):
        create_shoal(tmp_path / "b", "home", PASSPHRASE, backup=tmp_path / "none" / "root")
    assert read_membership(tmp_path / "b") is None, "no shoal without a backup"
