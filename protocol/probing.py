"""Probing: ask each target once a period whether it is there, directly, then through others.

SWIM's protocol period (Das et al. 2002, section 3.1), but with fixed targets, each on its own
schedule. Any message that a target sends after the probe began answers it, not its Ack alone.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from math import inf
from random import Random
from typing import Final

from protocol.config import MembershipConfig
from protocol.effects import Send
from protocol.ids import PeerId
from protocol.messages import Ping, PingReport, PingRequest
from protocol.suspicion import Health

RELAYS_MAX: Final = 256  # indirect probes carried out for others at one time
DETOURS_MAX: Final = 3  # rounds in a row that only others could answer: our connection is broken
FAR_TIMEOUTS: Final = 2  # through a relay an answer makes four hops, and the relay's word two more
GRACE_TIMEOUTS: Final = 4  # how far own lag may stretch one step of a probe; then it counts


class Stage(Enum):
    IDLE = auto()
    DIRECT = auto()
    INDIRECT = auto()


@dataclass(slots=True)
class Probe:
    """One target's schedule; `due` is the next step, whatever the stage."""

    target: PeerId
    due: float
    config: MembershipConfig  # as the target is to be probed
    stage: Stage = Stage.IDLE
    heard: float = -inf  # when the target last sent anything
    began: float = -inf  # of this round
    stepped: float = -inf  # into this stage
    seq: int = 0
    asked: tuple[PeerId, ...] = ()
    denied: bool = False  # one that was asked has said that it does not answer
    detours: int = 0  # rounds in a row in which others reached it and we heard nothing


@dataclass(frozen=True, slots=True)
class Relay:
    """A PingRequest we carry out."""

    requester: PeerId
    seq: int  # the requester's
    target: PeerId
    deadline: float
    limit: float  # how far own lag may push that


