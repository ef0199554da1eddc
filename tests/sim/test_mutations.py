"""Planted bugs: the simulator must find each within a few of the seeds that everybody runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

import protocol.node as node_module
from protocol.bidding import Bidder
from protocol.catalogue import Catalogue
from protocol.clock import NEVER, Now
from protocol.config import CoordinationConfig, NodeConfig
from protocol.effects import Effect, Save
from protocol.errors import RemoteProtocolError
from protocol.events import Event
from protocol.execution import Fences
from protocol.executor import Executor
from protocol.heldjob import HeldJob, Merged, Slot
from protocol.ids import JobId, PeerId
from protocol.led import Plan
from protocol.messages import JobSync
from protocol.node import Node
from protocol.placement import Placement
from protocol.records import Acceptance, Assignment, Fence, Keyring
from protocol.sim.faults import Faults
from protocol.sim.network import Conditions
from protocol.sim.run import Options, run
from protocol.sim.scenarios import MIXED, SCENARIOS
from protocol.succession import Succession
from protocol.wire import Sealed

Patch = pytest.MonkeyPatch
SEEDS = 40  # no bug may hide for longer


@dataclass(frozen=True)
class Mutation:
    """One planted bug and what the simulator says of it."""

    name: str
    plant: Callable[[Patch], None]
    found: str  # a pattern of the violation
    faults: Faults | None = None  # drawn from each seed where none are given
    scenario: str = MIXED


def _stale_fence(patch: Patch) -> None:
    """The executor takes an award that a later one has superseded."""
    patch.setattr(Fences, "stale", lambda self, job, slot, fence: False)


def _forgotten_fence(patch: Patch) -> None:
    """The highest fence is kept in memory only."""
    raise_to = Fences.raise_to

    def unsaved(self: Fences, job: JobId, slot: int, fence: Fence) -> list[object]:
        raise_to(self, job, slot, fence)
        return []

    patch.setattr(Fences, "raise_to", unsaved)


def _late_saves(patch: Patch) -> None:
    """Everything is said first and saved afterwards."""
    handle = Node.handle

    def late(self: Node, event: Event, now: Now) -> list[Effect]:
        effects = handle(self, event, now)
        saves = [effect for effect in effects if isinstance(effect, Save)]
        return [*(effect for effect in effects if not isinstance(effect, Save)), *saves]

    patch.setattr(Node, "handle", late)


def _unsaved_awards(patch: Patch) -> None:
    """An award is accepted and started without a journal of it."""
    on_award = Executor.on_award

    def unsaved(self: Executor, *arguments: object) -> list[Effect]:
        effects = on_award(self, *arguments)  # type: ignore[arg-type]
        return [effect for effect in effects if not isinstance(effect, Save)]

    patch.setattr(Executor, "on_award", unsaved)


def _unsaved_merges(patch: Patch) -> None:
    """A standby acknowledges another holder's copy and keeps it in memory."""
    on_sync = Catalogue.on_sync

    def unsaved(self: Catalogue, *arguments: object) -> list[Effect]:
        effects = on_sync(self, *arguments)  # type: ignore[arg-type]
        return [effect for effect in effects if not isinstance(effect, Save)]

    patch.setattr(Catalogue, "on_sync", unsaved)


def _forgotten_lease(patch: Patch) -> None:
    """Whatever happens to an executor, its slot is never placed elsewhere."""

    def lease(self: Plan, until: float) -> None:
        plan_lease(self, NEVER)

    plan_lease = Plan.lease
    patch.setattr(Plan, "lease", lease)
    patch.setattr(Placement, "on_peer_gone", lambda self, led, peer, now: [])


def _short_lease(patch: Patch) -> None:
    """A lease ends before it can be renewed."""
    short = NodeConfig(coordination=CoordinationConfig(lease_s=1.0))
    patch.setitem(SCENARIOS, MIXED, replace(SCENARIOS[MIXED], config=short))


def _last_result_wins(patch: Patch) -> None:
    """A later result takes the place of the one accepted."""

    def offer(self: Slot, acceptance: Acceptance, data: bytes) -> bool:
        if data == self.acceptance_data:
            return False
        self.acceptance, self.acceptance_data = acceptance, data
        return True

    patch.setattr(Slot, "offer_acceptance", offer)


def _any_award_wins(patch: Patch) -> None:
    """A holder follows an award with a lower fence."""

    def offer(self: Slot, assignment: Assignment, data: bytes) -> bool:
        if data == self.assignment_data:
            return False
        self.assignment, self.assignment_data = assignment, data
        return True

    patch.setattr(Slot, "offer_assignment", offer)


def _any_term_wins(patch: Patch) -> None:
    """A holder follows a coordinator that has been succeeded."""
    merge = HeldJob.merge

    def following(self: HeldJob, sync: JobSync, keyring: Keyring) -> Merged:
        merged = merge(self, sync, keyring)
        if (self.term, self.coordinator) != (sync.term, sync.coordinator):
            self.term, self.coordinator = sync.term, sync.coordinator
            merged.head = True
        return merged

    patch.setattr(HeldJob, "merge", following)


