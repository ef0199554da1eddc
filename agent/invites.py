"""Invites: who may join next. A member with `admit` makes tokens and redeems them.

Only the hash of a token's secret is kept. A redemption is on disk before it is answered, and the
peer that redeemed gets the same certificate again however often its answer was lost.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Final

import msgspec
import trio

from agent.grant import (
    EXPIRES_S,
    EXPIRES_S_MAX,
    ROLES,
    InviteError,
    check_bounds,
    check_roles,
    require_admit,
)
from agent.identity import IdentityKeyring
from agent.jointoken import SECRET_BYTES, JoinToken, format_token, utc
from agent.membership import EARLIEST_MS, Member, issue_certificate, name_problem
from agent.store import Store
from agent.storesql import InviteWrite, StoreFailed
from protocol.clock import Now
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId
from protocol.messages import JoinAnswer
from protocol.records import Role
from protocol.tree import Plain
from protocol.wire import decode_as, dumps

INVITES_MAX: Final = 256
ADDRESSES_MAX: Final = 16  # told to a new member; it learns the rest by itself
KEPT_S: Final = 86_400  # an invite that is over still says so for a day
WRONG_MAX: Final = 5  # wrong secrets of one peer within WRONG_S, before it is no longer heard
WRONG_S: Final = 60.0
WRONG_PEERS_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class Invited:
    """A new invite: the token's text, shown once, and when it is over (0: the clock is not set)."""

    token: str
    id: str
    expires_ms: int


