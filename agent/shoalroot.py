"""The shoal root: the key every membership goes back to; made once, backed up, and forgotten.

No device keeps it in clear. Its first member gets `admit` from it and lets the others in; the
backup is for the day when no device with `admit` is left.
"""

from __future__ import annotations

import os
import re
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent import durable
from agent.identity import IdentityError, IdentityKeyring, load_or_create_identity
from agent.membership import (
    Membership,
    MembershipDamaged,
    MembershipError,
    device_name,
    issue_certificate,
    load_member,
    name_problem,
    read_membership,
    write_membership,
)
from protocol.errors import ShoalError
from protocol.ids import PeerId, ShoalId
from protocol.records import Role

PASSPHRASE_LENGTH_MIN = 8  # scrypt makes a guess cost 0.3 s and 32 MiB; eight signs bear that
BACKUP_BYTES_MAX = 16 * 1024

_FORMAT = "shoal-root-backup"
_VERSION = 1
_SALT_BYTES = 16
_NONCE_BYTES = 12
# Crockford's base32 letters: none is taken for another. Five groups of four are 100 bits.
_SIGNS = "0123456789abcdefghjkmnpqrstvwxyz"
_GROUPS, _GROUP_LENGTH = 5, 4
_GENERATED = re.compile(rf"[{_SIGNS}]{{{_GROUPS * _GROUP_LENGTH}}}\Z")


class ShoalRootError(ShoalError):
    """A shoal cannot be made, or its root not be opened; the text is a sentence for a person."""


class _Head(msgspec.Struct, frozen=True):
    format: str = ""
    version: int = 0


class _Kdf(msgspec.Struct, frozen=True, kw_only=True):
    """OWASP's choice for scrypt with 32 MiB: the stronger take 128, and a Zero 2 W has 512."""

    salt: bytes
    name: str = "scrypt"
    n: int = 1 << 15
    r: int = 8
    p: int = 3


class _Cipher(msgspec.Struct, frozen=True, kw_only=True):
    nonce: bytes
    name: str = "chacha20-poly1305"


class _Backup(msgspec.Struct, frozen=True, kw_only=True):
    """The backup file, JSON, its bytes in base64; `sealed` is the encrypted 32-byte seed."""

    format: str = _FORMAT
    version: int = _VERSION
    shoal: ShoalId
    name: str
    kdf: _Kdf
    cipher: _Cipher
    sealed: bytes = b""


@dataclass(frozen=True, slots=True)
class ShoalCreated:
    """A new shoal with this device as its first member."""

    shoal: ShoalId
    name: str
    peer: PeerId
    backup: Path
    passphrase: str | None  # where it was generated: to be shown once, it is kept nowhere


@dataclass(frozen=True, slots=True)
class ShoalRoot:
    """The root, opened from its backup. Drop it once what it was opened for is signed."""

    name: str
    keyring: IdentityKeyring  # its peer is its shoal, so what it seals needs no certificate

    @property
    def shoal(self) -> ShoalId:
        return self.keyring.shoal

    def admit(self, peer: PeerId, name: str, roles: tuple[Role, ...], wall_ms: int) -> bytes:
        """A sealed certificate for `peer`, signed by the root."""
        return issue_certificate(peer, name, roles, self.keyring, wall_ms)


