"""One bidding round: who is asked, who answered what, who is best, who is next best."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

from protocol.config import AuctionConfig
from protocol.ids import PeerId
from protocol.messages import Bid, Facts, Refusal


@dataclass(slots=True)
class Answer:
    """What became of one peer in this round; kept for `shoal why`."""

    kind: str = "silent"  # filtered, silent, bid, refused
    score: int = 0
    slots: int = 0
    facts: Facts | None = None
    reason: str = ""
    final: bool = True  # a refusal for good; False: busy now
    until: float = 0.0  # monotonic: the bidder keeps the capacity free until then
    given: list[int] = field(default_factory=list)  # slots offered to it in this round
    out: bool = False  # declined, or did not answer an award: not asked again in this round


@dataclass(slots=True)
class Auction:
    """Collect bids until the window closes, then give slots to the best, falling back in order."""

    id: int
    config: AuctionConfig
    wanted: int
    candidates: list[PeerId]  # in the order in which they are to be asked
    closes_at: float  # monotonic
    started_ms: int  # wall, for people
    answers: dict[PeerId, Answer] = field(default_factory=dict)
    awarding: bool = False
    note: str = ""
    home: PeerId | None = None  # who has the volumes of its slots, and is the only one asked

    def ask(self, count: int, now: float) -> list[PeerId]:
        """The next `count` candidates; the window starts anew for them."""
        chosen, self.candidates = self.candidates[:count], self.candidates[count:]
        for peer in chosen:
            self.answers[peer] = Answer()
        if chosen:
            self.closes_at = now + self.config.window_s
        return chosen

    def begin_with(self, peer: PeerId) -> bool:
        """Ask this candidate before all others; False where it is none."""
        if peer not in self.candidates:
            return False
        self.candidates.remove(peer)
        self.candidates.insert(0, peer)
        return True

    def ask_again(self, peer: PeerId) -> bool:
        """It refused as busy in this round, and has room now: its answer is open again."""
        answer = self.answers.get(peer)
        if self.awarding or answer is None or answer.kind != "refused" or answer.final:
            return False
        self.answers[peer] = Answer()
        return True

    def filtered(self, peer: PeerId, reason: str) -> None:
        """A peer that needs not be asked: its advert says that it does not fit."""
        self.answers[peer] = Answer("filtered", reason=reason)

    def on_bid(self, peer: PeerId, bid: Bid, now: float) -> None:
        """A bid counts once, and only by somebody who was asked; after the window it is a spare."""
        answer = self.answers.get(peer)
        if answer is None or answer.kind != "silent":
            return
        answer.kind, answer.score, answer.slots = "bid", min(max(bid.score, 0), 1000), bid.slots
        answer.facts, answer.until = bid.facts, now + min(bid.hold_ms, self.config.hold_ms) / 1000

    def on_refusal(self, peer: PeerId, refusal: Refusal) -> None:
        answer = self.answers.get(peer)
        if answer is None or answer.kind != "silent":
            return
        answer.kind, answer.reason, answer.final = "refused", refusal.reason, refusal.final

    def on_gone(self, peer: PeerId) -> None:
        """The peer is known to be dead: nobody waits for it."""
        answer = self.answers.get(peer)
        if answer is not None:
            answer.out = True
            if answer.kind == "silent":
                answer.kind, answer.reason, answer.final = "refused", "gone", False

    def decided(self, now: float) -> bool:
        """Everybody asked has answered, or enough bids are in, or the window is over."""
        silent = sum(1 for answer in self.answers.values() if answer.kind == "silent")
        if not silent or now >= self.closes_at:
            return True
        bids = [answer for answer in self.answers.values() if answer.kind == "bid"]
        enough = len(bids) >= self.config.enough_bids
        return enough and sum(bid.slots for bid in bids) >= 2 * self.wanted

    @property
    def offered(self) -> int:
        """Slots that the bids at hand could still take."""
        return sum(
            max(0, answer.slots - len(answer.given))
            for answer in self.answers.values()
            if answer.kind == "bid" and not answer.out
        )

    def best(self, penalty: Callable[[PeerId], int], now: float, rng: Random) -> PeerId | None:
        """The best bidder that can take one more slot; None where nobody is left.

        Best score first, ties by peer id; those within `near_tie` of the best are drawn at random,
        so that equal peers are not herded (Mitzenmacher 2001).
        """
        ranked: list[tuple[int, PeerId]] = []
        for peer in self._free(now):
            answer = self.answers[peer]
            spread = self.config.spread_penalty * len(answer.given)
            ranked.append((answer.score - spread - penalty(peer), peer))
        if not ranked:
            return None
        top = max(score for score, _ in ranked)
        near = [p for score, p in ranked if score == top or top - score < self.config.near_tie]
        return rng.choice(near)

    def spare(self, now: float) -> bool:
        """Whether any bidder can take one more slot."""
        return bool(self._free(now))

    def _free(self, now: float) -> list[PeerId]:
        return [
            peer
            for peer, answer in sorted(self.answers.items())
            if answer.kind == "bid"
            and not answer.out
            and len(answer.given) < answer.slots
            and now < answer.until
        ]

    def bidders(self) -> list[PeerId]:
        return sorted(peer for peer, answer in self.answers.items() if answer.kind == "bid")

    def busy(self) -> list[PeerId]:
        """Who had no room and may have some later."""
        found = sorted(self.answers.items())
        return [peer for peer, answer in found if answer.kind == "refused" and not answer.final]

    def holding(self) -> list[PeerId]:
        """Who may still keep capacity free for this round: not those whose whole offer was used."""
        return [
            peer
            for peer in self.bidders()
            if self.answers[peer].out or len(self.answers[peer].given) < self.answers[peer].slots
        ]

    def reasons(self, most: int) -> list[tuple[PeerId, str]]:
        """Why each peer that did not bid did not, or what became of its award, for people."""
        found: Iterable[tuple[PeerId, Answer]] = sorted(self.answers.items())
        return [
            (peer, answer.reason or "did not answer")
            for peer, answer in found
            if answer.kind != "bid" or answer.out
        ][:most]
