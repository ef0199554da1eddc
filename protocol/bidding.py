"""The bidder's side: what this device offers, what it refuses and why, what it holds for whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec import structs

from protocol.asks import asks_of, lacking
from protocol.bounds import clipped
from protocol.clock import NEVER
from protocol.config import AuctionConfig, PolicyConfig
from protocol.constraints import Constraint, Operator, explain_all
from protocol.container import full_name
from protocol.effects import Effect, Send
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId
from protocol.job import JobSpec
from protocol.jobtype import JobType
from protocol.messages import Announce, Bid, Facts, Refusal, Requirements, Vacancy
from protocol.policy import Asked, misfit, unwell
from protocol.queueing import Queue
from protocol.records import Certificate
from protocol.resources import Resources

HOLDS_MAX = 256  # a bound on what announcements alone can make us remember
DRAINING = "draining: it takes no new work"
DISK_FULL = "its disk is full"
# Of which kinds answers to announcements are: a bid, or why none: this device can never run it, its
# owner takes no such job, it takes none just now, it has no room just now.
ANSWERS = ("bid", "unfit", "unwelcome", "unwell", "busy")


def _nobody(peer: PeerId) -> Certificate | None:
    return None


def _nothing(asks: tuple[str, ...]) -> str:
    return ""


@dataclass(slots=True)
class Hold:
    """Capacity kept free for an auction until it is over or `until` (monotonic) has come."""

    each: Resources
    slots: int
    until: float
    bid: Bid


@dataclass(slots=True)
class Bidder:
    """Accounts for the capacity of this device; `used` is what executions hold, per execution."""

    config: AuctionConfig
    policy: PolicyConfig
    engines: tuple[str, ...] = ()
    capacity: Resources = field(default_factory=Resources)
    labels: Mapping[str, str] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    images: frozenset[str] = frozenset()  # that need not be fetched
    archives: frozenset[str] = frozenset()  # likewise
    troubles: dict[str, str] = field(default_factory=dict)  # engines that do not answer, and why
    holds: dict[tuple[PeerId, int], Hold] = field(default_factory=dict)
    used: dict[str, Resources] = field(default_factory=dict)
    draining: bool = False  # no new slots of counted jobs; what runs goes on
    disk_full: bool = False  # the same; daemons, which are there already, start
    minute: int = -1  # of the day here; -1 while the clock is not trusted
    certificate_of: Callable[[PeerId], Certificate | None] = _nobody
    spent: dict[tuple[PeerId, int], Bid] = field(default_factory=dict)  # used up; to answer alike
    queue: Queue = field(default_factory=Queue)  # whom there was no room for
    hindrance: Callable[[tuple[str, ...]], str] = _nothing  # to what a job asks for, just now
    answers: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ANSWERS, 0))

    @property
    def reserved(self) -> Resources:
        """What running executions and open bids take."""
        total = Resources()
        for resources in self.used.values():
            total += resources
        for hold in self.holds.values():
            for _ in range(hold.slots):
                total += hold.each
        return total

    @property
    def free(self) -> Resources:
        """What is left. A device that shrank under its executions has nothing, not less."""
        taken = self.reserved
        return Resources(
            max(0, self.capacity.cpu_m - taken.cpu_m),
            max(0, self.capacity.memory_bytes - taken.memory_bytes),
            max(0, self.capacity.disk_bytes - taken.disk_bytes),
            max(0, self.capacity.gpu - taken.gpu),
        )

    def on_announce(self, coordinator: PeerId, announce: Announce, now: float) -> Bid | Refusal:
        """Bid or refuse, with the reason. Asked again, it answers the same and holds no more."""
        self.expire(now)
        hold = self.holds.get((coordinator, announce.auction))
        known = hold.bid if hold else self.spent.get((coordinator, announce.auction))
        if known is not None:
            return known
        if reason := self.unfit(announce.needs):
            return self._refuse("unfit", announce, reason, final=True)
        if reason := misfit(self.policy, self._asked(announce)):
            return self._refuse("unwelcome", announce, reason, final=True)
        reason = (  # only counted ones are announced
            self.drains(JobType.BATCH)
            or self.full
            or self.unwell()
            or self.troubles.get(announce.needs.engine, "")
            or self.hindrance(announce.needs.asks)
        )
        if reason:
            return self._refuse("unwell", announce, reason)
        each, job = resources_of(announce.needs), announce.job
        ahead = self.queue.ahead(coordinator, job, announce.priority, now)
        slots = min(announce.slots, self._room(each, ahead))
        if slots < 1 or len(self.holds) >= HOLDS_MAX:
            self.queue.join(coordinator, job, each, announce.priority, now)
            return self._refuse("busy", announce, f"busy: {self._shortfall(each)}")
        facts = self._facts_for(announce.needs)
        score = self._score(each, announce.needs, facts)
        bid = Bid(announce.auction, score, slots, self.config.hold_ms, facts)
        self.answers["bid"] += 1
        self.queue.leave(coordinator, job)
        until = now + self.config.hold_ms / 1000
        self.holds[(coordinator, announce.auction)] = Hold(each, slots, until, bid)
        return bid

    def _refuse(
        self, kind: str, announce: Announce, reason: str, *, final: bool = False
    ) -> Refusal:
        self.answers[kind] += 1
        return Refusal(announce.auction, clipped(reason), final=final)

    def inherit(self, older: str, execution: str, each: Resources) -> bool:
        """Take over what an older execution of the same slot holds, which is to stop for this one;
        False where that and what is free do not do."""
        before = self.used.pop(older, None)
        if before is not None and self._room(each) >= 1:
            self.used[execution] = each
            return True
        if before is not None:
            self.used[older] = before
        return False

    def take(self, coordinator: PeerId, auction: int, execution: str, each: Resources) -> bool:
        """Turn a held slot, or free capacity, into an execution's; False where there is none."""
        if execution in self.used:
            return True
        hold = self.holds.get((coordinator, auction))
        if hold is not None and hold.each == each:
            self._draw(hold, coordinator, auction)
        elif self._room(each) < 1:
            return False
        self.used[execution] = each
        return True

    def _draw(self, hold: Hold, coordinator: PeerId, auction: int) -> None:
        """One of its slots is used; nobody releases what has none left."""
        hold.slots -= 1
        if hold.slots == 0:
            del self.holds[(coordinator, auction)]
            self.spent[(coordinator, auction)] = hold.bid
            if len(self.spent) > HOLDS_MAX:
                del self.spent[next(iter(self.spent))]

    def adopt(self, execution: str, each: Resources) -> None:
        """An execution of an earlier life runs on: its capacity is taken, fit or not."""
        self.used[execution] = each

    def free_up(self, execution: str) -> None:
        self.used.pop(execution, None)

    def release(self, coordinator: PeerId, auction: int) -> None:
        self.holds.pop((coordinator, auction), None)

    def call(self, now: float) -> list[Effect]:
        """Capacity may have become free: tell who waits for it."""
        if not self.queue.waiters:
            return []
        # Turns that were given still end.
        closed = self.draining or bool(self.full or self.unwell())
        called = self.queue.call(self.free, 0 if closed else self._places, now)
        return [Send(waiter.coordinator, Vacancy(waiter.job)) for waiter in called]

    def expire(self, now: float) -> None:
        for key in [key for key, hold in self.holds.items() if hold.until <= now]:
            del self.holds[key]

    @property
    def deadline(self) -> float:
        holds = min((hold.until for hold in self.holds.values()), default=NEVER)
        return min(holds, self.queue.deadline)

    def unfit(self, needs: Requirements) -> str:
        """Why this device can never run it, empty where it can."""
        return why_unfit(needs, self.engines, self.labels, self.capacity)

    def unwelcome(self, job: JobSpec, author: PeerId, roles: tuple[str, ...], name: str) -> str:
        """Why the device's owner takes no such job, empty where there is nothing against it.

        `roles` and `name` are those of the author's certificate, which came with the job.
        """
        engine, limit_s = job.task.engine.type, job.task.timeouts.execution_s
        asks = asks_of(job.task, job.name, job.namespace)
        asked = Asked(job.type, engine, job.namespace, author, name, roles, limit_s, asks)
        return misfit(self.policy, asked)

    @property
    def full(self) -> str:
        """Why no work is begun that would be written down, empty where there is room for it: what
        is left of a full disk is for what runs, and for its results (DESIGN 8)."""
        return DISK_FULL if self.disk_full else ""

    def unwell(self) -> str:
        """Why the device's owner wants no more work now, empty where it is well."""
        return unwell(self.policy, self.facts, self.minute)

    def hindered(self, job: JobSpec) -> str:
        """Why what it asks for cannot be had just now, empty where it can. Lines wait in the task's
        own output, and add to nothing."""
        publisher = job.task.publisher.mqtt
        return "" if publisher and publisher.lines else self.hindrance(asks_of(job.task))

    def drains(self, type: JobType) -> str:
        """Why no more jobs of this type begin here: it drains, and they can be placed elsewhere."""
        return DRAINING if self.draining and type.counted else ""

    def _asked(self, announce: Announce) -> Asked:
        certificate = self.certificate_of(announce.author)
        return Asked(
            announce.job_type,
            announce.needs.engine,
            announce.namespace,
            announce.author,
            certificate.name if certificate is not None else "",
            certificate.roles if certificate is not None else None,
            asks=announce.needs.asks,
        )

    def why_no_room(self, each: Resources) -> str:
        """Why not one more of this size fits just now; empty where it does."""
        return "" if self._room(each) else f"busy: {self._shortfall(each)}"

    @property
    def _places(self) -> int:
        """How many more executions the owner allows, however small."""
        held = sum(hold.slots for hold in self.holds.values())
        return max(0, self.policy.executions_max - len(self.used) - held)

    def _room(self, each: Resources, ahead: Sequence[Resources] = ()) -> int:
        """How many more slots of this size fit beside what is kept for those `ahead`."""
        free = self.free
        for other in ahead:
            if not other.fits(free):  # a device that shrank, or took another's award meanwhile
                return 0
            free -= other
        room = self._places - len(ahead)
        for needs, has in (
            (each.cpu_m, free.cpu_m),
            (each.memory_bytes, free.memory_bytes),
            (each.disk_bytes, free.disk_bytes),
            (each.gpu, free.gpu),
        ):
            if needs:
                room = min(room, has // needs)
        return max(0, room)

    def _shortfall(self, each: Resources) -> str:
        if self._room(each):
            return "the room here is kept for a job that goes first"
        return each.shortfall(self.free) or f"{len(self.used)} executions run here already"

    def _facts_for(self, needs: Requirements) -> Facts:
        """How it is here, and what of the job is here already."""
        here = sum(digest in self.archives for digest in needs.inputs)
        image = -1 if not needs.image else int(full_name(needs.image) in self.images)
        return structs.replace(self.facts, inputs_here=here, image_here=image)

    def _score(self, each: Resources, needs: Requirements, facts: Facts) -> int:
        """0 to 1000: mostly what stays free after the task, then load, and what is here already.

        Least-allocated scoring spreads work, so that one device lost costs little of it.
        """
        free = self.free
        cpu = _share(free.cpu_m - each.cpu_m, self.capacity.cpu_m)
        memory = _share(free.memory_bytes - each.memory_bytes, self.capacity.memory_bytes)
        idle = 1000 - min(facts.load_permille, 1000) if facts.load_permille >= 0 else 500
        score = (4 * cpu + 3 * memory + 3 * idle) // 10
        if needs.inputs:
            score = (8 * score + 200 * _here(facts.inputs_here, len(needs.inputs))) // 10
        if facts.image_here >= 0:  # a pull takes minutes on a slow link, and wears out the card
            score = (7 * score + 3000 * facts.image_here) // 10
        if facts.temperature_mc > (self.policy.temperature_max_c - 10) * 1000:
            score //= 2  # it would throttle soon
        if facts.mains == 0:
            score = score * 3 // 4
        return min(max(score, 0), 1000)


def resources_of(needs: Requirements) -> Resources:
    return Resources(needs.cpu_m, needs.memory_bytes, needs.disk_bytes, needs.gpus)


def why_unfit(
    needs: Requirements,
    engines: tuple[str, ...],
    labels: Mapping[str, str],
    capacity: Resources,
) -> str:
    """Why a device with these slow facts can never run it; empty where it can.

    The coordinator reads it off adverts, the bidder off itself: one rule, so they agree.
    """
    if needs.engine not in engines:
        return f"engine {needs.engine} is not here; this device has {', '.join(engines) or 'none'}"
    reason = explain_all(_constraints(needs), labels) or lacking(needs.asks, labels)
    if reason:
        return reason
    short = resources_of(needs).shortfall(capacity)
    return f"too small: {short.replace(' free', ' offered')}" if short else ""


def _constraints(needs: Requirements) -> list[Constraint]:
    try:
        found = [Constraint(key, Operator(name), values) for key, name, values in needs.constraints]
        for constraint in found:
            if constraint.operator in (Operator.GREATER, Operator.LESS):
                int(constraint.values[0])  # else it would fail once a label is compared with it
    except (ValueError, IndexError) as error:
        raise RemoteProtocolError(f"a constraint that cannot be read: {error}") from None
    return found


def _share(part: int, whole: int) -> int:
    return max(0, part) * 1000 // whole if whole else 0


def _here(found: int, needed: int) -> int:
    return min(found, needed) * 10 // needed
