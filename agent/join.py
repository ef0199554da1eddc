"""Joining: how a device with a token becomes a member, and the member's side of it.

One question and one answer on a stream of its own. The dialler has made sure that the other end is
the inviter that the token names, so nobody else ever sees the secret.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, Protocol

import trio

from agent import durable
from agent.datalock import LOCK_FILE, DataLock
from agent.identity import IdentityKeyring, create_identity, set_aside_identity
from agent.invites import Invites, refuse
from agent.jointoken import JoinToken
from agent.membership import (
    MEMBERSHIP_FILE,
    Membership,
    MembershipError,
    check_certificate,
    read_membership,
    write_membership,
)
from agent.storefile import DATABASE_FILE, RESERVE_FILE
from agent.storesql import StoreFailed
from protocol.clock import Now
from protocol.errors import RemoteProtocolError, ShoalError
from protocol.ids import PeerId
from protocol.messages import JoinAnswer, JoinRequest
from protocol.records import Certificate
from protocol.wire import decode_as, encode_message

REQUEST_BYTES_MAX: Final = 1024
ANSWER_BYTES_MAX: Final = 64 * 1024  # a certificate chain is 1 KiB; 32 labels are 16
SERVE_S: Final = 15.0  # for all of it; an SD card saves in 0.1 s
ATTEMPT_S: Final = 15.0  # dial, ask and be answered, at one address
ROUNDS: Final = 2  # over all addresses: asking twice is harmless, and Wi-Fi is not the best
PAUSE_S: Final = 1.0  # between the rounds, with jitter of half of it

_log = logging.getLogger(__name__)


class JoinError(ShoalError):
    """The device could not join; a sentence for the person who tries."""


class JoinStream(Protocol):
    """What is needed of a stream: frames, each at most `bytes_max` long."""

    async def read_frame(self, bytes_max: int = ..., timeout_s: float = ...) -> bytes:
        """The next frame; raises where it is too long or the stream is gone."""

    async def write_frame(self, frame: bytes, timeout_s: float = ...) -> None:
        """Send one frame; raises where the stream is gone."""

    async def aclose(self) -> None:
        """End our side; what was written still arrives."""


# Of a multiaddr that ends in /p2p/<inviter>; the connection goes with the block.
Dial = Callable[[str], AbstractAsyncContextManager[JoinStream]]


@dataclass(frozen=True, slots=True)
class Joined:
    """What a device got: nothing of it is saved yet."""

    keyring: IdentityKeyring  # as a member
    membership: Membership
    certificate: Certificate


async def join(
    token: JoinToken, keyring: IdentityKeyring, name: str, dial: Dial, random: Random
) -> Joined:
    """Ask the inviter at each of its addresses until it answers.

    Raises JoinError with what the inviter said, or why no address of it could be reached.
    """
    if not token.addresses:
        raise JoinError("the token names no address of the inviting device: make a new one there")
    request = encode_message(JoinRequest(token.secret, name))
    failures: dict[str, str] = {}
    for attempt in range(ROUNDS):
        if attempt:
            await trio.sleep(PAUSE_S * (0.5 + random.random()))
        for address in token.addresses:
            answer = await _ask(address, request, dial, failures)
            if answer is not None:
                return _accept(answer, token, keyring)
    tried = "; ".join(
        f"{address.partition('/p2p/')[0]}: {why}" for address, why in failures.items()
    )
    raise JoinError(
        f"the inviting device could not be reached ({tried}). Is its agent running, and are both "
        "devices in the same network?"
    )


def save_joined(data_dir: Path, joined: Joined, *, new_identity: bool = False) -> None:
    """Save the membership durably. Raises IdentityError, MembershipError, DataLocked.

    `new_identity`: the keyring is not the one on disk; the old key is set aside with the database
    and membership that belong to it.
    """
    lock = DataLock(data_dir) if new_identity else None  # not under a running agent
    try:
        if new_identity:
            _set_aside_state(data_dir)
            set_aside_identity(data_dir)
            create_identity(data_dir, keyring=joined.keyring)
        write_membership(data_dir, joined.membership)
    finally:
        if lock is not None:
            # What the store takes as the sign that a database was here before: not for this peer.
            (data_dir / LOCK_FILE).unlink(missing_ok=True)
            lock.release()


def check_may_join(data_dir: Path, token: JoinToken) -> None:
    """Raise MembershipError where this device belongs to another shoal than the token's.

    Joining one's own shoal again is fine: that is how a new certificate is got. A damaged
    membership keeps nobody from joining anew.
    """
    try:
        membership = read_membership(data_dir)
    except MembershipError:
        return
    if membership is not None and membership.shoal != token.shoal:
        raise MembershipError(
            f"the device in {data_dir} belongs to the shoal {membership.shoal_name!r} already, the "
            f"token is for {token.shoal_name!r}: use a data directory of its own, or leave the old "
            "one for good with `shoal join --new-identity TOKEN`"
        )


async def serve_join(
    stream: JoinStream, peer: PeerId, invites: Invites, now: Callable[[], Now]
) -> None:
    """Answer one request of `peer`, whom the stream vouches for. Never raises for what it sends."""
    try:
        with trio.fail_after(SERVE_S):
            frame = await stream.read_frame(REQUEST_BYTES_MAX)
            request = decode_as(frame, JoinRequest)
            try:
                answer = await invites.redeem(request.secret, peer, request.name, now())
            except StoreFailed as error:
                _log.error("a join could not be saved: %s", error)
                answer = refuse("the inviting device cannot save it: look at its log and try again")
            await stream.write_frame(encode_message(answer))
    except Exception as error:  # a stranger may send anything and break off anywhere
        _log.info("join of %s: %r", peer, error)
    finally:
        await _close(stream)


async def _ask(
    address: str, request: bytes, dial: Dial, failures: dict[str, str]
) -> JoinAnswer | None:
    """One attempt; None where there was no answer, and why is put into `failures`."""
    try:
        with trio.fail_after(ATTEMPT_S):
            async with dial(address) as stream:
                await stream.write_frame(request)
                return decode_as(await stream.read_frame(ANSWER_BYTES_MAX), JoinAnswer)
    except trio.TooSlowError:
        failures[address] = f"no answer within {ATTEMPT_S:g} s"
    except EOFError:
        failures[address] = "it hung up"
    except Exception as error:  # whatever a transport raises, the next address may work
        failures[address] = str(error) or type(error).__name__
    return None


def _accept(answer: JoinAnswer, token: JoinToken, keyring: IdentityKeyring) -> Joined:
    """Believe the certificate only as far as it goes back to the root that the token names."""
    if answer.error:
        raise JoinError(f"the inviting device says: {_printable(answer.error)}")
    mine = keyring.member_of(token.shoal, answer.certificate)
    try:
        certificate = check_certificate(answer.certificate, mine)
    except RemoteProtocolError as error:
        raise JoinError(
            f"the inviting device sent a certificate that is not good for this one in the shoal "
            f"{token.shoal_name!r}: {error}"
        ) from None
    membership = Membership(
        shoal=token.shoal,
        shoal_name=token.shoal_name,
        certificate=answer.certificate,
        addresses=tuple(dict.fromkeys((*token.addresses, *answer.addresses)))[:32],
        labels=answer.labels,
    )
    return Joined(mine, membership, certificate)


async def _close(stream: JoinStream) -> None:
    try:
        with trio.CancelScope(deadline=trio.current_time() + 1, shield=True):
            await stream.aclose()
    except Exception as error:
        _log.debug("closing a join stream: %r", error)


def _set_aside_state(data_dir: Path) -> None:
    """The database and membership of an identity that goes; the key itself comes last."""
    try:
        names = [DATABASE_FILE + side for side in ("-wal", "-shm", "")]
        for name in (*names, MEMBERSHIP_FILE):
            durable.set_aside(data_dir / name, "old")
        (data_dir / RESERVE_FILE).unlink(missing_ok=True)
        durable.sync_directory(data_dir)
    except OSError as error:
        raise MembershipError(f"{data_dir} cannot be written: {error.strerror}") from None


def _printable(text: str) -> str:
    """A peer's sentence, without what could play with a terminal, and of bounded length."""
    return "".join(sign for sign in text[:500] if sign.isprintable())
