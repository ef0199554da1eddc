"""The triggers: which topics are heard here, and which messages become jobs here.

A message is on disk before the broker hears that it came. With a key it may come to every device
that hears its topic: the first rank for its run fires, and the others look whether the run is there
once so much time has passed that the ranks before them would have. Without a key only the elected
device hears the topic, the first rank for the template, and each message is a run of its own. The
run is authorised by the template's author; who publishes authorises nothing (DESIGN 10).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Final

from protocol import listening
from protocol.clock import NEVER, Now
from protocol.config import CoordinationConfig, TriggersConfig
from protocol.coordination import Coordination
from protocol.derived import derive, derived_id
from protocol.effects import (
    Bucket,
    Effect,
    Save,
    Tell,
    TriggerKept,
    TriggerPutOff,
    WatchTopics,
)
from protocol.errors import JobSpecError, RemoteProtocolError
from protocol.events import SessionBegan, TopicWatched, TriggerHeard, TriggerRefused
from protocol.fleet import Fleet
from protocol.hearing import Hearing, hears
from protocol.heldjob import HeldJob
from protocol.ids import JobId, PeerId, outranks, rendezvous
from protocol.inquiry import Inquiries, View
from protocol.listening import TopicWatch
from protocol.messages import JobQuery
from protocol.records import Keyring, Role, Spec
from protocol.refusals import Refusals
from protocol.standing import Standing
from protocol.standingjob import StandingJob
from protocol.trigger import Input, MqttTrigger, matches, text_of
from protocol.waiting import Waiter, Waiting

MINUTE_S: Final = 60.0
ASKING_MAX: Final = 32  # runs that are asked for at once; the others wait their turn
ASK_AGAIN_S: Final = 0.05  # an answer takes 2 ms on a LAN, a second from who is silent
RANKS_ASKED: Final = (
    3  # of those before this peer: whoever is first and its standbys are among them
)
GONE: Final = "the template runs no messages (any more)"
NOT_LISTED: Final = "its owner does not let MQTT run it here ([mqtt] allow)"
NO_ROLE: Final = "this peer may not submit: its certificate lacks the role"


@dataclass(slots=True)
class Watch:
    """One template with a trigger, as it is heard here."""

    mqtt: MqttTrigger
    elected: bool = False  # of one without keys: whether this peer is the one that hears it
    trying: bool = False  # it would be, and hears nothing as yet
    until: float = NEVER  # monotonic; it no longer is, and hears on until then
    fired: deque[float] = field(default_factory=deque)  # monotonic, of the last minute
    problem: str = ""  # why it is not heard here

    def limited(self, now: float) -> str:
        """Why no further message fires just now; where it may, it counts."""
        while self.fired and self.fired[0] <= now - max(MINUTE_S, self.mqtt.debounce_s):
            self.fired.popleft()
        if self.mqtt.debounce_s and self.fired and self.fired[-1] > now - self.mqtt.debounce_s:
            return f"within {self.mqtt.debounce_s} s of the one before (Debounce)"
        recent = sum(1 for at in self.fired if at > now - MINUTE_S)
        if self.mqtt.per_minute and recent >= self.mqtt.per_minute:
            return f"more than {self.mqtt.per_minute} a minute (MaxPerMinute)"
        if self.mqtt.debounce_s or self.mqtt.per_minute:
            self.fired.append(now)
        return ""


@dataclass(slots=True)
class Triggers:
    """The one writer of waiting messages."""

    keyring: Keyring
    config: TriggersConfig
    timing: CoordinationConfig
    rng: Random
    standing: Standing
    coordination: Coordination
    inquiries: Inquiries
    watches: dict[JobId, Watch] = field(default_factory=dict)
    waiting: Waiting = field(init=False)
    hearing: Hearing = field(init=False)
    refusals: Refusals = field(init=False)
    _told: tuple[TopicWatch, ...] | None = None  # what WatchTopics said last
    _running: dict[JobId, dict[JobId, None]] = field(default_factory=dict)  # fired here
    _ready_at: float = NEVER  # monotonic; who else is there is not known before
    _ready: bool = False
    _asking: int = 0  # runs that others are being asked for
    _ranks: dict[JobId, list[PeerId]] = field(default_factory=dict)  # who hears each; see leaders

    def __post_init__(self) -> None:
        self.waiting = Waiting(self.config)
        self.hearing = Hearing(self.config)
        self.refusals = Refusals(self.keyring.peer)

    @property
    def me(self) -> PeerId:
        return self.keyring.peer

    @property
    def fleet(self) -> Fleet:
        return self.coordination.fleet

    # ---- what the disk held ------------------------------------------------------------------

    def restore(self, disk: Mapping[Bucket, Mapping[str, bytes]]) -> list[str]:
        """Rebuild from disk; returns the keys of rows that could not be read."""
        return self.waiting.restore(disk)

    def boot(self, now: Now) -> list[Effect]:
        self._ready_at = now.mono + self.timing.boot_grace_s
        for run in self.coordination.catalogue.jobs.values():
            if run.source is not None and run.coordinator == self.me and not run.done:
                self._running.setdefault(run.source, {})[run.id] = None
        for waiter in self.waiting.waiters.values():
            waiter.due = self._ready_at
        return []

    def _get_ready(self, now: Now) -> list[Effect]:
        """Who else is there is known as far as it can be: what is left of the last life begins."""
        self._ready = True
        effects = self.review_all(now)
        for waiter in self.waiting.waiters.values():
            self._queue(waiter, now)
        return effects

    # ---- what is heard here ------------------------------------------------------------------

    def leaders(self, held: StandingJob, mqtt: MqttTrigger) -> list[PeerId]:
        """Who hears the messages of a template and may fire it, this peer among them if it does;
        leaves only where all are. All who know the same peers name the same, by id."""
        known = self._ranks.get(held.id)
        if known is None:
            found = [
                advert
                for advert in self.fleet.adverts()
                if listening.has_broker(advert.labels, mqtt)
                and listening.allows(advert.labels, held.namespace, held.name)
                and self._may_submit(advert.peer, held.namespace)
            ]
            # Where none hears anything the broker is away, and is the same ones' when it is back.
            hearing = [each for each in found if hears(each.labels, mqtt.broker, held.id)]
            known = self._steady([advert.peer for advert in hearing or found])
            self._ranks[held.id] = known
        return known

    def _steady(self, peers: list[PeerId]) -> list[PeerId]:
        return [peer for peer in peers if not self.fleet.is_leaf(peer)] or peers

    def _may_submit(self, peer: PeerId, namespace: str) -> bool:
        certificate = self.fleet.certificate_of(peer)
        return certificate is not None and certificate.holds(Role.SUBMIT, namespace)

    def review_all(self, now: Now) -> list[Effect]:
        """Who hears what may be another now."""
        self._ranks.clear()
        effects: list[Effect] = []
        for job in dict.fromkeys([*self.standing.jobs, *self.watches]):
            effects += self._review(job, now)
        return effects + self._watch(now)

    def review(self, job: JobId, now: Now) -> list[Effect]:
        """A template came, changed or went."""
        self._ranks.pop(job, None)
        return [*self._review(job, now), *self._watch(now)]

    def on_change(self, now: Now) -> list[Effect]:
        """A peer came, went, or says something else of itself."""
        if not self._ready or not self.watches:
            return []
        before, self._ranks = self._ranks, {}
        effects = [effect for job in list(self.watches) for effect in self._review(job, now)]
        gone: dict[JobId, list[PeerId]] = {}
        for job, ranks in before.items():
            still = dict.fromkeys(self._ranks.get(job, ()))
            gone[job] = [peer for peer in ranks if peer not in still]
        for waiter in self.waiting.waiters.values():
            absent = gone.get(waiter.template, []) if waiter.rank else []
            if self._before(waiter, absent) and self._rank(waiter) < waiter.rank:
                self._queue(waiter, now)
        return effects + self._watch(now)

    def _before(self, waiter: Waiter, peers: list[PeerId]) -> bool:
        """Whether one of them came before this peer; all do where this one does not rank."""
        listed = self.me in self._ranks.get(waiter.template, ())
        return any(not listed or outranks(waiter.run, peer, self.me) for peer in peers)

    def _review(self, job: JobId, now: Now) -> list[Effect]:
        held = self.standing.jobs.get(job)
        spec = held.wanted(now) if held is not None else None
        if held is None or spec is None or spec.trigger is None:
            if self.watches.pop(job, None) is None:
                return []
            rows = self.waiting.forget(job)
            return [Save(tuple(rows))] if rows else []
        mqtt = spec.trigger.mqtt
        watch = self.watches.get(job)
        if watch is None or watch.mqtt != mqtt:
            elected = watch is not None and watch.elected
            watch = self.watches[job] = Watch(mqtt, elected=elected)
        before, watch.problem = watch.problem, self._why_not_here(held, mqtt)
        self._elect(held, watch, now)
        silent = watch.problem in ("", before, NOT_LISTED)
        if silent:
            return []
        text = f"{held.name}: its messages are not heard here: {watch.problem}"
        return [Tell("trigger.unheard", text, job, self.me)]

    def _why_not_here(self, held: StandingJob, mqtt: MqttTrigger) -> str:
        word = listening.word_of(held.namespace, held.name)
        if not listening.listed(self.config.allow, listening.TEMPLATE + word):
            return NOT_LISTED
        if not self._may_submit(self.me, held.namespace):
            return NO_ROLE
        advert = self.fleet.advert
        if advert is None or not listening.has_broker(advert.labels, mqtt):
            return f"no MQTT broker {mqtt.broker} is configured here ([mqtt.brokers.{mqtt.broker}])"
        return ""

    def _elect(self, held: StandingJob, watch: Watch, now: Now) -> None:
        """Of a template without keys one peer hears the messages, the first rank; one that no
        longer is hears on until the next one does, rather twice than not at all."""
        if not self._ready:
            return
        leaders = self.leaders(held, watch.mqtt)
        ranked = rendezvous(held.id, leaders)
        elected = bool(ranked) and ranked[0] == self.me
        # Who steps back because it is deaf goes on trying: no other can say when it is back.
        watch.trying = (
            self.me not in leaders
            and self.me in rendezvous(held.id, self._steady([*leaders, self.me]))[:1]
        )
        if elected:
            watch.until = NEVER
        elif watch.elected:
            watch.until = now.mono + self.config.handover_s
        watch.elected = elected

    def _hears(self, watch: Watch, now: Now) -> bool:
        if watch.problem:
            return False
        elected = watch.elected or watch.trying or now.mono < watch.until < NEVER
        return watch.mqtt.keyed or elected

    def _watch(self, now: Now) -> list[Effect]:
        """Say what is to be heard here, where that is something else than before. A new life says
        nothing until it knows: what the last one has subscribed to is heard on."""
        if not self._ready:
            return []
        heard = [(job, watch) for job, watch in self.watches.items() if self._hears(watch, now)]
        watches = []
        for job, watch in heard:
            held = self.standing.jobs[job]
            watches.append(TopicWatch(job, held.namespace, held.name, watch.mqtt))
        told = tuple(sorted(watches, key=lambda each: each.template))
        if told == self._told:
            return []
        self._told = told
        self.hearing.keep(watch.template for watch in told)
        return [WatchTopics(told)]

    # ---- messages ----------------------------------------------------------------------------

    def on_event(
        self, event: TriggerHeard | TriggerRefused | TopicWatched | SessionBegan, now: Now
    ) -> list[Effect]:
        if isinstance(event, SessionBegan):
            rows = self.waiting.begin(event.source)
            return [Save(tuple(rows))] if rows else []
        if isinstance(event, TopicWatched):
            if watch := self.watches.get(event.template):
                granted = not event.problem
                self.hearing.on_topic(event.template, watch.mqtt.broker, granted, now.mono)
            return []
        if isinstance(event, TriggerRefused):
            return self._refuse(event.template, event.reason, now)
        if self.fleet.advert is None:  # it does not know yet what it hears
            return [TriggerPutOff(event.handle, self.config.retry_s)]
        if event.delivery:
            self.waiting.came(event.delivery)
        watch = self.watches.get(event.template)
        reason = self._why_not(watch, event)
        if watch is None or reason:
            return [*self._refuse(event.template, reason, now), TriggerKept(event.handle)]
        held = self.standing.jobs[event.template]
        key = event.key or event.drawn or f"{self.rng.getrandbits(128):032x}"
        run = derived_id(self.keyring.shoal, held.namespace, held.id, key)
        known = self.waiting.waiters.get(run)
        if known is not None and known.unkept:
            known.unkept.append(event.handle)
            return []
        if self._known(event, run):
            return [TriggerKept(event.handle)]
        if not self.waiting.room(len(event.message.payload), held.id):
            return [TriggerPutOff(event.handle, self.config.retry_s)]
        if limited := watch.limited(now.mono):
            return [*self._refuse(event.template, limited, now), TriggerKept(event.handle)]
        waiter = Waiter(run, held.id, key, event.message, max(0, now.wall_ms), bool(event.key))
        if waiter.named and self._ready and self._rank(waiter) >= self.config.keepers_max:
            waiter.unkept.append(event.handle)
            self.waiting.hold(waiter)
            return self._begin(waiter, now)
        rows = self.waiting.add(waiter)
        if event.delivery and not event.key:
            rows += self.waiting.deliver(held.id, event.delivery, event.message)
        saved = Save(tuple(rows))
        return [saved, TriggerKept(event.handle), *self._begin(waiter, now)]

    def _why_not(self, watch: Watch | None, event: TriggerHeard) -> str:
        """Why it runs nothing here, and would not later."""
        if watch is None:
            return GONE
        mqtt, message = watch.mqtt, event.message
        if watch.problem:
            return watch.problem
        if not matches(mqtt.topic, message.topic):
            return f"topic {message.topic} is none of {mqtt.topic}"
        if len(message.payload) > mqtt.bytes_max:
            return f"a payload over {mqtt.bytes_max} bytes (BytesMax)"
        if mqtt.keyed and not event.key:
            return "it brings no id, and Dedup.Key finds none"
        try:
            if mqtt.input is Input.ENV:
                text_of(message.payload)
        except JobSpecError as error:
            return error.message
        return ""

    def _known(self, event: TriggerHeard, run: JobId) -> bool:
        """Whether it was taken before: it is on disk, became a job, or is sent once more."""
        if run in self.waiting.waiters or run in self.coordination.catalogue.jobs:
            return True
        repeated = event.repeated and bool(event.delivery) and not event.key
        return repeated and self.waiting.delivered_before(
            event.template, event.delivery, event.message
        )

    def _refuse(self, template: JobId, reason: str, now: Now) -> list[Effect]:
        held = self.standing.jobs.get(template)
        name = held.name if held is not None else f"template {template[:8]}"
        return self.refusals.add(template, name, reason, now.mono)

    # ---- whose turn it is --------------------------------------------------------------------

    def _begin(self, waiter: Waiter, now: Now) -> list[Effect]:
        self._queue(waiter, now)
        return self._look(waiter, now) if waiter.due <= now.mono else []

    def _queue(self, waiter: Waiter, now: Now) -> None:
        """When it is looked at: by the first rank at once; by another first whether those before it
        have fired, then, when it has waited for each of them, whether to fire itself."""
        waiter.rank = self._rank(waiter) if waiter.named else 0
        waiter.asked = waiter.rank == 0
        waiter.turn = now.mono + waiter.rank * self.config.rank_delay_s
        waiter.due = now.mono + (self.config.look_s if waiter.rank else 0.0)
        if waiter.named and not self._ready:
            waiter.due = self._ready_at

    def _rank(self, waiter: Waiter) -> int:
        """How many come before this peer: all of them where it is a leaf. Of a template without
        keys nobody else hears it."""
        ranked = self._ranked(waiter)
        rank = ranked.index(self.me) if self.me in ranked else len(ranked)
        return min(rank, self.config.rank_max)

    def _ranked(self, waiter: Waiter) -> list[PeerId]:
        watch = self.watches.get(waiter.template)
        if watch is None or not watch.mqtt.keyed:
            return []
        held = self.standing.jobs[waiter.template]
        return rendezvous(waiter.run, self.leaders(held, watch.mqtt))

    def _look(self, waiter: Waiter, now: Now) -> list[Effect]:
        """Its time has come: fire it, unless somebody knows the run. Before it fires all around are
        asked: whoever has fired may be gone by now, or not be among those that it knows."""
        if not waiter.named:
            return self._fire(waiter, now)
        if waiter.run in self.coordination.catalogue.jobs:
            return self._drop(waiter)
        last = waiter.asked
        if last and waiter.unkept:
            return [*self._keep(waiter), *self._look(waiter, now)]
        if last and waiter.turn > now.mono:
            waiter.due = waiter.turn
            return []
        if last and not self._room_for(waiter.template):
            return self._retry(waiter, now)
        if self._asking >= ASKING_MAX:
            waiter.due = now.mono + ASK_AGAIN_S
            return []
        waiter.asking, waiter.firing = True, last
        self._asking += 1

        def found(views: list[View], silent: list[PeerId], later: Now) -> list[Effect]:
            waiter.asking = waiter.firing = False
            self._asking -= 1
            effects = answered(views, later)
            askers, waiter.askers = waiter.askers, {}
            for sender, query in askers.items():
                effects += self.inquiries.on_query(sender, query, later)
            return effects

        def answered(views: list[View], later: Now) -> list[Effect]:
            if self.waiting.waiters.get(waiter.run) is not waiter:
                return []
            if views:
                return self._drop(waiter)
            if last and waiter.asked:
                return self._fire(waiter, later)
            waiter.asked = True
            return self._look(waiter, later)

        asked = 1 if waiter.unkept else min(waiter.rank, RANKS_ASKED)
        whom = None if last else self._ranked(waiter)[:asked]
        return self.inquiries.ask(waiter.run, 1, False, found, now, whom)

    def holds_back(self, sender: PeerId, query: JobQuery) -> bool:
        """Whether somebody asks for a run that this peer is about to fire: it hears of that once it
        has, or has not, and so does not fire it as well. Of two who ask each other the one goes
        first that the other has answered already, else the one that ranks before it."""
        waiter = self.waiting.waiters.get(JobId(query.prefix))
        if waiter is None or not waiter.firing:
            return False
        ranked = self._ranked(waiter)
        if sender not in ranked:
            return False
        mine = ranked.index(self.me) if self.me in ranked else len(ranked)
        crossing = self.inquiries.waits_for(sender, query.prefix)
        if crossing and ranked.index(sender) < mine:
            return False
        waiter.askers[sender] = query
        return True

    def _drop(self, waiter: Waiter) -> list[Effect]:
        """It is on another disk, or comes to nothing."""
        rows = self.waiting.drop(waiter)
        kept = [TriggerKept(handle) for handle in waiter.unkept]
        return [*([Save(tuple(rows))] if rows else []), *kept]

    def _keep(self, waiter: Waiter) -> list[Effect]:
        """Nobody before this peer knows it: it is written down here, too."""
        kept, waiter.unkept = waiter.unkept, []
        return [Save((waiter.row(),)), *(TriggerKept(handle) for handle in kept)]

    def _retry(self, waiter: Waiter, now: Now) -> list[Effect]:
        """However long the runs before it take: its broker was told that it is here."""
        waiter.due = now.mono + self.config.retry_s
        return []

    # ---- firing ------------------------------------------------------------------------------

    def _fire(self, waiter: Waiter, now: Now) -> list[Effect]:
        held = self.standing.jobs.get(waiter.template)
        spec = held.wanted(now) if held is not None else None
        if held is None or spec is None or spec.trigger is None:
            return self._give_up(waiter, GONE, now)
        if waiter.run in self.coordination.catalogue.jobs:
            return self._drop(waiter)
        if not self._room_for(held.id):
            return self._retry(waiter, now)
        try:
            run = self._run(held, waiter, now)
        except (JobSpecError, RemoteProtocolError) as error:  # the template is another by now
            return self._give_up(waiter, str(error), now)
        catalogue = self.coordination.catalogue
        room = self.coordination.forget_runs(self.config.runs_kept) if catalogue.full else []
        self._running.setdefault(held.id, {})[run.id] = None
        text = f"{spec.name}: a message of {waiter.message.topic} is job {run.id[:8]}"
        fields: dict[str, object] = {"job": run.id, "key": waiter.key, "rank": waiter.rank}
        tell = Tell("trigger.fired", text, held.id, self.me, fields)
        accepted = self.coordination.accept(run, None, now)
        return [*room, *self._drop(waiter), *accepted, tell]

    def _run(self, held: StandingJob, waiter: Waiter, now: Now) -> HeldJob:
        sealed = derive(held.spec_data, waiter.key, {}, self.keyring, waiter.message)
        assert isinstance(sealed.record, Spec)
        holders = self.coordination.standbys_of(sealed.record.job)
        return HeldJob.create(sealed, self.me, 1, now.wall_ms, holders)

    def _room_for(self, template: JobId) -> bool:
        """Whether one more of its runs may begin here: not all of a burst at once."""
        jobs = self.coordination.catalogue.jobs
        running = self._running.setdefault(template, {})
        if len(running) >= self.config.running_max:
            for run in [run for run in running if run not in jobs or jobs[run].done]:
                del running[run]
        forgettable = not self.coordination.catalogue.full or self.coordination.runs_over(
            self.config.runs_kept
        )
        return len(running) < self.config.running_max and bool(forgettable)

    def _give_up(self, waiter: Waiter, reason: str, now: Now) -> list[Effect]:
        return [*self._drop(waiter), *self._refuse(waiter.template, reason, now)]

    # ---- time --------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        handovers = [watch.until for watch in self.watches.values()]
        ready = NEVER if self._ready else self._ready_at
        known = (self.waiting.deadline, self.refusals.deadline, self.hearing.deadline)
        return min([*known, ready, *handovers])

    def on_deadline(self, now: Now) -> list[Effect]:
        effects = self.refusals.on_deadline(now.mono)
        self.hearing.on_deadline(now.mono)
        if not self._ready and now.mono >= self._ready_at:
            effects += self._get_ready(now)
        for watch in self.watches.values():
            if watch.until <= now.mono:
                watch.until = NEVER
        waiters = self.waiting.waiters.values()
        due = [each for each in waiters if each.due <= now.mono and not each.asking]
        for waiter in due:
            effects += self._look(waiter, now)
        return effects + self._watch(now)
