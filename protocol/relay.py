"""Relaying: sealed letters to peers that cannot be dialled, and handing on those of others.

A letter is signed with its sender's identity key and names both ends, the one neighbour that hands
it on, a number, and the lives of both ends. So a relay can keep a letter back, which a network may
do as well, but neither change it nor have it read twice: the receiver remembers the numbers of each
sender's present life, and its own life rises with each start, on disk before anybody hears of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Final

from protocol.bounds import LETTER_BYTES_MAX
from protocol.clock import Now
from protocol.effects import Send
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId
from protocol.messages import Letter, Message, PathReport, Relayed
from protocol.records import Certificate, Keyring
from protocol.wire import certificate_of, decode_as, encode_message

CONTEXT: Final = b"shoal/relay/1\0"  # no signature of a letter is good for a record
ANSWERING_S: Final = 30.0  # whoever wrote to us so lately has our advert, with our certificate
WINDOW: Final = 1024  # numbers; letters that two relays carry may come in another order
CORRESPONDENTS_MAX: Final = 4096  # as many as there are members (MembershipConfig.peers_max)
PAIRS_MAX: Final = 1024  # for which we relay: 32 neighbours, each with each, and no queue for any
PAIR_BYTES_S: Final = 256 * 1024  # what one pair may send through us, and at once:
PAIR_BYTES_MAX: Final = 512 * 1024  # four of the largest frames
ALL_BYTES_S: Final = 1024 * 1024  # all pairs together: a tenth of a slow Ethernet
ALL_BYTES_MAX: Final = 4 * 1024 * 1024


@dataclass(slots=True)
class Window:
    """The numbers that came of one sender's life."""

    highest: int = 0
    seen: int = 0  # a bit for each of the last WINDOW numbers, the highest in front

    def fresh(self, number: int) -> bool:
        """Whether `number` came never before; it has from now on."""
        ahead = number - self.highest
        if ahead > 0:
            kept = self.seen << ahead if ahead < WINDOW else 0
            self.seen = (kept | 1) & ((1 << WINDOW) - 1)
            self.highest = number
            return True
        if -ahead >= WINDOW or self.seen >> -ahead & 1:
            return False
        self.seen |= 1 << -ahead
        return True


@dataclass(slots=True)
class Correspondent:
    """What is known of a peer whose letters come here."""

    life: int = 0
    window: Window = field(default_factory=Window)
    answered: float = -inf  # when a letter to our present life came


@dataclass(slots=True)
class Allowance:
    """Bytes that may be handed on: a token bucket. What is beyond it is dropped, never queued."""

    bytes_s: float
    bytes_max: float
    left: float
    at: float = -inf

    def takes(self, size: int, now: float) -> bool:
        if self.at > -inf:
            self.left = min(self.bytes_max, self.left + (now - self.at) * self.bytes_s)
        self.at = now
        return size <= self.left


class Relay:
    """One peer's letters, and those that it hands on for its neighbours."""

    def __init__(self, keyring: Keyring, answering_s: float = ANSWERING_S) -> None:
        self._keyring = keyring
        self._answering_s = answering_s
        self._me = keyring.peer
        self._number = 0
        self._known: dict[PeerId, Correspondent] = {}  # the least lately heard first
        self._pairs: dict[tuple[PeerId, PeerId], Allowance] = {}
        self._all = Allowance(ALL_BYTES_S, ALL_BYTES_MAX, ALL_BYTES_MAX)
        self.life = 0  # our incarnation when this life began
        self.dropped = 0  # letters of others beyond their allowance

    # ---- ours ----------------------------------------------------------------------------------

    def seal(
        self,
        receiver: PeerId,
        through: PeerId,
        lives: tuple[int, int],
        message: Message,
        now: float,
    ) -> Relayed | None:
        """`message` as a letter; `lives` are our incarnation and the receiver's. None: too long."""
        frame = encode_message(message)
        if len(frame) > LETTER_BYTES_MAX:
            return None
        self._number += 1
        here, there = lives[0], max(lives[1], self.life_of(receiver))
        letter = Letter(self._me, receiver, through, here, there, self._number, frame)
        body = encode_message(letter)
        known = self._known.get(receiver)
        answers = known is not None and now - known.answered < self._answering_s
        certificate = b"" if answers else self._keyring.certificate
        return Relayed(body, self._keyring.sign(CONTEXT + body), certificate)

    def open(
        self, letter: Letter, relayed: Relayed, known: Certificate | None, now: Now
    ) -> Certificate | None:
        """The sender's certificate, where `letter`, addressed to us, is to be read; `known` is the
        one we have.

        None for a letter that came before, or is to an earlier life of ours. Raises
        RemoteProtocolError where it is not its sender's, or the sender no member.
        """
        certificate = certificate_of(relayed.certificate, letter.sender, self._keyring, known)
        if now.wall_trusted and now.wall_ms > certificate.expires_ms:
            raise RemoteProtocolError("a letter of one whose certificate has expired")
        if not self._keyring.verify(letter.sender, CONTEXT + relayed.letter, relayed.signature):
            raise RemoteProtocolError(f"a letter that {letter.sender} has not signed")
        there = self._known.pop(letter.sender, None) or Correspondent()
        self._known[letter.sender] = there
        if len(self._known) > CORRESPONDENTS_MAX:
            del self._known[next(iter(self._known))]
        if letter.sender_life > there.life:
            there.life, there.window = letter.sender_life, Window()
        if letter.receiver_life < self.life or letter.sender_life < there.life:
            return None
        if not there.window.fresh(letter.number):
            return None
        there.answered = now.mono  # it knows our life, so it holds our advert
        return certificate

    def life_of(self, peer: PeerId) -> int:
        """The latest life of which a letter came; 0 where none did."""
        there = self._known.get(peer)
        return 0 if there is None else there.life

    def highest(self, sender: PeerId) -> int:
        """The highest number read of a sender's present life."""
        there = self._known.get(sender)
        return 0 if there is None else there.window.highest

    # ---- others' -------------------------------------------------------------------------------

    def read(self, sender: PeerId, relayed: Relayed) -> Letter:
        """The letter, as it says of itself. Raises RemoteProtocolError where it came astray.

        It comes straight from its author where we are to hand it on, and from the one that was to
        hand it on where it is for us: one hop, and no other.
        """
        letter = decode_as(relayed.letter, Letter)
        expected = letter.through if letter.receiver == self._me else letter.sender
        through = sender if letter.receiver == self._me else self._me
        if sender != expected or letter.through != through or letter.sender == letter.receiver:
            raise RemoteProtocolError(f"a letter of {letter.sender} on a way that is not its own")
        return letter

    def hand_on(self, letter: Letter, relayed: Relayed, connected: bool, now: float) -> list[Send]:
        """Bring another's letter to its receiver, or tell the sender that there is no way."""
        if not connected:
            return [Send(letter.sender, PathReport((), (letter.receiver,)))]
        size = len(relayed.letter) + len(relayed.certificate)
        pair = (letter.sender, letter.receiver)
        allowance = self._pairs.pop(pair, None)
        if allowance is None:
            allowance = Allowance(PAIR_BYTES_S, PAIR_BYTES_MAX, PAIR_BYTES_MAX)
        self._pairs[pair] = allowance
        if len(self._pairs) > PAIRS_MAX:
            del self._pairs[next(iter(self._pairs))]
        if not allowance.takes(size, now) or not self._all.takes(size, now):
            self.dropped += 1
            return []
        allowance.left -= size
        self._all.left -= size
        return [Send(letter.receiver, relayed, overtakes=True)]  # it is no claim of ours