class Invite(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """As it is stored. Its id is a hash of the secret."""

    roles: tuple[str, ...]
    namespaces: tuple[str, ...]
    labels: dict[str, str]
    uses: int
    expires_s: int
    expires_ms: int  # 0 where the wall clock could not be trusted
    created_ms: int


@dataclass(slots=True)
class _Open:
    """An invite and who redeemed it."""

    invite: Invite
    ends_mono: float  # for a device without the time; after a restart it counts anew
    certificates: dict[PeerId, bytes] = field(default_factory=dict)
    unsaved: set[PeerId] = field(default_factory=set)  # whose redemption may not be on disk

    def over(self, now: Now) -> bool:
        return self.left_s(now) <= 0

    def left_s(self, now: Now) -> int:
        """Seconds, rounded up, for which it is good yet."""
        if self.invite.expires_ms and now.wall_trusted:
            return -((now.wall_ms - self.invite.expires_ms) // 1000)
        return ceil(self.ends_mono - now.mono)


class Invites:
    """The invites of one member. All methods belong to the loop."""

    def __init__(
        self, store: Store, member: Member, addresses: Callable[[], Iterable[str]], now: Now
    ) -> None:
        """Read what the store holds. `addresses` gives our own and other peers', with /p2p.

        Raises StoreFailed.
        """
        self.wrong_secrets = 0  # counted, for the metrics
        self.redeemed = 0
        self._store = store
        self._member = member
        self._addresses = addresses
        self._turn = trio.Lock()
        self._wrong: OrderedDict[PeerId, tuple[int, float]] = OrderedDict()
        self._open = _restore(store.load_invites(), now)

    async def create(
        self,
        now: Now,
        *,
        expires_s: int = EXPIRES_S,
        uses: int = 1,
        roles: Sequence[str] = ROLES,
        labels: dict[str, str] | None = None,
    ) -> Invited:
        """Make an invite, durably. Raises InviteError and StoreFailed."""
        require_admit(self._member.certificate, now)
        check_roles(roles, self._member.certificate)
        check_bounds(expires_s, uses, labels or {})
        if not self._own_addresses():
            raise InviteError(
                "this device knows no address at which others could reach it: is it on a network?"
            )
        secret = os.urandom(SECRET_BYTES)
        wall_ms = max(now.wall_ms, EARLIEST_MS)
        invite = Invite(
            roles=tuple(dict.fromkeys(roles)),
            namespaces=self._member.certificate.namespaces,
            labels=labels or {},
            uses=uses,
            expires_s=expires_s,
            expires_ms=wall_ms + expires_s * 1000 if now.wall_trusted else 0,
            created_ms=wall_ms,
        )
        name = _id_of(secret)
        async with self._turn:
            await self._forget_old(now)
            if len(self._open) >= INVITES_MAX:
                raise InviteError(f"there are {INVITES_MAX} invites already: withdraw some")
            await self._store.save_invites([(name, "", _encode(invite))])
            self._open[name] = _Open(invite, now.mono + expires_s)
        return Invited(self._token(secret, invite.expires_ms), name, invite.expires_ms)

    async def redeem(self, secret: bytes, peer: PeerId, name: str, now: Now) -> JoinAnswer:
        """Answer a device that wants to join: durable first, the same answer to the same peer.

        Raises StoreFailed; then nothing was answered and the use is not spent.
        """
        if self._is_muted(peer, now):
            return refuse("too many wrong tokens from this device: wait a minute")
        async with self._turn:
            opened = self._find(secret)
            if opened is None:
                self._count_wrong(peer, now)
                return refuse(
                    "this invite is not known here: it was made by another device, or this one "
                    "lost its database; make a new one with `shoal invite`"
                )
            if peer not in opened[1].certificates and (
                error := self._problem(opened[1], name, now)
            ):
                return refuse(error)
            return await self._admit(*opened, peer, name, now)

    async def withdraw(self, prefix: str) -> str:
        """Withdraw one by its id or the beginning of that, durably; its whole id.

        Who joined by it stays a member. Raises InviteError where there is no such one, or several,
        and StoreFailed.
        """
        async with self._turn:
            names = [name for name in self._open if name.startswith(prefix)]
            found = [prefix] if prefix in names else names
            if len(found) != 1:
                several = f"{len(found)} invites begin with {prefix!r}: give more of its id"
                none = f"no invite made here is called {prefix!r}: `shoal invites` lists them"
                raise InviteError(several if found and prefix else none)
            await self._store.save_invites(_deletions(found[0], self._open[found[0]]))
            del self._open[found[0]]
        return found[0]

    def open_invites(self, now: Now) -> list[dict[str, Plain]]:
        """Those that still have a use, the newest first; see control.backend."""
        found = [
            opened
            for opened in self._open.items()
            if not opened[1].over(now) and len(opened[1].certificates) < opened[1].invite.uses
        ]
        found.sort(key=lambda each: (-each[1].invite.created_ms, each[0]))
        return [
            {
                "id": name,
                "used": len(opened.certificates),
                "uses": opened.invite.uses,
                "roles": list(opened.invite.roles),
                "labels": dict(opened.invite.labels),
                "expires_in_s": opened.left_s(now),
            }
            for name, opened in found
        ]

    # ---- creating

    def _own_addresses(self) -> tuple[str, ...]:
        suffix = f"/p2p/{self._member.keyring.peer}"
        return tuple(address for address in self._addresses() if address.endswith(suffix))

    def _token(self, secret: bytes, expires_ms: int) -> str:
        keyring, name = self._member.keyring, self._member.membership.shoal_name
        mine = self._own_addresses()
        return format_token(JoinToken(keyring.shoal, name, keyring.peer, mine, secret, expires_ms))

    async def _forget_old(self, now: Now) -> None:
        """Drop invites that were over a day ago, and nothing while the time is not known."""
        ms = now.wall_ms - KEPT_S * 1000
        old = [
            (name, opened)
            for name, opened in self._open.items()
            if now.wall_trusted
            and (opened.invite.expires_ms or opened.invite.created_ms + EXPIRES_S_MAX * 1000) < ms
        ]
        if old:
            await self._store.save_invites([row for item in old for row in _deletions(*item)])
            for name, _ in old:
                self._open.pop(name, None)

    # ---- redeeming

    def _find(self, secret: bytes) -> tuple[str, _Open] | None:
        """Compared in constant time with every one, hashes at that: timing tells nothing."""
        wanted, found = _id_of(secret), None
        for name, opened in self._open.items():
            if hmac.compare_digest(name, wanted):
                found = (name, opened)
        return found

    def _problem(self, opened: _Open, name: str, now: Now) -> str:
        """Why the invite does not admit one more, as a sentence; empty where it does."""
        if opened.over(now):
            known = opened.invite.expires_ms
            when = f" on {utc(known)}" if known else ""
            return f"this invite expired{when}: make a new one with `shoal invite`"
        if len(opened.certificates) >= opened.invite.uses:
            times = "once" if opened.invite.uses == 1 else f"{opened.invite.uses} times"
            return (
                f"this invite is used up, it was good {times}: make a new one with `shoal invite`"
            )
        if problem := name_problem(name):
            return f"the device's name: {problem}"
        try:
            require_admit(self._member.certificate, now)
        except InviteError as error:
            return str(error)
        return ""

    async def _admit(
        self, name: str, opened: _Open, peer: PeerId, device: str, now: Now
    ) -> JoinAnswer:
        certificate = opened.certificates.get(peer)
        if certificate is None:
            certificate = self._issue(opened.invite, peer, device, now)
            opened.certificates[peer] = certificate
            opened.unsaved.add(peer)
        if peer in opened.unsaved:  # also where the first time was cancelled half way
            try:
                await self._store.save_invites([(name, peer, certificate)])
            except StoreFailed:
                del opened.certificates[peer]
                opened.unsaved.discard(peer)
                raise
            opened.unsaved.discard(peer)
            self.redeemed += 1
        return JoinAnswer(
            certificate=certificate,
            shoal_name=self._member.membership.shoal_name,
            addresses=tuple(dict.fromkeys(self._addresses()))[:ADDRESSES_MAX],
            labels=opened.invite.labels,
        )

    def _issue(self, invite: Invite, peer: PeerId, device: str, now: Now) -> bytes:
        # Roles that this device lost since are not handed on.
        roles = [Role(role) for role in invite.roles if role in self._member.certificate.roles]
        keyring: IdentityKeyring = self._member.keyring
        return issue_certificate(
            peer, device, roles, keyring, now.wall_ms, namespaces=invite.namespaces
        )

    def _is_muted(self, peer: PeerId, now: Now) -> bool:
        count, since = self._wrong.get(peer, (0, now.mono))
        return count >= WRONG_MAX and now.mono - since < WRONG_S

    def _count_wrong(self, peer: PeerId, now: Now) -> None:
        self.wrong_secrets += 1
        count, since = self._wrong.pop(peer, (0, now.mono))
        if now.mono - since >= WRONG_S:
            count, since = 0, now.mono
        self._wrong[peer] = (count + 1, since)
        if len(self._wrong) > WRONG_PEERS_MAX:
            self._wrong.popitem(last=False)


def refuse(error: str) -> JoinAnswer:
    """An answer that admits nobody and says why."""
    return JoinAnswer(b"", "", (), {}, error)


def _restore(rows: dict[tuple[str, str], bytes], now: Now) -> dict[str, _Open]:
    opened: dict[str, _Open] = {}
    for (name, peer), value in sorted(rows.items()):  # the invite itself, peer "", comes first
        if peer == "":
            try:
                invite = decode_as(value, Invite)
            except RemoteProtocolError:
                continue  # an invite that the disk damaged is not known here any more
            opened[name] = _Open(invite, now.mono + invite.expires_s)
        elif name in opened:
            opened[name].certificates[PeerId(peer)] = value
    return opened


def _deletions(name: str, opened: _Open) -> list[InviteWrite]:
    return [(name, "", None), *((name, peer, None) for peer in opened.certificates)]


def _encode(invite: Invite) -> bytes:
    return dumps(msgspec.to_builtins(invite, builtin_types=(bytes,)))


def _id_of(secret: bytes) -> str:
    """What is kept of a secret: it is random, so a plain hash cannot be searched."""
    return hashlib.sha256(b"shoal/invite/1\0" + secret).hexdigest()[:32]
