"""The identity: the Ed25519 key that is this device in its shoal, on disk and as a keyring.

The key file is never replaced silently: it names its own peer id, so that damage shows instead of
making another peer of this device, and it is bound to the board it was made on (board.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path

from nacl.signing import SigningKey, VerifyKey

from agent import durable, peerid
from agent.board import Board, read_board
from protocol.errors import ShoalError
from protocol.ids import PeerId, ShoalId
from protocol.opened import Opened

KEY_FILE = "identity.key"
BOARD_FILE = "board"
SEED_BYTES = 32
NO_SHOAL = ShoalId("")  # nothing verifies against it
SIGNATURE_BYTES = 64

_HEADER = "shoal identity 1"
_VERIFIED_MAX = (
    4096  # as many as peers a shoal may have: 32 bytes and their slot each, 0.5 MB in all
)
_KEYS_MAX = 1024  # parsed public keys, about 0.3 KB each
_CACHED_BYTES_MAX = (
    4096  # larger data is hashed for nothing: certificates and adverts are what recurs
)


class IdentityError(ShoalError):
    """This device's identity cannot be used; the text is for a person and says the way out."""


class IdentityKeyring:
    """Signs with one Ed25519 key and verifies anybody's (protocol.records.Keyring).

    A signature that was found good is remembered, so that the certificate that comes with every
    record of a peer costs a hash (2 us) instead of a verification (50 us) from the second time on.
    """

    def __init__(self, seed: bytes, shoal: ShoalId = NO_SHOAL, certificate: bytes = b"") -> None:
        self._seed = seed
        self._key = SigningKey(seed)  # libsodium's: it verifies in half the time of OpenSSL's
        self._peer = peerid.encode(bytes(self._key.verify_key))
        self._shoal = shoal
        self._certificate = certificate
        self._verified: OrderedDict[bytes, None] = OrderedDict()
        self._opened = Opened()

    @classmethod
    def generate(cls) -> IdentityKeyring:
        """A new key, in memory only."""
        return cls(os.urandom(SEED_BYTES))

    @property
    def peer(self) -> PeerId:
        return self._peer

    @property
    def shoal(self) -> ShoalId:
        """NO_SHOAL while this device belongs to none."""
        return self._shoal

    @property
    def certificate(self) -> bytes:
        return self._certificate

    @property
    def opened(self) -> Opened:
        return self._opened

    @property
    def private_key_bytes(self) -> bytes:
        """The 32-byte seed, for the transport's Noise handshake."""
        return self._seed

    def member_of(self, shoal: ShoalId, certificate: bytes) -> IdentityKeyring:
        """The same key as a member of `shoal`."""
        return IdentityKeyring(self._seed, shoal, certificate)

    def sign(self, data: bytes) -> bytes:
        signature = self._key.sign(data).signature
        if len(data) <= _CACHED_BYTES_MAX:  # a device reads much of what it signed itself
            self._remember(_digest(self._peer, data, signature))
        return signature

    def verify(self, signer: str, data: bytes, signature: bytes) -> bool:
        """Whether `signature` over `data` is by the key that `signer` names. Never raises."""
        # The exact lengths keep the parts from running into each other in the digest.
        if len(signer) != peerid.TEXT_LENGTH or len(signature) != SIGNATURE_BYTES:
            return False
        digest = b""
        try:
            if len(data) <= _CACHED_BYTES_MAX:
                digest = _digest(signer, data, signature)
                if digest in self._verified:
                    self._verified.move_to_end(digest)
                    return True
            _public_key(signer).verify(data, signature)
        except Exception:  # whatever a stranger's bytes provoke down there, they are no signature
            return False
        if digest:
            self._remember(digest)
        return True

    def _remember(self, digest: bytes) -> None:
        self._verified[digest] = None
        if len(self._verified) > _VERIFIED_MAX:
            self._verified.popitem(last=False)


def _digest(signer: str, data: bytes, signature: bytes) -> bytes:
    return hashlib.sha256(signer.encode() + signature + data).digest()


@lru_cache(_KEYS_MAX)
def _public_key(peer: str) -> VerifyKey:
    return VerifyKey(peerid.decode(peer))


def create_identity(
    data_dir: Path, board: Board | None = None, keyring: IdentityKeyring | None = None
) -> IdentityKeyring:
    """Make this device's identity, or keep `keyring`'s; durable on return.

    Raises IdentityError where there is one already or the directory cannot be written.
    """
    keyring = IdentityKeyring.generate() if keyring is None else keyring
    try:
        if (data_dir / KEY_FILE).exists():
            raise FileExistsError
        durable.make_directory(data_dir)
        # The board first: a power cut in between leaves a board without a key, which binds nothing.
        _write_board(data_dir, read_board() if board is None else board)
        durable.create(data_dir / KEY_FILE, _to_text(keyring).encode())
    except FileExistsError:
        raise IdentityError(f"{data_dir / KEY_FILE} is there already and is not replaced") from None
    except OSError as error:
        raise _not_writable(data_dir, error) from None
    return keyring