def create_shoal(
    data_dir: Path,
    name: str,
    passphrase: str | None = None,
    *,
    device: str | None = None,
    backup: Path | None = None,
    labels: dict[str, str] | None = None,
) -> ShoalCreated:
    """Start a shoal on this device, with every role, and write the backup of its root key.

    The backup is on disk before the membership is: a power cut leaves no shoal without one.
    `passphrase` None generates one; `device` None takes the host's name; `backup` None is
    `<data>/shoal-root-<name>.backup`. Raises ShoalRootError, IdentityError, MembershipError.
    """
    if problem := name_problem(name):
        raise ShoalRootError(f"the shoal's name: {problem}")
    member = read_membership(data_dir)
    if member is not None:
        raise ShoalRootError(
            f"the device in {data_dir} belongs to the shoal {member.shoal_name!r} already; "
            "a second shoal needs a data directory of its own"
        )
    generated = _generate_passphrase() if passphrase is None else None
    secret = generated or _checked_passphrase(passphrase or "")
    identity = load_or_create_identity(data_dir)
    root = _root(name, os.urandom(32))
    wall_ms = time.time_ns() // 1_000_000
    path = _write_backup(root, secret, data_dir, backup)
    called = device_name(os.uname().nodename if device is None else device)
    membership = Membership(
        shoal=root.shoal,
        shoal_name=name,
        certificate=root.admit(identity.peer, called, tuple(Role), wall_ms),
        labels=labels or {},
    )
    write_membership(data_dir, membership, first=True)
    return ShoalCreated(root.shoal, name, identity.peer, path, generated)


def recover_root(path: Path, passphrase: str) -> ShoalRoot:
    """Open a backup of a root key. Raises ShoalRootError: no backup, damaged, wrong passphrase."""
    try:
        if path.stat().st_size > BACKUP_BYTES_MAX:
            raise ShoalRootError(f"{path} is not a backup of a shoal root: it is too large")
        data = path.read_bytes()
    except OSError as error:
        raise ShoalRootError(f"the backup {path} cannot be read: {error.strerror}") from None
    return _open_backup(data, passphrase, path)


def recover_member(
    data_dir: Path, path: Path, passphrase: str, *, device: str | None = None
) -> Membership:
    """Give this device every role in the shoal whose backup is at `path`, `admit` included. It
    keeps the name that it has there, unless it is given another.

    Raises ShoalRootError (also where it belongs to another shoal), IdentityError, MembershipError.
    """
    root = recover_root(path, passphrase)
    try:
        old = read_membership(data_dir)
    except MembershipDamaged:  # by the last member perhaps, whom nobody could let in again
        old = None
    if old is not None and old.shoal != root.shoal:
        raise ShoalRootError(
            f"the device in {data_dir} belongs to the shoal {old.shoal_name!r}, "
            f"the backup is of {root.name!r}"
        )
    identity = load_or_create_identity(data_dir)
    called = device_name(device or _name_of(data_dir, old) or os.uname().nodename)
    wall_ms = time.time_ns() // 1_000_000
    membership = Membership(
        shoal=root.shoal,
        shoal_name=root.name,
        certificate=root.admit(identity.peer, called, tuple(Role), wall_ms),
        addresses=old.addresses if old else (),
        labels=old.labels if old else {},
    )
    write_membership(data_dir, membership)
    return membership


def _name_of(data_dir: Path, member: Membership | None) -> str:
    """What its certificate calls it; empty where it has none that holds."""
    try:
        return load_member(data_dir).certificate.name if member is not None else ""
    except (MembershipError, IdentityError):
        return ""


def _root(name: str, seed: bytes) -> ShoalRoot:
    key = IdentityKeyring(seed)
    return ShoalRoot(name, key.member_of(ShoalId(key.peer), b""))


def _write_backup(root: ShoalRoot, passphrase: str, data_dir: Path, wanted: Path | None) -> Path:
    """Write the backup where no file is; the default name is numbered after an init cut short."""
    data = _seal_backup(root, passphrase)
    number = 1
    while True:
        mark = "" if number == 1 else f"-{number}"
        path = wanted or data_dir / f"shoal-root-{root.name}{mark}.backup"
        try:
            durable.create(path, data)
        except FileExistsError:
            if wanted:
                raise ShoalRootError(f"{path} is there already and is not replaced") from None
            number += 1
            continue
        except OSError as error:
            raise ShoalRootError(f"the backup {path} cannot be written: {error.strerror}") from None
        return path


