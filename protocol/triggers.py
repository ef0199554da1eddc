"""The triggers: which topics are heard here, and which messages become jobs here.

A message is on disk before the broker hears that it came. With a key it may come to every device
that hears its topic: the first rank for its run fires, and the others look whether the run is there
once so much time has passed that the ranks before them would have. Without a key only the elected
device hears the topic, the first rank for the template, and each message is a run of its own. The
run is authorised by the template's author; who publishes authorises nothing (DESIGN 10).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Final

from protocol import listening
from protocol.answering import Answering
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
from protocol.events import (
    SessionStarted,
    TopicWatched,
    TriggerFiltered,
    TriggerHeard,
    TriggerRefused,
)
from protocol.fleet import Fleet
from protocol.hearing import Hearing, hears
from protocol.heldjob import HeldJob
from protocol.ids import JobId, PeerId, outranks, rendezvous
from protocol.inquiry import Inquiries
from protocol.listening import TopicWatch
from protocol.messages import JobQuery
from protocol.question import Question, whole_key, without_question
from protocol.records import Keyring, Role, Spec
from protocol.refusals import Refusals
from protocol.standing import Standing
from protocol.standingjob import StandingJob
from protocol.tally import Tally, count
from protocol.trigger import Input, MqttTrigger, matches, text_of
from protocol.turns import Turns
from protocol.unread import Unread
from protocol.waiting import Waiter, Waiting

MINUTE_S: Final = 60.0
GONE: Final = "the template runs no messages (any more)"
NOT_LISTED: Final = "its owner does not let MQTT run it here ([mqtt] allow)"
NO_ROLE: Final = "this peer may not submit: its certificate lacks the role"
# What becomes of a message that is heard: it is to run, When does not want it, or it runs nothing.
ANSWERS: Final = ("taken", "filtered", "refused")


@dataclass(slots=True)
class Watch:
    """One template with a trigger, as it is heard here."""

    mqtt: MqttTrigger
    elected: bool = False  # of one without keys: whether this peer is the one that hears it
    trying: bool = False  # it would be, and hears nothing as yet
    until: float = NEVER  # monotonic; it no longer is, and hears on until then
    # When each run of the last minute was begun, monotonic: what Debounce and MaxPerMinute count.
    runs: dict[JobId, float] = field(default_factory=dict)
    problem: str = ""  # why it is not heard here
    granted: bool = False  # the broker has its messages sent here
    granted_at: float = NEVER  # monotonic; since when, or since when there is this watch
    denied: str = ""  # why it does not
    tally: Tally = field(default_factory=Tally)

    def limited(self, run: JobId, now: float) -> str:
        """Why no further message fires just now; where it may, it counts."""
        times = self.runs.values()
        if self.mqtt.debounce_s and any(at > now - self.mqtt.debounce_s for at in times):
            return f"within {self.mqtt.debounce_s} s of the one before (Debounce)"
        recent = sum(1 for at in times if at > now - MINUTE_S)
        if self.mqtt.per_minute and recent >= self.mqtt.per_minute:
            return f"more than {self.mqtt.per_minute} a minute (MaxPerMinute)"
        self.count(run, now, now)
        return ""

    def count(self, run: JobId, at: float, now: float) -> None:
        """A run that was begun then, once. `at` may be long ago, and then it counts no more."""
        if self.mqtt.debounce_s or self.mqtt.per_minute:
            since = now - max(MINUTE_S, self.mqtt.debounce_s)
            self.runs = {each: when for each, when in self.runs.items() if when > since}
            if at > since:
                self.runs.setdefault(run, at)


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
    answering: Answering
    watches: dict[JobId, Watch] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ANSWERS, 0))  # of all
    waiting: Waiting = field(init=False)
    turns: Turns = field(init=False)
    hearing: Hearing = field(init=False)
    refusals: Refusals = field(init=False)
    unanswered: Refusals = field(init=False)
    _told: tuple[TopicWatch, ...] | None = None  # what WatchTopics said last
    _running: dict[JobId, dict[JobId, None]] = field(default_factory=dict)  # fired here
    _ready: bool = False
    _ranks: dict[tuple[JobId, str], list[PeerId]] = field(
        default_factory=dict
    )  # who hears each; see leaders

    def __post_init__(self) -> None:
        self.waiting = Waiting(self.config)
        self.turns = Turns(
            self.keyring.peer,
            self.config,
            self.waiting,
            self.inquiries,
            self.coordination.catalogue,
            lambda: self.coordination.disk_full,
            self._leaders_of,
            self._granted_at,
            self._room_for,
            self._fire,
        )
        self.hearing = Hearing(self.config)
        self.refusals = Refusals(self.keyring.peer)
        self.unanswered = Refusals(self.keyring.peer, "trigger.unanswered", "not answered")

    @property
    def me(self) -> PeerId:
        return self.keyring.peer

    @property
    def fleet(self) -> Fleet:
        return self.coordination.fleet

    # ---- what the disk held ------------------------------------------------------------------

    def restore(self, disk: Mapping[Bucket, Mapping[str, bytes]]) -> list[Unread]:
        """Rebuild from disk; returns the rows that could not be read."""
        return self.waiting.restore(disk)

    def boot(self, now: Now) -> list[Effect]:
        self.turns.opens_at = now.mono + self.timing.boot_grace_s
        for run in self.coordination.catalogue.jobs.values():
            if run.source is not None and run.coordinator == self.me and not run.done:
                self._running.setdefault(run.source, {})[run.id] = None
        for waiter in self.waiting.waiters.values():
            waiter.due = self.turns.opens_at
        return []

    def _get_ready(self, now: Now) -> list[Effect]:
        """Who else is there is known as far as it can be: what is left of the last life begins."""
        self._ready = True
        effects = self.review_all(now)
        for waiter in self.waiting.waiters.values():
            self.turns.queue(waiter, now)
        return effects

    # ---- what is heard here ------------------------------------------------------------------

    def leaders(self, held: StandingJob, broker: str) -> list[PeerId]:
        """Who hears the messages of a template and may fire it, this peer among them if it does;
        leaves only where all are. All who know the same peers name the same, by id."""
        known = self._ranks.get((held.id, broker))
        if known is None:
            found = [
                advert
                for advert in self.fleet.adverts()
                if listening.has_broker(advert.labels, broker)
                and listening.allows(advert.labels, held.namespace, held.name)
                and self._may_submit(advert.peer, held.namespace)
            ]
            # Where none hears anything the broker is away, and is the same ones' when it is back.
            hearing = [each for each in found if hears(each.labels, broker, held.id)]
            known = self._steady([advert.peer for advert in hearing or found])
            self._ranks[(held.id, broker)] = known
        return known

    def _leaders_of(self, waiter: Waiter) -> list[PeerId]:
        """Who may fire a message; nobody else hears those of a template without keys."""
        watch = self.watches.get(waiter.template)
        if watch is None or not watch.mqtt.keyed:
            return []
        return self.leaders(self.standing.jobs[waiter.template], watch.mqtt.broker)

    def _granted_at(self, template: JobId) -> float:
        watch = self.watches.get(template)
        return NEVER if watch is None else watch.granted_at

    def holds_back(self, sender: PeerId, query: JobQuery) -> bool:
        """Whether who asks for a job is answered later, see there."""
        return bool(self.watches) and self.turns.holds_back(sender, query)

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
        self._ranks.clear()
        return [*self._review(job, now), *self._watch(now)]

    def on_change(self, now: Now) -> list[Effect]:
        """A peer came, went, or says something else of itself."""
        if not self._ready or not self.watches:
            return []
        before, self._ranks = self._ranks, {}
        effects = [effect for job in list(self.watches) for effect in self._review(job, now)]
        gone: dict[tuple[JobId, str], list[PeerId]] = {}
        for which, ranks in before.items():
            still = dict.fromkeys(self._ranks.get(which, ()))
            gone[which] = [peer for peer in ranks if peer not in still]
        for waiter in self.waiting.waiters.values():
            absent = gone.get(self._ranks_of(waiter), []) if waiter.rank else []
            if self._before(waiter, absent) and self.turns.rank(waiter) < waiter.rank:
                self.turns.queue(waiter, now)
        return effects + self._watch(now)

    def _ranks_of(self, waiter: Waiter) -> tuple[JobId, str]:
        watch = self.watches.get(waiter.template)
        return waiter.template, watch.mqtt.broker if watch is not None else ""

    def _before(self, waiter: Waiter, peers: list[PeerId]) -> bool:
        """Whether one of them came before this peer; all do where this one does not rank."""
        listed = self.me in self._ranks.get(self._ranks_of(waiter), ())
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
            before = watch or Watch(mqtt)
            watch = Watch(mqtt, before.elected, granted_at=now.mono, tally=before.tally)
            self.watches[job] = watch
        told, watch.problem = watch.problem, self._why_not_here(held, mqtt)
        self._elect(held, watch, now)
        silent = watch.problem in ("", told, NOT_LISTED)
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
        if advert is None or not listening.has_broker(advert.labels, mqtt.broker):
            return f"no MQTT broker {mqtt.broker} is configured here ([mqtt.brokers.{mqtt.broker}])"
        return ""

    def _elect(self, held: StandingJob, watch: Watch, now: Now) -> None:
        """Of a template without keys one peer hears the messages, the first rank; one that no
        longer is hears on until the next one does, rather twice than not at all."""
        if not self._ready:
            return
        leaders = self.leaders(held, watch.mqtt.broker)
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

    def hears(self, watch: Watch, now: Now) -> bool:
        if watch.problem:
            return False
        elected = watch.elected or watch.trying or now.mono < watch.until < NEVER
        return watch.mqtt.keyed or elected

    def _watch(self, now: Now) -> list[Effect]:
        """Say what is to be heard here, where that is something else than before. A new life says
        nothing until it knows: what the last one has subscribed to is heard on."""
        if not self._ready:
            return []
        heard = [(job, watch) for job, watch in self.watches.items() if self.hears(watch, now)]
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
        self,
        event: TriggerHeard | TriggerRefused | TriggerFiltered | TopicWatched | SessionStarted,
        now: Now,
    ) -> list[Effect]:
        if isinstance(event, SessionStarted):
            rows = self.waiting.begin(event.source)
            return [Save(tuple(rows))] if rows else []
        watch = self.watches.get(event.template)
        if isinstance(event, TriggerHeard):
            return self._on_heard(event, now)
        if isinstance(event, TriggerRefused):
            return self._on_refused(event, now)
        if isinstance(event, TriggerFiltered):
            self.answers["filtered"] += event.count
            if watch is not None:
                watch.tally.heard += event.count
                watch.tally.filtered += event.count
        elif watch is not None and isinstance(event, TopicWatched):
            granted = not event.problem
            if granted and not watch.granted:
                watch.granted_at = now.mono
            watch.granted, watch.denied = granted, event.problem
            self.hearing.on_topic(event.template, watch.mqtt.broker, granted, now.mono)
        return []

    def _on_heard(self, event: TriggerHeard, now: Now) -> list[Effect]:
        if self.fleet.advert is None:  # it does not know yet what it hears
            return [TriggerPutOff(event.handle, self.config.retry_s)]
        watch = self.watches.get(event.template)
        reason, kept = self._why_not(watch, event), TriggerKept(event.handle)
        question = self._question(event, watch)
        disk_full = self.coordination.disk_full
        if disk_full and question is not None:  # whatever becomes of it, its answer is written down
            return [TriggerPutOff(event.handle, self.config.retry_s)]
        if watch is None or reason:
            key = event.key or whole_key(event.message)
            return [*self._refuse(event.template, reason, now, key, question), kept]
        held = self.standing.jobs[event.template]
        key = event.key or event.drawn or f"{self.rng.getrandbits(128):032x}"
        run = derived_id(self.keyring.shoal, held.namespace, held.id, key)
        why_not = self._why_unanswerable(held.id, question)
        waits = self.waiting.waiters.get(run)
        if waits is not None and waits.unkept:
            waits.unkept.append(event.handle)
            return []
        if self._known(event, run):
            self._count_known(watch, run, now)
            named = question is not None and event.key and not why_not
            return [*(self.answering.again(run, question, now) if named and question else []), kept]
        begun = self._begun(event)
        full = question is not None and bool(self.answering.outbox.full)
        if disk_full or full or not self.waiting.room(len(event.message.payload), held.id):
            return [*begun, TriggerPutOff(event.handle, self.config.retry_s)]
        if limited := watch.limited(run, now.mono):
            return [*begun, *self._refuse(event.template, limited, now, key, question), kept]
        watch.tally.heard += 1
        self.answers["taken"] += 1
        message = without_question(event.message) if why_not or not question else event.message
        at_ms, named = max(0, now.wall_ms), bool(event.key)
        waiter = Waiter(run, held.id, key, message, at_ms, named, watch.mqtt.broker)
        waiter.heard = now.mono
        if waiter.named and self._ready and self.turns.rank(waiter) >= self.config.keepers_max:
            waiter.unkept.append(event.handle)
            self.waiting.hold(waiter)
            return [*begun, *self.turns.begin(waiter, now)]
        rows = self.waiting.add(waiter)
        if event.delivery and not event.key:
            rows += self.waiting.deliver(held.id, event.delivery, event.message, event.number)
        told = self.leave_unanswered(held.id, why_not, now) if why_not else []
        return [*begun, Save(tuple(rows)), *told, kept, *self.turns.begin(waiter, now)]

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
            event.template, event.delivery, event.message, event.number
        )

    def _count_known(self, watch: Watch, run: JobId, now: Now) -> None:
        """It was begun before it was heard here: who hears it in time counts it, too, and else this
        device alone would take what follows it too closely."""
        held = self.coordination.catalogue.jobs.get(run)
        if held is not None and now.wall_trusted:
            ago = max(0.0, now.wall - held.accepted_ms / 1000)
            watch.count(run, now.mono - ago, now.mono)

    def _begun(self, event: TriggerHeard) -> list[Effect]:
        """What its name was before is no more repeated, also where this one comes to nothing now:
        it comes again with the next connection, and may be word for word the same."""
        if not event.delivery or event.repeated:
            return []
        rows = self.waiting.rename(event.template, event.delivery)
        return [Save(tuple(rows), lazy=True)] if rows else []

    def _on_refused(self, event: TriggerRefused, now: Now) -> list[Effect]:
        asks = event.question is not None and self.coordination.disk_full
        if event.handle and (asks or self.fleet.advert is None):
            return [TriggerPutOff(event.handle, self.config.retry_s)]
        told = self._refuse(event.template, event.reason, now, event.key, event.question)
        return [*told, *([TriggerKept(event.handle)] if event.handle else [])]

    def _refuse(
        self,
        template: JobId,
        reason: str,
        now: Now,
        key: str = "",
        question: Question | None = None,
        heard: int = 1,
    ) -> list[Effect]:
        """It runs nothing; whoever has asked is told so. `heard`: 0 where it was counted before."""
        self.answers["refused"] += heard
        if watch := self.watches.get(template):
            watch.tally.heard += heard
            count(watch.tally.refused, reason)
        told = self.refusals.add(template, self._name(template), reason, now.mono)
        return (
            told if question is None else [*told, *self._say(template, reason, key, question, now)]
        )

    def _name(self, template: JobId) -> str:
        held = self.standing.jobs.get(template)
        return held.name if held is not None else f"template {template[:8]}"

    # ---- who waits for an answer -------------------------------------------------------------

    def _question(self, event: TriggerHeard, watch: Watch | None) -> Question | None:
        """Where the answer is to go, as it came."""
        message = event.message
        broker = watch.mqtt.broker if watch is not None else event.delivery.partition("/")[0]
        if not message.reply or not broker:
            return None
        return Question(broker, message.reply, message.correlation)

    def _why_unanswerable(self, template: JobId, question: Question | None) -> str:
        """Why nothing is published there; empty where it is, or nobody asks. An answer asks for
        none itself, and still it may not be what runs something else: who asks chose the topic."""
        if question is None:
            return ""
        if why := self.answering.why_not(question):
            return why
        own = self.watches.get(template)
        if own is not None and own.mqtt.answers and not matches(own.mqtt.answers, question.reply):
            return f"a response topic that is none of {own.mqtt.answers} (Answers)"
        for job, watch in self.watches.items():
            runs = watch.mqtt.broker == question.broker and matches(
                watch.mqtt.topic, question.reply
            )
            if runs and self.leaders(self.standing.jobs[job], question.broker):
                return f"a response topic that runs {self._name(job)}"
        return ""

    def leave_unanswered(self, template: JobId, reason: str, now: Now) -> list[Effect]:
        """Count and tell of a question that gets no answer from here."""
        if watch := self.watches.get(template):
            count(watch.tally.unanswered, reason)
        return self.unanswered.add(template, self._name(template), reason, now.mono)

    def _say(
        self, template: JobId, reason: str, key: str, question: Question, now: Now
    ) -> list[Effect]:
        """Answer that a message runs nothing: of those who hear it the first by rank does."""
        if why := self._why_unanswerable(template, question):
            return self.leave_unanswered(template, why, now)
        held, watch = self.standing.jobs.get(template), self.watches.get(template)
        namespace = held.namespace if held is not None else ""
        run = derived_id(self.keyring.shoal, namespace, template, key)
        if held is not None and (watch is None or watch.mqtt.keyed):
            ranked = rendezvous(run, self.leaders(held, question.broker))
            if ranked and ranked[0] != self.me:
                return []
        said = self.answering.refuse(run, self._name(template), reason, question, now)
        if said is None:
            return self.leave_unanswered(template, "too many answers a minute", now)
        return said

    # ---- firing ------------------------------------------------------------------------------

    def _fire(self, waiter: Waiter, now: Now) -> list[Effect]:
        held = self.standing.jobs.get(waiter.template)
        spec = held.wanted(now) if held is not None else None
        if held is None or spec is None or spec.trigger is None:
            return self._give_up(waiter, GONE, now)
        if waiter.run in self.coordination.catalogue.jobs:
            return self.turns.drop(waiter)
        if self._unlisted(held.id):  # since it was heard, which is another life then
            return self._give_up(waiter, NOT_LISTED, now)
        if not self._room_for(held.id):
            return self.turns.retry(waiter, now)
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
        if watch := self.watches.get(held.id):
            watch.tally.fired += 1
            watch.tally.last_fired_ms = max(0, now.wall_ms)
        accepted = self.coordination.accept(run, None, now)
        return [*room, *self.turns.drop(waiter), *accepted, tell]

    def _run(self, held: StandingJob, waiter: Waiter, now: Now) -> HeldJob:
        sealed = derive(held.spec_data, waiter.key, {}, self.keyring, waiter.message)
        assert isinstance(sealed.record, Spec)
        holders = self.coordination.standbys_of(sealed.record.job)
        if waiter.message.reply:
            holders = (*holders, *self._deputy(held, waiter, holders))
        return HeldJob.create(sealed, self.me, 1, now.wall_ms, holders)

    def _deputy(
        self, held: StandingJob, waiter: Waiter, holders: tuple[PeerId, ...]
    ) -> list[PeerId]:
        """Another who has the broker, and answers should this peer be gone."""
        others = [peer for peer in self.leaders(held, waiter.broker) if peer != self.me]
        if any(peer in others for peer in holders):
            return []
        return rendezvous(waiter.run, others)[:1]

    def _room_for(self, template: JobId) -> bool:
        """Whether one more of its runs may begin here: not all of a burst at once, and none on a
        full disk."""
        if self.coordination.disk_full:
            return False
        if template not in self.watches or self._unlisted(template):
            return True  # what waits for it is given up
        jobs = self.coordination.catalogue.jobs
        running = self._running.setdefault(template, {})
        if len(running) >= self.config.running_max:
            for run in [run for run in running if run not in jobs or jobs[run].done]:
                del running[run]
        forgettable = not self.coordination.catalogue.full or self.coordination.runs_over(
            self.config.runs_kept
        )
        return len(running) < self.config.running_max and bool(forgettable)

    def _unlisted(self, template: JobId) -> bool:
        watch = self.watches.get(template)
        return watch is not None and watch.problem == NOT_LISTED

    def _give_up(self, waiter: Waiter, reason: str, now: Now) -> list[Effect]:
        """What was told to be heard runs nothing after all."""
        message, question = waiter.message, None
        if message.reply and waiter.broker:
            question = Question(waiter.broker, message.reply, message.correlation)
        told = self._refuse(waiter.template, reason, now, waiter.key, question, heard=0)
        return [*self.turns.drop(waiter), *told]

    # ---- time --------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        handovers = [watch.until for watch in self.watches.values()]
        ready = NEVER if self._ready else self.turns.opens_at
        told = (self.refusals.deadline, self.unanswered.deadline, self.hearing.deadline)
        return min([self.waiting.deadline, *told, ready, *handovers])

    def on_deadline(self, now: Now) -> list[Effect]:
        effects = self.refusals.on_deadline(now.mono) + self.unanswered.on_deadline(now.mono)
        self.hearing.on_deadline(now.mono)
        if not self._ready and now.mono >= self.turns.opens_at:
            effects += self._get_ready(now)
        for watch in self.watches.values():
            if watch.until <= now.mono:
                watch.until = NEVER
        effects += self.turns.due(now)
        return effects + self._watch(now)