def load_identity(data_dir: Path, board: Board | None = None) -> IdentityKeyring:
    """Read this device's identity and see that this is still its board.

    Raises IdentityError: there is none, it cannot be read, it is damaged, or another board's.
    """
    keyring = read_key(data_dir)
    _check_board(data_dir, read_board() if board is None else board)
    return keyring


def load_or_create_identity(data_dir: Path, board: Board | None = None) -> IdentityKeyring:
    """The identity of this device, made now if it has none. Raises IdentityError."""
    if os.path.exists(data_dir / KEY_FILE):  # unlike Path's, this never raises
        return load_identity(data_dir, board)
    return create_identity(data_dir, board)


def adopt_board(data_dir: Path, board: Board | None = None) -> None:
    """Bind the identity to the board it is on now: its card was moved on purpose.

    Raises IdentityError.
    """
    read_key(data_dir)
    try:
        _write_board(data_dir, read_board() if board is None else board)
    except OSError as error:
        raise _not_writable(data_dir, error) from None


def set_aside_identity(data_dir: Path) -> None:
    """Make room for a new identity: the old key and its board are renamed, never deleted.

    Raises IdentityError.
    """
    try:
        # The key first: a power cut in between must not leave a key that the next start binds anew.
        durable.set_aside(data_dir / KEY_FILE, "old")
        durable.sync_directory(data_dir)
        durable.set_aside(data_dir / BOARD_FILE, "old")
        durable.sync_directory(data_dir)
    except OSError as error:
        raise _not_writable(data_dir, error) from None


def read_key(data_dir: Path) -> IdentityKeyring:
    """Read the key file, whatever board this is. Raises IdentityError."""
    path = data_dir / KEY_FILE
    try:
        text = path.read_bytes().decode("ascii", "replace")
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)  # restored from a backup, say: tighten it rather than refuse to start
    except FileNotFoundError:
        raise IdentityError(
            f"{data_dir} holds no identity yet: `shoal init` starts a shoal, "
            "`shoal join TOKEN` joins one"
        ) from None
    except OSError as error:
        raise IdentityError(
            f"the identity key {path} cannot be read: {error.strerror}; "
            "run shoal as the user that owns it"
        ) from None
    keyring = _from_text(text)
    if keyring is None:
        raise IdentityError(
            f"the identity key {path} is damaged and is left as it is. Put back a copy of it, or "
            "give this device an identity of its own: `shoal join --new-identity TOKEN`"
        )
    return keyring


def _check_board(data_dir: Path, current: Board) -> None:
    """Raise IdentityError on another board; remember marks that only now could be read."""
    try:
        bound = Board.from_text((data_dir / BOARD_FILE).read_text("ascii"))
    except (OSError, ValueError):
        bound = Board()  # lost or damaged: bind it anew rather than keep a device from starting
    if bound.differs(current):
        raise IdentityError(
            "this identity belongs to another board (a copied card?). To give this device an "
            "identity of its own: `shoal join --new-identity TOKEN`. If the card was moved on "
            "purpose because the old board is gone: `shoal up --adopt-board`"
        )
    known = {kind for kind, _ in bound.marks}
    more = tuple(mark for mark in current.marks if mark[0] not in known)
    if more:
        with contextlib.suppress(OSError):  # a full or read-only disk is for the store to report
            _write_board(data_dir, Board(tuple(sorted(bound.marks + more))))


def _write_board(data_dir: Path, board: Board) -> None:
    durable.write(data_dir / BOARD_FILE, board.to_text().encode())


def _to_text(keyring: IdentityKeyring) -> str:
    return f"{_HEADER}\npeer {keyring.peer}\nseed {keyring.private_key_bytes.hex()}\n"


def _from_text(text: str) -> IdentityKeyring | None:
    """The key in `text`; None unless it is whole and the key of the peer that it names."""
    found = re.fullmatch(rf"{_HEADER}\npeer (\w+)\nseed ([0-9a-f]{{{2 * SEED_BYTES}}})\n", text)
    if found is None:
        return None
    keyring = IdentityKeyring(bytes.fromhex(found[2]))
    return keyring if keyring.peer == found[1] else None


def _not_writable(data_dir: Path, error: OSError) -> IdentityError:
    return IdentityError(f"{data_dir} cannot be written: {error.strerror}")