def _anybody_submits(patch: Patch) -> None:
    """Nobody looks at the roles of a spec's author."""
    patch.setattr(Sealed, "author_holds", lambda self, role, namespace=None: True)
    objection = Executor._objection

    def lenient(self: Executor, assignment: Assignment, spec: Sealed) -> str:
        reason = objection(self, assignment, spec)
        return "" if reason.startswith("policy") else reason

    patch.setattr(Executor, "_objection", lenient)


def _lost_incarnation(patch: Patch) -> None:
    """A restarted peer begins at its first incarnation again."""
    patch.setattr(node_module, "_saved_incarnation", lambda disk: 0)


def _kept_capacity(patch: Patch) -> None:
    """What an execution reserved is never given back."""
    patch.setattr(Bidder, "free_up", lambda self, execution: None)


def _kept_holds(patch: Patch) -> None:
    """A bidder that was not chosen holds its capacity for ever."""
    patch.setattr(Bidder, "release", lambda self, coordinator, auction: None)
    patch.setattr(Bidder, "expire", lambda self, now: None)
    patch.setattr(Bidder, "deadline", property(lambda self: NEVER))


def _overbooking(patch: Patch) -> None:
    """A bidder offers what it has promised to others."""

    def room(self: Bidder, each: object, ahead: object = ()) -> int:
        return 4

    patch.setattr(Bidder, "_room", room)


def _unsaved_results(patch: Patch) -> None:
    """A result is offered from memory."""
    end = Executor._end

    def unsaved(self: Executor, *arguments: object) -> list[Effect]:
        effects = end(self, *arguments)  # type: ignore[arg-type]
        return [effect for effect in effects if not isinstance(effect, Save)]

    patch.setattr(Executor, "_end", unsaved)


def _no_takeover(patch: Patch) -> None:
    """Nobody takes over the jobs of a dead coordinator."""
    patch.setattr(Succession, "watch", lambda self, held, now: None)


def _no_anti_entropy(patch: Patch) -> None:
    """Holders that meet again do not compare what they hold."""
    patch.setattr(Catalogue, "on_peer_back", lambda self, peer, now: [])
    patch.setattr(Catalogue, "on_deadline", lambda self, now: [])
    patch.setattr(Catalogue, "deadline", property(lambda self: NEVER))


def _raising(patch: Patch) -> None:
    """What a peer sent raises out of the node."""

    def misbehaved(self: Node, peer: PeerId, why: str) -> list[Effect]:
        raise RemoteProtocolError(why)

    patch.setattr(Node, "_misbehaved", misbehaved)


def _blind_adoption(patch: Patch) -> None:
    """A restarted agent takes none of its running tasks up again."""
    patch.setattr(Executor, "_adopt", lambda self, execution, task, now: [])


def _hung_starts(patch: Patch) -> None:
    """What the engine swallows is waited for, for ever."""
    patch.setattr(Executor, "_never_started", lambda self, execution, now: [])


LATE = Faults(conditions=Conditions(reorder=0.4, duplicate=0.2), crashes=4)  # awards come late

MUTATIONS = (
    Mutation("stale fence accepted", _stale_fence, "at Fence.* (and knows|after) Fence", LATE),
    Mutation("fence not saved", _forgotten_fence, "does not remember it"),
    Mutation("said before saved", _late_saves, "not on its disk|without a journal"),
    Mutation("award not saved", _unsaved_awards, "not on its disk|without a journal"),
    Mutation("merge not saved", _unsaved_merges, "not the one saved|not on its disk"),
    Mutation("lease forgotten", _forgotten_lease, "has not ended"),
    Mutation("lease too short", _short_lease, "while it runs elsewhere|after its success"),
    Mutation("last result wins", _last_result_wins, "against the merge|goes back"),
    Mutation("any award wins", _any_award_wins, "award of .* goes back"),
    Mutation("any term wins", _any_term_wins, "term of .* goes back"),
    Mutation("anybody submits", _anybody_submits, "may not submit"),
    Mutation("incarnation lost", _lost_incarnation, "incarnation"),
    Mutation("capacity kept", _kept_capacity, "still reserved|has not ended"),
    Mutation("holds kept", _kept_holds, "still reserved|has not ended"),
    Mutation("overbooking", _overbooking, "more is reserved|more than it can hold"),
    Mutation("result not saved", _unsaved_results, "not on its disk"),
    Mutation("no takeover", _no_takeover, "has not ended"),
    Mutation("no anti-entropy", _no_anti_entropy, "differs|has not ended"),
    Mutation("garbage raises", _raising, "the node broke"),
    Mutation("hung starts", _hung_starts, "for ever|has not ended", scenario="black-holes"),
    Mutation("tasks not adopted", _blind_adoption, "is (starting|running)|still|has not ended"),
)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
def test_a_planted_bug_is_found(mutation: Mutation, monkeypatch: Patch) -> None:
    mutation.plant(monkeypatch)
    texts = []
    for seed in range(SEEDS):
        for violation in run(
            seed, Options(faults=mutation.faults, scenario=mutation.scenario)
        ).violations:
            if re.search(mutation.found, violation.text):
                return
            texts.append(str(violation))
    pytest.fail(f"{SEEDS} seeds did not find it; they found {texts[:5]}")