def _seal_backup(root: ShoalRoot, passphrase: str) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    kdf = _Kdf(salt=os.urandom(_SALT_BYTES))
    cipher = _Cipher(nonce=os.urandom(_NONCE_BYTES))
    backup = _Backup(shoal=root.shoal, name=root.name, kdf=kdf, cipher=cipher)
    sealed = ChaCha20Poly1305(_derive(passphrase, kdf)).encrypt(
        cipher.nonce, root.keyring.private_key_bytes, _bound(backup)
    )
    text = msgspec.json.encode(msgspec.structs.replace(backup, sealed=sealed))
    return msgspec.json.format(text, indent=2) + b"\n"


def _open_backup(data: bytes, passphrase: str, path: Path) -> ShoalRoot:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    backup = _parse_backup(data, path)
    try:
        key = _derive(_normal(passphrase), backup.kdf)
        seed = ChaCha20Poly1305(key).decrypt(backup.cipher.nonce, backup.sealed, _bound(backup))
    except InvalidTag:
        raise ShoalRootError(
            f"the passphrase is wrong, or the backup {path} was changed; it is of the shoal "
            f"{backup.name!r} ({backup.shoal})"
        ) from None
    root = _root(backup.name, seed)
    if root.shoal != backup.shoal:
        raise ShoalRootError(f"the backup {path} holds the key of another shoal than it says")
    return root


def _parse_backup(data: bytes, path: Path) -> _Backup:
    """What the file says, within bounds. Raises ShoalRootError."""
    try:
        head = msgspec.json.decode(data, type=_Head)
    except msgspec.DecodeError:
        head = _Head()
    if head.format != _FORMAT:
        raise ShoalRootError(f"{path} is not a backup of a shoal root, or it is damaged")
    if head.version != _VERSION:
        raise ShoalRootError(
            f"the backup {path} is of version {head.version}, which this shoal cannot read"
        )
    try:
        backup = msgspec.json.decode(data, type=_Backup)
    except msgspec.DecodeError:
        raise ShoalRootError(f"the backup {path} is damaged") from None
    kdf, cipher = backup.kdf, backup.cipher
    # A power of two and within what a small device bears, before anything is computed with it.
    costs = 1 < kdf.n <= 1 << 20 and kdf.n.bit_count() == 1 and 0 < kdf.r <= 32 and 0 < kdf.p <= 16
    named = (kdf.name, cipher.name) == ("scrypt", "chacha20-poly1305")
    if not costs or not named or len(cipher.nonce) != _NONCE_BYTES:
        raise ShoalRootError(f"the backup {path} is damaged")
    return backup


def _bound(backup: _Backup) -> bytes:
    """What is in clear, as the cipher's associated data: none of it can be changed unnoticed."""
    return msgspec.json.encode(msgspec.structs.replace(backup, sealed=b""))


def _derive(passphrase: str, kdf: _Kdf) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    return Scrypt(salt=kdf.salt, length=32, n=kdf.n, r=kdf.r, p=kdf.p).derive(passphrase.encode())


def _checked_passphrase(passphrase: str) -> str:
    normal = _normal(passphrase)
    if len(normal) < PASSPHRASE_LENGTH_MIN:
        raise ShoalRootError(
            f"the passphrase is too short: {PASSPHRASE_LENGTH_MIN} characters at least"
        )
    return normal


def _generate_passphrase() -> str:
    drawn = os.urandom(_GROUPS * _GROUP_LENGTH)
    return _grouped("".join(_SIGNS[byte % len(_SIGNS)] for byte in drawn))  # 32 divides 256


def _normal(passphrase: str) -> str:
    """One text for what a person means: a generated one is read in any case and grouping."""
    stripped = unicodedata.normalize("NFC", passphrase).strip()
    signs = re.sub(r"[\s-]", "", stripped).lower()
    signs = signs.translate(str.maketrans("ilo", "110"))  # Crockford: how they are misread
    return _grouped(signs) if _GENERATED.match(signs) else stripped


def _grouped(signs: str) -> str:
    step = _GROUP_LENGTH
    return "-".join(signs[at : at + step] for at in range(0, len(signs), step))