class Prober:
    """Probes the peers it is aimed at, and relays the probes of others."""

    def __init__(self, config: MembershipConfig, rng: Random, health: Health) -> None:
        self._config = config
        self._rng = rng
        self._health = health
        self._probes: dict[PeerId, Probe] = {}
        self._relays: list[Relay] = []  # in the order of their deadlines
        self._seq = 0

    @property
    def deadline(self) -> float:
        first = min((probe.due for probe in self._probes.values()), default=inf)
        return min(first, self._relays[0].deadline) if self._relays else first

    @property
    def targets(self) -> list[PeerId]:
        return list(self._probes)

    def aim(
        self,
        targets: Sequence[PeerId],
        now: float,
        pace: Callable[[PeerId], MembershipConfig] | None = None,
    ) -> None:
        """Probe exactly these from now on; a new one at a random moment of its first period.

        `pace` says how each is to be probed; by default all as we are configured.
        """
        before = self._probes
        self._probes = {}
        for target in targets:
            config = self._config if pace is None else pace(target)
            probe = before.get(target)
            if probe is None or probe.config != config:
                due = now + self._rng.random() * config.probe_period_s
                probe = Probe(target, due, config)
            self._probes[target] = probe

    def soon(self, target: PeerId, now: float) -> None:
        """Its stream broke: do not wait for the period."""
        probe = self._probes.get(target)
        if probe is not None and probe.stage is Stage.IDLE:
            probe.due = min(probe.due, now)

    def heard(self, sender: PeerId, now: float) -> list[Send]:
        """`sender` is there: that answers our probe of it, and those we carry out for others."""
        probe = self._probes.get(sender)
        if probe is not None:
            probe.detours, probe.heard = 0, now
        if probe is not None and probe.stage is not Stage.IDLE:
            self._answered(probe, now)
        if not self._relays:
            return []
        done = [relay for relay in self._relays if relay.target == sender]
        self._relays = [relay for relay in self._relays if relay.target != sender]
        return [Send(r.requester, PingReport(r.seq, r.target, True)) for r in done]

    def report(self, sender: PeerId, message: PingReport, now: float) -> bool:
        """Another reached the target, or says at least that the other itself is well.

        Whether that was so for some rounds: then what we have to the target is a dead socket.
        """
        probe = self._probes.get(message.target)
        if probe is None or probe.stage is Stage.IDLE or probe.seq != message.seq:
            return False
        if not message.reached or sender not in probe.asked:
            probe.denied = probe.denied or sender in probe.asked
            return False
        self._answered(probe, now)
        probe.detours = (probe.detours + 1) % DETOURS_MAX
        return probe.detours == 0

    def relay(
        self,
        sender: PeerId,
        message: PingRequest,
        now: float,
        config: MembershipConfig | None = None,
    ) -> list[Send]:
        """Carry out a probe for `sender`, within bounds; `config` as the target is to be probed."""
        if len(self._relays) >= RELAYS_MAX or message.target == sender:
            return []
        config = config or self._config
        timeout_s = config.probe_timeout_s
        if config.leaf or config is not self._config:
            timeout_s /= 2  # where hardly anything is said, whoever asked waits for this word too
        deadline = now + timeout_s * self._health.level
        limit = max(deadline, now + GRACE_TIMEOUTS * timeout_s)
        relay = Relay(sender, message.seq, message.target, deadline, limit)
        insort(self._relays, relay, key=lambda each: each.deadline)
        return [Send(message.target, Ping(self._next_seq()))]

    def step(
        self,
        now: float,
        choose: Callable[[PeerId], Sequence[PeerId]],
        through: Callable[[PeerId], Sequence[PeerId]] = lambda peer: (),
    ) -> tuple[list[Send], list[Probe]]:
        """Do what is due: what to send, and the probes that ended unanswered.

        `choose` names the others to ask about a target, `through` those who relay to it, if it is
        reached in no other way.
        """
        sends: list[Send] = []
        failed: list[Probe] = []
        while self._relays and self._relays[0].deadline <= now:
            late = self._relays.pop(0)
            sends.append(Send(late.requester, PingReport(late.seq, late.target, False)))
        for probe in self._probes.values():
            if probe.due > now:
                continue
            relays = through(probe.target)
            factor = FAR_TIMEOUTS if relays else 1
            match probe.stage:
                case Stage.IDLE if self._lazy(probe) and probe.heard > probe.began:
                    probe.began = probe.heard  # that was as good as an answer, and cost no probe
                    self._rest(probe, now)
                case Stage.IDLE:
                    probe.began = now
                    probe.seq = self._next_seq()
                    self._enter(probe, Stage.DIRECT, now, factor)
                    sends.append(self._first(probe, relays))
                case Stage.DIRECT:
                    probe.asked = tuple(choose(probe.target))
                    self._enter(probe, Stage.INDIRECT, now, factor)
                    sends.append(Send(probe.target, Ping(probe.seq)))
                    request = PingRequest(probe.seq, probe.target)
                    sends += [Send(peer, request) for peer in probe.asked]
                case Stage.INDIRECT:
                    self._rest(probe, now)
                    failed.append(probe)
        return sends, failed

    def _first(self, probe: Probe, relays: Sequence[PeerId]) -> Send:
        """Ask it itself; of who pays for each byte a relay, to which it has spoken perhaps."""
        if not relays or not self._lazy(probe):
            return Send(probe.target, Ping(probe.seq))
        probe.asked = (relays[0],)
        return Send(relays[0], PingRequest(probe.seq, probe.target))

    def spare(self, late_s: float, now: float) -> None:
        """We were away for `late_s`: answers may lie unread, so steps that are due wait for them.

        Bounded per step: a machine that is always late would never accuse anybody.
        """
        later = [
            replace(relay, deadline=min(relay.deadline + late_s, relay.limit))
            for relay in self._relays
        ]
        self._relays = sorted(later, key=lambda relay: relay.deadline)
        for probe in self._probes.values():
            if late_s >= probe.config.probe_period_s:
                probe.stage = Stage.IDLE
                probe.due = now + self._rng.random() * probe.config.probe_timeout_s
            elif probe.stage is not Stage.IDLE:
                bound = probe.stepped + GRACE_TIMEOUTS * probe.config.probe_timeout_s
                probe.due = max(probe.due, min(now + late_s, bound))

    def _enter(self, probe: Probe, stage: Stage, now: float, factor: int) -> None:
        probe.stage = stage
        probe.stepped = now
        probe.denied = False
        probe.due = now + probe.config.probe_timeout_s * self._health.level * factor

    def _answered(self, probe: Probe, now: float) -> None:
        self._health.answered(now)
        self._rest(probe, now)

    def _rest(self, probe: Probe, now: float) -> None:
        """Until the next round, a tenth of a period early or late so that rounds drift apart."""
        period = probe.config.probe_period_s * (0.9 + 0.2 * self._rng.random())
        probe.stage = Stage.IDLE
        probe.asked = ()
        probe.due = max(now, probe.began + period)

    def _lazy(self, probe: Probe) -> bool:
        """Whether one of the two ends pays for each byte: then one question serves them both."""
        return self._config.leaf or probe.config is not self._config

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq
