"""Planted bugs: the simulator must find each within a few of the seeds that everybody runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pytest
from msgspec.structs import replace as replace_struct

import protocol.awarding as awarding_module
import protocol.candidates as candidates_module
import protocol.daemons as daemons_module
import protocol.execution as execution_module
import protocol.node as node_module
import protocol.placement as placement_module
import protocol.rounds as rounds_module
import protocol.sim.device as device_module
import protocol.standingjob as standingjob_module
from protocol.answering import Answering, Owed
from protocol.awards import Awards
from protocol.bidding import Bidder
from protocol.catalogue import Catalogue
from protocol.clock import NEVER, Now
from protocol.config import AuctionConfig, CoordinationConfig, NodeConfig
from protocol.coordination import Coordination
from protocol.daemon import Daemon
from protocol.daemons import Daemons
from protocol.direct import Direct
from protocol.effects import Bucket, Effect, Publish, RemoveTask, Save, StartTask
from protocol.errors import RemoteProtocolError
from protocol.events import BrokerChanged, Event, TaskEnded, TaskFound
from protocol.execution import Execution, Fences
from protocol.failures import Failures
from protocol.heldjob import HeldJob, Merged, Slot
from protocol.ids import ExecutionId, JobId, PeerId, Revision, derive
from protocol.job import JobSpec
from protocol.led import Led, Phase, Plan
from protocol.lifecycle import Lifecycle
from protocol.membership import Membership
from protocol.messages import OVERTAKING, JobSync, SyncHeld
from protocol.messaging import Messaging
from protocol.node import Node
from protocol.opsjournal import Entry, OpsJournal, Row
from protocol.outbox import Message, Outbox
from protocol.placement import Placement
from protocol.publishing import Publishing
from protocol.records import Acceptance, Assignment, Fence, Keyring, Result
from protocol.relay import Relay
from protocol.restarts import Restarts
from protocol.rollout import Rollout
from protocol.roster import PRESENT
from protocol.schedules import Schedules, Watch
from protocol.services import Services
from protocol.sim.faults import Faults
from protocol.sim.keyring import SimKeyring
from protocol.sim.network import Conditions
from protocol.sim.run import Options, run
from protocol.sim.scenarios import MIXED, SCENARIOS
from protocol.standing import Standing
from protocol.standingjob import StandingJob
from protocol.succession import Succession
from protocol.triggers import Triggers
from protocol.turns import Turns
from protocol.unread import Unread
from protocol.waiting import Row as WaitingRow
from protocol.waiting import Waiter, Waiting
from protocol.wire import Sealed, seal

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
    about: str = "jobs"  # or daemons, …, triggers: nothing else is drawn, which takes time

    @property
    def options(self) -> Options:
        return Options(
            daemons=3 if self.about == "daemons" else 0,
            services=2 if self.about == "services" else 0,
            schedules=2 if self.about == "schedules" else 0,
            triggers=2 if self.about == "triggers" else 0,
            scenario=self.scenario,
            faults=self.faults,
        )


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
    on_award = Awards.on_award

    def unsaved(self: Awards, *arguments: object) -> list[Effect]:
        effects = on_award(self, *arguments)  # type: ignore[arg-type]
        return [effect for effect in effects if not isinstance(effect, Save)]

    patch.setattr(Awards, "on_award", unsaved)


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


def _short_patience(patch: Patch) -> None:
    """Who is late with its answer to an award is taken for one that runs nothing."""
    short = NodeConfig(auction=AuctionConfig(patience_s=0.0))
    patch.setitem(SCENARIOS, "slow", replace(SCENARIOS["slow"], config=short))


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
    objection = Awards._objection

    def lenient(self: Awards, execution: Execution, spec: Sealed) -> str:
        reason = objection(self, execution, spec)
        return "" if reason.startswith("policy") else reason

    patch.setattr(Awards, "_objection", lenient)


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


def _unsaved_outbox(patch: Patch) -> None:
    """A result is published from memory."""
    result = Publishing.result

    def unsaved(self: Publishing, *arguments: object) -> list[object]:
        result(self, *arguments)  # type: ignore[arg-type]
        return []

    patch.setattr(Publishing, "result", unsaved)


def _sent_once(patch: Patch) -> None:
    """What was under way as the connection broke is taken for still under way."""
    on_broker = Outbox.on_broker

    def forgetful(self: Outbox, event: BrokerChanged, now: Now) -> list[Effect]:
        sent = dict(self._sent)
        effects = on_broker(self, event, now)
        again = {key for key in sent if key in self._sent}
        self._sent |= sent
        return [e for e in effects if not (isinstance(e, Publish) and int(e.key) in again)]

    patch.setattr(Outbox, "on_broker", forgetful)


def _no_line(patch: Patch) -> None:
    """Messages of one job do not wait for each other."""
    add = Outbox._put

    def alone(self: Outbox, number: int, message: Message) -> None:
        job = JobId(f"{number:032d}")
        add(self, number, replace_struct(message, job=job))

    patch.setattr(Outbox, "_put", alone)


def _unsaved_results(patch: Patch) -> None:
    """A result is offered from memory."""
    end = Lifecycle._end

    def unsaved(self: Lifecycle, *arguments: object) -> list[Effect]:
        effects = end(self, *arguments)  # type: ignore[arg-type]
        return [effect for effect in effects if not isinstance(effect, Save)]

    patch.setattr(Lifecycle, "_end", unsaved)


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

    def misbehaved(self: Messaging, peer: PeerId, why: str) -> list[Effect]:
        raise RemoteProtocolError(why)

    patch.setattr(Messaging, "_misbehaved", misbehaved)


def _blind_adoption(patch: Patch) -> None:
    """A restarted agent takes none of its running tasks up again."""
    patch.setattr(Lifecycle, "adopt", lambda self, execution, task, now: [])


def _unsigned_letters(patch: Patch) -> None:
    """Nobody looks whether a letter is its sender's."""
    open_letter = Relay.open

    def trusting(self: Relay, *arguments: object) -> object:
        keyring = self._keyring
        patch.setattr(type(keyring), "verify", lambda *signed: True)
        try:
            return open_letter(self, *arguments)  # type: ignore[arg-type]
        finally:
            patch.setattr(type(keyring), "verify", verify)

    verify = SimKeyring.verify
    patch.setattr(Relay, "open", trusting)


def _relays_taken_for_peers(patch: Patch) -> None:
    """Whoever was reached through a neighbour that is lost is held for lost as well."""
    disconnected = Membership.disconnected

    def all_lost(self: Membership, peer: PeerId, refused: bool, now: Now) -> list[Effect]:
        behind = [each for each in self.routes.wanted() if peer in self.routes.through(each)]
        effects = disconnected(self, peer, refused, now)
        for each in behind:
            entry = self._roster.peers[each]
            if entry.state in PRESENT and not entry.connected:
                effects += self._judge.refused(entry, now)
        return effects

    patch.setattr(Membership, "disconnected", all_lost)


def _no_relaying(patch: Patch) -> None:
    """Neighbours are asked, and letters never handed on."""
    patch.setattr(Relay, "hand_on", lambda self, letter, relayed, connected, now: [])


RELAYED = Faults(nats=2, crashes=6, power_cuts=2)


def _unsaved_standing(patch: Patch) -> None:
    """A standing job's record is kept in memory only."""
    patch.setattr(Standing, "_save", lambda self, changed: [])


def _early_word(patch: Patch) -> None:
    """What was just merged is acknowledged before it is durable."""
    patch.setattr(device_module, "OVERTAKING", (*OVERTAKING, SyncHeld))


def _any_spec_wins(patch: Patch) -> None:
    """Whatever generation comes last is kept."""
    patch.setattr(standingjob_module, "spec_rank", lambda spec, revision, data: (data,))


def _any_author(patch: Patch) -> None:
    """Nobody looks at the roles of a daemon's author."""
    patch.setattr(standingjob_module, "checked_spec", lambda sealed, keyring: sealed)
    why_unfit = Daemons._why_unfit

    def lenient(self: Daemons, held: StandingJob, spec: JobSpec) -> str:
        reason = why_unfit(self, held, spec)
        return "" if "its author holds no role" in reason else reason

    patch.setattr(Daemons, "_why_unfit", lenient)


def _no_comparing(patch: Patch) -> None:
    """Peers that meet again do not compare their standing jobs, now or later."""
    patch.setattr(Standing, "_sync_soon", lambda self, peer: None)


def _unjournaled_daemon(patch: Patch) -> None:
    """A daemon is started without a journal of it."""
    start = Daemons._start

    def unsaved(self: Daemons, *arguments: object) -> list[Effect]:
        effects = start(self, *arguments)  # type: ignore[arg-type]
        return [effect for effect in effects if not isinstance(effect, Save)]

    patch.setattr(Daemons, "_start", unsaved)


def _second_daemon(patch: Patch) -> None:
    """A restarted agent starts its daemons beside those that still run."""
    adopt = Daemons._adopt

    def forgetful(self: Daemons, daemon: Daemon, task: object, now: Now) -> list[Effect]:
        return adopt(self, daemon, None, now)

    patch.setattr(Daemons, "_adopt", forgetful)


def _unstoppable(patch: Patch) -> None:
    """What was stopped or deleted runs on."""

    def over(self: Daemons, daemon: Daemon | None, held: StandingJob) -> list[Effect]:
        if daemon is not None and not daemon.active:
            daemon.park()
        return []

    patch.setattr(Daemons, "_over", over)


def _once_described(patch: Patch) -> None:
    """A device looks once what belongs on it, and not when it is moved."""
    described = Daemons.described

    def once(self: Daemons, now: Now) -> list[Effect]:
        return [] if self.ready else described(self, now)

    patch.setattr(Daemons, "described", once)


def _ended_for_good(patch: Patch) -> None:
    """A daemon that ended is not started again."""
    patch.setattr(Daemons, "_pause", lambda self, daemon: NEVER)


def _never_updated(patch: Patch) -> None:
    """The wave of an update never comes."""
    patch.setattr(daemons_module, "wave_delay_s", lambda *arguments: NEVER)


def _second_service(patch: Patch) -> None:
    """A restarted agent starts its services beside those that still run."""
    adopt = Lifecycle.adopt

    def forgetful(
        self: Lifecycle, execution: Execution, task: TaskFound | None, now: Now
    ) -> list[Effect]:
        return adopt(self, execution, None if execution.service else task, now)

    patch.setattr(Lifecycle, "adopt", forgetful)


def _unstoppable_service(patch: Patch) -> None:
    """Whoever runs or coordinates a service does not heed that it was stopped."""
    patch.setattr(Services, "over", lambda self, job, generation: "")
    patch.setattr(Coordination, "rest", lambda self, held, reason, now: [])
    patch.setattr(Coordination, "drop", lambda self, held: [])


def _service_ended_for_good(patch: Patch) -> None:
    """A service's task that ended is not started again."""
    next_run = Restarts.next_run

    def never(self: Restarts, ended: Execution, now: Now) -> Execution | None:
        pending = next_run(self, ended, now)
        if pending is not None:
            pending.start_at = NEVER
        return pending

    patch.setattr(Restarts, "next_run", never)


def _service_left_dead(patch: Patch) -> None:
    """What a service lost with a peer is not placed again."""
    failed = Failures.failed

    def resigned(self: Failures, led: Led, index: int, *arguments: object) -> list[Effect]:
        if led.held.service:
            led.plans[index].due = NEVER
            return []
        return failed(self, led, index, *arguments)  # type: ignore[arg-type]

    patch.setattr(Failures, "failed", resigned)


def _service_never_updated(patch: Patch) -> None:
    """No slot is ever replaced by a later revision's."""
    patch.setattr(Rollout, "_go_on", lambda self, led, held, now: [])


def _service_crowded(patch: Patch) -> None:
    """Slots that are to be spread are given to one peer, which takes them."""
    patch.setattr(candidates_module, "_running", lambda led: {})
    patch.setattr(Awards, "_objection_to_service", lambda self, execution: "")


def _service_kept_beside(patch: Patch) -> None:
    """What a later award of the slot supersedes is not told to stop."""
    patch.setattr(Awards, "_supersede", lambda self, by, now: ([], []))


def _service_timed_out(patch: Patch) -> None:
    """A service's task is given the timeout of its file."""
    start = Lifecycle.start

    def timed(self: Lifecycle, execution: Execution, now: Now) -> StartTask:
        return replace(start(self, execution, now), timeout_s=60.0)

    patch.setattr(Lifecycle, "start", timed)


def _unjournaled_ops(patch: Patch) -> None:
    """An ops job is started before its start is in the journal."""
    patch.setattr(OpsJournal, "start", lambda self, revision: [])


def _forgotten_journal(patch: Patch) -> None:
    """Who takes over awards anew, and an executor goes by the fence instead of its journal."""
    patch.setattr(OpsJournal, "answer", lambda self, assignment, executor: None)
    patch.setattr(OpsJournal, "start", _start_again)
    patch.setattr(execution_module, "execution_id", _fenced_id)
    take_over = Coordination._take_over

    def anew(self: Coordination, held: HeldJob, now: Now) -> list[Effect]:
        effects = take_over(self, held, now)
        for slot in held.slots if held.listed else ():
            award = slot.assignment
            if award is not None and slot.acceptance is None:
                award = replace_struct(award, fence=Fence(held.term, self.keyring.peer, 2))
                slot.offer_assignment(award, seal(award, self.keyring))
        return effects + self.catalogue.changed(held, held.slots.indices, now)

    patch.setattr(Coordination, "_take_over", anew)


def _start_again(self: OpsJournal, revision: Revision) -> list[Row]:
    return self._put(revision, Entry())


def _fenced_id(
    revision: Revision, slot: int, term: int, coordinator: PeerId, attempt: int, run: int = 0
) -> ExecutionId:
    numbers = (str(slot), str(term), coordinator, str(attempt))
    return ExecutionId(derive("shoal/execution/1", revision, *numbers))


def _rerun_after_loss(patch: Patch) -> None:
    """A device that lost its database runs what was awarded before."""
    answer = OpsJournal.answer

    def trusting(self: OpsJournal, assignment: Assignment, executor: PeerId) -> Result | None:
        return answer(self, replace_struct(assignment, memory=self.memory), executor)

    patch.setattr(OpsJournal, "answer", trusting)


def _restarted_ops(patch: Patch) -> None:
    """An ops job that was lost track of is started again, as a batch job would be."""
    lost = Lifecycle._lost

    def again(self: Lifecycle, execution: Execution, event: TaskEnded, now: Now) -> list[Effect]:
        if not execution.listed:
            return lost(self, execution, event, now)
        start = StartTask(execution.id, execution.job, execution.spec, {}, None, ())
        return [RemoveTask(execution.id), start]

    patch.setattr(Lifecycle, "_lost", again)


def _growing_list(patch: Patch) -> None:
    """When somebody comes, whoever is there by then gets the job, NotAfter or not."""

    def grow(self: Direct, led: Led, peer: PeerId, now: Now) -> None:
        for advert in self.fleet.adverts():
            slot = self._list(led.held, advert)
            if slot is not None:
                led.plans[slot.index] = Plan(Phase.WAITING, now.mono, now.mono)
                self.catalogue.changed(led.held, [slot.index], now)
                saves.append(slot.index)

    saves: list[int] = []
    patch.setattr(Direct, "on_peer_alive", grow)
    changed = Catalogue.changed

    def all_of_it(self: Catalogue, held: HeldJob, slots: list[int], *rest: object) -> list[Effect]:
        return changed(self, held, held.slots.indices if held.listed else slots, *rest)  # type: ignore[arg-type]

    patch.setattr(Catalogue, "changed", all_of_it)


def _shrinking_list(patch: Patch) -> None:
    """A standby keeps only the first peer of a list."""
    merge = HeldJob.merge

    def short(self: HeldJob, sync: JobSync, keyring: Keyring) -> Merged:
        slots = sync.slots[:1] if self.listed and not len(self.slots) else sync.slots
        if self.listed and len(self.slots):
            slots = tuple(state for state in sync.slots if state.slot in self.slots)
        return merge(self, replace_struct(sync, slots=slots), keyring)

    patch.setattr(HeldJob, "merge", short)


def _never_given_up(patch: Patch) -> None:
    """A peer of the list that is gone is waited for for ever."""
    patch.setattr(Direct, "_lose", lambda self, led, slot, reason, now: [])


def _lost_volumes(patch: Patch) -> None:
    """A slot is placed again without looking where its volumes are."""
    patch.setattr(rounds_module, "homes_of", lambda led, name_of: {})
    for module in (awarding_module, placement_module, rounds_module):
        patch.setattr(module, "home_of", lambda held, slot, plan, name_of: None)


ORPHANS = Faults(crashes=6, burials=1)  # coordinators die, and somebody takes over
AMNESIA = Faults(amnesia=True, crashes=3)
CUTS = Faults(power_cuts=6)
GRAVE = Faults(burials=1)
EDGES = Faults(boundaries=30)
BROKER = Faults(broker=True, outages=4, crashes=6)
CLEAN = Faults()


def _hung_starts(patch: Patch) -> None:
    """What the engine swallows is waited for, for ever."""
    patch.setattr(Lifecycle, "never_started", lambda self, execution, now: [])


LATE = Faults(conditions=Conditions(reorder=0.4, duplicate=0.2), crashes=4)  # awards come late


def _early_slots(patch: Patch) -> None:
    """Slots are looked at as if it were a little later."""
    fire_due = Schedules._fire_due

    def early(self: Schedules, *arguments: object) -> list[Effect]:
        *others, now = arguments
        assert isinstance(now, Now)
        later = Now(now.mono, now.wall + 15.0, now.wall_trusted)
        return fire_due(self, *others, later)  # type: ignore[arg-type]

    patch.setattr(Schedules, "_fire_due", early)


def _any_clock(patch: Patch) -> None:
    """A clock is believed whatever it says of itself."""
    review = Schedules.review
    patch.setattr(
        Schedules, "review", lambda self, job, now: review(self, job, Now(now.mono, now.wall))
    )


def _forgotten_marks(patch: Patch) -> None:
    """What was fired is forgotten with each life: neither the mark nor the run is looked at."""
    restores, fires = Schedules.restore, Schedules._handle

    def forgetful(self: Schedules, disk: Mapping[Bucket, Mapping[str, bytes]]) -> list[Unread]:
        unreadable = restores(self, disk)
        self._marks = {job: (generation, 0) for job, (generation, _) in self._marks.items()}
        return unreadable

    patch.setattr(Schedules, "restore", forgetful)

    def blind(self: Schedules, *arguments: object) -> list[Effect]:
        catalogue = self.coordination.catalogue
        jobs, catalogue.jobs = catalogue.jobs, {}
        try:
            return fires(self, *arguments)  # type: ignore[arg-type]
        finally:
            catalogue.jobs = {**jobs, **catalogue.jobs}

    patch.setattr(Schedules, "_handle", blind)


def _one_firer(patch: Patch) -> None:
    """Whoever was first when the schedule came stays so, dead or alive."""
    fires = Schedules._fires
    firsts: dict[tuple[JobId, int], PeerId | None] = {}

    def first(self: Schedules, job: JobId, watch: Watch, spec: JobSpec, now: Now) -> bool:
        found = fires(self, job, watch, spec, now)
        key = (job, id(self.standing.keyring))
        return firsts.setdefault(key, watch.first) == self.me and found

    patch.setattr(Schedules, "_fires", first)


def _unsaved_marks(patch: Patch) -> None:
    """Which slot was handled is known in memory only."""
    marked = Schedules._marked

    def unsaved(self: Schedules, job: JobId, slot: int) -> list[Effect]:
        marked(self, job, slot)
        return []

    patch.setattr(Schedules, "_marked", unsaved)


def _unjournaled_messages(patch: Patch) -> None:
    """A message is acknowledged that waits in memory alone."""
    add = Waiting.add

    def unsaved(self: Waiting, waiter: Waiter) -> list[WaitingRow]:
        add(self, waiter)
        return []

    patch.setattr(Waiting, "add", unsaved)


def _forgotten_messages(patch: Patch) -> None:
    """What waited on the disk is not looked at in the next life."""
    patch.setattr(Waiting, "restore", lambda self, disk: [])


def _nobody_steps_in(patch: Patch) -> None:
    """Whoever is not first leaves the message to the first, dead or alive."""
    look = Turns.look

    def leave(self: Turns, waiter: Waiter, now: Now) -> list[Effect]:
        return self.drop(waiter) if waiter.rank else look(self, waiter, now)

    patch.setattr(Turns, "look", leave)


def _all_fire(patch: Patch) -> None:
    """Each device that hears a message takes itself for the first, and waits for no other."""
    patch.setattr(Turns, "rank", lambda self, waiter: 0)
    patch.setattr(Turns, "holds_back", lambda self, sender, query: False)


def _nobody_is_asked(patch: Patch) -> None:
    """Another rank fires when its turn comes, whether or not the run is there."""

    def look(self: Turns, waiter: Waiter, now: Now) -> list[Effect]:
        if waiter.turn > now.mono:
            waiter.due = waiter.turn
            return []
        return self.fire(waiter, now)

    patch.setattr(Turns, "look", look)


def _late_answers_lost(patch: Patch) -> None:
    """Who does not say within a second that the run is there is taken to know of none."""
    patch.setattr(Turns, "_fresh", lambda self, waiter, now: True)


def _repeats_are_new(patch: Patch) -> None:
    """What a broker sends again is taken for another message."""
    patch.setattr(Waiting, "delivered_before", lambda self, *arguments: False)


def _all_hear(patch: Patch) -> None:
    """Every device subscribes to what has no keys."""
    patch.setattr(Triggers, "hears", lambda self, watch, now: not watch.problem)


def _nobody_answers(patch: Patch) -> None:
    """Each leaves the answer to another."""
    patch.setattr(Answering, "_answerer", lambda self, held, broker: None)


def _all_answer(patch: Patch) -> None:
    """Each holder that hears of the end takes the answer for its own."""
    patch.setattr(Answering, "_answerer", lambda self, held, broker: self.keyring.peer)


def _unsaved_answers(patch: Patch) -> None:
    """What is owed is remembered until the next crash."""
    owe = Answering._owe

    def forget(self: Answering, held: HeldJob, owed: Owed, wait_s: float, now: Now) -> list[Effect]:
        effects = owe(self, held, owed, wait_s, now)
        return [] if wait_s else effects

    patch.setattr(Answering, "_owe", forget)


MUTATIONS = (
    Mutation("stale fence accepted", _stale_fence, "at Fence.* (and knows|after) Fence", LATE),
    Mutation("fence not saved", _forgotten_fence, "does not remember it"),
    Mutation("said before saved", _late_saves, "not on its disk|without a journal"),
    Mutation("award not saved", _unsaved_awards, "not on its disk|without a journal"),
    Mutation("merge not saved", _unsaved_merges, "not the one saved|not on its disk"),
    Mutation("lease forgotten", _forgotten_lease, "has not ended"),
    Mutation("lease too short", _short_lease, "while it runs elsewhere|after its success"),
    Mutation(
        "awards not waited for",
        _short_patience,
        "while it runs elsewhere|after its success",
        scenario="slow",
    ),
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
    Mutation("letters unsigned", _unsigned_letters, "has not written", Faults(nats=2, rogues=4)),
    Mutation("relay taken for peers", _relays_taken_for_peers, "never was down", RELAYED),
    Mutation("nothing handed on", _no_relaying, "never was down|has not ended", RELAYED),
    Mutation("standing job not saved", _unsaved_standing, "not as it was saved", about="daemons"),
    Mutation(
        "acknowledged too early",
        _early_word,
        "says what is not on its disk: SyncHeld",
        about="daemons",
    ),
    Mutation("any spec wins", _any_spec_wins, "standing job .* goes back", about="daemons"),
    Mutation(
        "any author runs daemons", _any_author, "a daemon of .* who may not submit", about="daemons"
    ),
    Mutation("standing jobs not compared", _no_comparing, "standing jobs differ", about="daemons"),
    Mutation(
        "daemon not journaled", _unjournaled_daemon, "daemon .* without a journal", about="daemons"
    ),
    Mutation("daemon started twice", _second_daemon, "runs 2 times on one device", about="daemons"),
    Mutation("daemon not stopped", _unstoppable, "daemon .* runs, and should not", about="daemons"),
    Mutation(
        "labels looked at once",
        _once_described,
        "daemon .* (should not|does not run)",
        about="daemons",
    ),
    Mutation("daemon not restarted", _ended_for_good, "daemon .* runs 0 times", about="daemons"),
    Mutation(
        "daemon not updated", _never_updated, "in another revision than it should", about="daemons"
    ),
    Mutation("service started twice", _second_service, "runs twice", about="services"),
    Mutation(
        "service not stopped",
        _unstoppable_service,
        "service .* runs, and should not",
        about="services",
    ),
    Mutation(
        "service not restarted",
        _service_ended_for_good,
        "of service .* runs 0 times",
        about="services",
    ),
    Mutation(
        "service not placed again",
        _service_left_dead,
        "of service .* runs nowhere",
        about="services",
    ),
    Mutation(
        "service not updated",
        _service_never_updated,
        "another revision than it should",
        about="services",
    ),
    Mutation(
        "service not spread",
        _service_crowded,
        "slots of service .* are not spread",
        about="services",
    ),
    Mutation("service kept beside", _service_kept_beside, "starts .*, and knows", about="services"),
    Mutation("service timed out", _service_timed_out, "has a timeout", about="services"),
    Mutation("hung starts", _hung_starts, "for ever|has not ended", scenario="black-holes"),
    Mutation("tasks not adopted", _blind_adoption, "is (starting|running)|still|has not ended"),
    Mutation("ops start not journaled", _unjournaled_ops, "without a journal"),
    Mutation("ops journal forgotten at takeover", _forgotten_journal, "second time", ORPHANS),
    Mutation("ops run again after a lost database", _rerun_after_loss, "second time", AMNESIA),
    Mutation("lost ops started again", _restarted_ops, "second time", CUTS),
    Mutation("list grows without NotAfter", _growing_list, "grows after it was frozen", CUTS),
    Mutation("standby keeps part of a list", _shrinking_list, "no longer on the list|differs"),
    Mutation("fired early", _early_slots, "before its time", about="schedules"),
    Mutation(
        "fired by a wrong clock",
        _any_clock,
        "clock that is not trusted",
        scenario="clocks",
        about="schedules",
    ),
    Mutation(
        "fired again in the next life", _forgotten_marks, "fires run .* twice", about="schedules"
    ),
    Mutation(
        "nobody stands in", _one_firer, "has not run since all is well", GRAVE, about="schedules"
    ),
    Mutation(
        "mark not saved", _unsaved_marks, "without saving it with its mark", about="schedules"
    ),
    Mutation("volumes forgotten", _lost_volumes, "runs without its volume", scenario="volumes"),
    Mutation("message not journaled", _unjournaled_messages, "on no disk", about="triggers"),
    Mutation(
        "messages forgotten", _forgotten_messages, "still wait|is lost", CUTS, about="triggers"
    ),
    Mutation("nobody steps in", _nobody_steps_in, "is lost|on no disk", GRAVE, about="triggers"),
    Mutation("all fire", _all_fire, "fired a second time", CLEAN, about="triggers"),
    Mutation(
        "late answers lost", _late_answers_lost, "fired a second time", None, "slow", "triggers"
    ),
    Mutation("nobody is asked", _nobody_is_asked, "fired a second time", CLEAN, about="triggers"),
    Mutation("repeats are new", _repeats_are_new, "jobs; . devices heard", about="triggers"),
    Mutation("all hear", _all_hear, "without a key came to", CLEAN, about="triggers"),
    Mutation("nobody answers", _nobody_answers, "is not answered", about="triggers"),
    Mutation("all answer", _all_answer, "has . answers; 1 runs", CLEAN, about="triggers"),
    Mutation("answer owed in memory", _unsaved_answers, "is not answered", EDGES, about="triggers"),
    Mutation("gone peers waited for", _never_given_up, "has not ended|woken", GRAVE),
    Mutation("outbox not saved", _unsaved_outbox, "before it was durable|no message of it", BROKER),
    Mutation("lost with the connection", _sent_once, "waits? for the broker|not come", BROKER),
    Mutation("all of a job at once", _no_line, "after a later one of its job", BROKER),
)

# The seeds that found the rarer ones the last time are tried first; each seed takes seconds.
LIKELY = {
    "all answer": 1,
    "answer owed in memory": 3,
    "any spec wins": 21,
    "awards not waited for": 26,
    "fired by a wrong clock": 6,
    "gone peers waited for": 11,
    "last result wins": 21,
    "late answers lost": 9,
    "lease forgotten": 9,
    "lease too short": 5,
    "list grows without NotAfter": 28,
    "no takeover": 24,
    "nobody answers": 1,
    "nobody stands in": 22,
    "nobody steps in": 1,
    "nothing handed on": 9,
    "service not spread": 3,
    "service not updated": 7,
    "stale fence accepted": 27,
}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
def test_a_planted_bug_is_found(mutation: Mutation, monkeypatch: Patch) -> None:
    mutation.plant(monkeypatch)
    texts = []
    for seed in dict.fromkeys((LIKELY.get(mutation.name, 0), *range(SEEDS))):
        for violation in run(seed, mutation.options).violations:
            if re.search(mutation.found, violation.text):
                return
            texts.append(str(violation))
    pytest.fail(f"{SEEDS} seeds did not find it; they found {texts[:5]}")
