"""Routes: through which neighbours a peer is reached that cannot be dialled.

Whoever has something to say to a peer that it is not connected to gives the dial a moment, and then
asks its neighbours which of them are connected to it. A shoal where everybody can dial everybody
says none of this. Only what a neighbour says of itself counts: nobody is two hops away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

from protocol.bounds import PEERS_MAX
from protocol.effects import Send
from protocol.ids import PeerId
from protocol.messages import PathQuery, PathReport

DIAL_S: Final = 0.5  # a dial on a LAN takes 10 ms, over a WAN some hundred; then others are asked
ASK_FIRST_S: Final = 1.0  # an answer was lost, or nobody was connected yet: again, doubling
ASK_MAX_S: Final = 60.0  # also how often paths that are in use are asked for anew
ASKS_MAX: Final = 4  # within 8 s of silence a neighbour that says nothing counts as dead itself
GATHER_S: Final = 0.1  # what is wanted at about one time is asked in one message
ANSWER_S: Final = 0.2  # between two answers to one neighbour
IDLE_S: Final = 45.0  # a path that nobody needed for so long is not asked for again
RELAYS_MAX: Final = 8  # kept per peer; the next best is used where one fails
PATHS_MAX: Final = 1024  # peers at one time; 48 connections reach no more of a shoal's matter


@dataclass(slots=True)
class Path:
    """How one peer is reached that there is no connection to."""

    ask_at: float
    wanted_at: float  # when there was something to say the last time
    pause_s: float = ASK_FIRST_S
    asked: int = 0  # times in a row that nobody knew a way
    awaited: tuple[PeerId, ...] = ()  # neighbours that were asked and have not answered
    settled: bool = False  # all have answered, and none was connected to it
    through: list[PeerId] = field(default_factory=list)  # neighbours, the one in use first


class Routes:
    """One peer's paths. `deadline` says when neighbours are to be asked."""

    def __init__(self, ask_max_s: float = ASK_MAX_S) -> None:
        self._ask_max_s = ask_max_s
        self._paths: dict[PeerId, Path] = {}
        self._answered: dict[PeerId, float] = {}  # by neighbour

    @property
    def deadline(self) -> float:
        return min((path.ask_at for path in self._paths.values()), default=inf)

    def through(self, peer: PeerId) -> list[PeerId]:
        """The neighbours that said to be connected to `peer`, the one in use first."""
        path = self._paths.get(peer)
        return [] if path is None else path.through.copy()

    def searching(self, peer: PeerId) -> bool:
        """Whether a path is being asked for, and it is too early to say that there is none.

        A neighbour that is slow to answer may be the one that is connected to it.
        """
        path = self._paths.get(peer)
        if path is None or path.through:
            return False
        return not path.settled and path.asked <= ASKS_MAX

    def wanted(self) -> list[PeerId]:
        return list(self._paths)

    # ---- what is wanted ------------------------------------------------------------------------

    def want(self, peer: PeerId, now: float) -> None:
        """There is something to say to `peer`, and no connection to it."""
        path = self._paths.get(peer)
        if path is not None:
            path.wanted_at = now
        elif len(self._paths) < PATHS_MAX:
            self._paths[peer] = Path(now + DIAL_S, now)

    def drop(self, peer: PeerId) -> None:
        """It is connected, or gone."""
        self._paths.pop(peer, None)

    def fails(self, peer: PeerId, now: float) -> None:
        """Nothing is heard of it over the path in use: take the next, or ask again."""
        path = self._paths.get(peer)
        if path is None:
            return
        if path.through:
            path.through.append(path.through.pop(0))
        if len(path.through) < 2:
            path.ask_at = min(path.ask_at, now + GATHER_S)

    # ---- neighbours ----------------------------------------------------------------------------

    def met(self, neighbour: PeerId, now: float) -> None:
        """A connection stands: it needs no path, and may be one to others."""
        self.drop(neighbour)
        for path in self._paths.values():
            if not path.through:
                path.ask_at = min(path.ask_at, now + DIAL_S)

    def lost(self, neighbour: PeerId, now: float) -> None:
        """A connection is gone, and with it the paths through that neighbour."""
        self._answered.pop(neighbour, None)
        for path in self._paths.values():
            _without(path, neighbour, now)
            _answered(path, neighbour)

    def learn(self, peer: PeerId, neighbour: PeerId, now: float) -> bool:
        """`peer` is reached through `neighbour`; whether it was not reached before."""
        self.want(peer, now)
        path = self._paths.get(peer)
        if path is None:
            return False
        first = not path.through
        if neighbour not in path.through and len(path.through) < RELAYS_MAX:
            path.through.append(neighbour)
        if first:
            path.asked, path.pause_s, path.settled = 0, self._ask_max_s, False
            path.ask_at = now + self._ask_max_s
        return first

    # ---- asking and answering ------------------------------------------------------------------

    def ask(
        self, neighbours: Sequence[PeerId], kept: Callable[[PeerId], bool], now: float
    ) -> list[Send]:
        """Ask for what is due, all neighbours alike; harmless before that.

        What was not wanted for long is forgotten instead, but for peers that are to be `kept`.
        """
        if now < self.deadline:
            return []
        due = [peer for peer, path in self._paths.items() if path.ask_at <= now + GATHER_S]
        for peer in [each for each in due if self._paths[each].wanted_at < now - IDLE_S]:
            if not kept(peer):
                due.remove(peer)
                del self._paths[peer]
        if not due:
            return []
        for peer in due[:PEERS_MAX]:
            path = self._paths[peer]
            path.asked += not path.through
            path.awaited, path.settled = tuple(neighbours), path.settled or not neighbours
            path.ask_at = now + path.pause_s
            path.pause_s = min(2 * path.pause_s, self._ask_max_s)
        for peer in due[PEERS_MAX:]:
            self._paths[peer].ask_at = now + ANSWER_S
        query = PathQuery(tuple(due[:PEERS_MAX]))
        return [Send(neighbour, query) for neighbour in neighbours]

    def answer(
        self, neighbour: PeerId, query: PathQuery, connected: Callable[[PeerId], bool], now: float
    ) -> list[Send]:
        """Say which of them we are connected to; not more often than is of use."""
        if now - self._answered.get(neighbour, -inf) < ANSWER_S:
            return []
        self._answered[neighbour] = now
        peers = [peer for peer in dict.fromkeys(query.peers) if peer != neighbour]
        there = tuple(peer for peer in peers if connected(peer))
        absent = tuple(peer for peer in peers if not connected(peer))
        return [Send(neighbour, PathReport(there, absent))]

    def report(self, neighbour: PeerId, report: PathReport, now: float) -> list[PeerId]:
        """Take an answer in; which peers were not reached before. What nobody asked is not read."""
        for peer in report.absent:
            if peer in self._paths:
                _without(self._paths[peer], neighbour, now)
                _answered(self._paths[peer], neighbour)
        asked = [peer for peer in dict.fromkeys(report.connected) if peer in self._paths]
        return [peer for peer in asked if self.learn(peer, neighbour, now)]


def _answered(path: Path, neighbour: PeerId) -> None:
    """One less to wait for; it is not connected to the peer, or is gone itself."""
    if neighbour in path.awaited:
        path.awaited = tuple(each for each in path.awaited if each != neighbour)
        path.settled = not path.awaited


def _without(path: Path, neighbour: PeerId, now: float) -> None:
    if neighbour in path.through:
        path.through.remove(neighbour)
        if not path.through:
            path.pause_s = ASK_FIRST_S
            path.ask_at = min(path.ask_at, now + GATHER_S)
